"""Whether probabilities can be believed: how far off they are, and what makes them better.

Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

COLDEST, HOTTEST = 0.05, 20.0
"""between which a temperature is sought"""
LOWEST, HIGHEST = 0.05, 0.95
"""between which a threshold is sought"""


def expected_calibration_error(p_NC: np.ndarray, classes_N: np.ndarray, bins: int = 15) -> float:
    """How far confidence and accuracy lie apart, a mean over rows; section 2.

    Confidence is the probability of the likeliest class. Bin m of M holds the rows with confidence in ((m-1)/M, m/M].
    """
    found = reliability(p_NC, classes_N, bins)
    return sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in found) / len(p_NC)


def reliability(p_NC: np.ndarray, classes_N: np.ndarray, bins: int = 15) -> list[dict[str, Any]]:
    """Of every bin that holds rows their number `n`, mean `confidence` and `accuracy`: the reliability diagram."""
    p_NC = np.asarray(p_NC, dtype=np.float64)
    confidence_N = p_NC.max(-1)
    right_N = p_NC.argmax(-1) == classes_N
    bin_N = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence_N)
    n_B = np.bincount(bin_N)
    confidence_B, right_B = np.bincount(bin_N, confidence_N), np.bincount(bin_N, right_N)
    return [
        {"n": int(n), "confidence": float(confidence / n), "accuracy": float(right / n)}
        for n, confidence, right in zip(n_B, confidence_B, right_B, strict=True)
        if n
    ]


def temperature(scores_NC: np.ndarray, classes_N: np.ndarray) -> float:
    """The T for which softmax(scores / T) costs the fewest nats; section 4.2. 1.0 where none is better than that.

    A score of -inf stands where a row has no such answer. Rows whose class has no score (-1: unknown to the model) are
    left out, as no T makes them likelier.
    """
    scores_NC = np.asarray(scores_NC, dtype=np.float64)
    classes_N = np.asarray(classes_N, dtype=np.int64)
    gold_N = np.where(classes_N < 0, -np.inf, scores_NC[np.arange(len(scores_NC)), classes_N])
    kept_N = np.isfinite(gold_N)
    scores_NC, gold_N = scores_NC[kept_N], gold_N[kept_N]
    return _best(lambda t: float((logsumexp(scores_NC / t, axis=-1) - gold_N / t).mean()), len(gold_N))


def label_temperature(scores_NC: np.ndarray, gold_NC: np.ndarray) -> float:
    """The same for independent labels: T of sigmoid(scores / T) under binary cross-entropy."""
    scores_NC = np.asarray(scores_NC, dtype=np.float64)
    return _best(
        lambda t: float((np.logaddexp(0, scores_NC / t) - gold_NC * scores_NC / t).mean()),
        len(scores_NC),
    )


def thresholds(p_NC: np.ndarray, gold_NC: np.ndarray) -> list[float]:
    """For each label the threshold t under which `p >= t` has the highest F1 on these rows.

    Tried are the middles between neighbouring probabilities, 0 and 1 standing at the ends, kept within [0.05, 0.95].
    Of equals the one nearest 0.5 is taken. A label that never or always occurs teaches nothing: 0.5.
    """
    p_NC, gold_NC = np.asarray(p_NC, dtype=np.float64), np.asarray(gold_NC, dtype=bool)
    return [_threshold(p_N, gold_N) for p_N, gold_N in zip(p_NC.T, gold_NC.T, strict=True)]


def _threshold(p_N: np.ndarray, gold_N: np.ndarray) -> float:
    if gold_N.all() or not gold_N.any():
        return 0.5
    ends = np.unique(np.concatenate([[0.0, 1.0], p_N]))
    tried = np.clip((ends[1:] + ends[:-1]) / 2, LOWEST, HIGHEST)
    told = len(p_N) - np.searchsorted(np.sort(p_N), tried)
    hits = gold_N.sum() - np.searchsorted(np.sort(p_N[gold_N]), tried)
    f1 = 2 * hits / (gold_N.sum() + told)
    return float(tried[np.lexsort((np.abs(tried - 0.5), -f1))[0]])


def _best(nats: Callable[[float], float], rows: int) -> float:
    """Nats are convex in 1 / T, so they have one valley; in log T a half and a double are equally far from 1."""
    if rows < 2:
        return 1.0
    bounds = (math.log(COLDEST), math.log(HOTTEST))
    found = minimize_scalar(lambda log_t: nats(math.exp(log_t)), bounds=bounds, method="bounded")
    return math.exp(found.x) if found.fun < nats(1.0) else 1.0
