"""`gpt1 evaluate`: how well a run predicts text, labels rows if it is fine-tuned, or answers by likelihood."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from gpt1 import console
from gpt1.config import Columns, Evaluate
from gpt1.data.documents import ReadOptions, pieces, utf8_size
from gpt1.data.files import File
from gpt1.data.tables import TableOptions, check_column, columns, table, text_or_table
from gpt1.data.windows import Ids
from gpt1.errors import UserError, setting
from gpt1.finetuning.predictor import Predictor, load_predictor
from gpt1.keywords import command
from gpt1.model.packed import pack
from gpt1.results import INLINE, Result
from gpt1.run_folder.folder import load_run, read_metadata
from gpt1.tasks.columns import ColumnNames, select_columns
from gpt1.tasks.labels import ClassLabels, LabelSets, LabelType, ScoreLabels
from gpt1.tasks.metrics import Intervals, TaskMetrics, rows_alone
from gpt1.tasks.rows import LabelledRows, check_labels, read_labelled_rows
from gpt1.tasks.words import say_if_words_win
from gpt1.tasks.zero_shot import ZeroShotMetrics, question_kind, read_choices, read_pairs, score_zero_shot
from gpt1.tokenizer.bulk import encode_bulk
from gpt1.training import parallel
from gpt1.training.device import out_of_memory, setup_device
from gpt1.training.likelihood import Likelihood, likelihood


@dataclass(frozen=True)
class TextMetrics(Result):
    """How well a run predicts text."""

    nats_per_token: float
    """the loss: -log P of a token, on average"""
    perplexity: float
    """exp of the loss; infinite if that overflows"""
    bits_per_byte: float
    """the loss in bits, per UTF-8 byte of the text"""
    tokens: int
    """tokens predicted, end tokens included"""
    bytes: int
    """UTF-8 bytes of the text"""
    comparable: bool
    """whether bits_per_byte can be compared between tokenizers: false for a lossy one"""

    @classmethod
    def of(cls, found: Likelihood, size: int, lossless: bool) -> "TextMetrics":
        """Return the metrics of a text of `size` bytes."""
        bits = found.bits_per_byte(found.tokens / size)
        return cls(found.nats_per_token, found.perplexity, bits, found.tokens, size, lossless)


@dataclass(frozen=True)
class RowMetrics(Result):
    """How well a fine-tuned run predicts labelled rows."""

    metrics: TaskMetrics = field(metadata=INLINE)
    intervals: Intervals
    """`[low, high]` of each metric: the middle 95 % over resamples of the rows"""
    words_alone: TaskMetrics | None = None
    """the same metrics of words alone: TF-IDF and a linear model, fitted on the same rows"""
    network_alone: TaskMetrics | None = None
    """the same metrics of the network without the words, at the run's thresholds, if it adds both (`--with-words`)"""

    @classmethod
    def of(cls, predictor: Predictor, labels: list[Any], parts: dict[str, np.ndarray]) -> "RowMetrics":
        """Return the metrics of what `Predictor.predict_parts` predicts."""
        label_type, words = predictor.label_type, predictor.words
        return cls(
            metrics=label_type.metrics(labels, parts["run"]),
            intervals=label_type.intervals(labels, parts["run"]),
            words_alone=words.label_type(label_type).metrics(labels, parts["words"]) if words else None,
            network_alone=label_type.metrics(labels, parts["network"]) if "network" in parts else None,
        )


@dataclass(frozen=True)
class EvaluateResult(Result):
    """What `gpt1 evaluate` prints: metrics over all files together and, if there are several, of each."""

    run: str
    """the run folder"""
    scored_on: list[str]
    """the files"""
    metrics: TextMetrics | RowMetrics | ZeroShotMetrics = field(metadata=INLINE)
    files: dict[str, TextMetrics] | dict[str, RowMetrics] | None = None
    """text and rows: the metrics of each of several files"""


@command(Evaluate, "run", "files")
def evaluate(settings: Evaluate) -> EvaluateResult:
    """Evaluate a run on text, on labelled rows, or zero-shot on pairs or choices.

    Processes that `torchrun` started share the work out. Raises UserError for files, columns or rows that are missing
    or wrong.
    """
    with parallel.join(settings.device):
        kind = _kind(settings)
        if kind == "pairs" or kind == "choices":
            return EvaluateResult(settings.run, settings.files, _zero_shot(settings, kind))
        return _rows(settings) if kind == "rows" else _text(settings)


def show(result: EvaluateResult) -> RenderableType:
    """Return the metrics as a table; for classes and label sets, after one with a row for each."""
    plain = {name: value for name, value in result.items() if name != "run" and not isinstance(value, Mapping | list)}
    for name, (low, high) in result.get("intervals", {}).items():
        plain[f"{name}, 95 % bootstrap interval"] = f"{low:.4g} to {high:.4g}"
    for part in ("words", "network"):
        plain |= rows_alone(result.get(f"{part}_alone", {}), part)
    if "per_class" not in result:
        groups = {f"accuracy, {name}": found["accuracy"] for name, found in result.get("groups", {}).items()}
        return console.table(plain | groups, "evaluate")
    out = Table(title="evaluate", title_justify="left")
    for name in ("class", "rows", "precision", "recall", "F1"):
        out.add_column(name)
    for name, found in result["per_class"].items():
        out.add_row(name, f"{found['n']:,}", *(f"{found[key]:.3f}" for key in ("precision", "recall", "f1")))
    return Group(out, console.table(plain))


