"""lm-evaluation-harness asks the server, by the documented command, and finds what `gpt1 evaluate` finds."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers import running

from gpt1.commands.evaluate import evaluate
from gpt1.config import Evaluate

pytest_plugins = ["servers"]
pytestmark = pytest.mark.slow
TASKS = Path(__file__).resolve().parents[2] / "docs" / "lm_eval"
WORDS = "Once upon a time there was a cat The sat on a mat; dog, too: été 春".split()


def test_the_documented_command(books: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    pytest.importorskip("tenacity")  # lm_eval[api]
    draw = random.Random(2)

    def text() -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 9)))

    rows: dict[str, list[dict[str, Any]]] = {
        "pairs": [{"good": text(), "bad": text()} for _ in range(40)],
        "choices": [{"context": text(), "choices": [text(), text()], "label": n % 2} for n in range(40)],
    }
    for name, found in rows.items():
        lines = [json.dumps(row) + "\n" for row in found]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    with running(books) as server:
        arguments = f"model=books,base_url={server.url}/v1/completions,tokenizer={books},max_length=64"
        command = [
            sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments,
            "--include_path", str(TASKS), "--tasks", "gpt1_pairs,gpt1_choices", "--output_path", "out",
            "--batch_size", "4",
        ]  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        subprocess.run(command, cwd=tmp_path, env=os.environ | offline, check=True)
        assert server.http.get("/metrics").text.count('status="400"') == 0
    (report,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(report.read_text(encoding="utf-8"))["results"]
    for name in rows:
        asked = Evaluate(run=str(books), files=[str(tmp_path / f"{name}.jsonl")], as_=name, dtype="fp32", threads=1)  # type: ignore[arg-type]
        assert theirs[f"gpt1_{name}"]["acc,none"] == pytest.approx(evaluate(asked)["accuracy"], abs=1e-9)
