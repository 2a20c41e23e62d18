"""X -> rows of texts, out of whatever scikit-learn's users keep texts in. Errors are ValueError and TypeError."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import issparse

from gpt1.tasks.rows import Texts


def plain(data: Any, name: str = "X") -> list[Any]:
    """The rows of a sequence, a numpy array, a Series or DataFrame of pandas or polars, or a `datasets.Dataset`.

    A row with named columns becomes the list of its values. Raises TypeError for anything else.
    """
    return [list(row.values()) if isinstance(row, Mapping) else row for row in _plain(data, name)]


def _plain(data: Any, name: str) -> list[Any]:
    if issparse(data):
        raise TypeError(f"{name} is a sparse container, which holds no texts; pass a list, an array or a Series")
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return list(data)
    if hasattr(data, "to_list"):  # a Series, or a Dataset of Hugging Face
        return data.to_list()
    if hasattr(data, "columns") and hasattr(data, "rows"):  # polars
        return [list(row) for row in data.rows()]
    if hasattr(data, "__array__") and not isinstance(data, str) and (array := np.asarray(data)).ndim:
        return array.tolist()
    raise TypeError(f"{name} is {_short(data)}; pass a list, an array, a Series or a DataFrame with a row an example")


def names_of(data: Any) -> list[str] | None:
    """The columns of a DataFrame, if all their names are texts."""
    names = list(getattr(data, "columns", []))
    return names if names and all(isinstance(name, str) for name in names) else None


def texts_of(data: Any) -> list[Texts]:
    """One text a row: `[text, ...]`, or rows with one column."""
    return _rows(data, lambda row, where: (_text(_only(row, where), where),))


def pairs_of(data: Any) -> list[Texts]:
    """Two texts a row."""
    return _rows(data, lambda row, where: tuple(_text(text, where) for text in _parts(row, where, "two texts")))


def choices_of(data: Any) -> list[Texts]:
    """A context and a list of two answers or more a row: `(context, [answer, ...])`."""
    return _rows(data, _choice)


def _rows(data: Any, read: Callable[[Any, str], Texts]) -> list[Texts]:
    rows = plain(data)
    if not rows:
        raise ValueError("Found array with 0 sample(s): X has no rows, while a minimum of 1 is required")
    return [read(row, f"row {number} of X") for number, row in enumerate(rows)]


def _only(row: Any, where: str) -> Any:
    if not isinstance(row, list | tuple | np.ndarray):
        return row
    if len(row) != 1:
        raise ValueError(f"{where} has {len(row)} columns, where one text must stand")
    return row[0]


def _parts(row: Any, where: str, wanted: str) -> list[Any]:
    if isinstance(row, str | bytes) or not isinstance(row, Iterable):
        raise ValueError(f"{where} is {_short(row)}, where {wanted} must stand")
    parts = list(row)
    if len(parts) != 2:
        raise ValueError(f"{where} has {len(parts)} columns, where {wanted} must stand")
    return parts


def _choice(row: Any, where: str) -> Texts:
    context, answers = _parts(row, where, "a context and a list of answers")
    if isinstance(answers, str | bytes) or not isinstance(answers, Iterable):
        raise ValueError(f"{where} has {_short(answers)} as its second part, where a list of answers must stand")
    found = tuple(_text(answer, where) for answer in answers)
    if len(found) < 2:
        raise ValueError(f"{where} has {len(found)} answers; a choice needs two or more")
    return _text(context, where), *found


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"{where} is empty, where a text must stand; fill it or drop the row")
        return str(value)
    if is_missing(value):
        raise ValueError(f"{where} is missing (None or NaN), where a text must stand; fill it or drop the row")
    raise TypeError(f"{where} is {_short(value)}, a {type(value).__name__}; a text must be a string")


def is_missing(value: Any) -> bool:
    """None, NaN, and pandas' NA and NaT, which are none of them equal to themselves."""
    return value is None or type(value).__name__ == "NAType" or (np.isscalar(value) and bool(value != value))


def _short(value: Any) -> str:
    return repr(value)[:40]
