"""Input transformations (the paper, section 3.3 and figure 1): the texts of an example -> the K sequences to read.

A transformation is a pure function of token ids; `model.objectives` pools the hidden states of its sequences. To add a
task, write its function and enter it in `TASKS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt1.config import Long, Task

Ids = list[int]


@dataclass(frozen=True)
class Frame:
    """The special tokens around texts, and the length that a sequence may have."""

    start: int
    delimiter: int
    extract: int
    context: int

    def wrap(self, *texts: Ids) -> Ids:
        """Return `start text extract`, or `start text delimiter text extract`."""
        first, *others = texts
        return [self.start, *first, *(i for text in others for i in (self.delimiter, *text)), self.extract]


def one_text(texts: Sequence[Ids], frame: Frame) -> list[Ids]:
    """K = 1: `start text extract`."""
    return [frame.wrap(texts[0])]


def entailment(texts: Sequence[Ids], frame: Frame) -> list[Ids]:
    """K = 1: `start premise delimiter hypothesis extract`."""
    premise, hypothesis = texts
    return [frame.wrap(premise, hypothesis)]


def similarity(texts: Sequence[Ids], frame: Frame) -> list[Ids]:
    """K = 2: both orders, since neither text comes first by nature."""
    one, other = texts
    return [frame.wrap(one, other), frame.wrap(other, one)]


def multiple_choice(texts: Sequence[Ids], frame: Frame) -> list[Ids]:
    """K = number of answers: `start context delimiter answer extract` for each; the context is the first text."""
    context, *answers = texts
    return [frame.wrap(context, answer) for answer in answers]


TASKS: dict[Task, Callable[[Sequence[Ids], Frame], list[Ids]]] = {
    "classification": one_text,
    "regression": one_text,
    "multi-label": one_text,
    "entailment": entailment,
    "similarity": similarity,
    "multiple-choice": multiple_choice,
}


def truncate(texts: Sequence[Ids], frame: Frame, long: Long = "head") -> list[list[Ids]]:
    """Cut the texts so that every sequence fits the context: return one version, with `windows` enough to cover all.

    The first text shares each sequence with one of the others, so it is cut for the longest of them. If both are longer
    than half the room, each gets half, otherwise only the longer one is cut: an answer loses nothing to a long context.
    If the room is odd, the longer text gets the odd token, as in the `tokenizers` library. Windows slide over
    whichever of the first two texts would lose more.
    """
    first, *others = texts
    longest = max(map(len, others), default=0)
    room = frame.context - 2 - bool(others)
    half = (room + (len(first) <= longest)) // 2
    rest = min(longest, max(half, room - len(first)))
    sizes = [min(len(first), room - rest), *(min(len(text), rest) for text in others)]
    if long != "windows":
        return [[_part(text, size, long) for text, size in zip(texts, sizes, strict=True)]]
    moving = max(range(min(2, len(texts))), key=lambda i: len(texts[i]) - sizes[i])
    fixed = [text[:size] for text, size in zip(texts, sizes, strict=True)]
    return [[*fixed[:moving], window, *fixed[moving + 1 :]] for window in _windows(texts[moving], sizes[moving])]


def fits(texts: Sequence[Ids], frame: Frame) -> bool:
    """Return whether `truncate` cuts nothing."""
    first, *others = texts
    return len(first) + max(map(len, others), default=0) <= frame.context - 2 - bool(others)


def _part(text: Ids, size: int, long: Long) -> Ids:
    """Return `size` tokens of a text: its head, its tail, or half of each."""
    if len(text) <= size:
        return text
    tail = {"tail": size, "head+tail": size // 2}.get(long, 0)
    return text[: size - tail] + text[len(text) - tail :]


def _windows(text: Ids, size: int) -> list[Ids]:
    """Return adjacent windows of `size` tokens that cover the text; the last one ends with it and may overlap."""
    if len(text) <= size:
        return [text]
    return [text[low : low + size] for low in [*range(0, len(text) - size, size), len(text) - size]]
