"""`gpt1 predict`: rows -> the same rows with predicted_label and named probabilities."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from gpt1.config import Predict
from gpt1.console import bar, say
from gpt1.data.table_writer import Write, check_ending, table_writer, write_jsonl
from gpt1.data.tables import columns, rows, table
from gpt1.errors import UserError
from gpt1.finetuning import predictor as prediction
from gpt1.tasks.columns import chosen_columns
from gpt1.tasks.labels import Goal
from gpt1.tasks.rows import BETWEEN, texts_of

ROWS_AT_ONCE = 2048
"""Rows held in memory; within them, texts of like length share a batch."""


def predict(settings: Predict) -> dict[str, Any]:
    """Tell of every row, in order, in bounded memory; to `out`, or as jsonl to standard output.

    Returns rows, out and, where labels are told, how often each was. Raises UserError for wrong rows, a missing
    column, or a run that is not fine-tuned.
    """
    if settings.batch < 1:
        raise UserError(f"--batch {settings.batch} must be at least 1")
    if settings.out:
        check_ending(settings.out)
    file = table(settings.input)
    there = columns(file, settings.encoding)
    model = prediction.load(settings.run, settings)
    wanted = chosen_columns(settings, model.reader.task, model.columns, file, there)
    # A first pass over the rows: a wrong one is found before hours of work, and the bar knows where it ends.
    only = [*wanted.texts, *wanted.choices]
    sizes = Counter(len(texts_of(row, wanted)) - 1 for row in rows(file, settings.encoding, only=only))
    most = max(sizes) if model.goal.kind == "choice" else 0
    source, nested = rows(file, settings.encoding), not settings.out or settings.out.endswith(".jsonl")
    counts, done, cut = Counter[str](), 0, 0
    with _writer(settings.out) as write, bar() as progress:
        task = progress.add_task("predict, rows", total=sizes.total())
        while block := list(islice(source, ROWS_AT_ONCE)):
            texts = [texts_of(row, wanted) for row in block]
            answers_NC, too_long = model.answers(texts, settings.batch)
            told = [
                _told(model.goal, answer_C, len(each) - 1) for answer_C, each in zip(answers_NC, texts, strict=True)
            ]
            counts.update(_names(told))
            answered = told if nested else [_flat(found, most) for found in told]
            if not done and (taken := [name for name in there if name in answered[0]]):
                say(f"warning: {file.path} has a column {taken[0]} already; what is predicted takes its place")
            write([replace(row, values={**row.values, **new}) for row, new in zip(block, answered, strict=True)])
            done, cut = done + len(block), cut + too_long
            progress.update(task, completed=done)
    if cut and model.reader.long != "windows":
        say(f"{cut:,} of {done:,} rows are longer than the model reads; their {model.reader.long} was read")
    named = {name: counts[name] for name in getattr(model.goal, "names", sorted(counts))}
    return {"rows": done, "out": settings.out, "predicted": named}


def show(result: dict[str, Any]) -> str | None:
    """Where the rows are; nothing if they went to standard output."""
    if result["out"] is None:
        return None
    shares = ", ".join(f"{name}: {count:,}" for name, count in result["predicted"].items())
    return f"{result['rows']:,} rows in {result['out']}" + (f" ({shares})" if shares else "")


@contextmanager
def _writer(out: str | None) -> Iterator[Write]:
    if out is None:
        yield lambda found: write_jsonl(sys.stdout, found)
    else:
        with table_writer(out) as write:
            yield write


def _told(goal: Goal, answer_C: np.ndarray, answers: int) -> dict[str, Any]:
    """The columns of a row's answer; of a choice, only those of the answers that the row has."""
    return goal.columns(answer_C[:answers] if goal.kind == "choice" else answer_C)


def _names(told: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The labels told; a score is none."""
    for found in told:
        label = found["predicted_label"]
        if not isinstance(label, float):
            yield from label if isinstance(label, list) else [str(label)]


def _flat(told: dict[str, Any], answers: int) -> dict[str, Any]:
    """The same for a file that has no objects: a column for each probability, of a choice for `answers` of them."""
    label, named = told["predicted_label"], told.get("probabilities", {})
    named = {str(number): named.get(str(number)) for number in range(answers)} or named
    label = BETWEEN.join(label) if isinstance(label, list) else label
    return {"predicted_label": label, **{f"probability_{name}": p for name, p in named.items()}}
