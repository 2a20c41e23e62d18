"""The input transformations (the paper, figure 1), and what is cut from texts that do not fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.config import Long, Task
from gpt1.tasks.inputs import TASKS, Frame, Ids, fits, truncate

FRAME = Frame(start=100, delimiter=101, extract=102, context=9)
IDS = st.lists(st.integers(0, 99), max_size=40)
LONG = st.sampled_from(["head", "tail", "head+tail", "windows"])


@pytest.mark.parametrize(
    ("task", "texts", "expected"),
    [
        ("classification", [[7, 8]], [[100, 7, 8, 102]]),
        ("regression", [[]], [[100, 102]]),
        ("multi-label", [[7]], [[100, 7, 102]]),
        ("entailment", [[1], [2, 3]], [[100, 1, 101, 2, 3, 102]]),
        ("similarity", [[1], [2, 3]], [[100, 1, 101, 2, 3, 102], [100, 2, 3, 101, 1, 102]]),
        ("multiple-choice", [[1], [2, 3], [4], [5]], [[100, 1, 101, a, 102] for a in (4, 5)]),
    ],
)
def test_figure_1(task: Task, texts: list[Ids], expected: list[Ids]) -> None:
    found = TASKS[task](texts, FRAME)
    assert found[-len(expected) :] == expected
    assert len(found) == (len(texts) - 1 if task == "multiple-choice" else len(expected))


@pytest.mark.parametrize(
    ("texts", "long", "expected"),
    [
        ([[1, 2, 3]], "head", [[[1, 2, 3]]]),
        ([list(range(10))], "head", [[[0, 1, 2, 3, 4, 5, 6]]]),
        ([list(range(10))], "tail", [[[3, 4, 5, 6, 7, 8, 9]]]),
        ([list(range(10))], "head+tail", [[[0, 1, 2, 3, 7, 8, 9]]]),
        (
            [list(range(16))],
            "windows",
            [[[0, 1, 2, 3, 4, 5, 6]], [[7, 8, 9, 10, 11, 12, 13]], [[9, 10, 11, 12, 13, 14, 15]]],
        ),
        ([list(range(9)), [50, 51]], "head", [[[0, 1, 2, 3], [50, 51]]]),
        ([[50, 51], list(range(9))], "tail", [[[50, 51], [5, 6, 7, 8]]]),
        ([[50, 51], list(range(8))], "windows", [[[50, 51], [0, 1, 2, 3]], [[50, 51], [4, 5, 6, 7]]]),
        ([list(range(9)), [50] * 9], "head", [[[0, 1, 2], [50] * 3]]),
        ([list(range(9)), [50], [60, 61], [70]], "head", [[[0, 1, 2, 3], [50], [60, 61], [70]]]),
    ],
)
def test_what_is_cut_by_hand(texts: list[Ids], long: Long, expected: list[list[Ids]]) -> None:
    """Nine tokens of context: seven for a text, six for two."""
    assert truncate(texts, FRAME, long) == expected


@given(st.sampled_from(sorted(TASKS)), st.lists(IDS, min_size=4, max_size=4), st.integers(7, 30), LONG)
def test_every_sequence_fits(task: Task, drawn: list[Ids], context: int, long: Long) -> None:
    frame = Frame(100, 101, 102, context)
    texts = drawn if task == "multiple-choice" else drawn[: 2 if task in ("entailment", "similarity") else 1]
    versions = truncate(texts, frame, long)
    for version in versions:
        assert all(len(ids) <= context and ids[0] == 100 and ids[-1] == 102 for ids in TASKS[task](version, frame))
    assert fits(texts, frame) == (versions == [texts])
    assert len(versions) == 1 or long == "windows"


@given(IDS, st.integers(3, 12))
def test_windows_show_everything_once_over(text: Ids, context: int) -> None:
    frame = Frame(100, 101, 102, context)
    numbered = list(range(len(text)))
    seen = [window for (window,) in truncate([numbered], frame, "windows")]
    assert sorted({i for window in seen for i in window}) == numbered
    assert len(seen) == max(1, -(-len(text) // (context - 2)))


@given(IDS, IDS, st.integers(4, 30))
def test_the_shorter_of_two_loses_nothing_if_it_fits_in_half(one: Ids, other: Ids, context: int) -> None:
    ((kept_one, kept_other),) = truncate([one, other], Frame(100, 101, 102, context))
    half = (context - 3) // 2
    assert len(kept_one) >= min(len(one), half)
    assert len(kept_other) >= min(len(other), half)
    assert len(kept_one) + len(kept_other) == min(len(one) + len(other), context - 3)
