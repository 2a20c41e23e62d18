"""Labelled rows for fine-tuning: which columns, which classes, and what is worth a warning."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gpt1.config import Finetune
from gpt1.data.files import File
from gpt1.data.tables import check_column, columns, rows, table
from gpt1.errors import UserError
from gpt1.jobs.console import say

TEXT_NAMES = ("text", "sentence", "review", "content", "body", "message", "comment", "question", "document", "title")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "intent", "gold_label", "y")
VALID_SHARE = 10
"""Without a validation file, one row in so many validates."""


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels, row by row."""

    texts: list[str]
    labels: list[str]
    rows: list[str]
    """where each stands, `train.csv:12`"""


@dataclass(frozen=True)
class Columns:
    """The columns that matter."""

    text: str
    label: str


def guess_columns(settings: Finetune) -> Columns:
    """The columns named in the settings, or the likely ones, said aloud.

    Raises UserError, naming the columns that are there, for one that is absent or if several may be meant.
    """
    file = table(settings.train)
    there = columns(file, settings.encoding)
    for name in filter(None, (settings.text, settings.label)):
        check_column(name, there, file)
    if settings.text and settings.text == settings.label:
        raise UserError(f"--text and --label are both {settings.text}; the label must be a column of its own")
    label = settings.label or _usual(LABEL_NAMES, [name for name in there if name != settings.text])
    text = settings.text or _likely("text", TEXT_NAMES, [name for name in there if name != label], file)
    label = label or _likely("label", LABEL_NAMES, [name for name in there if name != text], file)
    say(f"{file.path}: the text is column {text}, the label is column {label}")
    return Columns(text, label)


def _usual(names: Sequence[str], there: Sequence[str]) -> str | None:
    """The column whose name, in any case, comes first in `names`."""
    lowered = {name.lower(): name for name in reversed(there)}
    return next((lowered[name] for name in names if name in lowered), None)


def _likely(what: str, names: Sequence[str], there: Sequence[str], file: File) -> str:
    """The column with a usual name, or the only one there is."""
    if not there:
        raise UserError(f"{file.path}: no column for the {what}; a row must have a text and a label")
    found = _usual(names, there) or (there[0] if len(there) == 1 else None)
    if found is None:
        raise UserError(f"{file.path}: which column is the {what}? Say --{what} with one of {', '.join(there)}")
    return found


def read_labelled(path: str, wanted: Columns, encoding: str = "utf-8") -> Labelled:
    """All rows of a table.

    Raises UserError for a missing column, a row without a text or a label, and a table without rows.
    """
    file = table(path)
    there = columns(file, encoding)
    found = Labelled([], [], [])
    for name in (wanted.text, wanted.label):
        check_column(name, there, file)
    for row in rows(file, encoding):
        found.texts.append(row.text(wanted.text))
        found.labels.append(row.label(wanted.label))
        found.rows.append(row.where)
    return found


def split(data: Labelled, order: Sequence[int]) -> tuple[Labelled, Labelled]:
    """Training and validation rows, out of two or more that have no validation file, in a given random order."""
    count = max(1, len(order) // VALID_SHARE)
    return _pick(data, sorted(order[count:])), _pick(data, sorted(order[:count]))


def class_names(train: Labelled, path: str, column: str) -> list[str]:
    """The classes, sorted: numbers by value, then the rest by name. Raises UserError if there is only one."""
    names = set(train.labels)
    if len(names) < 2:
        raise UserError(f"{path}: column {column} holds only the label {names.pop()!r}; two classes or more are needed")
    folded = Counter(" ".join(name.split()).casefold() for name in names)
    for name in sorted(names):
        if folded[" ".join(name.split()).casefold()] > 1:
            say(f"warning: label {name!r} equals another but for case or spaces; they count as two classes")
    return sorted(names, key=lambda name: (0, float(name), name) if _is_number(name) else (1, 0.0, name))


def label_numbers(data: Labelled, names: Sequence[str], column: str) -> list[int]:
    """The class of each row. Raises UserError for a label that training never saw."""
    number = {name: i for i, name in enumerate(names)}
    for label, where in zip(data.labels, data.rows, strict=True):
        if label not in number:
            raise UserError(
                f"{where}: label {label!r} in column {column} does not occur in training, "
                f"which has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}; mend or drop the row"
            )
    return [number[label] for label in data.labels]


def warn(train: Labelled, valid: Labelled) -> None:
    """Say what makes scores lie: rows in both sets, and classes that dwarf the others."""
    both = len(set(train.texts) & set(valid.texts))
    if both:
        say(f"warning: {both:,} texts stand in both training and validation; the validation score is too good")
    counts = Counter(train.labels).most_common()
    if counts[0][1] > 10 * counts[-1][1]:
        say(f"warning: label {counts[0][0]!r} has {counts[0][1]:,} rows, {counts[-1][0]!r} has {counts[-1][1]:,}")


def _pick(data: Labelled, chosen: Sequence[int]) -> Labelled:
    return Labelled(*([values[i] for i in chosen] for values in (data.texts, data.labels, data.rows)))


def _is_number(name: str) -> bool:
    try:
        return float(name) == float(name)
    except ValueError:
        return False
