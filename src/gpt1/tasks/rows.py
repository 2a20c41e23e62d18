"""Labelled rows for fine-tuning and evaluation: reading, splitting, and what is worth a warning."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from gpt1.config import Finetune
from gpt1.console import say
from gpt1.data.tables import Row, check_column, columns, rows, table
from gpt1.errors import UserError
from gpt1.model import objectives
from gpt1.tasks.choices import answers_of, context_of, index_of
from gpt1.tasks.columns import Columns

Texts = tuple[str, ...]
"""What a row has to read: its text; the two of a pair; a context and its answers."""
VALID_SHARE = 10
"""Without a validation file, one row in so many validates."""
ENOUGH_ROWS = 10
"""Of fewer, many classes are no wonder."""
BETWEEN = "|"
"""Stands between the labels of a row of csv or tsv."""


@dataclass(frozen=True)
class Labelled:
    """Rows: what is to be read, and what is to be told of it."""

    texts: list[Texts]
    labels: list[Any]
    """a class name; a set of them; a number; the number of the right answer, from 0"""
    rows: list[str]
    """where each stands, `train.csv:12`"""
    groups: list[str]
    """the first text of each; rows that share it are never parted by `split`"""

    def pick(self, chosen: Sequence[int]) -> "Labelled":
        """Some of the rows, in the order given."""
        return Labelled(*([getattr(self, f.name)[i] for i in chosen] for f in fields(self)))


def kind_of(settings: Finetune, wanted: Columns) -> objectives.Goal:
    """What the task's labels are. A similarity's are looked at, unless the settings tell."""
    kinds: dict[str, objectives.Goal] = {
        "regression": "score", "multi-label": "labels", "multiple-choice": "choice"
    }  # fmt: skip
    if settings.task != "similarity":
        return kinds.get(settings.task, "classes")
    if settings.target != "auto":
        return "score" if settings.target == "score" else "classes"
    found = {row.label(wanted.label[0]) for row in rows(table(settings.train), settings.encoding)}
    if not any(map(_is_fraction, found)):
        return "classes"
    if names := sorted(label for label in found if _number(label) is None):
        say(
            f"warning: label {names[0]!r} is no number, so all labels count as classes; is it a score (--target score)?"
        )
    return "classes" if names else "score"


def read_labelled(path: str, wanted: Columns, kind: objectives.Goal, encoding: str = "utf-8") -> Labelled:
    """All rows of a table.

    Raises UserError for a missing column, a row without a text or a label that fits, and a table without rows.
    """
    file = table(path)
    there = columns(file, encoding)
    for name in (*wanted.texts, *wanted.choices, *wanted.label):
        check_column(name, there, file)
    found = Labelled([], [], [], [])
    for row in rows(file, encoding):
        texts = texts_of(row, wanted)
        found.texts.append(texts)
        found.labels.append(label_of(row, wanted, kind, len(texts) - 1))
        found.rows.append(row.where)
        found.groups.append(str(row.values[wanted.texts[0]]))
    return found


def texts_of(row: Row, wanted: Columns) -> Texts:
    """What the model reads of a row. Raises UserError for an empty one."""
    if wanted.choices:
        return context_of(row, wanted.texts), *answers_of(row, wanted.choices)
    return tuple(row.text(name) for name in wanted.texts)


def label_of(row: Row, wanted: Columns, kind: objectives.Goal, answers: int) -> Any:
    """What is to be told of a row; see `Labelled.labels`. Raises UserError for a label of another kind."""
    if kind == "labels":
        return _labels(row, wanted.label)
    (name,) = wanted.label
    if kind == "score":
        return row.number(name)
    return index_of(row, name, answers) if kind == "choice" else row.label(name)


def split(data: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """Training and validation rows, out of two or more; rows with the same first text stay together."""
    numbers: dict[str, list[int]] = {}
    for i, group in enumerate(data.groups):
        numbers.setdefault(group, []).append(i)
    if len(numbers) == 1:
        numbers = {str(i): [i] for i in range(len(data.rows))}
    groups, wanted = list(numbers.values()), max(1, len(data.rows) // VALID_SHARE)
    validates: set[int] = set()
    for turn in np.random.default_rng(seed).permutation(len(groups))[:-1]:
        if len(validates) >= wanted:
            break
        validates.update(groups[turn])
    learns = [i for i in range(len(data.rows)) if i not in validates]
    return data.pick(learns), data.pick(sorted(validates))


def check_labels(data: Labelled, names: Sequence[str], column: str) -> None:
    """Raise UserError for a label that training never saw."""
    for label, where in zip(data.labels, data.rows, strict=True):
        for name in [label] if isinstance(label, str) else sorted(label):
            if name not in names:
                raise UserError(
                    f"{where}: label {name!r} in column {column} does not occur in training, "
                    f"which has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}; mend or drop the row"
                )


def warn(train: Labelled, valid: Labelled, kind: objectives.Goal) -> None:
    """Say what makes scores lie: rows in both sets, and classes that dwarf the others."""
    both = len(set(train.texts) & set(valid.texts))
    if both:
        say(f"warning: {both:,} texts stand in both training and validation; the validation score is too good")
    if kind in ("classes", "labels"):
        names = [name for label in train.labels for name in ([label] if kind == "classes" else label)]
        counts = Counter(names).most_common()
        _warn_of_names(dict(counts), len(train.labels), kind)
        validating = {name for label in valid.labels for name in ([label] if kind == "classes" else label)}
        if unlearnt := sorted(validating - set(names)):
            say(
                f"warning: label {unlearnt[0]!r} stands in validation rows only, so nothing can learn it; "
                "add rows of it, or choose what validates with --valid"
            )
        if kind == "labels" and all(len(label) < 2 for label in train.labels):
            _warn_of_separators(dict(counts))
        if counts[0][1] > 10 * counts[-1][1]:
            say(
                f"warning: label {counts[0][0]!r} has {counts[0][1]:,} rows, {counts[-1][0]!r} has {counts[-1][1]:,}; "
                "--class-weights auto and --select macro_f1 keep rare labels from being ignored"
            )


def _warn_of_names(counts: dict[str, int], rows: int, kind: objectives.Goal) -> None:
    """Say which names may be one spelt twice, and whether the label seems to be no label at all."""
    folded = Counter(" ".join(name.split()).casefold() for name in counts)
    for name in sorted(counts):
        if folded[" ".join(name.split()).casefold()] > 1:
            say(f"warning: label {name!r} equals another but for case or spaces; they count as two classes")
    if kind == "classes" and rows >= ENOUGH_ROWS and len(counts) > rows / 2:
        say(f"warning: {len(counts):,} classes in {rows:,} rows; is the column of the label (--label) the right one?")


def _warn_of_separators(names: Iterable[str]) -> None:
    """No row has two labels: say if one looks like several."""
    if like := next((name for name in sorted(names) if any(mark in name for mark in ",;[")), None):
        say(f"warning: {like!r} counts as one label; several of a row are a list in jsonl, and `red|round` in csv")


def _labels(row: Row, names: list[str]) -> frozenset[str]:
    if len(names) > 1:
        return frozenset(name for name in names if _flag(row, name))
    value = row.values.get(names[0])
    if isinstance(value, str):
        value = value.split(BETWEEN)
    held = value if isinstance(value, list) else [] if value is None else [value]
    each = [
        replace(row, values={names[0]: label}) for label in held if not (isinstance(label, str) and not label.strip())
    ]
    return frozenset(one.label(names[0]).strip() for one in each)


def _flag(row: Row, name: str) -> bool:
    if (number := row.number(name)) not in (0, 1):
        raise UserError(f"{row.where}: column {name} holds {number:g}; it must be 1 where the label applies, else 0")
    return number == 1


def _is_fraction(label: str) -> bool:
    number = _number(label)
    return number is not None and math.isfinite(number) and not number.is_integer()


def _number(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None
