"""Metrics of predictions on labelled rows, with bootstrap intervals.

The definitions are scikit-learn's. Those of classes and label sets are written over counts of rows, so that one formula
serves the rows themselves and a thousand resamples at once.

Axes: D resamples, N rows, U distinct outcomes (what was true and what was predicted), C classes or labels.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt1.results import Result

# `[low, high]` of each metric: the middle 95 % of its values on resampled rows.
Intervals = dict[str, list[float]]
# Maps counts_DU, how often each outcome occurs in each resample, to value_D of each metric.
Measure = Callable[[np.ndarray], dict[str, np.ndarray]]
# Numbers that the bootstrap holds in memory at once.
CHUNK = 2**20
# Equal bins of the joint histogram, between the lowest and the highest of all scores.
BINS = 16
# Metrics that depend on the labels alone, so they are the same for every model.
OF_LABELS = ("majority", "mean_baseline_rmse")


@dataclass(frozen=True)
class ClassScores(Result):
    """How well one class, or one of several labels, is predicted."""

    precision: float
    """fraction of its predictions that are right; 0 without predictions"""
    recall: float
    """fraction of its rows that are found; 0 without rows"""
    f1: float
    """harmonic mean of precision and recall"""
    n: int
    """rows that have it"""


@dataclass(frozen=True)
class ReliabilityBin(Result):
    """Predictions of similar confidence: a point of the reliability diagram."""

    n: int
    """rows"""
    confidence: float
    """mean probability of the predicted class"""
    accuracy: float
    """fraction that is right"""


@dataclass(frozen=True)
class JointHistogram(Result):
    """Predicted against true scores."""

    low: float
    """lower end of the first bin, for true and predicted scores alike"""
    high: float
    """upper end of the last bin"""
    counts: list[list[int]]
    """counts[i][j]: rows whose true score is in bin i and whose predicted score is in bin j"""


@dataclass(frozen=True)
class ClassificationMetrics(Result):
    """Metrics of single-label classification."""

    n: int
    """rows"""
    accuracy: float
    """fraction of the rows that are right"""
    macro_f1: float
    """mean F1 of the classes that are true or predicted for some row"""
    matthews: float
    """Matthews correlation coefficient"""
    f1: float | None
    """F1 of the second of exactly two classes, which GLUE reports for MRPC"""
    majority: float
    """accuracy of always predicting the most common class of the training rows"""
    per_class: dict[str, ClassScores]
    """of each class that is true or predicted for some row"""
    confusion: list[list[int]]
    """confusion[i][j]: rows of class i that are predicted as class j, in the order of `per_class`"""
    ece: float | None = None
    """expected calibration error"""
    reliability: list[ReliabilityBin] | None = None
    """the reliability diagram"""


@dataclass(frozen=True)
class LabelSetMetrics(Result):
    """Metrics of multi-label classification."""

    n: int
    """rows"""
    accuracy: float
    """fraction of the rows whose whole set is right"""
    macro_f1: float
    """mean F1 of the labels that are true or predicted for some row"""
    micro_f1: float
    """F1 over all decisions"""
    majority: float
    """accuracy of always predicting the most common set of the training rows"""
    per_class: dict[str, ClassScores]
    """of each label; at the end those that only these rows have"""


@dataclass(frozen=True)
class ScoreMetrics(Result):
    """Metrics of predicted numbers."""

    n: int
    """rows"""
    pearson: float
    """Pearson's r; 0 if all true or all predicted scores are equal"""
    spearman: float
    """Spearman's rank correlation; 0 as for `pearson`"""
    rmse: float
    """root of the mean squared error"""
    mae: float
    """mean absolute error"""
    mean_baseline_rmse: float
    """rmse of always predicting the mean of these rows"""
    joint: JointHistogram
    """predicted against true scores"""


@dataclass(frozen=True)
class ChoiceMetrics(Result):
    """Metrics of multiple choice."""

    n: int
    """rows"""
    accuracy: float
    """fraction of the rows that are right"""
    majority: float
    """accuracy of always predicting the most common number of an answer in the training rows"""
    ece: float | None = None
    """expected calibration error"""
    reliability: list[ReliabilityBin] | None = None
    """the reliability diagram"""


