"""The input transformation of classification (the paper, figure 1)."""

from hypothesis import given
from hypothesis import strategies as st

from gpt1.data.tasks import Frame, classification, fits

IDS = st.lists(st.integers(0, 99), max_size=40)


def test_classification() -> None:
    frame = Frame(start=100, delimiter=101, extract=102, context=6)
    assert classification([7, 8, 9], frame) == [[100, 7, 8, 9, 102]]
    assert classification([], frame) == [[100, 102]]
    assert classification([1, 2, 3, 4, 5, 6], frame) == [[100, 1, 2, 3, 4, 102]]


@given(IDS, st.integers(2, 30))
def test_what_does_not_fit_loses_its_end(text: list[int], context: int) -> None:
    frame = Frame(100, 101, 102, context)
    (sequence,) = classification(text, frame)
    assert len(sequence) <= context
    assert (sequence[0], sequence[-1]) == (100, 102)
    kept = sequence[1:-1]
    assert kept == text[: len(kept)]
    assert fits(text, frame) == (kept == text)
