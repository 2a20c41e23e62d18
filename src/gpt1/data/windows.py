"""Cut training windows from a stream of tokens. The batch of a step is a pure function of (seed, step).

The stream is treated as a ring, since an end token closes its last document. Each epoch lays a grid of windows over the
ring at a random offset, and visits them in a keyed order that needs no memory. So every token is predicted exactly once
per epoch, and training can continue at any step.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from gpt1.batch import IGNORE, Batch


class Stream(Protocol):
    """A long sequence of token ids, such as `data.shards.TokenStream`."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return ids[start:stop] as int64."""


class Ids:
    """A stream of token ids in memory."""

    def __init__(self, ids: Sequence[int] | np.ndarray) -> None:
        self.ids = np.asarray(ids, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return ids[start:stop] as int64."""
        return self.ids[start:stop]


class Windows:
    """Pre-training batches: `windows(step)` returns `batch` windows of `context` tokens as a list of micro-batches.

    With a `part`, it returns those windows of each batch.
    """

    def __init__(
        self, stream: Stream, context: int, batch: int, micro_batch: int, seed: int, part: slice = slice(None)
    ) -> None:
        self.stream, self.context, self.batch, self.micro_batch, self.seed = stream, context, batch, micro_batch, seed
        self.part = part
        self.per_epoch = -(-len(stream) // context)

    def __call__(self, step: int) -> list[Batch]:
        numbers = range(step * self.batch, (step + 1) * self.batch)[self.part]
        rows = np.stack([self.window(number) for number in numbers])
        # IGNORE is not a token id. As an input it stands only after the last target, where any id will do.
        tokens, targets = rows[:, :-1].clip(min=0), rows[:, 1:].copy()
        parts = (slice(low, low + self.micro_batch) for low in range(0, len(rows), self.micro_batch))
        return [_batch(tokens[part], targets[part]) for part in parts]

    def window(self, number: int) -> np.ndarray:
        """Return window `number`, counted from the start of training: context + 1 ids, padded with IGNORE."""
        epoch, index = divmod(number, self.per_epoch)
        size = len(self.stream)
        offset = keyed_number(self.seed, epoch, 0) % size
        start = permutation(index, self.per_epoch, keyed_number(self.seed, epoch, 1)) * self.context
        stop = min(start + self.context, size)
        # One more id, the one before the window: the first prediction needs an input.
        ids = read_ring(self.stream, offset + start - 1, stop - start + 1)
        return np.pad(ids, (0, self.context + 1 - len(ids)), constant_values=IGNORE)


def strided(
    stream: Stream, context: int, before: int, batch: int, limit: int = 0, part: slice = slice(None)
) -> Iterator[Batch]:
    """Yield batches of windows that predict every token of the stream once, for evaluation.

    The windows start half a context apart, and all but the first predict only their second half, so every prediction
    has at least half a context. `before` is the token before the stream. With `limit`, only that many windows are
    taken, evenly spaced; with a `part`, only those of them.
    """
    count = strided_count(len(stream), context)
    chosen = range(count) if not 0 < limit < count else np.linspace(0, count - 1, limit).astype(int).tolist()
    rows = (_strided_row(stream, context, before, int(number)) for number in chosen[part])
    while chunk := list(itertools.islice(rows, batch)):
        tokens, targets = zip(*chunk, strict=True)
        yield _batch(np.stack(tokens), np.stack(targets))


def strided_count(tokens: int, context: int) -> int:
    """Return the number of windows in which `strided` covers a stream of `tokens` tokens."""
    return 1 + -(-max(0, tokens - context) // (context // 2))


def _strided_row(stream: Stream, context: int, before: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of one window; the targets that an earlier window predicts are IGNORE."""
    start, predicted = number * (context // 2), 0 if number == 0 else context - context // 2
    targets = stream.read(start, min(start + context, len(stream)))
    first = before if start == 0 else stream.read(start - 1, start)[0]
    tokens = np.concatenate([[first], targets[:-1]])
    scored = np.where(np.arange(len(targets)) < predicted, IGNORE, targets)
    padding = (0, context - len(targets))
    return np.pad(tokens, padding), np.pad(scored, padding, constant_values=IGNORE)


def read_ring(stream: Stream, start: int, count: int) -> np.ndarray:
    """Return `count` ids from position `start`, continuing at the beginning after the end."""
    pieces, start = [], start % len(stream)
    while count > 0:
        pieces.append(stream.read(start, min(start + count, len(stream))))
        count, start = count - len(pieces[-1]), 0
    return np.concatenate(pieces)


def keyed_number(*key: int) -> int:
    """Return a pseudo-random 64-bit number that depends only on the key."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def permutation(index: int, size: int, key: int) -> int:
    """Return the image of `index` under a keyed permutation of 0 .. size - 1.

    Four Feistel rounds permute the smallest power of four that is at least `size`. Following the cycle until it is
    below `size` again makes this a permutation of `size` elements (Black and Rogaway 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    while True:
        left, right = index >> half, index & ((1 << half) - 1)
        for number in range(4):
            left, right = right, left ^ (keyed_number(key, number, right) & ((1 << half) - 1))
        index = left << half | right
        if index < size:
            return index


def _batch(tokens_NT: np.ndarray, targets_NT: np.ndarray) -> Batch:
    return Batch(tokens_NKT=torch.from_numpy(tokens_NT)[:, None], targets_NKT=torch.from_numpy(targets_NT)[:, None])
