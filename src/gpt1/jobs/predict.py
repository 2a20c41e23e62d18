"""`gpt1 predict`: rows -> the same rows with predicted_label and named probabilities."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from gpt1.config import Predict
from gpt1.data.table_writer import Write, check_ending, table_writer, write_jsonl
from gpt1.data.tables import Row, check_column, columns, rows, table
from gpt1.jobs import classifier
from gpt1.jobs.console import bar, say

ROWS_AT_ONCE = 2048
"""Rows held in memory; within them, texts of like length share a batch."""


def predict(settings: Predict) -> dict[str, Any]:
    """Classify every row, in order, in bounded memory; to `out`, or as jsonl to standard output.

    Returns rows, out and how often each label was predicted. Raises UserError for wrong rows, a missing column, or a
    run that is not fine-tuned.
    """
    if settings.out:
        check_ending(settings.out)
    file = table(settings.input)
    there = columns(file, settings.encoding)
    model = classifier.load(settings)
    column = check_column(settings.text or model.text, there, file)
    # A first pass over the rows: a wrong one is found before hours of work, and the bar knows where it ends.
    total = sum(1 for row in rows(file, settings.encoding, only=column) if row.text(column))
    source, nested = rows(file, settings.encoding), not settings.out or settings.out.endswith(".jsonl")
    counts, done, cut = dict.fromkeys(model.labels, 0), 0, 0
    with _writer(settings.out) as write, bar() as progress:
        task = progress.add_task("predict, rows", total=total)
        while block := list(islice(source, ROWS_AT_ONCE)):
            probabilities_NC, too_long = model.probabilities([row.text(column) for row in block], settings.batch)
            for best in probabilities_NC.argmax(-1):
                counts[model.labels[best]] += 1
            answers = zip(block, probabilities_NC.tolist(), strict=True)
            write([_predicted(row, p_C, model.labels, nested) for row, p_C in answers])
            done, cut = done + len(block), cut + too_long
            progress.update(task, completed=done)
    if cut:
        say(f"{cut:,} of {done:,} texts are longer than the model reads; their heads were read")
    return {"rows": done, "out": settings.out, "predicted": counts}


def show(result: dict[str, Any]) -> str | None:
    """Where the rows are; nothing if they went to standard output."""
    if result["out"] is None:
        return None
    shares = ", ".join(f"{name}: {count:,}" for name, count in result["predicted"].items())
    return f"{result['rows']:,} rows in {result['out']} ({shares})"


@contextmanager
def _writer(out: str | None) -> Iterator[Write]:
    if out is None:
        yield lambda found: write_jsonl(sys.stdout, found)
    else:
        with table_writer(out) as write:
            yield write


def _predicted(row: Row, p_C: list[float], labels: list[str], nested: bool) -> Row:
    """The row with the label and the probabilities: in one object, or in a column each."""
    named = dict(zip(labels, p_C, strict=True))
    columns = {"probabilities": named} if nested else {f"probability_{name}": p for name, p in named.items()}
    return replace(row, values={**row.values, "predicted_label": max(named, key=named.__getitem__), **columns})
