"""Collate examples into right-padded batches with little padding.

The batch of step s is a pure function of (seed, s), as in pre-training. An epoch is a random permutation of the
examples, cut into chunks; within a chunk, examples of similar length share a batch. The batches come in random order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from gpt1.batch import IGNORE, Batch

CHUNK = 128  # batches whose examples are sorted by length together; less than 2 % of real sentences is then padding
MICRO_TOKENS = 8192  # tokens, with padding, of a forward pass; activations of a 117M model then fit a laptop's memory
# A class or the index of the right sequence; a standardized score; 0 or 1 for each of several labels.
Label = int | float | list[float]


@dataclass(frozen=True)
class Example:
    """K sequences of token ids, each ending in the extract token, and their label."""

    sequences: list[list[int]]
    label: Label | None = None
    weight: float | None = None
    """weight in the losses; only the ratios to other examples matter; None: equal weights"""

    @property
    def length(self) -> int:
        """Number of tokens in the longest sequence."""
        return max(map(len, self.sequences))


def rounded(length: int, limit: int) -> int:
    """Round `length` up by at most a sixteenth (or one token), but not beyond `limit`.

    There are sixteen results between a power of two and the next. On CPUs, oneDNN compiles and caches kernels for every
    new shape of a batch, so few shapes save time and memory.
    """
    step = 1 << max(1, length.bit_length() - 5)
    return min(-(-length // step) * step, limit)


def collate(examples: Sequence[Example], pad_id: int, limit: int) -> Batch:
    """Return a Batch (N, K, T) with T at most `limit`. The target of each token is the next one, extract included."""
    T = rounded(max(e.length for e in examples), limit)
    K = max(len(e.sequences) for e in examples)
    tokens_NKT = np.full((len(examples), K, T), pad_id, np.int64)
    targets_NKT = np.full((len(examples), K, T), IGNORE, np.int64)
    extract_NK, real_NK = np.zeros((len(examples), K), np.int64), np.zeros((len(examples), K), np.bool_)
    for n, example in enumerate(examples):
        for k, ids in enumerate(example.sequences):
            tokens_NKT[n, k, : len(ids)] = ids
            targets_NKT[n, k, : len(ids) - 1] = ids[1:]
            extract_NK[n, k], real_NK[n, k] = len(ids) - 1, True
    labels = [e.label for e in examples if e.label is not None]
    weights = [e.weight for e in examples if e.weight is not None]
    return Batch(
        tokens_NKT=torch.from_numpy(tokens_NKT),
        targets_NKT=torch.from_numpy(targets_NKT),
        extract_NK=torch.from_numpy(extract_NK),
        real_NK=torch.from_numpy(real_NK),
        labels_N=torch.tensor(labels) if labels else None,
        weights_N=torch.tensor(weights, dtype=torch.float32) if weights else None,
    )


class Epochs:
    """Fine-tuning batches: `epochs(step)` returns `batch` examples as a list of micro-batches.

    A micro-batch has `micro_batch` examples or, if that is 0, as many as fit in `MICRO_TOKENS`. With a `part`, only
    those examples of each batch are returned, which may be none of the last batch of an epoch.
    """

    def __init__(
        self, examples: Sequence[Example], batch: int, micro_batch: int, pad_id: int, seed: int,
        part: slice = slice(None),
    ) -> None:  # fmt: skip
        self.examples, self.batch, self.micro_batch, self.pad_id, self.seed = examples, batch, micro_batch, pad_id, seed
        self.part = part
        self.lengths = np.array([example.length for example in examples])
        self.longest = int(self.lengths.max())
        self.per_epoch = -(-len(examples) // batch)
        self._order = lru_cache(maxsize=1)(self._epoch)

    def __call__(self, step: int) -> list[Batch]:
        epoch, index = divmod(step, self.per_epoch)
        return self._collated([self.examples[i] for i in self._order(epoch)[index][self.part]])

    def largest(self) -> list[Batch]:
        """Return as many of the longest examples as a part of a batch has, in micro-batches: none need more memory."""
        rows = max(1, len(range(self.batch)[self.part]))
        return self._collated([self.examples[i] for i in by_length(self.examples, rows)[0]])

    def _collated(self, chosen: Sequence[Example]) -> list[Batch]:
        widest = max((rounded(e.length, self.longest) * len(e.sequences) for e in chosen), default=1)
        rows = self.micro_batch or max(1, MICRO_TOKENS // widest)
        return [collate(chosen[low : low + rows], self.pad_id, self.longest) for low in range(0, len(chosen), rows)]

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.examples))
        size = CHUNK * self.batch
        batches = []
        for low in range(0, len(order), size):
            chunk = order[low : low + size]
            chunk = chunk[np.argsort(self.lengths[chunk], kind="stable")]
            batches += [chunk[at : at + self.batch] for at in range(0, len(chunk), self.batch)]
        return [batches[i] for i in random.permutation(len(batches))]


def by_length(examples: Sequence[Example], batch: int) -> list[list[int]]:
    """Return the examples' indices in batches of similar length, longest first: memory runs out at once, if at all."""
    order = sorted(range(len(examples)), key=lambda i: -examples[i].length)
    return [order[low : low + batch] for low in range(0, len(order), batch)]
