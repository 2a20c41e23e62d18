"""Metrics against numbers worked out by hand, scikit-learn and scipy; intervals against rows drawn one by one."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gpt1.tasks import metrics
from gpt1.tasks.metrics import (
    ClassScores,
    choice_intervals,
    choice_metrics,
    classification_intervals,
    classification_metrics,
    label_set_intervals,
    label_set_metrics,
    score_intervals,
    score_metrics,
)

SEEDS = st.integers(0, 2**32 - 1)


def drawn(n: int, seed: int) -> np.ndarray:
    """The rows of the first resample of scores."""
    return np.random.default_rng(seed).integers(n, size=n)


def drawn_outcomes(true: np.ndarray, predicted: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the first resample of classes or label sets: how often each outcome occurs is drawn."""
    pairs = np.stack([true, predicted], axis=1).reshape(len(true), -1)
    outcomes, counts = np.unique(pairs, axis=0, return_counts=True)
    again = np.random.default_rng(seed).multinomial(len(true), counts / len(true))
    rows = outcomes.repeat(again, axis=0).reshape(len(true), 2, *true.shape[1:])
    return rows[:, 0], rows[:, 1]


def test_two_classes_by_hand() -> None:
    """For yes 3 true, 1 false and 2 missed positives, 4 true negatives."""
    true = ["yes"] * 5 + ["no"] * 5
    predicted = ["yes"] * 3 + ["no"] * 2 + ["yes"] + ["no"] * 4
    found = classification_metrics(true, predicted, ["yes", "no"])
    assert found["n"] == 10
    assert found["accuracy"] == pytest.approx(0.7)
    assert found["majority"] == pytest.approx(0.5)
    assert dict(found["per_class"]["yes"]) == pytest.approx({"precision": 3 / 4, "recall": 3 / 5, "f1": 2 / 3, "n": 5})
    assert dict(found["per_class"]["no"]) == pytest.approx({"precision": 4 / 6, "recall": 4 / 5, "f1": 8 / 11, "n": 5})
    assert found["macro_f1"] == pytest.approx((2 / 3 + 8 / 11) / 2)
    assert found["matthews"] == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))
    assert found["confusion"] == [[3, 2], [1, 4]]


def test_classes_stand_in_the_model_s_order() -> None:
    found = classification_metrics(["10", "9", "9"], ["9", "9", "10"], ["9", "10"])
    assert list(found["per_class"]) == ["9", "10"]
    assert found["confusion"] == [[1, 1], [1, 0]]


def test_a_class_the_model_does_not_know_counts_against_it() -> None:
    found = classification_metrics(["a", "b", "new"], ["a", "b", "b"], ["a", "b"])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["per_class"]["new"] == ClassScores(0.0, 0.0, 0.0, 1)
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_a_class_that_does_not_occur_is_left_out() -> None:
    """As scikit-learn does: a mean over classes nobody could get right would say nothing."""
    found = classification_metrics(["a", "a"], ["a", "a"], ["a", "b"])
    assert (found["accuracy"], found["macro_f1"], found["matthews"], found["majority"]) == (1.0, 1.0, 0.0, 1.0)
    assert list(found["per_class"]) == ["a"]


def test_f1_is_that_of_the_second_of_two_names() -> None:
    """3 true, 1 false and 2 missed positives, as above."""
    true = ["yes"] * 5 + ["no"] * 5
    predicted = ["yes"] * 3 + ["no"] * 2 + ["yes"] + ["no"] * 4
    assert classification_metrics(true, predicted, ["no", "yes"])["f1"] == pytest.approx(2 / 3)
    assert classification_metrics(true, predicted, ["yes", "no"])["f1"] == pytest.approx(8 / 11)
    assert "f1" not in classification_metrics(true, predicted, ["no", "yes", "maybe"])
    assert classification_metrics(["no"], ["no"], ["no", "yes"])["f1"] == 0


def of_classes(true: np.ndarray, predicted: np.ndarray, positive: str) -> dict[str, float]:
    """What scikit-learn says."""
    return {
        "accuracy": sklearn.metrics.accuracy_score(true, predicted),
        "macro_f1": sklearn.metrics.f1_score(true, predicted, average="macro", zero_division=0),
        "matthews": sklearn.metrics.matthews_corrcoef(true, predicted),
        "f1": sklearn.metrics.f1_score(true, predicted, labels=[positive], average="macro", zero_division=0),
    }


