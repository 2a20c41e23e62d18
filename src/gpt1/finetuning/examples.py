"""The labelled rows of a fine-tuning: read from files, and built into examples for the network."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from gpt1.config import Columns, Finetune, Task
from gpt1.console import quiet, say, warn
from gpt1.data.files import choose_splits, sha256_of
from gpt1.data.tables import TableOptions, table
from gpt1.errors import UserError, setting
from gpt1.finetuning.defaults import FitOptions, keeps_last_epoch, selected_metric
from gpt1.finetuning.predictor import Examples, RowEncoder
from gpt1.run_folder.folder import LoadedRun
from gpt1.run_folder.metadata import Source
from gpt1.run_folder.starter import find_run
from gpt1.tasks.columns import ColumnNames, guess_columns
from gpt1.tasks.labels import LabelType, class_weights, infer_label_type
from gpt1.tasks.rows import (
    LabelledRows,
    check_labels,
    infer_label_kind,
    read_labelled_rows,
    split_train_valid,
    warn_of_faults,
)

if TYPE_CHECKING:
    from gpt1.pretraining.continued import UnlabelledText

FinetuneSettings = TypeVar("FinetuneSettings", bound=Finetune)


@dataclass(frozen=True)
class TaskRows:
    """Labelled rows and their label type."""

    task: Task
    label_type: LabelType
    columns: Columns
    """of the table that the rows come from, or of the one that a saved run will read"""
    train: LabelledRows
    valid: LabelledRows


@dataclass(frozen=True)
class TaskExamples:
    """Training and validation rows as the network reads them."""

    label_type: LabelType
    encoder: RowEncoder
    train: Examples
    valid: Examples
    valid_labels: list[Any]
    """the label of each validation row"""
    class_weights_C: Tensor | None
    """the weight of each class in L2; None if all weigh the same"""


def with_splits(settings: FinetuneSettings) -> FinetuneSettings:
    """Return the settings with a saved dataset of several splits replaced by the split to train and to validate on.

    Prints the choice. Raises UserError if no split is called train.
    """
    train, valid = choose_splits(settings.train, validate=not settings.valid)
    return replace(settings, train=train, valid=settings.valid or valid)


def source_files(run: str, train: str, valid: str | None = None, test: str | None = None) -> dict[str, Source]:
    """Return the files with labels, and the model, that a result depends on: `model`, `train`, `valid` and `test`."""
    files = {"model": find_run(run) / "model.safetensors", "train": table(train).path}
    files |= {name: table(path).path for name, path in (("valid", valid), ("test", test)) if path}
    return {name: Source(path=str(path), sha256=sha256_of(path)) for name, path in files.items()}


def input_hashes(sources: Mapping[str, Source], read: Sequence[Source] = ()) -> dict[str, str]:
    """Return the inputs of a `resume.Record`: the sha256 of each source, by the setting that names it.

    `read` are the files of unlabelled text.
    """
    hashes = {"run" if name == "model" else name: source.sha256 for name, source in sources.items()}
    return hashes | ({"read": joint_hash(read)} if read else {})


def joint_hash(sources: Iterable[Source]) -> str:
    """Return one sha256 of several sources, in their order."""
    return hashlib.sha256("".join(source.sha256 for source in sources).encode()).hexdigest()


def check_read(settings: Finetune) -> None:
    """Raise UserError for settings of unlabelled text that cannot work."""
    if not settings.read_epochs > 0:
        raise UserError(f"{setting('read_epochs')} {settings.read_epochs:g} must be more than 0")
    for name in ("read_epochs", "read_lr"):
        if not settings.read and getattr(settings, name) != getattr(Finetune, name):
            raise UserError(f"{setting(name)} is for unlabelled text; name its files with {setting('read')}")
    if settings.read and settings.from_scratch:
        raise UserError(f"{setting('from_scratch')} starts from random weights, so {setting('read')} has no effect")


def text_to_read(settings: Finetune) -> "UnlabelledText | None":
    """Return the unlabelled text that the settings name, if any; in tables, the same columns as in the labelled rows.

    Warns if the validation rows are among it. Raises UserError for a file that does not exist.
    """
    if not settings.read:
        return None
    # Here, since most fine-tunings read no text and so neither prepare data nor pre-train.
    from gpt1.data.documents import ReadOptions, text_files
    from gpt1.pretraining.continued import UnlabelledText

    how = TableOptions.of(settings)
    with quiet():  # `read_rows` prints the columns
        columns = guess_columns(settings.train, settings.task, ColumnNames.of(settings), how)
    options = ReadOptions(**asdict(how), columns=tuple(columns.texts))
    files = text_files(settings.read, options)
    if settings.valid and table(settings.valid).path.resolve() in {file.path.resolve() for file in files}:
        warn(
            f"{settings.valid} is also among the files of {setting('read')}: the model reads the texts of the "
            "validation rows, though not their labels, so the validation scores may be slightly too high"
        )
    return UnlabelledText(files, options)


def read_rows(settings: Finetune) -> TaskRows:
    """Read the rows that the settings name, and warn of what would make their scores misleading.

    Raises UserError for wrong columns, rows and labels.
    """
    options = TableOptions.of(settings)
    columns = guess_columns(settings.train, settings.task, ColumnNames.of(settings), options)
    kind = infer_label_kind(settings.task, settings.target, settings.train, columns, options)
    train = read_labelled_rows(settings.train, columns, kind, options)
    label_type = infer_label_type(kind, train.labels, f"{settings.train}: column {', '.join(columns.label)}")
    if settings.valid:
        valid = read_labelled_rows(settings.valid, columns, kind, options, label_type)
        check_labels(valid, label_type, columns)
    elif len(train) < 2:
        raise UserError(
            f"{settings.train} has 1 row, but at least two are needed, one of them for validation: add rows, or name "
            f"validation rows with {setting('valid')}"
        )
    else:
        train, valid = split_train_valid(train, settings.seed)
    warn_of_faults(train, valid, kind)
    return TaskRows(settings.task, label_type, columns, train, valid)


def build_examples(base: LoadedRun, rows: TaskRows, options: FitOptions) -> TaskExamples:
    """Encode the rows for the network that a pre-trained run becomes.

    Prints how many rows are longer than the context, and if too few rows validate to select an epoch. Raises UserError
    for class weights or a metric that the label type does not have.
    """
    encoder = RowEncoder(rows.task, base.tokenizer.with_task_tokens(), base.body.config.context, options.long)
    target = rows.label_type.target
    train_targets = [target(label) for label in rows.train.labels]
    train = encoder.encode(rows.train.texts, train_targets, rows.train.weights)
    valid = encoder.encode(rows.valid.texts, [target(label) for label in rows.valid.labels])
    for role, found, labelled in (("training", train, rows.train), ("validation", valid, rows.valid)):
        if found.too_long:
            fate = "they are read in windows" if options.long == "windows" else f"their {options.long} is kept"
            share = f"{found.too_long:,} of {len(labelled):,} rows ({found.too_long / len(labelled):.1%})"
            say(f"{role}: {share} are longer than the context of {encoder.context} tokens; {fate} ({setting('long')})")
    metric = selected_metric(options, rows.label_type)
    if keeps_last_epoch(options, len(rows.valid)):
        held = "1 validation row" if len(rows.valid) == 1 else f"{len(rows.valid)} validation rows"
        say(f"only {held}, too few to select an epoch: keeping the last ({setting('select')} {metric} selects one)")
    weights_C = class_weights(options.class_weights, rows.label_type, train_targets)
    return TaskExamples(rows.label_type, encoder, train, valid, rows.valid.labels, weights_C)
