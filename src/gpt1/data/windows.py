"""Training windows out of a stream of tokens: the batch of a step is a pure function of (seed, step).

The stream is a ring, since an end token closes its last document. An epoch lays a grid of windows over the ring
at a random phase and visits the windows in a keyed order that needs no memory: every token is predicted once an
epoch, none is lost, none comes twice, and going on at step s needs nothing but s.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from gpt1.batch import IGNORE, Batch


class Stream(Protocol):
    """A long sequence of token ids; see `data.shards.TokenStream`."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """ids[start:stop] as int64."""


class Ids:
    """Token ids in memory, as a stream."""

    def __init__(self, ids: Sequence[int] | np.ndarray) -> None:
        self.ids = np.asarray(ids, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> np.ndarray:
        """ids[start:stop]."""
        return self.ids[start:stop]


class Windows:
    """`windows(step)` gives the step's micro-batches of `batch` windows of `context` tokens."""

    def __init__(self, stream: Stream, context: int, batch: int, micro_batch: int, seed: int) -> None:
        self.stream, self.context, self.batch, self.micro_batch, self.seed = stream, context, batch, micro_batch, seed
        self.per_epoch = -(-len(stream) // context)

    def __call__(self, step: int) -> list[Batch]:
        numbers = range(step * self.batch, (step + 1) * self.batch)
        rows = np.stack([self.window(number) for number in numbers])
        # An IGNORE id may only be a target; as an input, after the last target, any token will do.
        tokens, targets = rows[:, :-1].clip(min=0), rows[:, 1:].copy()
        parts = (slice(low, low + self.micro_batch) for low in range(0, self.batch, self.micro_batch))
        return [_batch(tokens[part], targets[part]) for part in parts]

    def window(self, number: int) -> np.ndarray:
        """Window `number` since the start of training: context + 1 ids; IGNORE after the ring's last token."""
        epoch, turn = divmod(number, self.per_epoch)
        size = len(self.stream)
        phase = keyed_number(self.seed, epoch, 0) % size
        start = permutation(turn, self.per_epoch, keyed_number(self.seed, epoch, 1)) * self.context
        stop = min(start + self.context, size)
        # The first id is the window's context for its first prediction: the one before it on the ring.
        ids = read_ring(self.stream, phase + start - 1, stop - start + 1)
        return np.pad(ids, (0, self.context + 1 - len(ids)), constant_values=IGNORE)


def strided(stream: Stream, context: int, before: int, batch: int, limit: int = 0) -> Iterator[Batch]:
    """Windows that predict every token of the stream once, each (but the first) after half a context or more.

    They start half a context apart and all but the first predict only their second half. Token `before` stands
    before the stream. `limit` takes that many windows, evenly spaced, instead of all.
    """
    stride = context // 2
    count = 1 + -(-max(0, len(stream) - context) // stride)
    chosen = range(count) if not 0 < limit < count else np.linspace(0, count - 1, limit).astype(int).tolist()
    rows = (_strided_row(stream, context, before, int(number)) for number in chosen)
    while block := list(itertools.islice(rows, batch)):
        yield _batch(*(np.stack(side) for side in zip(*block, strict=True)))


def _strided_row(stream: Stream, context: int, before: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    start, known = number * (context // 2), 0 if number == 0 else context - context // 2
    targets = stream.read(start, min(start + context, len(stream)))
    first = before if start == 0 else stream.read(start - 1, start)[0]
    tokens = np.concatenate([[first], targets[:-1]])
    scored = np.where(np.arange(len(targets)) < known, IGNORE, targets)
    missing = (0, context - len(targets))
    return np.pad(tokens, missing), np.pad(scored, missing, constant_values=IGNORE)


def read_ring(stream: Stream, start: int, count: int) -> np.ndarray:
    """`count` ids from position `start`, going round at the end."""
    pieces, start = [], start % len(stream)
    while count > 0:
        pieces.append(stream.read(start, min(start + count, len(stream))))
        count, start = count - len(pieces[-1]), 0
    return np.concatenate(pieces)


def keyed_number(*key: int) -> int:
    """A 64-bit number that looks random and depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def permutation(index: int, size: int, key: int) -> int:
    """Where `index` goes under the keyed permutation of 0 .. size - 1.

    Four Feistel rounds permute the smallest square of a power of two that holds `size`; walking the cycle until it
    is back inside `size` makes that a permutation of `size` (Black and Rogaway 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    while True:
        left, right = index >> half, index & ((1 << half) - 1)
        for turn in range(4):
            left, right = right, left ^ (keyed_number(key, turn, right) & ((1 << half) - 1))
        index = left << half | right
        if index < size:
            return index


def _batch(tokens_NT: np.ndarray, targets_NT: np.ndarray) -> Batch:
    return Batch(tokens_NKT=torch.from_numpy(tokens_NT)[:, None], targets_NKT=torch.from_numpy(targets_NT)[:, None])
