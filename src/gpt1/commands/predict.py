"""`gpt1 predict`: rows -> the same rows with predicted_label and named probabilities."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from gpt1.config import Predict
from gpt1.console import bar, say, warn
from gpt1.data.table_writer import Write, check_ending, table_writer, write_jsonl
from gpt1.data.tables import columns, rows, table
from gpt1.errors import UserError, setting
from gpt1.finetuning.predictor import load_predictor
from gpt1.keywords import command
from gpt1.results import Result
from gpt1.tasks.columns import ColumnNames, select_columns
from gpt1.tasks.labels import LabelType
from gpt1.tasks.rows import LABEL_SEPARATOR, read_texts
from gpt1.training.device import out_of_memory

# Rows held in memory; among them, texts of similar length share a batch.
ROWS_AT_ONCE = 2048
STDOUT = "-"  # as `out`


@dataclass(frozen=True)
class PredictResult(Result):
    """What `gpt1 predict` prints."""

    rows: int
    """rows that were predicted"""
    out: str | None
    """the file that holds them; left out where they went to standard output"""
    predicted: dict[str, int]
    """how often each label was predicted; empty for numbers"""
    predictions: list[dict[str, Any]] | None = None
    """in Python, without `out`: the rows, each with `predicted_label` and, except for numbers, `probabilities`"""


@command(Predict, "run", "input")
def predict(settings: Predict) -> PredictResult:
    """Predict every row, in input order; write them to `out` in bounded memory, or return them as `predictions`.

    Raises UserError for wrong rows, a missing column, or a run that is not fine-tuned.
    """
    if settings.batch < 1:
        raise UserError(f"{setting('batch')} {settings.batch} must be at least 1")
    is_file = settings.out is not None and settings.out != STDOUT
    if settings.out and is_file:
        check_ending(settings.out)
    file = table(settings.input)
    names = columns(file, settings.encoding)
    predictor = load_predictor(settings.run, settings)
    wanted = select_columns(file, names, predictor.encoder.task, ColumnNames.of(settings), predictor.columns)
    # A first pass over the rows: a wrong one is found before hours of work, and the progress bar knows its end.
    only = [*wanted.texts, *wanted.choices]
    sizes = Counter(len(read_texts(row, wanted)) - 1 for row in rows(file, settings.encoding, only=only))
    most = max(sizes) if predictor.label_type.kind == "choice" else 0
    source, nested = rows(file, settings.encoding), not is_file or str(settings.out).lower().endswith(".jsonl")
    counts, done, too_long = Counter[str](), 0, 0
    predictions: list[dict[str, Any]] | None = None if settings.out else []
    with _writer(settings.out, predictions) as write, bar() as progress:
        task = progress.add_task("predict, rows", total=sizes.total())
        while block := list(islice(source, ROWS_AT_ONCE)):
            texts = [read_texts(row, wanted) for row in block]
            with out_of_memory(f"lower {setting('batch')}"):
                predictions_NC, cut = predictor.predict(texts, settings.batch)
            found = [
                _named(predictor.label_type, prediction_C, len(each) - 1)
                for prediction_C, each in zip(predictions_NC, texts, strict=True)
            ]
            counts.update(label for each in found for label in _labels(each["predicted_label"]))
            new = found if nested else [_flat(each, most) for each in found]
            if not done and (taken := [name for name in names if name in new[0]]):
                warn(f"{file.path} has a column {taken[0]} already; the prediction replaces it")
            write([replace(row, values={**row.values, **each}) for row, each in zip(block, new, strict=True)])
            done, too_long = done + len(block), too_long + cut
            progress.update(task, completed=done)
    if too_long and predictor.encoder.long != "windows":
        kept = predictor.encoder.long
        say(f"{too_long:,} of {done:,} rows are longer than the model reads; their {kept} was read")
    predicted = {name: counts[name] for name in getattr(predictor.label_type, "names", sorted(counts))}
    return PredictResult(done, settings.out if is_file else None, predicted, predictions)


def show(result: PredictResult) -> str | None:
    """Say where the rows are; return None if they went to standard output."""
    if result.out is None:
        return None
    shares = ", ".join(f"{name}: {count:,}" for name, count in result.predicted.items())
    return f"{result.rows:,} rows in {result.out}" + (f" ({shares})" if shares else "")


@contextmanager
def _writer(out: str | None, predictions: list[dict[str, Any]] | None) -> Iterator[Write]:
    """Yield a function that takes the next rows: to the file or standard output, or to the list `predictions`."""
    if predictions is not None:
        yield lambda found: predictions.extend(row.values for row in found)
    elif out is None or out == STDOUT:
        yield lambda found: write_jsonl(sys.stdout, found)
    else:
        with table_writer(out) as write:
            yield write


def _named(label_type: LabelType, prediction_C: np.ndarray, answers: int) -> dict[str, Any]:
    """Return `predicted_label` and `probabilities` of a row; of a choice, only those of the row's own answers."""
    return label_type.to_columns(prediction_C[:answers] if label_type.kind == "choice" else prediction_C)


def _labels(predicted: Any) -> list[str]:
    """Return the labels to count in a prediction; none if it is a score."""
    if isinstance(predicted, float):
        return []
    return predicted if isinstance(predicted, list) else [str(predicted)]


def _flat(found: dict[str, Any], answers: int) -> dict[str, Any]:
    """Return the same for a table without nested values: a column for each probability, `answers` for a choice."""
    label, named = found["predicted_label"], found.get("probabilities", {})
    named = {str(number): named.get(str(number)) for number in range(answers)} or named
    label = LABEL_SEPARATOR.join(label) if isinstance(label, list) else label
    others = {name: value for name, value in found.items() if name != "probabilities"}
    return others | {"predicted_label": label} | {f"probability_{name}": p for name, p in named.items()}
