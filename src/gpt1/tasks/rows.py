"""Labelled rows for fine-tuning and evaluation: reading, splitting, and warnings of what makes scores misleading."""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from gpt1.config import Columns, Task
from gpt1.console import say, warn
from gpt1.data.tables import (
    DEFAULT,
    InvalidRow,
    Row,
    TableOptions,
    check_column,
    columns,
    json_list,
    parse_number,
    rows,
    table,
)
from gpt1.errors import UserError, setting
from gpt1.model.objectives import LabelKind
from gpt1.tasks.labels import ClassLabels, LabelSets, LabelType

Read = TypeVar("Read")
# What the model reads of a row: a text; the two texts of a pair; or a context and its answers.
Texts = tuple[str, ...]
# Without validation rows, one training row in this many is used for validation.
VALID_SHARE = 10
# With fewer rows, a large number of classes is plausible, so there is no warning.
ENOUGH_ROWS = 10
# A label is rare if the most common one has more than this many times its rows.
RARE = 10
# A label that this share of the rows has is on nearly all.
NEARLY_ALL = 0.9
# A whole number as a column of floats holds it; one that begins with 0 is a code.
WHOLE_NUMBER = re.compile(r"-?(0|[1-9]\d*)\.0+")
# What programs write for a value that is missing, folded; `none` and `na` may be true labels.
MISSING_VALUES = ("nan", "n/a", "#n/a", "null", "<na>")
# Separates the labels of a row in csv and tsv.
LABEL_SEPARATOR = "|"


@dataclass(frozen=True)
class LabelledRows:
    """Rows with their labels."""

    texts: list[Texts]
    labels: list[Any]
    """by the kind of label: a class name; a frozenset of names; a number; the number of the right answer, from 0"""
    where: list[str]
    """the place of each row, `train.csv:12`"""
    groups: list[str]
    """the first text of each row; `split_train_valid` keeps rows that share it together"""
    weights: list[float] | None = None
    """weight of each row in the training losses; only their ratios matter; None: equal weights"""

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, numbers: Sequence[int]) -> "LabelledRows":
        """Return the rows with these numbers, in this order."""
        columns = {one.name: getattr(self, one.name) for one in fields(self)}
        return LabelledRows(**{name: column and [column[i] for i in numbers] for name, column in columns.items()})


# Similarity has classes or scores, see `infer_label_kind`.
LABEL_KINDS: dict[Task, LabelKind] = {
    "classification": "classes",
    "entailment": "classes",
    "regression": "score",
    "multi-label": "labels",
    "multiple-choice": "choice",
}


def infer_label_kind(
    task: Task, target: str, path: str, columns_read: Columns, options: TableOptions = DEFAULT
) -> LabelKind:
    """Return the kind of label of a task; for similarity `target` decides.

    With `auto`, the labels of the table are scores if all are numbers and one has a fractional part, else classes.
    Raises UserError for a target with another task.
    """
    if task != "similarity":
        if target != "auto":
            only = f"{setting('target')} goes only with {setting('task')} similarity"
            raise UserError(f"{only}, not with {task}")
        return LABEL_KINDS[task]
    if target != "auto":
        return "score" if target == "score" else "classes"
    found = valid_rows(rows(table(path), options), lambda row: row.label(columns_read.label[0]), options)
    numbers = {label: parse_number(label) for label in {label for _, label in found}}
    if all(number is None or not math.isfinite(number) or number.is_integer() for number in numbers.values()):
        return "classes"
    if names := sorted(label for label, number in numbers.items() if number is None):
        warn(
            f"label {names[0]!r} is not a number, so all labels count as classes; "
            f"if they are scores, set {setting('target')} score"
        )
    return "classes" if names else "score"


