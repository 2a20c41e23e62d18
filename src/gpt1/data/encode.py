"""Blocks of documents -> token ids of both splits."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np

from gpt1.data.documents import Block, Cut
from gpt1.data.split import Marked, utf8_size
from gpt1.tokenizer.bulk import encode_bulk
from gpt1.tokenizer.clean import repair
from gpt1.tokenizer.tokenizer import Tokenizer

WINDOW = 1000
"""Characters on either side of a cut that are encoded to prove it harmless."""
TRIES = 100
"""Places tried of each kind."""


@dataclass(frozen=True)
class Part:
    """What a block adds to one split."""

    ids: np.ndarray
    documents: int
    """documents that end in `ids`, an end token closing each"""
    bytes: int
    """UTF-8 bytes of the text, before it was mended"""
    unknown: int
    """ids that stand for what the tokenizer does not know"""


def encode(marked: Iterable[Marked], tokenizer: Tokenizer, mend: bool) -> Iterator[tuple[Part, Part]]:
    """The training and the validation part of each block, in order. With `mend`, texts are repaired first.

    A thread encodes one block, mostly without Python's lock, while the next is read and repaired, which needs it.
    """
    with ThreadPoolExecutor(1) as thread:
        waiting: Future[tuple[Part, Part]] | None = None
        for block, validates in marked:
            texts = mended(block) if mend else block.texts
            before, waiting = waiting, thread.submit(encode_block, block, validates, texts, tokenizer)
            if before:
                yield before.result()
        if waiting:
            yield waiting.result()


def encode_block(block: Block, validates: np.ndarray, texts: list[str], tokenizer: Tokenizer) -> tuple[Part, Part]:
    """The ids of a block, whose repaired texts are `texts`, with an end token after each document that ends."""
    ids, offsets = encode_bulk(tokenizer, texts)
    lengths = np.diff(offsets)
    lengths[: block.ends] += 1
    ids = np.insert(ids, offsets[1 : block.ends + 1], tokenizer.end_id)
    sizes = np.array([utf8_size(text) for text in block.texts], np.int64)
    of_val = np.repeat(validates, lengths)
    train = _part(tokenizer, ids[~of_val], sizes, ~validates, block.ends)
    return train, _part(tokenizer, ids[of_val], sizes, validates, block.ends)


def mended(block: Block) -> list[str]:
    """The texts of a block, repaired as their whole documents would be."""
    return [repair(text, html=block.html and number == 0) for number, text in enumerate(block.texts)]


def _part(tokenizer: Tokenizer, ids: np.ndarray, sizes: np.ndarray, mine: np.ndarray, ends: int) -> Part:
    unknown = 0 if tokenizer.unknown_id is None else int((ids == tokenizer.unknown_id).sum())
    return Part(ids, int(mine[:ends].sum()), int(sizes[mine].sum()), unknown)


def proven_cut(tokenizer: Tokenizer, mend: bool) -> Cut:
    """A `Cut` that changes no id: the two sides, mended and encoded apart, give what they give together.

    Both our tokenizers end a word where white space follows something else, and mending works line by line, so the
    last such line end will do; a space is second best, for a text without lines. That is not trusted but tried, with
    `WINDOW` characters on either side, since a tokenizer may be anyone's.
    """

    def ids(text: str) -> list[int]:
        return tokenizer.encode(repair(text) if mend else text)

    def cut(text: str) -> int:
        for at in chain(_places(text, "\n"), _places(text, " ")):
            left, right = text[max(0, at - WINDOW) : at], text[at : at + WINDOW]
            if ids(left) + ids(right) == ids(left + right):
                return at
        return 0

    return cut


def _places(text: str, mark: str) -> Iterator[int]:
    """Where `mark` follows something that is no white space, from the end of `text`, not too close to it."""
    at = len(text) - WINDOW
    for _ in range(TRIES):
        at = text.rfind(mark, 0, max(0, at))
        if at <= 0:
            return
        before = at - 1 if text[at - 1 : at + 1] == "\r\n" else at
        if before > 0 and not text[before - 1].isspace():
            yield before
