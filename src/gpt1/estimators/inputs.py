"""Conversion of X to rows of texts and of y to labels, from every container that scikit-learn users work with.

Invalid rows raise ValueError or TypeError, as scikit-learn requires.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from gpt1.data.tables import MAX_NUMBER
from gpt1.tasks.rows import Texts


def plain(data: Any, name: str = "X") -> list[Any]:
    """Return the rows of a sequence, a numpy array, a Series or DataFrame of pandas or polars, or a `datasets.Dataset`.

    A row with named columns becomes the list of its values, in the order of the first row. Raises TypeError for
    anything else, and ValueError for a row with other names than the first one.
    """
    rows = _as_list(data, name)
    names = _keys(rows[0]) if rows else []
    for number, row in enumerate(rows):
        if (found := _keys(row)) != names and sorted(found, key=str) != sorted(names, key=str):
            named = f"the names {', '.join(map(str, found))}" if found else "no names"
            raise ValueError(f"row {number} of {name} has {named}; row 0 has {', '.join(map(str, names)) or 'none'}")
    return [[row[name] for name in names] for row in rows] if names else rows


def _keys(row: Any) -> list[Any]:
    """Return the names of a row's columns; none if they have no names."""
    return list(row) if isinstance(row, Mapping) else []


def _as_list(data: Any, name: str) -> list[Any]:
    if issparse(data):
        raise TypeError(f"{name} is a sparse container, which holds no texts; pass a list, an array or a Series")
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return list(data)
    if hasattr(data, "to_list"):  # a Series, or a Dataset of Hugging Face
        return data.to_list()
    if hasattr(data, "columns") and callable(getattr(data, "rows", None)):  # polars; in pandas a column
        return [list(row) for row in data.rows()]
    if hasattr(data, "__array__") and not isinstance(data, str) and (array := np.asarray(data)).ndim:
        return array.tolist()
    raise TypeError(f"{name} is {_short(data)}; pass a list, an array, a Series or a DataFrame with a row an example")


def names_of(data: Any) -> list[str] | None:
    """Return the column names of a DataFrame, or of rows that name them; None if a name is not a string."""
    names = list(getattr(data, "columns", getattr(data, "column_names", [])))  # of `datasets`, the latter
    if not names and isinstance(data, Sequence) and len(data):
        names = _keys(data[0])
    return names if names and all(isinstance(name, str) for name in names) else None


def record_names(estimator: Any, data: Any) -> None:
    """Set `feature_names_in_` to the column names of a DataFrame; of other data, remove those of an earlier fit."""
    if names := names_of(data):
        estimator.feature_names_in_ = np.array(names, dtype=object)
    elif hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_


def check_names(estimator: Any, data: Any) -> None:
    """Raise ValueError if data names its columns otherwise than the data that the estimator was fitted on."""
    before, names = getattr(estimator, "feature_names_in_", None), names_of(data)
    if before is not None and names and names != list(before):
        raise ValueError(
            "The feature names should match those that were passed during fit: "
            f"they were {', '.join(before)}, not {', '.join(names)}"
        )


def check_length(data: Any, name: str, rows: Sequence[Any]) -> None:
    """Raise ValueError unless `data` has a value for each of the rows, TypeError if it has no length."""
    if data is not None and not hasattr(data, "__len__"):
        raise TypeError(f"{name} is {_short(data)}; pass a list, an array or a Series with a value for each row")
    check_consistent_length(rows, data)


def texts_of(data: Any, name: str = "X") -> list[Texts]:
    """Return one text per row, from `[text, ...]` or rows with one column; messages call the data `name`."""
    return _rows(data, name, lambda row, where: (_text(_only(row, where), where),))


def pairs_of(data: Any, name: str = "X") -> list[Texts]:
    """Return two texts per row."""
    return _rows(data, name, lambda row, where: tuple(_text(text, where) for text in _parts(row, where, "two texts")))


def choices_of(data: Any, name: str = "X") -> list[Texts]:
    """Return a context and two or more answers per row, from `(context, [answer, ...])`."""
    return _rows(data, name, _choice)


def _rows(data: Any, name: str, read: Callable[[Any, str], Texts]) -> list[Texts]:
    rows = plain(data, name)
    if not rows:
        raise ValueError(f"Found array with 0 sample(s): {name} has no rows, while a minimum of 1 is required")
    return [read(row, f"row {number} of {name}") for number, row in enumerate(rows)]