def read_labelled_rows(
    path: str, wanted: Columns, kind: LabelKind, options: TableOptions = DEFAULT, known: LabelType | None = None
) -> LabelledRows:
    """Read all rows of a table.

    Names of labels that have one canonical form (`_canonical`) become one name: that of `known`, the label type of
    training, if it has one. Raises UserError for a missing column, an empty table, and a row without a text or without
    a label of this kind, unless the options say to skip it.
    """
    file = table(path)
    available = columns(file, options)
    needed = [*wanted.texts, *wanted.choices, *wanted.label]
    for name in needed:
        check_column(name, available, file, f"; the columns needed are {', '.join(needed)}")
    found = LabelledRows([], [], [], [])

    def read(row: Row) -> tuple[Texts, Any]:
        texts = read_texts(row, wanted)
        return texts, read_label(row, wanted, kind, len(texts) - 1)

    for row, (texts, label) in valid_rows(rows(file, options), read, options, path):
        found.texts.append(texts)
        found.labels.append(label)
        found.where.append(row.where)
        found.groups.append(str(row.values[wanted.texts[0]]))
    if kind == "classes" or (kind == "labels" and len(wanted.label) == 1):  # of several columns, each is a name
        names = known.names if isinstance(known, ClassLabels | LabelSets) else _canonical_names(found.labels)
        return replace(found, labels=_replace_names(names, found.labels))
    return found


def valid_rows(
    found: Iterable[Row], read: Callable[[Row], Read], options: TableOptions, report_as: str = ""
) -> Iterator[tuple[Row, Read]]:
    """Yield each row with what `read` returns for it.

    A row for which `read` raises InvalidRow is skipped if the options say so; with `report_as`, the name of the file,
    the number of skipped rows is printed at the end. Raises UserError if all rows are skipped.
    """
    skipped, kept, first = 0, 0, ""
    for row in found:
        try:
            one = read(row)
        except InvalidRow as error:
            if not options.skip_invalid:
                raise
            skipped, first = skipped + 1, first or error.fault
            continue
        kept += 1
        yield row, one
    if skipped and not kept:
        raise UserError(f"{first}; {setting('skip_invalid')} would drop all {skipped:,} rows for faults like this one")
    if skipped and report_as:
        say(f"{report_as}: {skipped:,} of {skipped + kept:,} rows skipped, the first because {first}")


def read_texts(row: Row, wanted: Columns) -> Texts:
    """Return what the model reads of a row.

    The parts of a context, and the turns of a part that is a list, are joined by newlines. Raises UserError for an
    empty text, for fewer than two answers, and for an answer after an empty one.
    """
    if not wanted.choices:
        return tuple(row.text(name) for name in wanted.texts)
    context = "\n".join("\n".join(_text_list(row, name)) for name in wanted.texts)
    answers = _text_list(row, wanted.choices[0]) if len(wanted.choices) == 1 else _filled(row, wanted.choices)
    if len(answers) < 2:
        raise InvalidRow(
            f"{row.where}: {len(answers)} answer in {', '.join(wanted.choices)}", "a choice needs two or more"
        )
    return context, *answers


def read_label(row: Row, wanted: Columns, kind: LabelKind, answers: int) -> Any:
    """Return the label of a row, see `LabelledRows.labels`. Raises UserError if it is not of this kind.

    `answers` is the number of answers to choose from.
    """
    if kind == "labels":
        return _label_set(row, wanted.label)
    (name,) = wanted.label
    if kind == "score":
        return row.number(name)
    if kind == "classes":
        return row.label(name)
    if (number := row.number(name)) == answers:  # to skip such rows would leave wrong labels on the others
        raise UserError(
            f"{row.where}: column {name} holds {answers}, but the {answers} answers are numbered from 0; if yours are "
            "numbered from 1, subtract 1 from every label"
        )
    if number not in range(answers):
        raise InvalidRow(
            f"{row.where}: column {name} holds {row.values[name]!r}",
            f"it must be the number of the right answer, from 0 to {answers - 1}",
        )
    return int(number)


