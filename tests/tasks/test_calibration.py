"""Calibration against numbers worked out by hand, a search over a grid, and scikit-learn's F1."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from gpt1.tasks.calibration import expected_calibration_error, label_temperature, temperature, thresholds

SEEDS = st.integers(0, 2**32 - 1)
GRID = np.geomspace(0.05, 20, 101)


def two_classes(confidence: list[float]) -> np.ndarray:
    """Two classes, the first the likelier."""
    return np.stack([np.array(confidence), 1 - np.array(confidence)], axis=1)


def test_error_by_hand() -> None:
    """Of four bins, (0.5, 0.75] holds three rows with 1 right (mean confidence 0.65), (0.75, 1] one that is right."""
    p_NC, classes_N = two_classes([0.6, 0.6, 0.75, 0.9]), np.array([0, 1, 1, 0])
    expected = 3 / 4 * abs(1 / 3 - 0.65) + 1 / 4 * abs(1 - 0.9)
    assert expected_calibration_error(p_NC, classes_N, bins=4) == pytest.approx(expected)


def test_error_of_the_sure_is_their_share_of_wrong() -> None:
    assert expected_calibration_error(two_classes([1, 1, 1, 1]), np.array([0, 0, 0, 1])) == pytest.approx(0.25)
    assert expected_calibration_error(two_classes([1, 1]), np.array([-1, -1])) == 1


@given(SEEDS, st.integers(1, 20))
def test_error_bin_by_bin(seed: int, bins: int) -> None:
    """The sum of the paper's equation 3, written as it stands there."""
    rng = np.random.default_rng(seed)
    p_NC, classes_N = rng.dirichlet(np.ones(3), 40), rng.integers(3, size=40)
    confidence, right = p_NC.max(1), p_NC.argmax(1) == classes_N
    expected = 0.0
    for m in range(bins):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(p_NC, classes_N, bins) == pytest.approx(expected)


def test_temperature_by_hand() -> None:
    """A model that is right three times in four should say 3/4 = sigmoid(s / T), so T = s / ln 3."""
    scores_NC = np.tile([4.0, 0.0], (4, 1))
    assert temperature(scores_NC, np.array([0, 0, 1, 0])) == pytest.approx(4 / math.log(3), rel=1e-4)
    found = label_temperature(np.full((4, 1), 4.0), np.array([[True], [True], [False], [True]]))
    assert found == pytest.approx(4 / math.log(3), rel=1e-4)


