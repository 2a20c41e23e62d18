"""`gpt1 predict`: rows -> the same rows with predicted_label and named probabilities."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from gpt1 import torchrun
from gpt1.config import Columns, Predict
from gpt1.console import bar, say, warn
from gpt1.data.engine import Item, Value, engine_of
from gpt1.data.files import File, is_path
from gpt1.data.table_writer import Write, check_ending, table_writer, write_jsonl
from gpt1.data.tables import Row, TableOptions, columns, rows, table
from gpt1.errors import UserError, addressed, setting
from gpt1.finetuning.predictor import Predictor, load_predictor
from gpt1.keywords import command
from gpt1.results import Result
from gpt1.tasks.columns import ColumnNames, select_columns
from gpt1.tasks.labels import label_text
from gpt1.tasks.rows import LABEL_SEPARATOR, Texts, read_texts, valid_rows
from gpt1.tasks.typed_rows import STANDARD_INPUT, row_of_texts, rows_of_lines
from gpt1.training import parallel
from gpt1.training.device import out_of_memory

# Rows held in memory; among them, texts of similar length share a batch.
ROWS_AT_ONCE = 2048
STANDARD = "-"  # standard input as `input`, standard output as `out`
# Labels of a single text that are shown on a terminal.
SHOWN = 10


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
    """without `out`, in Python and with `--json`, and of a text itself: the rows, each with `predicted_label` and,
    except for numbers, `probabilities`"""


@dataclass(frozen=True)
class _InputRows:
    """The rows to predict, from a table, standard input or the command line."""

    name: Path
    columns: list[str]
    """names of all columns"""
    wanted: Columns
    """the columns that the task reads"""
    rows: Iterator[Row]
    total: int | None
    """number of rows; None for a stream"""
    answers: int = 0
    """multiple choice: the most answers that a row has"""


@command(Predict, "run", "input", "more")
def predict(settings: Predict) -> PredictResult:
    """Predict every row, in input order; write them to `out` in bounded memory, or return them as `predictions`.

    A text that is given itself is a row. Processes that `torchrun` started take turns with blocks of rows. Raises
    UserError for wrong rows, a missing column, or a run that is not fine-tuned.
    """
    with parallel.join(settings.device):
        return _predict(settings)


def _predict(settings: Predict) -> PredictResult:
    """Do what `predict` says, in every process."""
    if settings.batch < 1:
        raise UserError(f"{setting('batch')} {settings.batch} must be at least 1")
    file = None if settings.out in (None, "", STANDARD) else settings.out
    if file:
        check_ending(file)
    is_table = is_path(settings.input)
    is_text = not is_table and settings.input != STANDARD
    # Before the model is loaded, which takes longer.
    names = columns(table(settings.input), TableOptions.of(settings)) if is_table else []
    if settings.more and not is_text:
        raise UserError(f"{settings.input} holds rows, so {settings.more[0]!r} cannot be part of one; leave it out")
    if settings.engine == "ray" and torchrun.is_launched():
        raise UserError(f"{setting('engine')} ray starts processes itself; run it without torchrun")
    engine = engine_of(settings.engine, _map_by_turns, settings.threads, settings.device.startswith(("auto", "cuda")))
    row_predictor = RowPredictor(settings)
    predictor = row_predictor.predictor
    is_flat = file is not None and not file.lower().endswith(".jsonl")
    if is_text:
        source = _text(settings, predictor)
    elif is_table:
        source = _table(settings, predictor, names)
    else:
        source = _standard_input(settings, predictor, is_flat)
    counts, done, too_long = Counter[str](), 0, 0
    predictions: list[dict[str, Any]] | None = [] if not settings.out or (is_text and not file) else None
    blocks = iter(lambda: list(islice(source.rows, ROWS_AT_ONCE)), [])
    with_texts = ((block, [read_texts(row, source.wanted) for row in block]) for block in blocks)
    # Twice, since an engine reads ahead of the block whose predictions it yields.
    held, ahead = tee(with_texts)
    with engine as mapped, _writer(settings.out, predictions) as write, bar() as progress:
        task = progress.add_task("predict, rows", total=source.total, visible=not is_text)
        predicted_blocks = mapped(row_predictor, (texts for _, texts in ahead))
        for (block, texts), (predictions_NC, cut) in zip(held, predicted_blocks, strict=True):
            found = [predictor.to_columns(*each) for each in zip(predictions_NC, texts, strict=True)]
            counts.update(label for each in found for label in _labels(each["predicted_label"]))
            new = [_flat(each, source.answers) for each in found] if is_flat else found
            if not done and (taken := [name for name in source.columns if name in new[0]]):
                warn(f"{source.name} already has a column {taken[0]}; the prediction replaces it")
            write([replace(row, values={**row.values, **each}) for row, each in zip(block, new, strict=True)])
            done, too_long = done + len(block), too_long + cut
            progress.update(task, completed=done)
    if too_long and predictor.encoder.long != "windows":
        kept = predictor.encoder.long
        say(f"{too_long:,} of {done:,} rows are longer than the model reads; their {kept} was read")
    predicted = {name: counts[name] for name in getattr(predictor.label_type, "names", sorted(counts))}
    return PredictResult(done, file, predicted, predictions)


class RowPredictor:
    """Predicts rows. Pickled without its model: each process loads the run folder."""

    def __init__(self, settings: Predict) -> None:
        self.settings = settings

    def __getstate__(self) -> dict[str, Any]:
        run = addressed(str(Path(self.settings.run).absolute()))  # each node copies what is at an address
        return {"settings": replace(self.settings, run=run)}

    @cached_property
    def predictor(self) -> Predictor:
        """The model, loaded when it is first used."""
        return load_predictor(self.settings.run, self.settings)

    def __call__(self, rows: Sequence[Texts]) -> tuple[np.ndarray, int]:
        """Return predictions_NC of rows and how many are longer than the context. Raises RunFailed if memory is out."""
        with out_of_memory(f"lower {setting('batch')}"):
            return self.predictor.predict(rows, self.settings.batch)


def _map_by_turns(function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
    """Map one item at a time; several processes take one each, and all yield every result."""
    world, items = parallel.current(), iter(items)
    while turn := list(islice(items, world.size)):
        with parallel.within(parallel.ALONE):
            mine = [function(item) for item in turn[world.part]]
        yield from chain.from_iterable(world.gather(mine))


def show(result: PredictResult) -> RenderableType | None:
    """Say where the rows are: None if they went to standard output. For a text itself, show its prediction."""
    if result.predictions is not None:
        (row,) = result.predictions
        return _shown(row) if sys.stdout.isatty() else json.dumps(row, ensure_ascii=False)
    if result.out is None:
        return None
    shares = ", ".join(f"{name}: {count:,}" for name, count in result.predicted.items())
    return f"{result.rows:,} rows in {result.out}" + (f" ({shares})" if shares else "")


def _table(settings: Predict, predictor: Predictor, names: list[str]) -> _InputRows:
    file, options = table(settings.input), TableOptions.of(settings)
    wanted = select_columns(file, names, predictor.encoder.task, ColumnNames.of(settings), predictor.columns)
    # A first pass over the rows: a wrong one is found before hours of work, and the progress bar knows its end.
    only = [*wanted.texts, *wanted.choices]
    checked = _valid(rows(file, options, only=only), wanted, options, settings.input)
    sizes = Counter(len(read_texts(row, wanted)) - 1 for row in checked)
    most = max(sizes) if predictor.label_type.kind == "choice" else 0
    return _InputRows(file.path, names, wanted, _valid(rows(file, options), wanted, options), sizes.total(), most)


def _standard_input(settings: Predict, predictor: Predictor, is_flat: bool) -> _InputRows:
    """Read rows as they come; but all rows first, if a flat table needs a column for each answer to a choice."""
    task, options = predictor.encoder.task, TableOptions.of(settings)
    found = rows_of_lines(_lines(), task, predictor.columns)
    needs_all = predictor.label_type.kind == "choice" and is_flat
    held = list(found if needs_all else islice(found, 1))
    names, file = list(held[0].values), File(STANDARD_INPUT, named=True)
    wanted = select_columns(file, names, task, ColumnNames.of(settings), predictor.columns)
    most = max(len(read_texts(row, wanted)) - 1 for row in _valid(held, wanted, options)) if needs_all else 0
    valid = _valid(chain(held, found), wanted, options, str(STANDARD_INPUT))
    return _InputRows(STANDARD_INPUT, names, wanted, valid, None, most)


def _lines() -> Iterator[str]:
    """Yield the lines of standard input, which of several processes only the first has."""
    world = parallel.current()
    if world.size == 1:
        yield from sys.stdin
        return
    while block := world.from_main(lambda: list(islice(sys.stdin, ROWS_AT_ONCE))):
        yield from block


def _valid(found: Iterable[Row], wanted: Columns, options: TableOptions, report_as: str = "") -> Iterator[Row]:
    """Yield the rows that have all texts; a row without one is refused or skipped, see `valid_rows`."""
    return (row for row, _ in valid_rows(found, lambda row: read_texts(row, wanted), options, report_as))


def _text(settings: Predict, predictor: Predictor) -> _InputRows:
    texts, task = [settings.input, *settings.more], predictor.encoder.task
    row, wanted = row_of_texts(texts, task, predictor.columns, "put several rows in a file")
    return _InputRows(row.file, list(row.values), wanted, iter([row]), 1, len(settings.more))


def _shown(row: dict[str, Any]) -> Table:
    """Return a table for people: the label, then the most probable labels with their probabilities."""
    label, named = row["predicted_label"], row.get("probabilities", {})
    answers = next((value for value in row.values() if isinstance(value, list) and value is not label), [])
    out = Table(show_header=False, box=None, title_justify="left", title_style="bold")
    out.title = label_text(label)
    for name, p in sorted(named.items(), key=lambda item: -item[1])[:SHOWN]:
        text = [answers[int(name)]] if answers else []
        out.add_row(name, f"{p:.1%}", "█" * round(20 * p), *text)
    if len(named) > SHOWN:
        out.caption = f"and {len(named) - SHOWN:,} more"
    return out


@contextmanager
def _writer(out: str | None, predictions: list[dict[str, Any]] | None) -> Iterator[Write]:
    """Yield a function that takes the next rows: to the file or standard output, or to the list `predictions`.

    With several processes, only rank 0 writes.
    """
    if predictions is not None:
        yield lambda found: predictions.extend(row.values for row in found)
    elif not parallel.is_main():
        yield lambda found: None
    elif out is None or out == STANDARD:
        yield lambda found: write_jsonl(sys.stdout, found)
    else:
        with table_writer(out) as write:
            yield write


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
