"""Which text validates: chosen files, whole documents by seeded hash, or the tail of the only document."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from gpt1.data.documents import Block
from gpt1.errors import UserError

Marked = tuple[Block, np.ndarray]
"""A block, and which of its texts validate: bool (texts,)."""


@dataclass(frozen=True)
class Survey:
    """What one reading of a corpus found."""

    documents: int
    empty: int
    characters: int
    bytes: int
    """as UTF-8"""
    limit: float
    """documents that drew a smaller number validate"""
    chosen: int
    """how many those are"""


def survey(blocks: Iterable[Block], fraction: float, seed: int) -> Survey:
    """Read a corpus through and draw lots for validation: `fraction` of the documents, one at least."""
    documents = empty = characters = size = chosen = 0
    smallest = math.inf
    for block in blocks:
        drawn = draw(seed, documents, block.ends)
        smallest = min(smallest, drawn.min(initial=math.inf))
        chosen += int((drawn < fraction).sum())
        documents, empty = documents + block.ends, empty + block.empty
        characters += sum(map(len, block.texts))
        size += sum(map(utf8_size, block.texts))
    limit = fraction if chosen else math.nextafter(smallest, math.inf)
    return Survey(documents, empty, characters, size, limit, max(1, chosen))


def check(found: Survey, fraction: float) -> None:
    """Raise UserError if `hold_out` would leave one side empty."""
    if found.documents > 1 and found.chosen == found.documents:
        raise UserError(
            f"all {found.documents} documents were drawn for validation; lower --val-fraction or change --seed"
        )
    if found.documents == 1 and (fraction * found.characters < 1 or _place(found, fraction) < 1):
        raise UserError(
            f"one document of {found.characters} characters is too small to keep {fraction:g} of it for validation; "
            "add text, raise --val-fraction, or give --val FILE"
        )


def hold_out(blocks: Iterable[Block], found: Survey, fraction: float, seed: int) -> Iterator[Marked]:
    """Mark what validates: the documents that drew the lot or, of a single document, its last `fraction`.

    A document's lot depends on the seed and its number alone.
    """
    if found.documents > 1:
        return _by_lot(blocks, found.limit, seed)
    return _by_place(blocks, _place(found, fraction))


def _place(found: Survey, fraction: float) -> int:
    return int((1 - fraction) * found.characters)


def all_marked(blocks: Iterable[Block], validates: bool) -> Iterator[Marked]:
    """Every text on one side."""
    for block in blocks:
        yield block, np.full(len(block.texts), validates)


def _by_lot(blocks: Iterable[Block], limit: float, seed: int) -> Iterator[Marked]:
    first = 0
    for block in blocks:
        yield block, draw(seed, first, len(block.texts)) < limit
        first += block.ends


def _by_place(blocks: Iterable[Block], place: int) -> Iterator[Marked]:
    """The only document, cut once: its first `place` characters train, as a document of their own."""
    for block in blocks:
        text = "".join(block.texts)
        if 0 < place < len(text):
            begun = block.html or "<" in text[:place]
            yield replace(block, texts=[text[:place]], goes_on=False), np.array([False])
            yield replace(block, texts=[text[place:]], empty=0, html=begun), np.array([True])
        elif place == len(text):
            yield replace(block, goes_on=False), np.array([False])
        else:
            yield block, np.full(len(block.texts), place <= 0)
        place -= len(text)


def draw(seed: int, first: int, count: int) -> np.ndarray:
    """A number in [0, 1) for each of the documents first .. first + count - 1: float64 (count,).

    SplitMix64 (Steele, Lea and Flood 2014) of the document's number, from a place that the seed chooses.
    """
    with np.errstate(over="ignore"):
        start = _mix(np.array([seed % 2**64], np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        numbers = np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)
        return (_mix(start + numbers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def utf8_size(text: str) -> int:
    """Bytes of `text` as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