def _kind(settings: Evaluate) -> Literal["text", "rows", "pairs", "choices"]:
    """Return what the files hold."""
    if settings.as_ != "auto":
        return settings.as_
    if File(Path(settings.files[0]), named=True).kind == "text":
        return "text"
    if read_metadata(Path(settings.run)).kind == "finetuned":
        return "rows"
    return question_kind(settings.files[0], TableOptions.of(settings)) or "text"


def _zero_shot(settings: Evaluate, kind: Literal["pairs", "choices"]) -> ZeroShotMetrics:
    device, dtype = setup_device(settings)
    run, options = load_run(settings.run), TableOptions.of(settings)
    files = [
        read_pairs(path, settings.good, settings.bad, settings.group, options)
        if kind == "pairs"
        else read_choices(path, ColumnNames.of(settings), settings.group, options)
        for path in settings.files
    ]
    return score_zero_shot(pack(run.body.to(device, dtype)), run.tokenizer, files, kind, settings.normalize)


def _rows(settings: Evaluate) -> EvaluateResult:
    if settings.batch < 1:
        raise UserError(f"{setting('batch')} {settings.batch} must be at least 1")
    predictor = load_predictor(settings.run, settings)
    label_type, requested, options = predictor.label_type, ColumnNames.of(settings), TableOptions.of(settings)
    if not isinstance(label_type, ScoreLabels) and label_type.majority is None:
        console.say(f"{settings.run} does not record the most common label of training; majority is that of these rows")
    labels: list[Any] = []
    predictions: list[dict[str, np.ndarray]] = []
    files: dict[str, RowMetrics] = {}
    for path in settings.files:
        file = table(path)
        available = columns(file, options)
        wanted = select_columns(file, available, predictor.encoder.task, requested, predictor.columns)
        for name in wanted.label:
            check_column(name, available, file, f"; choose with {setting('label')}")
        rows = read_labelled_rows(path, wanted, label_type.kind, options, label_type)
        _check_unknown_labels(rows, label_type, wanted)
        with out_of_memory(f"lower {setting('batch')}, {settings.batch}"):
            parts = predictor.predict_parts(rows.texts, settings.batch)
        files[path] = RowMetrics.of(predictor, rows.labels, parts)
        labels, predictions = labels + rows.labels, [*predictions, parts]
    total = files[settings.files[0]]
    if len(files) > 1:
        stacked = {part: _stacked([parts[part] for parts in predictions]) for part in predictions[0]}
        total = RowMetrics.of(predictor, labels, stacked)
    if total.words_alone:
        selected_by = read_metadata(Path(settings.run)).selected_by
        say_if_words_win(label_type, selected_by, total.words_alone, total.metrics, predictor.share)
    return EvaluateResult(settings.run, settings.files, total, files if len(files) > 1 else None)


def _stacked(predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate the predictions of several files; a row with fewer answers than others has probability 0 for them."""
    most = max(predictions_NC.shape[1] for predictions_NC in predictions)
    return np.concatenate([np.pad(p_NC, ((0, 0), (0, most - p_NC.shape[1]))) for p_NC in predictions])


def _check_unknown_labels(rows: LabelledRows, label_type: LabelType, wanted: Columns) -> None:
    """Warn of rows whose label training never saw, which count as wrong. Raises UserError if no label is known."""
    if not isinstance(label_type, ClassLabels | LabelSets):
        return
    known = set(label_type.names)
    unknown = [i for i, label in enumerate(rows.labels) if not label_type.names_of(label) <= known]
    if len(unknown) == len(rows):
        check_labels(rows, label_type, wanted)
    if unknown:
        where, label = rows.where[unknown[0]], ", ".join(sorted(label_type.names_of(rows.labels[unknown[0]])))
        console.warn(f"{where}: label {label!r} does not occur in training; {len(unknown):,} such rows count as wrong")


def _text(settings: Evaluate) -> EvaluateResult:
    device, dtype = setup_device(settings)
    run = load_run(settings.run)
    network, tokenizer = pack(run.body.to(device, dtype)), run.tokenizer
    files: dict[str, TextMetrics] = {}
    nats, tokens, size = 0.0, 0, 0
    for path in settings.files:
        documents = _documents(path, replace(ReadOptions.of(settings), text=settings.text or ReadOptions.text))
        ids, offsets = encode_bulk(tokenizer, documents)
        found = likelihood(network, Ids(np.insert(ids, offsets[1:], tokenizer.end_id)), tokenizer.end_id)
        file_size = sum(map(utf8_size, documents))
        files[path] = TextMetrics.of(found, file_size, tokenizer.lossless)
        nats, tokens, size = nats + found.nats, tokens + found.tokens, size + file_size
    if len(files) == 1:
        return EvaluateResult(settings.run, settings.files, files[settings.files[0]])
    total = TextMetrics.of(Likelihood(nats, tokens), size, tokenizer.lossless)
    return EvaluateResult(settings.run, settings.files, total, files)


def _documents(path: str, options: ReadOptions) -> list[str]:
    """Return the documents of a file, as `gpt1 prepare` reads them: its text, or the texts in a table's column.

    Empty documents are left out. Raises UserError if every document is empty.
    """
    file = text_or_table(path)
    found: list[str] = []
    parts: list[str] = []
    for text, is_last in pieces(file, options):
        parts.append(text)
        if is_last:
            found.append("".join(parts))
            parts.clear()
    if not (found := [text for text in found if text]):
        raise UserError(f"{path}: an empty file; there is nothing to predict")
    return found