def split_train_valid(data: LabelledRows, seed: int) -> tuple[LabelledRows, LabelledRows]:
    """Split two rows or more into training and validation rows.

    Rows with the same first text stay together. The only rows of a class or label stay in training, unless there would
    be no validation row otherwise.
    """
    groups: dict[str, list[int]] = {}
    for i, group in enumerate(data.groups):
        groups.setdefault(group, []).append(i)
    members = list(groups.values()) if len(groups) > 1 else [[i] for i in range(len(data))]
    wanted = max(1, len(data) // VALID_SHARE)
    order = np.random.default_rng(seed).permutation(len(members))[:-1]
    left = Counter(name for label in data.labels for name in _names_in(label))
    valid: set[int] = set()
    for group_number in order:
        if len(valid) >= wanted:
            break
        taken = Counter(name for i in members[group_number] for name in _names_in(data.labels[i]))
        if all(left[name] > count for name, count in taken.items()):
            valid.update(members[group_number])
            left.subtract(taken)
    valid = valid or set(members[order[0]])
    return data.select([i for i in range(len(data)) if i not in valid]), data.select(sorted(valid))


def check_labels(data: LabelledRows, label_type: LabelType, wanted: Columns) -> None:
    """Raise UserError for a class or label that does not occur in training."""
    if not isinstance(label_type, ClassLabels | LabelSets):
        return
    names = label_type.names
    for label, where in zip(data.labels, data.where, strict=True):
        for name in sorted(label_type.names_of(label)):
            if name not in names:
                raise UserError(
                    f"{where}: label {name!r} in column {', '.join(wanted.label)} does not occur in training, "
                    f"which has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}; correct or drop the row"
                )


def warn_of_overlap(train: LabelledRows, other: LabelledRows, role: str) -> None:
    """Warn if training rows are among those that are scored; `role` names these, `validation` or `test`."""
    if both := len(set(train.texts) & set(other.texts)):
        warn(f"{both:,} texts are in both training and {role} rows; the {role} scores will be too high")


def warn_of_faults(train: LabelledRows, valid: LabelledRows, kind: LabelKind) -> None:
    """Warn of what makes scores misleading: rows in both sets, and labels that look wrong, unlearnable or rare."""
    warn_of_overlap(train, valid, "validation")
    if kind not in ("classes", "labels"):
        return
    _warn_of_contradictions(train)
    counts, valid_counts = (
        Counter(name for label in data.labels for name in _names_in(label)) for data in (train, valid)
    )
    _warn_of_names(train, counts, kind)
    if unknown := sorted(valid_counts.keys() - counts.keys()):
        warn(
            f"label {unknown[0]!r} occurs only in validation rows, so it cannot be learned; "
            f"add rows with it, or choose the validation rows with {setting('valid')}"
        )
    if not counts:
        return
    (common, most), (rare, least) = counts.most_common()[0], counts.most_common()[-1]
    remedy = f"{setting('class_weights')} auto and {setting('select')} macro_f1 keep rare labels from being ignored"
    if kind == "classes" and len(train) >= ENOUGH_ROWS and most >= NEARLY_ALL * len(train):
        warn(
            f"label {common!r} is on {most:,} of {len(train):,} rows, so always predicting it is right there; {remedy}"
        )
    elif most > RARE * least:
        warn(f"label {common!r} has {most:,} rows, {rare!r} only {least:,}; {remedy}")


def _warn_of_contradictions(train: LabelledRows) -> None:
    """Warn of equal texts with different labels."""
    labels: dict[Texts, Any] = {}
    rows = [
        number
        for number, (texts, label) in enumerate(zip(train.texts, train.labels, strict=True))
        if labels.setdefault(texts, label) != label
    ]
    if rows:
        first = rows[0]
        here, earlier = train.labels[first], labels[train.texts[first]]
        here, earlier = (LABEL_SEPARATOR.join(sorted(_names_in(label))) for label in (here, earlier))
        warn(
            f"{train.where[first]}: label {here!r}, but {earlier!r} in an earlier row with the same text; "
            f"{len(rows):,} of {len(train):,} training rows contradict an earlier one"
        )


def _warn_of_names(train: LabelledRows, counts: Counter[str], kind: LabelKind) -> None:
    """Warn of names that may not be those of labels; `counts` is how many training rows have each."""
    spellings: dict[str, list[str]] = {}
    for name in sorted(counts):
        spellings.setdefault(" ".join(name.split()).casefold(), []).append(name)
    for folded, names in spellings.items():
        if len(names) > 1:
            warn(
                f"labels {', '.join(map(repr, names))} differ only in case or spaces, and count as {len(names)}; "
                "write them alike if they are one"
            )
        if folded in MISSING_VALUES:
            warn(
                f"label {names[0]!r}, on {counts[names[0]]:,} of {len(train):,} rows, counts as a class; "
                "if it means that the label is missing, leave those cells empty or drop the rows"
            )
    column = f"is {setting('label')} the right column?"
    copies = sum(
        name in texts for texts, label in zip(train.texts, train.labels, strict=True) for name in _names_in(label)
    )
    is_split = kind == "classes" or all(count == 1 for count in counts.values())
    if len(train) >= ENOUGH_ROWS and copies > len(train) / 2:
        warn(f"the label of {copies:,} of {len(train):,} rows is their text; {column}")
    elif len(train) >= ENOUGH_ROWS and len(counts) > len(train) / 2 and is_split:
        if kind == "classes" and all(parse_number(name) is not None for name in counts):
            column += f" If it holds scores, set {setting('task')} regression"
        warn(f"{len(counts):,} classes in {len(train):,} rows; {column}")
    several = [name for name in sorted(counts) if any(mark in name for mark in ",;[")]
    if kind == "labels" and several and all(len(label) < 2 for label in train.labels):
        warn(f"{several[0]!r} counts as one label; write several as a list in jsonl, as `red|round` in csv")


def _text_list(row: Row, column: str) -> list[str]:
    """Return the texts of a column that holds a list or one text."""
    value = row.values.get(column)
    if isinstance(value, str):
        value = json_list(value, str)
    if not isinstance(value, list):
        return [row.text(column)]
    if wrong := [text for text in value if not isinstance(text, str) or not text.strip()]:
        raise InvalidRow(f"{row.where}: column {column} lists {wrong[0]!r}", "it must list texts")
    if not value:
        raise InvalidRow(f"{row.where}: column {column} is an empty list", "it must list texts")
    return value


def _filled(row: Row, names: Sequence[str]) -> list[str]:
    """Return the texts of the columns up to the first empty one. Raises UserError if one after it is not empty."""
    values = [row.values.get(name) for name in names]
    filled = [not (value is None or (isinstance(value, str) and not value.strip())) for value in values]
    count = sum(filled)
    if not all(filled[:count]):
        raise InvalidRow(f"{row.where}: column {names[filled.index(False)]} is empty, but one after it is not")
    return [row.text(name) for name in names[:count]]


def _names_in(label: Any) -> Collection[str]:
    """Return the names of a class or a label set; none of a score or a choice."""
    return (label,) if isinstance(label, str) else label if isinstance(label, frozenset) else ()


def _canonical(name: str) -> str:
    """Return the canonical form of a label's name: `1` for 1.0 and `true` for True, as JSON writes them.

    Programs write the same column in several ways: 1 becomes 1.0 where another value is missing, and true becomes True.
    But 007 and 7 stay two names.
    """
    if WHOLE_NUMBER.fullmatch(name):
        return name.partition(".")[0]
    return name.lower() if name.lower() in ("true", "false") else name


def _canonical_names(labels: Sequence[Any]) -> list[str]:
    """Return the names in classes or label sets: one for each canonical form, the shortest."""
    names = {name for label in labels for name in _names_in(label)}
    return list({_canonical(name): name for name in sorted(names, key=lambda name: (-len(name), name))}.values())


def _replace_names(names: Sequence[str], labels: Sequence[Any]) -> list[Any]:
    """Return classes or label sets with each name replaced by the one of `names` with the same canonical form."""
    known = {_canonical(name): name for name in names} | {name: name for name in names}

    def replaced(name: str) -> str:
        return known.get(name, known.get(_canonical(name), name))

    return [replaced(label) if isinstance(label, str) else frozenset(map(replaced, label)) for label in labels]


def _label_set(row: Row, names: Sequence[str]) -> frozenset[str]:
    """Return the labels of a row, from a column of 0 and 1 for each, a list, or names with bars between them."""
    if len(names) > 1:
        return frozenset(name for name in names if _flag(row, name))
    value = row.values.get(names[0])
    if isinstance(value, str):
        listed = json_list(value, str | int | float)
        value = value.split(LABEL_SEPARATOR) if listed is None else listed
    labels = value if isinstance(value, list) else [] if value is None else [value]
    labels = [label for label in labels if not (isinstance(label, str) and not label.strip())]
    return frozenset(replace(row, values={names[0]: label}).label(names[0]).strip() for label in labels)


def _flag(row: Row, name: str) -> bool:
    if (number := row.number(name)) not in (0, 1):
        raise InvalidRow(f"{row.where}: column {name} holds {number:g}", "it must be 1 where the label applies, else 0")
    return number == 1