def ragged(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """40 rows of 2 to 5 answers, the right ones drawn from softmax(scores / T) for some T between 1/3 and 3."""
    rng = np.random.default_rng(seed)
    there_NC = np.arange(5) < rng.integers(2, 6, (40, 1))
    scores_NC = np.where(there_NC, rng.normal(size=(40, 5)) * 2, -np.inf)
    classes_N = (scores_NC + rng.gumbel(size=(40, 5))).argmax(1)
    return scores_NC * np.exp(rng.uniform(-1, 1)), classes_N


@pytest.mark.filterwarnings("error")
@given(SEEDS)
def test_no_temperature_of_a_grid_costs_fewer_nats(seed: int) -> None:
    scores_NC, classes_N = ragged(seed)

    def nats(t: float) -> float:
        return -np.log(softmax(scores_NC / t, axis=1)[np.arange(40), classes_N] + 1e-300).mean()

    found = temperature(scores_NC, classes_N)
    assert 0.05 <= found <= 20
    assert nats(found) <= min(nats(t) for t in GRID) + 1e-6


@given(SEEDS)
def test_no_label_temperature_of_a_grid_costs_fewer_nats(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true_NC = rng.random((30, 3)) < 0.4
    scores_NC = rng.normal(size=(30, 3)) * rng.uniform(1, 10) + true_NC

    def nats(t: float) -> float:
        p_NC = expit(np.where(true_NC, scores_NC, -scores_NC) / t)
        return -np.log(p_NC + 1e-300).mean()

    assert nats(label_temperature(scores_NC, true_NC)) <= min(nats(t) for t in GRID) + 1e-6


def test_temperature_follows_the_scale_of_scores_and_not_their_height() -> None:
    scores_NC, classes_N = ragged(1)
    found = temperature(scores_NC, classes_N)
    assert temperature(scores_NC * 1.5, classes_N) == pytest.approx(found * 1.5, rel=1e-4)
    assert temperature(scores_NC + np.arange(40)[:, None], classes_N) == pytest.approx(found, rel=1e-4)
    assert temperature(scores_NC.astype(np.float32), classes_N) == pytest.approx(found, rel=1e-4)


def test_rows_of_an_unknown_class_change_no_temperature() -> None:
    scores_NC, classes_N = ragged(2)
    more = np.concatenate([scores_NC, scores_NC[:3]]), np.concatenate([classes_N, [-1, -1, -1]])
    assert temperature(*more) == temperature(scores_NC, classes_N)


def test_too_few_rows_or_nothing_to_gain_leave_scores_alone() -> None:
    assert temperature(np.array([[3.0, 0.0]]), np.array([1])) == 1
    assert temperature(np.zeros((0, 2)), np.zeros(0, dtype=int)) == 1
    assert temperature(np.zeros((5, 2)), np.array([0, 1, 0, 0, 1])) == 1
    assert label_temperature(np.array([[3.0]]), np.array([[False]])) == 1
    assert label_temperature(np.zeros((5, 2)), np.ones((5, 2), dtype=bool)) == 1


def test_thresholds_by_hand() -> None:
    p_NC = np.array([[0.1, 0.9, 0.3, 0.01], [0.3, 0.8, 0.6, 0.02], [0.4, 0.7, 0.7, 0.03]])
    true_NC = np.array([[0, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=bool)
    # between 0.1 and 0.3; below 0.7; below 0.3, as F1 4/5 beats 2/3; of equals the midpoint of 0.03 and 1, not 0.05
    assert thresholds(p_NC, true_NC) == pytest.approx([0.2, 0.35, 0.15, 0.515])


def test_a_label_that_never_or_always_occurs_keeps_one_half() -> None:
    assert thresholds(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[False, True], [False, True]])) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("p", "equals", "nearest"),
    [([0.9, 0.6, 0.5, 0.3, 0.1], (0.2, 0.75), 0.75), ([0.9, 0.8, 0.6, 0.4, 0.1], (0.25, 0.85), 0.25)],
)
def test_of_equal_thresholds_the_one_nearest_one_half(
    p: list[float], equals: tuple[float, ...], nearest: float
) -> None:
    """The first and fourth row are true: predicting one row or four has F1 2/3."""
    p_N, true_N = np.array(p), np.array([True, False, False, True, False])
    assert [sklearn.metrics.f1_score(true_N, p_N >= t) for t in equals] == pytest.approx([2 / 3, 2 / 3])
    assert thresholds(p_N[:, None], true_N[:, None]) == pytest.approx([nearest])


@given(SEEDS, st.integers(2, 30))
def test_thresholds_by_brute_force(seed: int, n: int) -> None:
    """No threshold of a fine grid has a higher F1, nor has 0.5."""
    rng = np.random.default_rng(seed)
    p_N = rng.integers(0, 101, n) / 100
    true_N = rng.random(n) < p_N
    (found,) = thresholds(p_N[:, None], true_N[:, None])
    assert 0.05 <= found <= 0.95
    if 0 < true_N.sum() < n:
        # between hundredths, so that rounding decides nothing
        predicted_TN = p_N >= np.array([0.5, *np.arange(0.055, 0.95, 0.01)])[:, None]
        best = max(2 * (predicted_TN & true_N).sum(1) / (predicted_TN.sum(1) + true_N.sum()))
        assert sklearn.metrics.f1_score(true_N, p_N >= found, zero_division=0) >= best - 1e-12