# The metrics of a task, by its kind of label.
TaskMetrics = ClassificationMetrics | LabelSetMetrics | ScoreMetrics | ChoiceMetrics
METRICS: dict[str, type[Any]] = {
    "classes": ClassificationMetrics, "labels": LabelSetMetrics, "score": ScoreMetrics, "choice": ChoiceMetrics,
}  # fmt: skip


def classification_metrics(
    true: Sequence[str], predicted: Sequence[str], names: Sequence[str]
) -> ClassificationMetrics:
    """Return the metrics of predicted classes; `names` are those the model knows, in its order."""
    known, confusion_CC = _confusion(true, predicted, names)
    values = _on_all_rows(*_classification(known, confusion_CC, names))
    return ClassificationMetrics(
        n=len(true),
        accuracy=values["accuracy"],
        macro_f1=values["macro_f1"],
        matthews=values["matthews"],
        f1=values.get("f1"),
        majority=float(confusion_CC.sum(1).max() / len(true)),
        per_class=_per_class(confusion_CC.diagonal(), confusion_CC.sum(1), confusion_CC.sum(0), known),
        confusion=confusion_CC.tolist(),
    )


def classification_intervals(
    true: Sequence[str],
    predicted: Sequence[str],
    names: Sequence[str],
    *,
    seed: int = 1,
    draws: int = 1000,
    level: float = 0.95,
) -> Intervals:
    """Return bootstrap intervals of accuracy, macro_f1, matthews and, for two classes, f1."""
    return _count_intervals(*_classification(*_confusion(true, predicted, names), names), seed, draws, level)


def label_set_metrics(true_NC: np.ndarray, predicted_NC: np.ndarray, names: Sequence[str]) -> LabelSetMetrics:
    """Return the metrics of predicted label sets: bool arrays with a column for each of `names`."""
    _, sets = np.unique(true_NC, axis=0, return_counts=True)
    hits_C = (true_NC & predicted_NC).sum(0)
    return LabelSetMetrics(
        n=len(true_NC),
        **_on_all_rows(*_label_sets(true_NC, predicted_NC)),
        majority=float(sets.max() / len(true_NC)),
        per_class=_per_class(hits_C, true_NC.sum(0), predicted_NC.sum(0), names),
    )


def label_set_intervals(
    true_NC: np.ndarray, predicted_NC: np.ndarray, *, seed: int = 1, draws: int = 1000, level: float = 0.95
) -> Intervals:
    """Return bootstrap intervals of accuracy, macro_f1 and micro_f1."""
    return _count_intervals(*_label_sets(true_NC, predicted_NC), seed, draws, level)


def choice_metrics(true_N: np.ndarray, predicted_N: np.ndarray) -> ChoiceMetrics:
    """Return the metrics of predicted answers, given by their numbers."""
    majority = np.unique(true_N, return_counts=True)[1].max() / len(true_N)
    return ChoiceMetrics(len(true_N), float(np.mean(true_N == predicted_N)), float(majority))


def choice_intervals(
    true_N: np.ndarray, predicted_N: np.ndarray, *, seed: int = 1, draws: int = 1000, level: float = 0.95
) -> Intervals:
    """Return the bootstrap interval of accuracy."""
    n, right = len(true_N), int(np.sum(true_N == predicted_N))
    counts_U = np.array([n - right, right])
    return _count_intervals(counts_U, lambda counts_DU: {"accuracy": counts_DU[:, 1] / n}, seed, draws, level)


def score_metrics(true_N: np.ndarray, predicted_N: np.ndarray) -> ScoreMetrics:
    """Return the metrics of predicted scores."""
    true_N, predicted_N = np.asarray(true_N, dtype=np.float64), np.asarray(predicted_N, dtype=np.float64)
    values = {name: float(value_D[0]) for name, value_D in _scores(true_N[None], predicted_N[None]).items()}
    both_N = np.concatenate([true_N, predicted_N])
    span = float(both_N.min()), float(both_N.max())
    counts, edges, _ = np.histogram2d(true_N, predicted_N, bins=BINS, range=(span, span))  # wider if all are equal
    joint = JointHistogram(float(edges[0]), float(edges[-1]), counts.astype(int).tolist())
    return ScoreMetrics(n=len(true_N), **values, mean_baseline_rmse=float(np.std(true_N)), joint=joint)


