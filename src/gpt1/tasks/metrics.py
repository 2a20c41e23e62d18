"""How good answers are, and how sure of that their number makes us.

The definitions are scikit-learn's, written over counts of rows, so that one definition serves the rows themselves and a
thousand resamples of them at once. Rows that are the same to a metric, such as all of class 2 that were called class 0,
are one kind; a resample is how often it drew each kind.

Axes: D resamples, N rows, U kinds of rows, C classes or labels.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Measure = Callable[[np.ndarray], dict[str, np.ndarray]]
"""counts_DU -> for each metric its value_D"""

CHUNK = 2**20
"""rows drawn at once by the bootstrap"""


def classification_metrics(gold: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """n, accuracy, macro_f1, matthews, majority (the share of the commonest class), per_class and confusion.

    `names` orders the classes; confusion[i][j] counts rows of class i that were called j. Of exactly two names, `f1` is
    that of the second, which GLUE reports for MRPC. Classes that are neither there nor told are left out of macro_f1.
    """
    known = _known(gold, predicted, names)
    gold_N, predicted_N = _numbers(gold, known), _numbers(predicted, known)
    confusion_CC = np.bincount(gold_N * len(known) + predicted_N, minlength=len(known) ** 2).reshape(len(known), -1)
    kind_N, measure = _classification(gold_N, predicted_N, known, names)
    return {
        "n": len(gold),
        **_of_all_rows(kind_N, measure),
        "majority": float(confusion_CC.sum(1).max() / len(gold)),
        "per_class": _per_class(confusion_CC.diagonal(), confusion_CC.sum(1), confusion_CC.sum(0), known),
        "confusion": confusion_CC.tolist(),
    }


def classification_intervals(
    gold: Sequence[str],
    predicted: Sequence[str],
    names: Sequence[str],
    *,
    seed: int = 1,
    draws: int = 1000,
    level: float = 0.95,
) -> dict[str, list[float]]:
    """[low, high] of accuracy, macro_f1, matthews and, of two names, f1: see `_intervals`."""
    known = _known(gold, predicted, names)
    kind_N, measure = _classification(_numbers(gold, known), _numbers(predicted, known), known, names)
    return _intervals(kind_N, measure, seed, draws, level)


def label_set_metrics(gold_NC: np.ndarray, predicted_NC: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """n, accuracy (the whole set is right), macro_f1, micro_f1, majority (the share of the commonest set), per_class.

    Both are bool, a column a name. Labels that are neither there nor told are left out of macro_f1.
    """
    kind_N, measure = _label_sets(gold_NC, predicted_NC)
    _, sets = np.unique(gold_NC, axis=0, return_counts=True)
    hits_C = (gold_NC & predicted_NC).sum(0)
    return {
        "n": len(gold_NC),
        **_of_all_rows(kind_N, measure),
        "majority": float(sets.max() / len(gold_NC)),
        "per_class": _per_class(hits_C, gold_NC.sum(0), predicted_NC.sum(0), names),
    }


def label_set_intervals(
    gold_NC: np.ndarray, predicted_NC: np.ndarray, *, seed: int = 1, draws: int = 1000, level: float = 0.95
) -> dict[str, list[float]]:
    """[low, high] of accuracy, macro_f1 and micro_f1: see `_intervals`."""
    return _intervals(*_label_sets(gold_NC, predicted_NC), seed, draws, level)


def choice_metrics(gold_N: np.ndarray, predicted_N: np.ndarray) -> dict[str, Any]:
    """n, accuracy and majority (the share of the commonest right answer's number)."""
    return {
        "n": len(gold_N),
        **_of_all_rows(*_choice(gold_N, predicted_N)),
        "majority": float(np.unique(gold_N, return_counts=True)[1].max() / len(gold_N)),
    }


def choice_intervals(
    gold_N: np.ndarray, predicted_N: np.ndarray, *, seed: int = 1, draws: int = 1000, level: float = 0.95
) -> dict[str, list[float]]:
    """[low, high] of accuracy: see `_intervals`."""
    return _intervals(*_choice(gold_N, predicted_N), seed, draws, level)


def score_metrics(gold_N: np.ndarray, predicted_N: np.ndarray) -> dict[str, Any]:
    """n, pearson, spearman, rmse, mae, and the rmse of always telling the mean of these rows.

    Where all gold or all predicted numbers are the same, pearson and spearman are 0.
    """
    return {
        "n": len(gold_N),
        **_of_all_rows(*_scores(gold_N, predicted_N)),
        "mean_baseline_rmse": float(np.std(np.asarray(gold_N, dtype=np.float64))),
    }


def joint_histogram(gold_N: np.ndarray, predicted_N: np.ndarray, bins: int = 16) -> dict[str, Any]:
    """counts[i][j]: rows whose gold number lies in bin i and the predicted one in bin j; both from `low` to `high`."""
    both = np.concatenate([gold_N, predicted_N]).astype(np.float64)
    span = float(both.min()), float(both.max())
    counts = np.histogram2d(gold_N, predicted_N, bins=bins, range=(span, span))[0]
    return {"low": span[0], "high": span[1], "counts": counts.astype(int).tolist()}


def score_intervals(
    gold_N: np.ndarray, predicted_N: np.ndarray, *, seed: int = 1, draws: int = 1000, level: float = 0.95
) -> dict[str, list[float]]:
    """[low, high] of pearson, spearman, rmse and mae: see `_intervals`."""
    return _intervals(*_scores(gold_N, predicted_N), seed, draws, level)


def _intervals(kind_N: np.ndarray, measure: Measure, seed: int, draws: int, level: float) -> dict[str, list[float]]:
    """Percentile bootstrap: between which values the middle `level` of the metrics of resampled rows lie.

    A resample is as many rows, drawn with replacement. Which ones is a function of (seed, N) alone, so two models
    measured on the same rows are resampled alike.
    """
    parts = [measure(counts_DU) for counts_DU in _resamples(kind_N, seed, draws)]
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {name: np.quantile(np.concatenate([part[name] for part in parts]), ends).tolist() for name in parts[0]}


def _resamples(kind_N: np.ndarray, seed: int, draws: int) -> Iterator[np.ndarray]:
    """How often each resample drew each kind: counts_DU, some resamples at a time."""
    rng = np.random.default_rng(seed)
    n, kinds = len(kind_N), int(kind_N.max()) + 1
    at_once = max(1, CHUNK // n)
    for start in range(0, draws, at_once):
        d = min(at_once, draws - start)
        kind_DN = kind_N[rng.integers(n, size=(d, n))] + kinds * np.arange(d)[:, None]
        yield np.bincount(kind_DN.ravel(), minlength=d * kinds).reshape(d, kinds).astype(np.float64)


def _of_all_rows(kind_N: np.ndarray, measure: Measure) -> dict[str, float]:
    return {name: float(value_D[0]) for name, value_D in measure(np.bincount(kind_N)[None].astype(np.float64)).items()}


def _classification(
    gold_N: np.ndarray, predicted_N: np.ndarray, known: list[str], names: Sequence[str]
) -> tuple[np.ndarray, Measure]:
    cell_U, kind_N = np.unique(gold_N * len(known) + predicted_N, return_inverse=True)
    gold_UC, predicted_UC = np.eye(len(known))[cell_U // len(known)], np.eye(len(known))[cell_U % len(known)]

    def measure(counts_DU: np.ndarray) -> dict[str, np.ndarray]:
        hits_DC, gold_DC, predicted_DC = (counts_DU @ x_UC for x_UC in (gold_UC * predicted_UC, gold_UC, predicted_UC))
        found = {
            "accuracy": hits_DC.sum(-1) / counts_DU.sum(-1),
            "macro_f1": _macro_f1(hits_DC, gold_DC, predicted_DC),
            "matthews": _matthews(hits_DC, gold_DC, predicted_DC),
        }
        if len(names) == 2:
            second = [i for i, name in enumerate(known) if name == names[1]]
            found["f1"] = _f1(hits_DC, gold_DC, predicted_DC)[:, second].sum(-1)
        return found

    return kind_N, measure


def _label_sets(gold_NC: np.ndarray, predicted_NC: np.ndarray) -> tuple[np.ndarray, Measure]:
    rows_UK, kind_N = np.unique(np.concatenate([gold_NC, predicted_NC], axis=1), axis=0, return_inverse=True)
    gold_UC, predicted_UC = np.split(rows_UK.astype(np.float64), 2, axis=1)
    exact_U = (gold_UC == predicted_UC).all(1).astype(np.float64)

    def measure(counts_DU: np.ndarray) -> dict[str, np.ndarray]:
        hits_DC, gold_DC, predicted_DC = (counts_DU @ x_UC for x_UC in (gold_UC * predicted_UC, gold_UC, predicted_UC))
        return {
            "accuracy": counts_DU @ exact_U / counts_DU.sum(-1),
            "macro_f1": _macro_f1(hits_DC, gold_DC, predicted_DC),
            "micro_f1": _f1(hits_DC.sum(-1), gold_DC.sum(-1), predicted_DC.sum(-1)),
        }

    return kind_N.reshape(-1), measure


def _choice(gold_N: np.ndarray, predicted_N: np.ndarray) -> tuple[np.ndarray, Measure]:
    right_U, kind_N = np.unique(np.asarray(gold_N) == np.asarray(predicted_N), return_inverse=True)
    return kind_N, lambda counts_DU: {"accuracy": counts_DU @ right_U.astype(np.float64) / counts_DU.sum(-1)}


def _scores(gold_N: np.ndarray, predicted_N: np.ndarray) -> tuple[np.ndarray, Measure]:
    """Numbers seldom repeat, so every row is a kind of its own."""
    gold_N, predicted_N = np.asarray(gold_N, dtype=np.float64), np.asarray(predicted_N, dtype=np.float64)
    error_N = predicted_N - gold_N

    def measure(counts_DN: np.ndarray) -> dict[str, np.ndarray]:
        n = len(gold_N)
        return {
            "pearson": _correlation(counts_DN, gold_N, predicted_N),
            "spearman": _correlation(counts_DN, _ranks(counts_DN, gold_N), _ranks(counts_DN, predicted_N)),
            "rmse": np.sqrt(counts_DN @ error_N**2 / n),
            "mae": counts_DN @ np.abs(error_N) / n,
        }

    return np.arange(len(gold_N)), measure


def _known(gold: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> list[str]:
    """The classes that occur, in the order of `names`; then those that `names` lacks."""
    place = {name: i for i, name in enumerate(names)}
    return sorted(set(gold) | set(predicted), key=lambda name: (place.get(name, len(place)), name))


def _numbers(labels: Sequence[str], known: list[str]) -> np.ndarray:
    number = {name: i for i, name in enumerate(known)}
    return np.array([number[label] for label in labels])


def _per_class(
    hits_C: np.ndarray, gold_C: np.ndarray, predicted_C: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    each = (_ratio(hits_C, predicted_C), _ratio(hits_C, gold_C), _f1(hits_C, gold_C, predicted_C), gold_C)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
        for name, p, r, f, n in zip(names, *each, strict=True)
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; 0 where there is no whole."""
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=whole > 0)


def _f1(hits: np.ndarray, gold: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return _ratio(2 * hits, gold + predicted)


def _macro_f1(hits_DC: np.ndarray, gold_DC: np.ndarray, predicted_DC: np.ndarray) -> np.ndarray:
    """The mean over the classes that occur; a class that nobody could get right or wrong would say nothing."""
    return _ratio(_f1(hits_DC, gold_DC, predicted_DC).sum(-1), (gold_DC + predicted_DC > 0).sum(-1))


def _matthews(hits_DC: np.ndarray, gold_DC: np.ndarray, predicted_DC: np.ndarray) -> np.ndarray:
    """Matthews' correlation for any number of classes: Gorodkin (2004), "Comparing two K-category assignments"."""
    n_D = gold_DC.sum(-1)
    spread_D = (n_D**2 - (gold_DC**2).sum(-1)) * (n_D**2 - (predicted_DC**2).sum(-1))
    return _ratio(hits_DC.sum(-1) * n_D - (gold_DC * predicted_DC).sum(-1), np.sqrt(spread_D))


def _correlation(counts_DN: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r, row i counted counts_DN[:, i] times; x and y are (N,) or (D, N). 0 where either is constant."""
    n_D1 = counts_DN.sum(-1, keepdims=True)
    x_mean_D1, y_mean_D1 = ((counts_DN * v).sum(-1, keepdims=True) / n_D1 for v in (x, y))
    x_DN, y_DN = x - x_mean_D1, y - y_mean_D1
    xx_D, yy_D, xy_D = (
        np.einsum("dn,dn,dn->d", counts_DN, a, b) for a, b in ((x_DN, x_DN), (y_DN, y_DN), (x_DN, y_DN))
    )
    # the mean of equal numbers may differ from them in its last bits
    least_x_D, least_y_D = ((n_D1 * (1e-13 * mean_D1) ** 2)[:, 0] for mean_D1 in (x_mean_D1, y_mean_D1))
    varies_D = (xx_D > least_x_D) & (yy_D > least_y_D)
    return np.divide(xy_D, np.sqrt(xx_D * yy_D), out=np.zeros(len(xy_D)), where=varies_D).clip(-1, 1)


def _ranks(counts_DN: np.ndarray, x_N: np.ndarray) -> np.ndarray:
    """Ranks in the resamples; equal numbers share the mean of theirs. Rows that a resample lacks have some rank."""
    order_N = np.argsort(x_N, kind="stable")
    sorted_N = x_N[order_N]
    first_G = np.flatnonzero(np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]]))
    group_N = np.searchsorted(sorted_N[first_G], x_N)
    counts_DG = np.add.reduceat(counts_DN[:, order_N], first_G, axis=1)
    rank_DG = counts_DG.cumsum(1) - (counts_DG - 1) / 2
    return rank_DG[:, group_N]
