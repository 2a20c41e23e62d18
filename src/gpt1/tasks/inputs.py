"""Input transformations (the paper, section 3.3 and figure 1): an example's texts -> the K sequences the model reads.

A task is a pure function from token ids to sequences; what is pooled from them is `model.objectives`' matter. To add
one, write its function and name it in `TASKS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt1.config import Long, Task

Ids = list[int]


@dataclass(frozen=True)
class Frame:
    """The tokens that stage two wraps texts in, and the room there is."""

    start: int
    delimiter: int
    extract: int
    context: int

    def wrap(self, *texts: Ids) -> Ids:
        """`start text extract`, or `start text delimiter text extract`."""
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
    """K = 2: neither text comes first by nature, so both orders."""
    one, other = texts
    return [frame.wrap(one, other), frame.wrap(other, one)]


def multiple_choice(texts: Sequence[Ids], frame: Frame) -> list[Ids]:
    """K = answers: `start context delimiter answer extract`, for the context and each of the answers after it."""
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


def fitted(texts: Sequence[Ids], frame: Frame, long: Long = "head") -> list[list[Ids]]:
    """The texts cut so that every sequence fits the context: one version, or with `windows` as many as show all.

    The first text shares its sequence with the longest of the others. If both are longer than half the room each gets
    a half, else the longer one is cut, so an answer loses nothing to a long story. Of an odd room the longer text gets
    the odd token, as `tokenizers` cuts pairs. Windows run over one of the first two texts, whichever loses more.
    """
    first, *others = texts
    longest = max(map(len, others), default=0)
    room = frame.context - 2 - bool(others)
    half = (room + (len(first) <= longest)) // 2
    rest = min(longest, max(half, room - len(first)))
    kept = [min(len(first), room - rest), *(min(len(text), rest) for text in others)]
    if long != "windows":
        return [[cut(text, size, long) for text, size in zip(texts, kept, strict=True)]]
    moving = max(range(min(2, len(texts))), key=lambda i: len(texts[i]) - kept[i])
    still = [text[:size] for text, size in zip(texts, kept, strict=True)]
    return [[*still[:moving], seen, *still[moving + 1 :]] for seen in windows(texts[moving], kept[moving])]


def cut(text: Ids, size: int, long: Long) -> Ids:
    """`size` tokens of a text: its head, its tail, or half of each."""
    if len(text) <= size:
        return text
    tail = {"tail": size, "head+tail": size // 2}.get(long, 0)
    return text[: size - tail] + text[len(text) - tail :]


def windows(text: Ids, size: int) -> list[Ids]:
    """Pieces of `size` tokens that cover the text, one after another; the last one ends where the text does."""
    if len(text) <= size:
        return [text]
    return [text[low : low + size] for low in [*range(0, len(text) - size, size), len(text) - size]]


def fits(texts: Sequence[Ids], frame: Frame) -> bool:
    """Whether nothing of the texts is cut off."""
    first, *others = texts
    return len(first) + max(map(len, others), default=0) <= frame.context - 2 - bool(others)
