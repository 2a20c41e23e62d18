"""Label types: how they are inferred and recorded, and how much each class weighs in the loss."""

import json
from typing import Any

import numpy as np
import pytest

from gpt1.errors import UserError
from gpt1.model.objectives import LabelKind
from gpt1.tasks.labels import (
    LARGEST_WEIGHT,
    ChoiceLabels,
    ClassLabels,
    LabelSets,
    ScoreLabels,
    class_weights,
    from_metadata,
    infer_label_type,
    sorted_names,
    to_metadata,
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "labels", "label_type"),
    [
        ("classes", ["10", "9", "9"], ClassLabels(["9", "10"], ["9"])),
        ("labels", [{"b"}, {"a", "b"}, set(), {"b", "a"}], LabelSets(["a", "b"], [0.5, 0.5], ["a", "b"])),
        ("score", [1.0, 5.0], ScoreLabels(3.0, 2.0)),
        ("choice", [1, 0, 1], ChoiceLabels(["1"])),
    ],
)
def test_a_label_type_is_recorded(kind: LabelKind, labels: list[Any], label_type: Any) -> None:
    found = infer_label_type(kind, labels, "a.csv")
    assert found == label_type
    assert from_metadata(json.loads(json.dumps(to_metadata(found)))) == label_type


@pytest.mark.parametrize(
    ("label_type", "labels", "majority"),
    [
        (ClassLabels(["9", "10"], ["10"]), ["9", "9", "10", "x"], 1 / 4),
        (ClassLabels(["9", "10"]), ["9", "9", "10", "x"], 2 / 4),
        (LabelSets(["a", "b"], [0.5, 0.5], []), [{"a"}, {"a"}, set()], 1 / 3),
        (LabelSets(["a", "b"], [0.5, 0.5]), [{"a"}, {"a"}, set()], 2 / 3),
        (ChoiceLabels(["1"]), [0, 0, 1], 1 / 3),
        (ChoiceLabels(), [0, 0, 1], 2 / 3),
    ],
)
def test_the_majority_is_that_of_training(label_type: Any, labels: list[Any], majority: float) -> None:
    """In a run that does not record it, that of the rows."""
    found = label_type.metrics(
        [frozenset(one) if isinstance(one, set) else one for one in labels], np.eye(9)[: len(labels), :2]
    )
    assert found.majority == pytest.approx(majority)


@pytest.mark.parametrize(
    ("kind", "labels", "answer"),
    [
        ("classes", ["x", "x"], "a.csv: column y holds only the label 'x'; two classes or more are needed"),
        ("labels", [set(), set()], "a.csv: column y holds no label at all"),
        ("score", [2.0, 2.0], "a.csv: column y holds only the number 2"),
        ("score", [0.1] * 3, "a.csv: column y holds only the number 0.1"),  # their deviation rounds to 1e-17
    ],
)
def test_labels_that_teach_nothing(kind: LabelKind, labels: list[Any], answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        infer_label_type(kind, labels, "a.csv: column y")


def test_names_are_sorted_numbers_by_value() -> None:
    assert sorted_names({"10", "9", "-1.5"}) == ["-1.5", "9", "10"]
    assert sorted_names({"b", "B", "a"}) == ["B", "a", "b"]
    assert sorted_names({"x", "2", "nan"}) == ["2", "nan", "x"]


def test_classes_of_unequal_size_weigh_the_same_in_total() -> None:
    label_type = ClassLabels(["a", "b", "c"])
    targets = [0] * 6 + [1] * 3 + [2]
    weights_C = class_weights("auto", label_type, targets)
    assert weights_C is not None
    assert (weights_C.numpy() * np.bincount(targets)).tolist() == pytest.approx([10 / 3] * 3)
    assert weights_C[targets].mean().item() == pytest.approx(1), "the mean weight of a row is 1"


def test_rows_with_a_label_weigh_as_much_as_those_without() -> None:
    label_type = LabelSets(["a", "b", "c"], [0.5] * 3)
    targets = [label_type.target(label) for label in [frozenset("a"), frozenset("ab"), frozenset("a"), frozenset()]]
    weights_C = class_weights("auto", label_type, targets)  # type: ignore[arg-type]
    assert weights_C is not None
    assert weights_C.tolist() == pytest.approx([1 / 3, 3, 4])
    many = class_weights("auto", LabelSets(["a"], [0.5]), [[1.0]] + [[0.0]] * 999)
    assert many is not None
    assert many.tolist() == [LARGEST_WEIGHT]


def test_a_label_that_training_never_saw_is_missed() -> None:
    """Row 0 is right; rows 1 and 2 miss `new`, which is in no prediction."""
    label_type = LabelSets(["a"], [0.5])
    labels, predictions_NC = [frozenset("a"), frozenset({"new"}), frozenset({"a", "new"})], np.array([[0.9], [0], [1]])
    found = label_type.metrics(labels, predictions_NC)
    assert (found.accuracy, found.macro_f1) == pytest.approx((1 / 3, 1 / 2))
    assert found.micro_f1 == pytest.approx(2 * 2 / (4 + 2))
    assert list(found.per_class) == ["a", "new"]
    assert (found.per_class["new"].recall, found.per_class["new"].n) == (0, 2)
    assert label_type.intervals(labels[1:2], predictions_NC[1:2])["accuracy"] == [0, 0]


def test_named_weights() -> None:
    found = class_weights("b=2.5, c=0.5", ClassLabels(["a", "b", "c"]), [0, 1, 2])
    assert found is not None
    assert found.tolist() == [1, 2.5, 0.5]
    assert class_weights("none", ScoreLabels(0.0, 1.0), [0.0]) is None
    for requested in ("auto", "a=1"):
        with pytest.raises(UserError, match=f"^class_weights {requested}: this task has no classes; leave it out"):
            class_weights(requested, ChoiceLabels(), [0])
