"""Every task of the paper on real labels, from few rows to all: a pre-trained model, random weights, words alone.

    python benchmarks/tasks.py RUN DATA [--only sst2,rte] [--sizes 16,100,1000,all] [--seeds 5] [--systems tuned]

DATA holds the folders sst2, cola, mrpc, rte, snli, stsb, copa and dream. 16 means 16 rows of each class, or 32 rows
where there are no classes; a size is a sample of the training rows, another with each seed. `tuned` fine-tunes RUN with
the default settings and `--with-words`, and scores the network, words alone and both; `scratch` does so from random
weights, with the best of three learning rates for the first seed, and that rate for the others. A tenth of the training
rows validates; only with all rows the set's own validation rows do. Test rows are read once a model. Each model's
scores go to results/tasks.json as they come, and are not measured again while RUN has the same weights.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.commands.finetune import finetune
from gpt1.config import Finetune, Task
from gpt1.console import quiet
from gpt1.data.files import sha256_of
from gpt1.finetuning.examples import TaskRows, read_rows
from gpt1.finetuning.predictor import Predictor
from gpt1.run_folder.folder import load_run
from gpt1.run_folder.starter import find_run
from gpt1.tasks.rows import LabelledRows, read_labelled_rows
from gpt1.training.device import setup_device
from record import RESULTS, record

FEW, SIZES, ROWS_AT_ONCE = 16, "16,100,1000,all", 64


@dataclass(frozen=True)
class Set:
    """A labelled set: files inside its folder, and the metric that is reported."""

    task: Task
    train: str
    test: tuple[str, ...]
    metric: str = "accuracy"
    valid: str | None = None


SETS = {
    "sst2": Set("classification", "train.tsv", ("test.tsv",), valid="dev.tsv"),
    "cola": Set("classification", "train.tsv", ("dev_in_domain.tsv", "dev_out_of_domain.tsv"), "matthews"),
    "mrpc": Set("similarity", "train.tsv", ("test.tsv",), "f1"),
    "rte": Set("entailment", "train.tsv", ("dev.tsv",)),
    "snli": Set("entailment", "dev.tsv", ("test.tsv",)),
    "stsb": Set("similarity", "train.tsv", ("test.tsv",), "pearson", "dev.tsv"),
    "copa": Set("multiple-choice", "dev.tsv", ("test.tsv",)),
    "dream": Set("multiple-choice", "train.jsonl", ("test.jsonl",), valid="dev.jsonl"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default=",".join(SETS))
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--systems", default="tuned,scratch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    asked = parser.parse_args()
    known = RESULTS / "tasks.json"
    result = json.loads(known.read_text(encoding="utf-8"))["result"] if known.exists() else {}
    if result.get("model") != (model := sha256_of(find_run(asked.run) / "model.safetensors")):
        result = {"model": model, "cells": {}}
    for size in asked.sizes.split(","):
        for name in asked.only.split(","):
            for system in asked.systems.split(","):
                for seed in range(1, asked.seeds + 1):
                    models = result["cells"].setdefault(name, {}).setdefault(size, {}).setdefault(system, {})
                    if str(seed) not in models:
                        lr = models["1"]["lr"] if system == "scratch" and "1" in models else 0.0
                        models[str(seed)] = measured(asked, name, size, system, seed, lr)
                        print(name, size, system, seed, models[str(seed)], file=sys.stderr)
                        record("tasks", "python benchmarks/tasks.py RUN DATA", result)
    print(table(result["cells"]))


def measured(asked: argparse.Namespace, name: str, size: str, system: str, seed: int, lr: float) -> dict[str, Any]:
    """Fine-tune one model and return its test scores: of the network, of words alone and of both."""
    each, source = SETS[name], asked.data / name
    settings = Finetune(
        run=asked.run, train=str(source / each.train), out="", task=each.task, seed=seed, lr=lr, with_words=True,
        valid=str(source / each.valid) if each.valid and size == "all" else None, from_scratch=system == "scratch",
        device=asked.device, threads=asked.threads,
    )  # fmt: skip
    device, dtype = setup_device(settings)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        if size != "all":
            settings = replace(settings, train=sampled(settings, size, Path(work)))
        tuned = finetune(replace(settings, out=str(Path(work) / "tuned")))
        seconds, run = time.perf_counter() - began, load_run(Path(work) / "tuned")
    predictor = Predictor.of_run(run, device, dtype)
    tests = [
        read_labelled_rows(str(source / file), predictor.columns, predictor.label_type.kind, known=predictor.label_type)
        for file in each.test
    ]
    return {"lr": tuned.lr, "seconds": seconds} | scores(predictor, joined(tests), each.metric)


def scores(predictor: Predictor, rows: LabelledRows, metric: str) -> dict[str, float]:
    """Return the metric of the network, of words alone and of both."""
    parts = predictor.predict_parts(rows.texts, ROWS_AT_ONCE)
    found = {"words": parts["words"], "network": parts.get("network", parts["run"]), "both": parts["run"]}
    return {name: predictor.label_type.metrics(rows.labels, found_NC)[metric] for name, found_NC in found.items()}


def sampled(settings: Finetune, size: str, work: Path) -> str:
    """Write a sample of the training rows, another for each seed, and return its path."""
    found = training_rows(settings)
    source = Path(settings.train)
    kept = {int(found.train.where[number].rpartition(":")[2]) for number in drawn(found, size, settings.seed)}
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    header = [] if source.suffix == ".jsonl" else [lines[0]]
    path = work / f"train{source.suffix}"
    path.write_text("".join(header + [line for n, line in enumerate(lines, 1) if n in kept]), encoding="utf-8")
    return str(path)


def training_rows(settings: Finetune) -> TaskRows:
    """Read the training rows; they are the validation rows too, because some rows must be."""
    with quiet():
        return read_rows(replace(settings, valid=settings.train))


def drawn(rows: TaskRows, size: str, seed: int) -> list[int]:
    """Draw numbers of training rows: `size` of them or `all`; 16 means 16 of each class, or 32 without classes."""
    order: list[int] = np.random.default_rng(seed).permutation(len(rows.train)).tolist()
    if size == "all":
        return order
    if int(size) == FEW and rows.label_type.kind == "classes":
        by_class: dict[str, list[int]] = {}
        for number in order:
            by_class.setdefault(rows.train.labels[number], []).append(number)
        return [number for numbers in by_class.values() for number in numbers[:FEW]]
    return order[: 2 * FEW if int(size) == FEW else int(size)]


def joined(parts: list[LabelledRows]) -> LabelledRows:
    """Return the rows of all, one after the other."""
    whole = parts[0]
    for part in parts[1:]:
        whole = LabelledRows(
            whole.texts + part.texts, whole.labels + part.labels, whole.where + part.where, whole.groups + part.groups
        )
    return whole


def table(cells: dict[str, Any]) -> str:
    """Format mean and deviation over the seeds, in percent, as a table in Markdown."""
    columns = (("tuned", "network"), ("tuned", "both"), ("tuned", "words"), ("scratch", "network"))
    lines = [
        "| set, metric | rows | pre-trained | with words | words alone | random weights |",
        "|---|---|---|---|---|---|",
    ]
    for name, sizes in cells.items():
        for size, systems in sizes.items():
            shown = [
                spread([model[what] for model in systems.get(system, {}).values() if what in model])
                for system, what in columns
            ]
            lines.append(f"| {name}, {SETS[name].metric} | {size} | {' | '.join(shown)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Format a mean and, of several values, their deviation."""
    if not values:
        return ""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


if __name__ == "__main__":
    main()
