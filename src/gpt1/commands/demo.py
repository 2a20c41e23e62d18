"""`gpt1 demo`: the whole life cycle in minutes, on the documentation that ships with Python: no data, no network."""

import csv
import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from gpt1.commands.evaluate import EvaluateResult, evaluate
from gpt1.commands.finetune import finetune
from gpt1.commands.generate import generate
from gpt1.commands.prepare import prepare
from gpt1.commands.pretrain import pretrain
from gpt1.commands.report import report
from gpt1.config import Demo, Evaluate, Finetune, Generate, Prepare, Report, pretrain_defaults
from gpt1.console import say
from gpt1.data.docstrings import Docstring, docstrings, endings, labelled, topics
from gpt1.keywords import command
from gpt1.results import Result
from gpt1.resume import hold
from gpt1.run_folder.places import DEMO_FILE, check_demo_place
from gpt1.storage import atomic, write_json, write_text

CLASSES, TRAIN, TEST, SEEDS = 6, 16, 60, 3
# Docstrings that give a pair of sentences; each pair makes two questions.
ENDINGS_TRAIN, ENDINGS_TEST = 300, 150
PROMPT = "Return the"
# What fine-tuning starts from.
STARTS = ("scratch", "pretrained")
# What is compared, in the order of the table. Words alone are fitted beside every model.
NAMES = {
    "scratch": "random weights",
    "words_alone": "words alone (TF-IDF)",
    "pretrained": "the pre-trained GPT",
    "with_words": "the GPT with words",
}
ENDINGS_NAMES = {
    "scratch": "random weights, fine-tuned",
    "words_alone": "words alone (TF-IDF)",
    "zero_shot": "the pre-trained GPT, zero-shot",
    "pretrained": "the pre-trained GPT, fine-tuned",
}


@dataclass(frozen=True)
class DemoResult(Result):
    """What `gpt1 demo` prints: accuracy with and without pre-training, and of words alone."""

    accuracy_pretrained: float
    """mean test accuracy from the pre-trained model"""
    accuracy_from_scratch: float
    """mean test accuracy from random weights"""
    accuracy_words_alone: float
    """mean test accuracy of TF-IDF and logistic regression"""
    accuracy_with_words: float
    """mean test accuracy from the pre-trained model with words"""
    accuracies: dict[str, list[float]]
    """`scratch`, `words_alone`, `pretrained` and `with_words`: test accuracy with each seed"""
    endings: dict[str, float]
    """accuracy on which of two endings continues a sentence: `scratch`, `words_alone`, `zero_shot` and `pretrained`"""
    endings_n: int
    """questions that `endings` is measured on"""
    val_bits_per_byte: float
    """of the pre-trained model"""
    seconds: float
    """for everything"""
    report: str
    """page written"""


@command(Demo)
def demo(settings: Demo) -> DemoResult:
    """Prepare, pre-train, generate, fine-tune on few labels with and without pre-training, and write a report.

    Raises UserError for a folder that holds something else, or in which another process is working.
    """
    folder = Path(settings.out)
    check_demo_place(folder)
    with hold(folder):
        return _demo(settings, folder)


def _demo(settings: Demo, folder: Path) -> DemoResult:
    """Run all stages in the folder."""
    began = time.perf_counter()
    model, on = str(folder / "model"), _device_settings(settings)
    write_files(folder)
    say(f"1/5 prepare: the docstrings of this Python are the corpus ({folder / 'corpus.jsonl'})")
    prepare(Prepare(inputs=[str(folder / "corpus.jsonl")], out=str(folder / "data"), fresh=settings.fresh))

    say(f"2/5 pretrain: a tiny GPT for {settings.minutes:g} minutes")
    defaults = pretrain_defaults("tiny", data=str(folder / "data"), out=model)
    asked = replace(defaults, minutes=settings.minutes, sample=PROMPT, seed=settings.seed, fresh=settings.fresh)
    pretrained = pretrain(replace(asked, **on))
    written = generate(Generate(run=model, prompts=[PROMPT], max_new_tokens=60, **on))
    say(f'it writes: "{PROMPT}{written["samples"][0]["text"]}"')

    task = f"{TRAIN} labels for each of {CLASSES} packages, {SEEDS} seeds"
    say(f"3/5 finetune: which package is a docstring from? {task}")
    seeds = range(1, SEEDS + 1)
    scratch = [_test(settings, folder, "scratch", seed) for seed in seeds]
    tuned = [_test(settings, folder, "pretrained", seed) for seed in seeds]
    accuracies = {
        "scratch": [one["accuracy"] for one in scratch],
        "words_alone": [one["words_alone"]["accuracy"] for one in tuned],
        "pretrained": [one.get("network_alone", one)["accuracy"] for one in tuned],  # absent if the words weigh nothing
        "with_words": [one["accuracy"] for one in tuned],
    }

    say("4/5 order: which of two endings continues a sentence? By likelihood, then fine-tuned")
    questions = str(folder / "endings-test.jsonl")
    zero_shot = evaluate(Evaluate(run=model, files=[questions], as_="choices", normalize="bytes", **on))
    ends = {start: _test_endings(settings, folder, start) for start in STARTS}
    endings_found = {start: one["accuracy"] for start, one in ends.items()} | {"zero_shot": zero_shot["accuracy"]}
    endings_found["words_alone"] = ends["pretrained"]["words_alone"]["accuracy"]

    say("5/5 report")
    first = [str(folder / f"{start}-1") for start in reversed(STARTS)]
    runs = [model, *first, *(f"{run}.json" for run in first)]
    page = report(Report(runs=runs, out=str(folder / "report.html"))).page
    means = {start: statistics.mean(values) for start, values in accuracies.items()}
    return DemoResult(
        accuracy_pretrained=means["pretrained"],
        accuracy_from_scratch=means["scratch"],
        accuracy_words_alone=means["words_alone"],
        accuracy_with_words=means["with_words"],
        accuracies=accuracies,
        endings=endings_found,
        endings_n=zero_shot["n"],
        val_bits_per_byte=pretrained["val_bits_per_byte"],
        seconds=time.perf_counter() - began,
        report=page,
    )


