"""Calibration of predicted probabilities: how far off they are, and the temperature and thresholds that improve them.

Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from gpt1.tasks.metrics import ReliabilityBin

# The range of temperatures to search.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
# The range of thresholds.
LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 0.05, 0.95


def expected_calibration_error(p_NC: np.ndarray, classes_N: np.ndarray, bins: int = 15) -> float:
    """Return the mean distance between confidence and accuracy over rows (section 2, equation 3)."""
    found = reliability(p_NC, classes_N, bins)
    return sum(each.n * abs(each.accuracy - each.confidence) for each in found) / len(p_NC)


def reliability(p_NC: np.ndarray, classes_N: np.ndarray, bins: int = 15) -> list[ReliabilityBin]:
    """Return the bins of the reliability diagram that hold rows (section 2).

    Confidence is the probability of the likeliest class. Bin m of M holds the rows with confidence in ((m-1)/M, m/M].
    """
    p_NC = np.asarray(p_NC, dtype=np.float64)
    confidence_N = p_NC.max(-1)
    right_N = p_NC.argmax(-1) == classes_N
    bin_N = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence_N)
    n_B = np.bincount(bin_N)
    confidence_B, right_B = np.bincount(bin_N, confidence_N), np.bincount(bin_N, right_N)
    return [
        ReliabilityBin(int(n), float(confidence / n), float(right / n))
        for n, confidence, right in zip(n_B, confidence_B, right_B, strict=True)
        if n
    ]


def temperature(scores_NC: np.ndarray, classes_N: np.ndarray) -> float:
    """Return the T that minimizes the cross-entropy of softmax(scores / T) (section 4.2); 1.0 if none is better.

    A score is -inf where a row has no such answer. Rows without a known class (-1) are left out: no T changes them.
    """
    scores_NC = np.asarray(scores_NC, dtype=np.float64)
    classes_N = np.asarray(classes_N, dtype=np.int64)
    true_N = np.where(classes_N < 0, -np.inf, scores_NC[np.arange(len(scores_NC)), classes_N])
    kept_N = np.isfinite(true_N)
    scores_NC, true_N = scores_NC[kept_N], true_N[kept_N]
    return _best_temperature(lambda t: float((logsumexp(scores_NC / t, axis=-1) - true_N / t).mean()), len(true_N))


def label_temperature(scores_NC: np.ndarray, true_NC: np.ndarray) -> float:
    """Return the T that minimizes the binary cross-entropy of sigmoid(scores / T), for independent labels."""
    scores_NC = np.asarray(scores_NC, dtype=np.float64)
    return _best_temperature(
        lambda t: float((np.logaddexp(0, scores_NC / t) - true_NC * scores_NC / t).mean()), len(scores_NC)
    )


def thresholds(p_NC: np.ndarray, true_NC: np.ndarray) -> list[float]:
    """Return for each label the threshold t for which predicting it where p >= t has the highest F1 on these rows.

    Candidates are the midpoints between neighbouring probabilities, with 0 and 1 at the ends, clipped to [0.05, 0.95].
    Ties go to the one nearest 0.5. A label that is true for no row or for every row gets 0.5.
    """
    p_NC, true_NC = np.asarray(p_NC, dtype=np.float64), np.asarray(true_NC, dtype=bool)
    return [_threshold(p_N, true_N) for p_N, true_N in zip(p_NC.T, true_NC.T, strict=True)]


def _threshold(p_N: np.ndarray, true_N: np.ndarray) -> float:
    if true_N.all() or not true_N.any():
        return 0.5
    ends = np.unique(np.concatenate([[0.0, 1.0], p_N]))
    candidates = np.clip((ends[1:] + ends[:-1]) / 2, LOWEST_THRESHOLD, HIGHEST_THRESHOLD)
    predicted = len(p_N) - np.searchsorted(np.sort(p_N), candidates)
    hits = true_N.sum() - np.searchsorted(np.sort(p_N[true_N]), candidates)
    f1 = 2 * hits / (true_N.sum() + predicted)
    return float(candidates[np.lexsort((np.abs(candidates - 0.5), -f1))[0]])


def _best_temperature(nats: Callable[[float], float], rows: int) -> float:
    """Return the T that minimizes `nats(T)`; 1.0 if none is better.

    The loss is convex in 1 / T, so it has one minimum. The search is over log T, where half and double are equally far.
    """
    if rows < 2:
        return 1.0
    bounds = (math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE))
    found = minimize_scalar(lambda log_t: nats(math.exp(log_t)), bounds=bounds, method="bounded")
    return math.exp(found.x) if found.fun < nats(1.0) else 1.0