def _only(row: Any, where: str) -> Any:
    if not isinstance(row, list | tuple | np.ndarray):
        return row
    if len(row) != 1:
        raise ValueError(f"{where} has {len(row)} columns; it must be one text")
    return row[0]


def _parts(row: Any, where: str, wanted: str) -> list[Any]:
    if isinstance(row, str | bytes) or not isinstance(row, Iterable):
        raise ValueError(f"{where} is {_short(row)}; it must hold {wanted}")
    parts = list(row)
    if len(parts) != 2:
        raise ValueError(f"{where} has {len(parts)} columns; it must hold {wanted}")
    return parts


def _choice(row: Any, where: str) -> Texts:
    context, answers = _parts(row, where, "a context and a list of answers")
    if isinstance(answers, str | bytes) or not isinstance(answers, Iterable):
        raise ValueError(f"{where} has {_short(answers)} as its second part; this must be a list of answers")
    found = tuple(_text(answer, where) for answer in answers)
    if len(found) < 2:
        raise ValueError(f"{where} has {len(found)} answers; a choice needs two or more")
    return _text(context, where), *found


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"{where} is empty; fill in a text or drop the row")
        return str(value)
    if is_missing(value):
        raise ValueError(f"{where} is missing (None or NaN); fill in a text or drop the row")
    raise TypeError(f"{where} is {_short(value)}, a {type(value).__name__}; a text must be a string")


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, or pandas' NA or NaT. The last three do not equal themselves."""
    return value is None or type(value).__name__ == "NAType" or (np.isscalar(value) and bool(value != value))


def _short(value: Any) -> str:
    return repr(value)[:40]


def class_values(y: Any) -> np.ndarray:
    """Return one class per row: strings, whole numbers or bools, as a 1-D array of their own type."""
    if isinstance(y, list | tuple) and len({isinstance(value, str) for value in y if not is_missing(value)}) > 1:
        # numpy would convert all of them to strings
        raise TypeError("y mixes strings with other values; its classes must be uniformly strings or numbers")
    y = _one_column(y)
    if y.dtype.kind in "mM":
        raise TypeError("y holds dates or times; its classes must be strings, whole numbers or bools")
    if y.dtype.kind in "OUT":
        _check_alike(y)
    check_classification_targets(y)
    return y


def class_name(value: Any) -> str:
    """Return the name of a class in a run folder; 1, 1.0 and "1" have the same name."""
    if isinstance(value, float | np.floating) and value.is_integer():
        return str(int(value))
    return str(value)


def restored_classes(names: Sequence[str], kind: str) -> np.ndarray:
    """Return classes from their names in a run folder and their type: `int`, `float`, `bool`, or else `str`."""
    if kind == "bool":
        return np.array([name == "True" for name in names])
    return np.array(names, dtype={"int": np.int64, "float": np.float64}.get(kind, np.str_))


def score_values(y: Any) -> np.ndarray:
    """Return one finite number per row."""
    y = _one_column(y)
    if y.dtype.kind in "OUT":
        for row, value in enumerate(y.tolist()):
            try:
                float(value)
            except (TypeError, ValueError):
                answer = f"row {row} of y is {_short(value)}, not a number; classes are for Classifier"
                raise ValueError(answer) from None
            except OverflowError:
                raise ValueError(f"row {row} of y is too large a number; {MAX_NUMBER:g} is the most") from None
    if y.dtype.kind in "cOUTSmM":
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    if (largest := float(np.abs(y.astype(np.float64)).max())) > MAX_NUMBER:
        raise ValueError(f"y holds a number as large as {largest:g}; {MAX_NUMBER:g} is the most")
    return y.astype(np.float64)


def is_scale(y: Any) -> bool:
    """Return whether y holds floats."""
    return _one_column(y).dtype.kind == "f"


