"""How fast a fine-tuned model answers: files of rows with their peak memory, and one row at a time from Python.

    python benchmarks/predicting.py TOKENIZER ROWS [--presets small,gpt1] [--sizes 1000,10000,100000] [--calls 300]

Speed does not depend on what was learnt, so the networks have random weights, over the tokenizer of the run or prepared
data TOKENIZER. ROWS is a table with a column `sentence`, repeated to the numbers of rows asked for. Beside `gpt1
predict` and `Classifier.predict_proba` stands transformers' pipeline on the same folder, as it comes (fp32) and in
bfloat16; one row at a time they take turns. The first preset alone reads files. Figures go to results/predicting.json.
"""

import argparse
import csv
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import pipeline

import gpt1
from gpt1.config import PRESETS, Columns, Command
from gpt1.data.tables import rows, table
from gpt1.finetuning.predictor import load_predictor
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.storage import write_json
from gpt1.tokenizer.tokenizer import Tokenizer
from record import record

BATCH, PEERS_ROWS, WARM_UP = 64, 1_000, 50
Answer = Callable[[list[str]], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("rows")
    parser.add_argument("--presets", default="small,gpt1")
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--calls", type=int, default=300)
    asked = parser.parse_args()
    texts = [row.text("sentence") for row in rows(table(asked.rows))]
    found: dict[str, Any] = {"one row, ms": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for preset in asked.presets.split(","):
            run = made(preset, asked.tokenizer, Path(scratch) / preset)
            if "files" not in found:
                found["files"] = {size: predicted(run, texts, int(size)) for size in asked.sizes.split(",")}
                found["rows a second"] = in_batches(run, texts[:PEERS_ROWS])
                found["largest difference"] = differences(run, texts[:300])
            found["one row, ms"][preset] = latencies(run, texts, asked.calls)
            print(found)
    record("predicting", "python benchmarks/predicting.py TOKENIZER ROWS", found)


def made(preset: str, tokenizer: Path, folder: Path) -> Path:
    """A fine-tuned run of a preset's size that has learnt nothing."""
    ours = Tokenizer.load(tokenizer)
    ours = ours if ours.extract_id is not None else ours.with_task_tokens()
    generator = torch.Generator().manual_seed(1)
    body = GPT(replace(PRESETS[preset], vocabulary=ours.vocabulary)).init_weights(generator)  # type: ignore[index]
    facts = RunMetadata(
        kind="finetuned", task="classification", goal="classes", labels=["no", "yes"], long="head",
        columns=Columns(["text"], ["label"]),
    )  # fmt: skip
    save_run(folder, body, ours, facts, torch.randn(2, body.config.width, generator=generator))
    write_json(folder / "settings.json", {"run": "", "seed": 1})
    return folder


def predicted(run: Path, texts: list[str], size: int) -> dict[str, float]:
    """`gpt1 predict` on a csv file of so many rows: rows a second, its start included, and its peak memory."""
    source, out = run.parent / f"{size}.csv", run.parent / f"{size}-out.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text"], *enumerate(itertools.islice(itertools.cycle(texts), size))])
    command = [sys.executable, "-m", "gpt1", "predict", str(run), str(source), "--out", str(out)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise RuntimeError(f"gpt1 predict failed on {size} rows")
    with out.open(newline="", encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [str(n) for n in range(size)], "the order of the input"
    return {"rows_per_second": size / seconds, "seconds": seconds, "peak_MB": used.ru_maxrss / 1e3}


def ways(run: Path) -> dict[str, Answer]:
    """Ours and the peers: texts -> probabilities."""
    ours = {dtype: gpt1.Classifier.load(run, dtype=dtype) for dtype in ("auto", "fp32")}
    peers = {
        name: pipeline("text-classification", str(run), batch_size=BATCH, top_k=None, dtype=dtype, device="cpu")
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    named: dict[str, Answer] = {f"gpt1 {name}": model.predict_proba for name, model in ours.items()}
    return named | {f"transformers {name}": model for name, model in peers.items()}


def in_batches(run: Path, texts: list[str]) -> dict[str, float]:
    """Rows a second in one process, the model loaded."""
    found = {}
    for name, answer in ways(run).items():
        answer(texts[:BATCH])
        found[name] = len(texts) / _timed(answer, texts)
    return found


def latencies(run: Path, texts: list[str], calls: int) -> dict[str, dict[str, float]]:
    """Median and 99th percentile of a call with one text."""
    answers = ways(run)
    found: dict[str, list[float]] = {name: [] for name in answers}
    for number, text in enumerate(itertools.islice(itertools.cycle(texts), calls + WARM_UP)):
        for name, answer in answers.items():
            seconds = _timed(answer, [text])
            if number >= WARM_UP:
                found[name].append(1e3 * seconds)
    return {
        name: {"median": float(np.median(each)), "p99": float(np.percentile(each, 99))} for name, each in found.items()
    }


def differences(run: Path, texts: list[str]) -> float:
    """Between the probabilities of texts in batches and one by one, in fp32."""
    model = load_predictor(run, Command(dtype="fp32"))
    together, _ = model.predict([(text,) for text in texts], BATCH)
    alone = np.concatenate([model.predict([(text,)], BATCH)[0] for text in texts])
    return float(np.abs(together - alone).max())


def _timed(answer: Answer, texts: list[str]) -> float:
    began = time.perf_counter()
    answer(texts)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
