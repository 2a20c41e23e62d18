"""Encode many texts fast: encode each distinct word once, then gather its ids at every occurrence.

The ids are those of `Tokenizer.encode`, because both split text with one pattern, whose words do not depend on their
surroundings (`tokenizer.pretokenize`). polars splits text into words and numbers them, numpy gathers the ids. Both
release the GIL, so there is one thread per core. Apart from the ids, memory holds a few megabytes of text per thread.
"""

import functools
import re
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpt1.tokenizer.pretokenize import PATTERNS
from gpt1.tokenizer.tokenizer import Tokenizer, replace_surrogates

PIECE = 2_000_000  # characters that one thread works on at once
# Distinct words in the cache, and ids of these words (which may be long); a larger cache is emptied.
MAX_WORDS = 1_000_000
MAX_IDS = 16 * MAX_WORDS

Piece = list[tuple[int, str]]  # texts, or parts of texts, each with the index of the text it belongs to
Ids = NDArray[np.uint32]
Counts = NDArray[np.int64]

_LINE_END = re.compile(r"[^\r\n]\n")
# For each kind, characters after which a word ends in any surroundings.
_BORDERS = {
    # Before a blank; before and after digits, which share a word only with a blank; between a mark and a letter.
    "bytes": re.compile(
        r"[^ \t\x0b\x0c](?= )|[^ 0-9](?=[0-9])|[0-9](?=[^0-9])|[,.;:?!、。，](?=[A-Za-z\u4e00-\u9fff])"
    ),
    "gpt1": re.compile(r"[^ \t\r\n](?=[ \t\r\n])"),
    "openai2018": re.compile("[^ ](?= )"),
}


def encode_bulk(tokenizer: Tokenizer, texts: list[str]) -> tuple[Ids, Counts]:
    """Return the ids of all texts in one array, and offsets: text i is `ids[offsets[i] : offsets[i + 1]]`.

    `offsets` has len(texts) + 1 entries. A custom tokenizer, whose words are unknown, encodes whole texts.
    """
    sizes = np.zeros(len(texts), np.int64)
    parts = [np.zeros(0, np.uint32)]
    if tokenizer.kind == "custom":
        parts += [np.asarray(ids, np.uint32) for ids in tokenizer.encode_batch(texts)]
        sizes[:] = [len(ids) for ids in parts[1:]]
    else:

        def encode(piece: Piece) -> tuple[list[int], Counts, Ids]:
            if _word_cache(tokenizer).full:
                _word_cache.cache_clear()
            return _word_cache(tokenizer).encode(piece)

        with ThreadPoolExecutor(pl.thread_pool_size()) as threads:
            standard = map(tokenizer.standardize, texts)
            for owners, lengths, ids in threads.map(encode, _pieces(standard, _BORDERS[tokenizer.kind])):
                np.add.at(sizes, owners, lengths)
                parts.append(ids)
    return np.concatenate(parts), np.concatenate(([0], np.cumsum(sizes)))


class _WordCache:
    """The ids of every word seen so far, in one array, looked up by the numbers that polars gives to words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._type = pl.Categorical(pl.Categories.random())
        # polars keeps the numbers as long as a series of this type exists; "" is never a word.
        self._first = pl.Series([""], dtype=self._type)
        self._start = np.full(1, -1)
        self._length = np.zeros(1, np.int32)
        self._ids: Ids = np.zeros(0, np.uint32)

    @property
    def full(self) -> bool:
        return len(self._start) > MAX_WORDS or len(self._ids) > MAX_IDS

    def encode(self, piece: Piece) -> tuple[list[int], Counts, Ids]:
        """Return the owner of each part of `piece`, its number of ids, and the ids of all."""
        parts = _series([text for _, text in piece]).str.extract_all(PATTERNS[self._tokenizer.kind])
        words = parts.explode().drop_nulls()
        numbered = words.cast(self._type)
        number = numbered.to_physical().to_numpy()
        start, length, ids = self._look_up(words, number)
        ids, ends = _gather(start[number], length[number], ids)
        word_ends = np.cumsum(parts.list.len().to_numpy(), dtype=np.int64)
        id_ends = np.concatenate(([0], ends))[word_ends]
        return [owner for owner, _ in piece], np.diff(id_ends, prepend=0), ids

    def _look_up(self, words: pl.Series, number: Ids) -> tuple[Counts, NDArray[np.int32], Ids]:
        """Add new words; return where the ids of each numbered word start, how many there are, and the ids.

        The arrays stay valid while other threads add words: entries of known words never change.
        """
        with self._lock:
            unseen = int(number.max(initial=0)) + 1 - len(self._start)
            if unseen > 0:
                start, length = np.full(unseen, -1), np.zeros(unseen, np.int32)
                self._start, self._length = np.concatenate((self._start, start)), np.concatenate((self._length, length))
            fresh = np.flatnonzero(self._start[number] < 0)
            if len(fresh):
                new, first = np.unique(number[fresh], return_index=True)
                lengths, ids = self._tokenizer.encode_words(words.gather(fresh[first]).to_list())
                place, self._ids = len(self._ids), np.concatenate((self._ids, ids))
                self._length[new] = lengths
                # Last, since this marks the words as known, and memory may run out before.
                self._start[new] = place + np.cumsum(lengths) - lengths
            return self._start, self._length, self._ids


_word_cache = functools.lru_cache(maxsize=2)(_WordCache)


def _gather(start: Counts, length: NDArray[np.int32], ids: Ids) -> tuple[Ids, Counts]:
    """Return `ids[start : start + length]` of every word, joined, and where each word's ids end in the result.

    Round k writes the k-th id of all words that have one. Most words have a single id, so the rounds shrink fast.
    """
    ends = np.cumsum(length, dtype=np.int64)
    place = ends - length
    out = np.empty(ends[-1] if len(ends) else 0, np.uint32)
    k = 0
    while len(more := np.flatnonzero(length > k)):
        if len(more) < len(length):
            start, place, length = start[more], place[more], length[more]
        out[place + k] = ids[start + k]
        k += 1
    return out, ends


def _pieces(texts: Iterable[str], border: re.Pattern[str]) -> Iterator[Piece]:
    piece: Piece = []
    size = 0
    for owner, text in enumerate(texts):
        for part in _parts(text, border):
            piece.append((owner, part))
            size += len(part)
            if size >= PIECE:
                yield piece
                piece, size = [], 0
    if piece:
        yield piece


def _parts(text: str, border: re.Pattern[str]) -> Iterator[str]:
    """Yield a long text in parts, cut where a word always ends: before a newline after another character, else at a
    `border`. A run of letters stays whole, since its words are counted from its beginning."""
    start = 0
    while len(text) - start > 2 * PIECE:
        found = _LINE_END.search(text, start + PIECE, start + 2 * PIECE) or border.search(text, start + PIECE)
        if not found:
            break
        # The match is one character; the border is after it.
        yield text[start : found.start() + 1]
        start = found.start() + 1
    yield text[start:] if start else text


def _series(texts: list[str]) -> pl.Series:
    """Return the texts as a series, with lone surrogates replaced, which polars cannot hold."""
    try:
        return pl.Series(texts, dtype=pl.String)
    except UnicodeEncodeError:
        return pl.Series([replace_surrogates(text) for text in texts], dtype=pl.String)
