"""`gpt1 demo`: the whole story in minutes, on the documentation inside Python: no data, no network."""

import csv
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from gpt1.commands.evaluate import evaluate
from gpt1.commands.finetune import finetune
from gpt1.commands.generate import generate
from gpt1.commands.prepare import prepare
from gpt1.commands.pretrain import pretrain
from gpt1.commands.report import report
from gpt1.config import Demo, Evaluate, Finetune, Generate, Prepare, Pretrain, Report, pretrain_defaults
from gpt1.console import say
from gpt1.data.docstrings import Docstring, docstrings, labelled, topics
from gpt1.storage import atomic, write_json, write_text

CLASSES, TRAIN, TEST, SEEDS = 6, 16, 60, 3
PROMPT = "Return the"


def demo(settings: Demo) -> dict[str, Any]:
    """Prepare, pre-train, generate, then fine-tune on few labels with and without pre-training, and report.

    Returns both accuracies (means over three seeds), the seconds and where everything lies.
    """
    began = time.perf_counter()
    folder = Path(settings.out)
    run = str(folder / "model")
    write_files(folder)
    say(f"1/4 prepare: the docstrings of this Python are the corpus ({folder / 'corpus.jsonl'})")
    prepare(Prepare(inputs=[str(folder / "corpus.jsonl")], out=str(folder / "data"), fresh=settings.fresh))
    say(f"2/4 pretrain: a tiny GPT for {settings.minutes:g} minutes")
    pretrained = pretrain(_pretrain_settings(settings, folder, run))
    written = generate(Generate(run=run, prompts=[PROMPT], max_new_tokens=60, **_machine(settings)))
    say(f'it writes: "{PROMPT}{written["samples"][0]["text"]}"')
    say(
        f"3/4 finetune: which package is a docstring from? {TRAIN} labels for each of {CLASSES} packages, {SEEDS} seeds"
    )
    accuracies = {
        name: [_accuracy(settings, folder, name, seed) for seed in range(1, SEEDS + 1)]
        for name in ("scratch", "pretrained")
    }
    say("4/4 report")
    both = [str(folder / f"{name}-1") for name in ("pretrained", "scratch")]
    runs = [run, *both, *(f"{tuned}.json" for tuned in both)]
    page = report(Report(runs=runs, out=str(folder / "report.html")))["page"]
    return {
        "accuracy_pretrained": statistics.mean(accuracies["pretrained"]),
        "accuracy_from_scratch": statistics.mean(accuracies["scratch"]),
        "accuracies": accuracies,
        "val_bits_per_byte": pretrained["val_bits_per_byte"],
        "seconds": time.perf_counter() - began,
        "report": page,
    }


def show(result: dict[str, Any]) -> RenderableType:
    """GPT-1's claim, measured."""
    out = Table(
        title=f"{TRAIN} labels a class, {CLASSES} classes: accuracy on docstrings it never saw", title_justify="left"
    )
    for column in ("start from", "mean", *(f"seed {seed}" for seed in range(1, SEEDS + 1))):
        out.add_column(column)
    for name, key in (("random weights", "scratch"), ("the pre-trained GPT", "pretrained")):
        values = result["accuracies"][key]
        out.add_row(name, *(f"{100 * value:.1f} %" for value in (statistics.mean(values), *values)))
    out.caption = f"{result['seconds']:.0f} seconds; the page: {result['report']}"
    return out


def write_files(folder: Path) -> None:
    """Write corpus.jsonl, train.csv and test.csv. The test texts are kept out of the corpus."""
    found = docstrings()
    train, test = labelled(found, CLASSES, TRAIN, TEST)
    held_out = {d.text for d in test}
    texts = [d.text for d in found if d.text not in held_out] + topics()
    write_text(folder / "corpus.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    _write_rows(folder / "train.csv", train)
    _write_rows(folder / "test.csv", test)


def _write_rows(path: Path, rows: Iterable[Docstring]) -> None:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "package"])
        writer.writerows((row.text, row.package) for row in rows)


def _pretrain_settings(settings: Demo, folder: Path, run: str) -> Pretrain:
    defaults = pretrain_defaults("tiny", data=str(folder / "data"), out=run)
    return replace(
        defaults,
        minutes=settings.minutes,
        sample=PROMPT,
        seed=settings.seed,
        fresh=settings.fresh,
        **_machine(settings),
    )


def _accuracy(settings: Demo, folder: Path, name: str, seed: int) -> float:
    out = str(folder / f"{name}-{seed}")
    finetune(
        Finetune(
            run=str(folder / "model"), train=str(folder / "train.csv"), out=out, label="package",
            from_scratch=name == "scratch", seed=seed, fresh=settings.fresh, **_machine(settings),
        )
    )  # fmt: skip
    tested = evaluate(Evaluate(run=out, files=[str(folder / "test.csv")], **_machine(settings)))
    write_json(f"{out}.json", tested)
    accuracy: float = tested["accuracy"]
    return accuracy


def _machine(settings: Demo) -> dict[str, Any]:
    return {"device": settings.device, "dtype": settings.dtype, "threads": settings.threads}
