"""y -> what the model is to tell, and back. Errors are ValueError and TypeError, as scikit-learn's users expect."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from gpt1.data.tables import LARGEST
from gpt1.estimators.inputs import is_missing, names_of, plain


def class_values(y: Any) -> np.ndarray:
    """One class a row: strings, whole numbers or bools, as a 1-D array of the type they came in."""
    if isinstance(y, list | tuple) and len({isinstance(value, str) for value in y if not is_missing(value)}) > 1:
        # numpy would make strings of all of them
        raise TypeError("y mixes strings with other values; its classes must be uniformly strings or numbers")
    y = _one_column(y)
    if y.dtype.kind in "mM":
        raise TypeError("y holds dates or times; its classes must be strings, whole numbers or bools")
    if y.dtype.kind in "OUT":
        _check_alike(y)
    check_classification_targets(y)
    return y


def class_name(value: Any) -> str:
    """The name of a class in a run folder: 1, 1.0 and "1" have the same."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def restored(names: Sequence[str], kind: str) -> np.ndarray:
    """The classes whose names and type (`int`, `float`, `bool`, else `str`) a run folder tells."""
    if kind == "bool":
        return np.array([name == "True" for name in names])
    return np.array(names, dtype={"int": np.int64, "float": np.float64}.get(kind, np.str_))


def score_values(y: Any) -> np.ndarray:
    """One finite number a row."""
    y = _one_column(y)
    if y.dtype.kind in "cOUTSmM":
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    if (largest := float(np.abs(y.astype(np.float64)).max())) > LARGEST:
        raise ValueError(f"y holds a number as large as {largest:g}; {LARGEST:g} is the most")
    return y.astype(np.float64)


def choice_values(y: Any, answers: Sequence[int]) -> np.ndarray:
    """The number of the right answer of each row, from 0; `answers` counts what there is to choose from."""
    y = _one_column(y)
    if y.dtype.kind not in "iuf" or (y % 1).any():
        raise ValueError("y must hold the number of the right answer of each row, a whole number from 0")
    for row, (value, count) in enumerate(zip(y.tolist(), answers, strict=False)):
        if not 0 <= value < count:
            raise ValueError(f"row {row} of y is {value:g}; the answers of that row are numbered from 0 to {count - 1}")
    return y.astype(np.int64)


def label_sets(y: Any) -> tuple[list[frozenset[Any]], np.ndarray]:
    """The labels of each row, and all labels in order.

    y is an indicator, a column of 0 and 1 for each label (which are its numbers, or the columns of a DataFrame), or a
    set or list of names a row.
    """
    given = plain(_dense(y), "y")
    has_sets = any(isinstance(row, set | frozenset) for row in given)
    rows = [list(row) if isinstance(row, set | frozenset) else row for row in given]
    if any(isinstance(row, str) or np.isscalar(row) or is_missing(row) for row in rows):
        raise ValueError("y must hold a set of names a row, or a column of 0 and 1 for each label; it holds one value")
    if has_sets or _has_text(rows):
        return _named_sets(rows)
    if odd := next((number for number, row in enumerate(rows) if len(row) != len(rows[0])), None):
        raise ValueError(f"row {odd} of y has {len(rows[odd])} columns, row 0 has {len(rows[0])}")
    indicator_NC = check_array(rows, dtype=None, ensure_min_features=0, input_name="y")
    if not np.isin(indicator_NC, (0, 1)).all():
        raise ValueError("y must hold 1 where a label applies to a row, else 0")
    classes = np.array(names_of(y) or range(indicator_NC.shape[1]))
    if len(set(classes.tolist())) < len(classes):
        raise ValueError("two columns of y have the same name; rename one")
    return [frozenset(classes[row.astype(bool)].tolist()) for row in indicator_NC], classes


def _named_sets(rows: list[Any]) -> tuple[list[frozenset[str]], np.ndarray]:
    for number, row in enumerate(rows):
        for name in row:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"row {number} of y holds {name!r}, where the name of a label must stand")
    sets = [frozenset(map(str, row)) for row in rows]
    return sets, np.array(sorted({name for row in sets for name in row}), dtype=np.str_)


def _one_column(y: Any) -> np.ndarray:
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    y = column_or_1d(np.asarray(y) if hasattr(y, "to_list") else y, warn=True)
    for row, value in enumerate(y.tolist()):
        if is_missing(value):
            raise ValueError(f"Input y contains NaN (or None): row {row} of y has no value; fill it or drop the row")
    return check_array(y, ensure_2d=False, dtype=None, ensure_min_samples=0, input_name="y")


def _check_alike(y: np.ndarray) -> None:
    kinds = sorted({type(value).__name__ for value in y.tolist()})
    if len(kinds) > 1:
        raise TypeError(f"y mixes {' and '.join(kinds)}; its classes must be uniformly strings or numbers")
    if kinds == ["str"] and any(not value.strip() for value in y.tolist()):
        raise ValueError("y holds an empty string, where the name of a class must stand")


def _dense(y: Any) -> Any:
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    return y.toarray() if issparse(y) else y


def _has_text(rows: list[Any]) -> bool:
    return any(isinstance(value, str) for row in rows for value in row)