def score_intervals(
    true_N: np.ndarray, predicted_N: np.ndarray, *, seed: int = 1, draws: int = 1000, level: float = 0.95
) -> Intervals:
    """Return bootstrap intervals of pearson, spearman, rmse and mae."""
    true_N, predicted_N = np.asarray(true_N, dtype=np.float64), np.asarray(predicted_N, dtype=np.float64)
    n = len(true_N)

    def draw(rng: np.random.Generator, d: int) -> dict[str, np.ndarray]:
        rows_DN = rng.integers(n, size=(d, n))
        return _scores(true_N[rows_DN], predicted_N[rows_DN])

    return _intervals(draw, n, seed, draws, level)


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are floats, by name."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def over_seeds(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return `mean`, sample `deviation` (None for one value) and `values` of each metric that is a float.

    `metrics` holds those of models that differ only in their seed.
    """
    found = {}
    for name in scalars(metrics[0]):
        values = [one[name] for one in metrics]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        found[name] = {"mean": statistics.mean(values), "deviation": deviation, "values": values}
    return found


def rows_alone(metrics: Mapping[str, Any], part: str = "words") -> dict[str, float]:
    """Return the metrics of a part alone that a table shows, by name: of the `words`, or of the `network`."""
    return {f"{name}, {part} alone": value for name, value in scalars(metrics).items() if name not in OF_LABELS}


def _count_intervals(counts_U: np.ndarray, measure: Measure, seed: int, draws: int, level: float) -> Intervals:
    """Return bootstrap intervals from how often each outcome occurs.

    Drawing n rows with replacement draws the counts of their outcomes from a multinomial distribution.
    """
    n = counts_U.sum()

    def draw(rng: np.random.Generator, d: int) -> dict[str, np.ndarray]:
        return measure(rng.multinomial(n, counts_U / n, size=d))

    return _intervals(draw, len(counts_U), seed, draws, level)


def _intervals(
    draw: Callable[[np.random.Generator, int], dict[str, np.ndarray]], width: int, seed: int, draws: int, level: float
) -> Intervals:
    """Return percentile bootstrap intervals: the ends of the middle `level` of each metric's values on resampled rows.

    `draw(rng, d)` measures d resamples; each takes `width` numbers.
    """
    rng, at_once = np.random.default_rng(seed), max(1, CHUNK // width)
    parts = [draw(rng, min(at_once, draws - start)) for start in range(0, draws, at_once)]
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {name: np.quantile(np.concatenate([part[name] for part in parts]), ends).tolist() for name in parts[0]}


def _on_all_rows(counts_U: np.ndarray, measure: Measure) -> dict[str, float]:
    return {name: float(value_D[0]) for name, value_D in measure(counts_U[None]).items()}


def _confusion(true: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the classes that occur, those of `names` first and in that order, and their confusion matrix."""
    place = {name: i for i, name in enumerate(names)}
    known = sorted(set(true) | set(predicted), key=lambda name: (place.get(name, len(place)), name))
    number = {name: i for i, name in enumerate(known)}
    confusion_CC = np.zeros((len(known), len(known)), dtype=np.int64)
    np.add.at(confusion_CC, ([number[name] for name in true], [number[name] for name in predicted]), 1)
    return known, confusion_CC


def _classification(known: list[str], confusion_CC: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, Measure]:
    """Return how often each outcome, a cell of the matrix, occurs, and how to measure such counts."""
    true_U, predicted_U = confusion_CC.nonzero()
    true_UC, predicted_UC = np.eye(len(known))[true_U], np.eye(len(known))[predicted_U]
    second = [i for i, name in enumerate(known) if name == names[1]] if len(names) == 2 else []

    def measure(counts_DU: np.ndarray) -> dict[str, np.ndarray]:
        hits_DC, true_DC, predicted_DC = (counts_DU @ x_UC for x_UC in (true_UC * predicted_UC, true_UC, predicted_UC))
        found = {
            "accuracy": hits_DC.sum(-1) / counts_DU.sum(-1),
            "macro_f1": _macro_f1(hits_DC, true_DC, predicted_DC),
            "matthews": _matthews(hits_DC, true_DC, predicted_DC),
        }
        if len(names) == 2:
            found["f1"] = _f1(hits_DC, true_DC, predicted_DC)[:, second].sum(-1)  # 0 if that class does not occur
        return found

    return confusion_CC[true_U, predicted_U], measure