def many_classes(names: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """20 rows, of which about two in three are predicted right."""
    rng = np.random.default_rng(seed)
    true = rng.choice(list(names), 20, p=(weights := rng.dirichlet(np.ones(len(names)))))
    return true, np.where(rng.random(20) < 2 / 3, true, rng.choice(list(names), 20, p=weights))


@pytest.mark.filterwarnings("ignore:A single label")
@given(SEEDS, st.sampled_from(["ab", "abc", "abcdefg"]))
def test_classes_as_scikit_learn_measures_them(seed: int, names: str) -> None:
    true, predicted = many_classes(names, seed)
    found = classification_metrics(true.tolist(), predicted.tolist(), list(names))
    expected = of_classes(true, predicted, "b")
    assert {name: found[name] for name in expected if name in found} == pytest.approx(
        {name: value for name, value in expected.items() if name != "f1" or len(names) == 2}
    )
    known = [name for name in names if name in true or name in predicted]
    each = sklearn.metrics.precision_recall_fscore_support(true, predicted, labels=known, zero_division=0)
    assert list(found["per_class"]) == known
    for values, *row in zip(found["per_class"].values(), *each, strict=True):
        assert list(values.values()) == pytest.approx(row)
    assert found["confusion"] == sklearn.metrics.confusion_matrix(true, predicted, labels=known).tolist()


@pytest.mark.filterwarnings("ignore:A single label")
@given(SEEDS)
def test_one_resample_of_classes_as_scikit_learn_measures_its_rows(seed: int) -> None:
    true, predicted = many_classes("ab", seed)
    found = classification_intervals(true.tolist(), predicted.tolist(), ["a", "b"], seed=seed, draws=1)
    for name, value in of_classes(*drawn_outcomes(true, predicted, seed), "b").items():
        assert found[name] == pytest.approx([value, value]), name


def test_scores_by_hand() -> None:
    """Errors 0, 0, 0 and 2; deviations -1.5, -.5, .5, 1.5 and -2, -1, 0, 3."""
    found = score_metrics(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 6]))
    expected = {"rmse": 1.0, "mae": 0.5, "pearson": 8 / math.sqrt(5 * 14), "spearman": 1.0}
    assert {**found, "joint": None} == {
        "n": 4, **{name: pytest.approx(value) for name, value in expected.items()},
        "mean_baseline_rmse": pytest.approx(math.sqrt(5 / 4)), "joint": None,
    }  # fmt: skip
    assert (found.joint.low, found.joint.high) == (1, 6)
    assert np.argwhere(found.joint.counts).tolist() == [[0, 0], [3, 3], [6, 6], [9, 15]]


def test_equal_scores_stand_within_their_histogram() -> None:
    joint = score_metrics(np.array([2.0]), np.array([2.0])).joint
    assert (joint.low, joint.high, np.sum(joint.counts)) == (1.5, 2.5, 1)


@given(SEEDS, st.booleans())
def test_scores_and_one_resample_as_scipy_measures_them(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    true = rng.normal(3, 1, 30)
    predicted = true + rng.normal(0, 1, 30)
    if ties:
        true, predicted = true.round(), predicted.round()
    rows = drawn(30, seed)
    once = score_intervals(true, predicted, seed=seed, draws=1)
    for found, x, y in (
        (score_metrics(true, predicted), true, predicted),
        ({name: low for name, (low, _) in once.items()}, true[rows], predicted[rows]),
    ):
        assert found["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
        assert found["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
        assert found["rmse"] == pytest.approx(sklearn.metrics.root_mean_squared_error(x, y))
        assert found["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(x, y))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6])
def test_a_constant_correlates_with_nothing(constant: float) -> None:
    varied = np.arange(7.0)
    for true, predicted in ((varied, np.full(7, constant)), (np.full(7, constant), varied), (varied[:1], varied[:1])):
        found = score_metrics(true, predicted)
        assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
        intervals = score_intervals(true, predicted, draws=20)
        assert intervals["pearson"] == intervals["spearman"] == [0.0, 0.0]


def test_a_correlation_far_from_zero_is_not_lost_to_rounding() -> None:
    """Moving numbers changes no correlation."""
    x = np.random.default_rng(1).normal(size=50)
    y = x + np.random.default_rng(2).normal(size=50)
    assert score_metrics(x + 1e6, y + 1e6)["pearson"] == pytest.approx(score_metrics(x, y)["pearson"])


def test_label_sets_by_hand() -> None:
    """Label a: 1 hit, 1 missed; b: 1 hit, 1 false; c: nothing at all, so that no mean counts it."""
    true = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=bool)
    predicted = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], dtype=bool)
    assert label_set_metrics(true, predicted, ["a", "b", "c"]).to_json() == {
        "n": 4,
        "accuracy": 3 / 4,
        "macro_f1": pytest.approx(2 / 3),
        "micro_f1": pytest.approx(2 * 2 / (3 + 3)),
        "majority": 2 / 4,
        "per_class": {
            "a": pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "n": 2}),
            "b": pytest.approx({"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "n": 1}),
            "c": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 0},
        },
    }