def row_weights(sample_weight: Any, rows: int) -> list[float] | None:
    """Return a weight for each row, divided by their mean; None if all weigh the same."""
    if sample_weight is None or isinstance(sample_weight, Real):
        return None
    weights_N = check_array(
        plain(sample_weight, "sample_weight"), ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if weights_N.shape != (rows,):
        raise ValueError(f"sample_weight.shape == {weights_N.shape}, expected {(rows,)}")
    if (weights_N < 0).any():
        row = int((weights_N < 0).argmax())
        raise ValueError(f"row {row} of sample_weight is {weights_N[row]:g}; a weight must be 0 or more")
    if not weights_N.any():
        raise ValueError("every sample_weight is zero; one or more must be above 0")
    return None if (weights_N == weights_N[0]).all() else (weights_N / weights_N.mean()).tolist()


def named_weights(class_weights: Any) -> str | dict[str, float]:
    """Return class weights as `tasks.labels.class_weights` takes them; the keys of a dict become names of classes.

    Weights of numpy's types become Python's, since the saved settings are JSON.
    """
    if isinstance(class_weights, Mapping):
        weights = {class_name(name): weight for name, weight in class_weights.items()}
        return {name: one.item() if isinstance(one, np.generic) else one for name, one in weights.items()}
    if not isinstance(class_weights, str):
        raise TypeError(f"class_weights is {_short(class_weights)}; give 'none', 'balanced', or a dict of weights")
    return str(class_weights)


def choice_values(y: Any, answers: Sequence[int]) -> np.ndarray:
    """Return the number of the right answer of each row, from 0. `answers` holds the number of answers of each row."""
    y = _one_column(y)
    if y.dtype.kind not in "iuf" or (y % 1).any():
        raise ValueError("y must hold the number of the right answer of each row, a whole number from 0")
    for row, (value, count) in enumerate(zip(y.tolist(), answers, strict=False)):
        if not 0 <= value < count:
            raise ValueError(f"row {row} of y is {value:g}; the answers of that row are numbered from 0 to {count - 1}")
    return y.astype(np.int64)


def label_sets(y: Any) -> tuple[list[frozenset[Any]], np.ndarray]:
    """Return the labels of each row, and all labels in order.

    y is an indicator, a column of 0 and 1 for each label (which are its numbers, or the columns of a DataFrame), or a
    set or list of names per row.
    """
    given = plain(_dense(y), "y")
    has_sets = any(isinstance(row, set | frozenset) for row in given)
    rows = [list(row) if isinstance(row, set | frozenset) else row for row in given]
    if any(isinstance(row, str) or np.isscalar(row) or is_missing(row) for row in rows):
        raise ValueError("y must hold a set of names a row, or a column of 0 and 1 for each label; it holds one value")
    if has_sets or any(isinstance(value, str) for row in rows for value in row):
        return _named_sets(rows)
    if odd := next((number for number, row in enumerate(rows) if len(row) != len(rows[0])), None):
        raise ValueError(f"row {odd} of y has {len(rows[odd])} columns, row 0 has {len(rows[0])}")
    if (missing := next((number for number, row in enumerate(rows) if any(map(is_missing, row))), None)) is not None:
        raise ValueError(f"row {missing} of y has a missing value; it must be 1 where a label applies, else 0")
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
                raise ValueError(f"row {number} of y holds {name!r}; it must be the name of a label")
    sets = [frozenset(map(str, row)) for row in rows]
    return sets, np.array(sorted({name for row in sets for name in row}), dtype=np.str_)


def _one_column(y: Any) -> np.ndarray:
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    y = column_or_1d(np.asarray(y) if hasattr(y, "to_list") else y, warn=True)
    values = y.tolist()
    for row, value in enumerate(values):
        if is_missing(value):
            raise ValueError(f"Input y contains NaN (or None): row {row} of y has no value; fill it or drop the row")
    if y.dtype.kind == "O" and ((kinds := set(map(type, values))) <= {int, float} or kinds == {bool}):
        y = np.array(values)  # a column of an array that also holds texts
    return check_array(y, ensure_2d=False, dtype=None, ensure_min_samples=0, input_name="y")


def _check_alike(y: np.ndarray) -> None:
    kinds = sorted({type(value).__name__ for value in y.tolist()})
    if len(kinds) > 1:
        raise TypeError(f"y mixes {' and '.join(kinds)}; its classes must be uniformly strings or numbers")
    if kinds == ["str"] and any(not value.strip() for value in y.tolist()):
        raise ValueError("y holds an empty string; it must be the name of a class")


def _dense(y: Any) -> Any:
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    return y.toarray() if issparse(y) else y