def show(result: DemoResult) -> Group:
    """Format accuracy with and without pre-training, GPT-1's claim, and that of words alone, for both tasks."""
    title = f"{TRAIN} labels per class, {CLASSES} classes: accuracy on unseen docstrings"
    out = Table(title=title, title_justify="left")
    for column in ("model", "mean", *(f"seed {seed}" for seed in range(1, SEEDS + 1))):
        out.add_column(column)
    for start, name in NAMES.items():
        values = result.accuracies[start]
        out.add_row(name, *(f"{100 * value:.1f} %" for value in (statistics.mean(values), *values)))
    title = f"which of two endings continues a sentence: accuracy on {result.endings_n} questions, chance is 50 %"
    order = Table(title=title, title_justify="left")
    for column in ("model", "accuracy"):
        order.add_column(column)
    for start, name in ENDINGS_NAMES.items():
        order.add_row(name, f"{100 * result.endings[start]:.1f} %")
    best = max(result.endings, key=lambda start: result.endings[start])
    order.caption = (
        f"best: {ENDINGS_NAMES[best]}; chance alone moves a score by {100 / math.sqrt(result.endings_n):.0f} points\n"
        f"{result.seconds:.0f} seconds; the page: {result.report}"
    )
    return Group(out, order)


def write_files(folder: Path) -> None:
    """Write corpus.jsonl, and training and test rows for both tasks; test texts are kept out of the corpus."""
    found = docstrings()
    train, test = labelled(found, CLASSES, TRAIN, TEST)
    ends_train, ends_test = endings(found, ENDINGS_TRAIN, ENDINGS_TEST)
    held_out, sentences = {d.text for d in test}, [f"{one.context} {one.choices[one.label]}" for one in ends_test]
    texts = [d.text for d in found if d.text not in held_out] + topics()
    texts = [text for text in texts if not _holds_any(text, sentences)]  # a sentence may be in several docstrings
    for name, rows in ((DEMO_FILE, ends_train), ("endings-test.jsonl", ends_test)):
        lines = [{"context": one.context, "choices": one.choices, "label": one.label} for one in rows]
        write_text(folder / name, "".join(json.dumps(line) + "\n" for line in lines))
    write_text(folder / "corpus.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    _write_rows(folder / "train.csv", train)
    _write_rows(folder / "test.csv", test)


def _holds_any(text: str, sentences: list[str]) -> bool:
    one_line = " ".join(text.split())
    return any(sentence in one_line for sentence in sentences)


def _write_rows(path: Path, rows: Iterable[Docstring]) -> None:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "package"])
        writer.writerows((row.text, row.package) for row in rows)


def _test(settings: Demo, folder: Path, start: str, seed: int) -> EvaluateResult:
    """Fine-tune and evaluate one model; its evaluation is written beside it, for the report."""
    run, on = str(folder / f"{start}-{seed}"), _device_settings(settings)
    finetune(
        Finetune(
            run=str(folder / "model"), train=str(folder / "train.csv"), out=run, label="package",
            from_scratch=start == "scratch", with_words=start == "pretrained", seed=seed, fresh=settings.fresh, **on,
        )
    )  # fmt: skip
    tested = evaluate(Evaluate(run=run, files=[str(folder / "test.csv")], **on))
    write_json(f"{run}.json", tested.to_json())
    return tested


def _test_endings(settings: Demo, folder: Path, start: str) -> EvaluateResult:
    """Fine-tune and evaluate one model of the second task."""
    run, on = str(folder / f"endings-{start}"), _device_settings(settings)
    finetune(
        Finetune(
            run=str(folder / "model"), train=str(folder / DEMO_FILE), out=run, task="multiple-choice",
            from_scratch=start == "scratch", seed=settings.seed, fresh=settings.fresh, **on,
        )
    )  # fmt: skip
    return evaluate(Evaluate(run=run, files=[str(folder / "endings-test.jsonl")], **on))


def _device_settings(settings: Demo) -> dict[str, Any]:
    return {"device": settings.device, "dtype": settings.dtype, "threads": settings.threads}
