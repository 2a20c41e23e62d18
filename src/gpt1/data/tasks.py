"""Input transformations (the paper, section 3.3 and figure 1): an example's texts -> the sequences the model reads.

A task is a pure function from token ids to K sequences; what is pooled from them is `nn.objectives`' matter. All that
classification needs is `start text extract`; a task with two texts puts the delimiter between them.
"""

from dataclasses import dataclass

Ids = list[int]


@dataclass(frozen=True)
class Frame:
    """The tokens that stage two wraps a text in, and the room there is."""

    start: int
    delimiter: int
    extract: int
    context: int


def classification(text: Ids, frame: Frame) -> list[Ids]:
    """K = 1: `start text extract`; of a text that does not fit, the head is kept."""
    return [[frame.start, *text[: frame.context - 2], frame.extract]]


def fits(text: Ids, frame: Frame) -> bool:
    """Whether nothing of the text is cut off."""
    return len(text) <= frame.context - 2