def _label_sets(true_NC: np.ndarray, predicted_NC: np.ndarray) -> tuple[np.ndarray, Measure]:
    """Return how often each outcome, a true and a predicted set, occurs, and how to measure such counts."""
    rows_UK, counts_U = np.unique(np.concatenate([true_NC, predicted_NC], axis=1), axis=0, return_counts=True)
    true_UC, predicted_UC = np.split(rows_UK.astype(np.float64), 2, axis=1)
    exact_U = (true_UC == predicted_UC).all(1).astype(np.float64)

    def measure(counts_DU: np.ndarray) -> dict[str, np.ndarray]:
        hits_DC, true_DC, predicted_DC = (counts_DU @ x_UC for x_UC in (true_UC * predicted_UC, true_UC, predicted_UC))
        return {
            "accuracy": counts_DU @ exact_U / counts_DU.sum(-1),
            "macro_f1": _macro_f1(hits_DC, true_DC, predicted_DC),
            "micro_f1": _f1(hits_DC.sum(-1), true_DC.sum(-1), predicted_DC.sum(-1)),
        }

    return counts_U, measure


def _scores(true_DN: np.ndarray, predicted_DN: np.ndarray) -> dict[str, np.ndarray]:
    from scipy.stats import rankdata  # loads slowly, and only scores need it

    error_DN = predicted_DN - true_DN
    return {
        "pearson": _correlation(true_DN, predicted_DN),
        "spearman": _correlation(rankdata(true_DN, axis=-1), rankdata(predicted_DN, axis=-1)),
        "rmse": np.sqrt((error_DN**2).mean(-1)),
        "mae": np.abs(error_DN).mean(-1),
    }


def _per_class(
    hits_C: np.ndarray, true_C: np.ndarray, predicted_C: np.ndarray, names: Sequence[str]
) -> dict[str, ClassScores]:
    each = (_ratio(hits_C, predicted_C), _ratio(hits_C, true_C), _f1(hits_C, true_C, predicted_C), true_C)
    return {
        name: ClassScores(float(precision), float(recall), float(f1), int(n))
        for name, precision, recall, f1, n in zip(names, *each, strict=True)
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=whole > 0)


def _f1(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return _ratio(2 * hits, true + predicted)


def _macro_f1(hits_DC: np.ndarray, true_DC: np.ndarray, predicted_DC: np.ndarray) -> np.ndarray:
    """Return the mean over the classes that occur; the others have no F1."""
    return _ratio(_f1(hits_DC, true_DC, predicted_DC).sum(-1), (true_DC + predicted_DC > 0).sum(-1))


def _matthews(hits_DC: np.ndarray, true_DC: np.ndarray, predicted_DC: np.ndarray) -> np.ndarray:
    """Return the coefficient for any number of classes: Gorodkin (2004), "Comparing two K-category assignments"."""
    n_D = true_DC.sum(-1)
    spread_D = (n_D**2 - (true_DC**2).sum(-1)) * (n_D**2 - (predicted_DC**2).sum(-1))
    return _ratio(hits_DC.sum(-1) * n_D - (true_DC * predicted_DC).sum(-1), np.sqrt(spread_D))


def _correlation(x_DN: np.ndarray, y_DN: np.ndarray) -> np.ndarray:
    """Return Pearson's r of each row; 0 where x or y is constant."""
    x_mean_D1, y_mean_D1 = x_DN.mean(-1, keepdims=True), y_DN.mean(-1, keepdims=True)
    dx_DN, dy_DN = x_DN - x_mean_D1, y_DN - y_mean_D1
    xx_D, yy_D, xy_D = (dx_DN**2).sum(-1), (dy_DN**2).sum(-1), (dx_DN * dy_DN).sum(-1)
    # The mean of equal numbers may differ from them in its last bits, so a constant may have a tiny variance.
    tiny_xx_D, tiny_yy_D = (x_DN.shape[-1] * (1e-13 * mean_D1[:, 0]) ** 2 for mean_D1 in (x_mean_D1, y_mean_D1))
    varies_D = (xx_D > tiny_xx_D) & (yy_D > tiny_yy_D)
    return np.divide(xy_D, np.sqrt(xx_D * yy_D), out=np.zeros(len(xy_D)), where=varies_D).clip(-1, 1)
