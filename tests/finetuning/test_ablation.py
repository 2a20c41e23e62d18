"""Samples and guesses of an ablation; its table is tested with the command."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.errors import UserError
from gpt1.finetuning.ablation import guess, sample
from gpt1.tasks.labels import ChoiceLabels, ClassLabels, LabelSets, ScoreLabels
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
        with pytest.raises(UserError, match=f"it takes {len(goal.names)} rows"):
            sample(rows, goal, 2, seed)


def test_a_guess_is_worked_out_by_hand() -> None:
    assert guess(ClassLabels(["x", "y"]), ["x", "x", "x", "y"], 0).tolist() == [0.75, 0.25]
    assert guess(ChoiceLabels(), [2, 2, 0], 4).tolist() == pytest.approx([1 / 3, 0, 2 / 3, 0])
    assert guess(ScoreLabels(3.0, 2.0), [1.0, 5.0], 0).tolist() == [3.0]
    sets = [frozenset("a"), frozenset("ab")]
    assert guess(LabelSets(["a", "b"], [0.5, 0.5]), sets, 0).tolist() == [1.0, 0.5]