@given(SEEDS)
def test_label_sets_and_one_resample_as_scikit_learn_measures_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.random((25, 4)) < [0.5, 0.3, 0.1, 0.02]
    predicted = true ^ (rng.random((25, 4)) < 0.1)
    once = label_set_intervals(true, predicted, seed=seed, draws=1)
    for found, x, y in (
        (label_set_metrics(true, predicted, list("abcd")), true, predicted),
        ({name: low for name, (low, _) in once.items()}, *drawn_outcomes(true, predicted, seed)),
    ):
        assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(x, y))
        for average, without in (("micro", 0), ("macro", np.nan)):
            expected = sklearn.metrics.f1_score(x, y, average=average, zero_division=without)
            assert found[f"{average}_f1"] == pytest.approx(expected)


def test_choices_by_hand() -> None:
    true, predicted = np.array([0, 1, 1, 3, 1]), np.array([0, 1, 2, 3, 0])
    assert choice_metrics(true, predicted).to_json() == {"n": 5, "accuracy": 3 / 5, "majority": 3 / 5}
    low, high = choice_intervals(true, predicted, seed=3, draws=1)["accuracy"]
    assert low == high == pytest.approx(np.random.default_rng(3).multinomial(5, [2 / 5, 3 / 5])[1] / 5)


def test_an_interval_holds_the_middle_of_the_resamples() -> None:
    true, predicted = np.zeros(40, dtype=int), (np.arange(40) % 4 == 0).astype(int)
    right_D = np.random.default_rng(5).multinomial(40, [1 / 4, 3 / 4], size=500)[:, 1]
    expected = np.percentile(right_D / 40, [5, 95]).tolist()
    assert choice_intervals(true, predicted, seed=5, draws=500, level=0.9)["accuracy"] == pytest.approx(expected)


def test_intervals_do_not_depend_on_how_many_rows_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 33))
    expected = score_intervals(x, y, draws=50)
    monkeypatch.setattr(metrics, "CHUNK", 7 * 33)
    for name, ends in score_intervals(x, y, draws=50).items():
        assert ends == pytest.approx(expected[name], rel=1e-12)


def test_counts_are_drawn_as_rows_are() -> None:
    """Intervals from counts of outcomes are those of drawing rows, but for chance."""
    true, predicted = many_classes("abc", 7)
    true, predicted = np.tile(true, 15), np.tile(predicted, 15)
    found = classification_intervals(true.tolist(), predicted.tolist(), list("abc"), draws=4000)
    rows_DN = np.random.default_rng(2).integers(300, size=(1000, 300))
    for name, value in (
        ("accuracy", lambda x, y: np.mean(x == y)),
        ("macro_f1", lambda x, y: sklearn.metrics.f1_score(x, y, average="macro", zero_division=0)),
    ):
        expected = np.percentile([value(true[rows], predicted[rows]) for rows in rows_DN], [2.5, 97.5])
        assert found[name] == pytest.approx(expected, abs=0.01)


def test_of_twenty_intervals_about_nineteen_hold_the_truth() -> None:
    """150 samples of a model that is right seven times in ten, and of two numbers that correlate by 0.6.

    19 in 20 of 150 is 142.5; the percentile bootstrap holds a little less, and chance moves it by 2.7.
    """
    rng = np.random.default_rng(1)
    accuracy = pearson = 0
    for _ in range(150):
        true = rng.integers(2, size=200)
        predicted = np.where(rng.random(200) < 0.7, true, 1 - true)
        low, high = choice_intervals(true, predicted, draws=300)["accuracy"]
        accuracy += low <= 0.7 <= high
        x, other = rng.normal(size=(2, 100))
        low, high = score_intervals(x, 0.6 * x + 0.8 * other, draws=300)["pearson"]
        pearson += low <= 0.6 <= high
    assert 133 <= accuracy <= 149
    assert 133 <= pearson <= 149
