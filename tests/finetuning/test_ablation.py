"""Samples and guesses of an ablation; its table is tested with the command."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.config import Columns
from gpt1.errors import UserError
from gpt1.finetuning.ablation import guess, sample, with_sample
from gpt1.finetuning.examples import TaskRows
from gpt1.tasks.labels import ChoiceLabels, ClassLabels, LabelSets, LabelType, ScoreLabels
from gpt1.tasks.rows import LabelledRows


@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=30), st.integers(0, 5), st.data())
def test_a_sample_has_every_class_and_lies_in_a_larger_one(labels: list[str], seed: int, data: st.DataObject) -> None:
    goal = ClassLabels(sorted(set(labels)))
    numbers = [str(n) for n in range(len(labels))]
    rows = LabelledRows([(n,) for n in numbers], list(labels), [f"a:{n}" for n in numbers], [])
    rows = replace(rows, groups=[text for (text,) in rows.texts])
    less = data.draw(st.integers(len(goal.names), len(labels)))
    more = data.draw(st.integers(less, len(labels)))
    small, large = sample(rows, goal, less, seed), sample(rows, goal, more, seed)
    assert len(small) == less
    assert set(small.labels) == set(labels)
    assert set(small.where) <= set(large.where)
    assert small.where == [row for row in rows.where if row in set(small.where)], "in their order"
    if len(goal.names) > 2:
        with pytest.raises(UserError, match=f"at least {len(goal.names)} rows are needed"):
            sample(rows, goal, 2, seed)


def rows_of(labels: list[Any], valid: list[Any], label_type: LabelType) -> TaskRows:
    data = [LabelledRows([(f"{n}",) for n in range(len(one))], one, [], []) for one in (labels, valid)]
    data = [replace(one, where=["a"] * len(one), groups=["a"] * len(one)) for one in data]
    return TaskRows("classification", label_type, Columns(["text"], ["label"]), *data)


def test_the_label_type_is_the_samples() -> None:
    """But for the names: a class that only validation rows have cannot be learned, yet its rows are scored."""
    known = ClassLabels(["a", "b", "c"], ["a"])
    found = with_sample(rows_of(["a", "a", "b"], ["c"], known), 2, 1)
    assert (found.label_type, found.valid.labels) == (ClassLabels(["a", "b", "c"], ["a"]), ["c"])
    scores = with_sample(rows_of([1.0, 3.0, 3.0, 3.0], [1.0], ScoreLabels(2.5, 1.0)), 4, 1)
    assert scores.label_type == ScoreLabels(2.5, pytest.approx(np.sqrt(0.75)))
    with pytest.raises(UserError, match="a sample of 2 training rows, with seed 1, holds only the number 3"):
        with_sample(rows_of([3.0] * 9 + [1.0], [1.0], ScoreLabels(2.8, 0.6)), 2, 1)


def test_a_guess_is_worked_out_by_hand() -> None:
    assert guess(ClassLabels(["x", "y"]), ["x", "x", "x", "y"], 0).tolist() == [0.75, 0.25]
    assert guess(ChoiceLabels(), [2, 2, 0], 4).tolist() == pytest.approx([1 / 3, 0, 2 / 3, 0])
    assert guess(ScoreLabels(3.0, 2.0), [1.0, 5.0], 0).tolist() == [3.0]
    sets = [frozenset("a"), frozenset("ab")]
    assert guess(LabelSets(["a", "b"], [0.5, 0.5]), sets, 0).tolist() == [1.0, 0.5]
