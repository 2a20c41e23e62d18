"""Metrics worked out by hand."""

import math

import pytest

from gpt1.jobs.metrics import classification_metrics


def test_two_classes_by_hand() -> None:
    """For yes 3 true, 1 false and 2 missed positives, 4 true negatives."""
    gold = ["yes"] * 5 + ["no"] * 5
    predicted = ["yes"] * 3 + ["no"] * 2 + ["yes"] + ["no"] * 4
    found = classification_metrics(gold, predicted, ["yes", "no"])
    assert found["n"] == 10
    assert found["accuracy"] == pytest.approx(0.7)
    assert found["majority"] == pytest.approx(0.5)
    assert found["per_class"]["yes"] == pytest.approx({"precision": 3 / 4, "recall": 3 / 5, "f1": 2 / 3, "n": 5})
    assert found["per_class"]["no"] == pytest.approx({"precision": 4 / 6, "recall": 4 / 5, "f1": 8 / 11, "n": 5})
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
    assert found["per_class"]["new"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 1}
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_a_class_that_does_not_occur_is_left_out() -> None:
    """As scikit-learn does: a mean over classes nobody could get right would say nothing."""
    found = classification_metrics(["a", "a"], ["a", "a"], ["a", "b"])
    assert (found["accuracy"], found["macro_f1"], found["matthews"], found["majority"]) == (1.0, 1.0, 0.0, 1.0)
    assert list(found["per_class"]) == ["a"]
