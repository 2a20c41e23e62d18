"""lm-evaluation-harness, by the documented command and tasks, finds what `gpt1 evaluate` finds on the same rows."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt1.commands.evaluate import evaluate
from gpt1.config import Evaluate, Model
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tasks.zero_shot import Question, Scorer
from gpt1.tokenizer.train_bpe import train as train_tokenizer

pytestmark = pytest.mark.slow
TASKS = Path(__file__).resolve().parents[2] / "docs" / "lm_eval"
WORDS = "a cat sat on the mat while two dogs ran; Été — and it's 9 o'clock ".split()


def text(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 9)))


def texts(draw: random.Random, count: int) -> list[str]:
    """No two alike: of equally likely ones the harness takes the first, gpt1 none."""
    found = {text(draw): None for _ in range(9 * count)}
    return list(found)[:count]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model; what matters is that both read the same tokens and count the same ones."""
    pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")
    tokenizer = train_tokenizer([" ".join(WORDS) * 9], "bytes")
    model = Model(context=96, width=32, depth=2, heads=2, inner=128, vocabulary=tokenizer.vocabulary)
    body = GPT(model).init_weights(torch.Generator().manual_seed(3))
    for parameter in body.parameters():
        if parameter.dim() > 1:
            parameter.data *= 5  # a model with opinions
    folder = tmp_path_factory.mktemp("run")
    save_run(folder, body, tokenizer, RunMetadata(kind="pretrained"))
    return folder


def test_the_documented_command(run: Path, tmp_path: Path) -> None:
    draw = random.Random(2)
    rows = {
        "pairs": [dict(zip(("good", "bad"), texts(draw, 2), strict=True)) for _ in range(150)],
        "choices": [{"context": text(draw), "choices": texts(draw, 2 + n % 2), "label": n % 2} for n in range(150)],
    }
    for name, found in rows.items():
        lines = [json.dumps(row) + "\n" for row in found]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={run},dtype=float32",
        "--include_path", str(TASKS), "--tasks", "gpt1_pairs,gpt1_choices", "--device", "cpu", "--output_path", "out",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    subprocess.run(command, cwd=tmp_path, env=os.environ | offline, check=True, capture_output=True)
    (report,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(report.read_text(encoding="utf-8"))["results"]
    for name in rows:
        asked = Evaluate(run=str(run), files=[str(tmp_path / f"{name}.jsonl")], as_=name, dtype="fp32", threads=1)  # type: ignore[arg-type]
        ours = evaluate(asked)
        assert ours["n"] == 150
        assert theirs[f"gpt1_{name}"]["acc,none"] == pytest.approx(ours["accuracy"], abs=1e-9)


def test_the_likelihood_of_a_text(run: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    theirs, ours = HFLM(str(run), dtype="float32", device="cpu", batch_size=4), load_run(run)
    assert theirs.prefix_token_id == ours.tokenizer.end_id, "a text follows an end token there, too"
    draw = random.Random(1)
    some = texts(draw, 20)
    scores = Scorer(ours.body, ours.tokenizer)([Question("", (one,), 0, None) for one in some])
    whole = theirs.loglikelihood([Instance("loglikelihood", {}, ("", one), 0) for one in some], disable_tqdm=True)
    rolling = theirs.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (one,), 0) for one in some], disable_tqdm=True
    )
    expected = np.concatenate(scores)
    assert [total for total, _ in whole] == pytest.approx(expected, abs=1e-3)
    assert list(rolling) == pytest.approx(expected, abs=1e-3)
