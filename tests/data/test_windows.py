"""Windows: nothing lost, nothing twice, and no memory needed to go on."""

import hashlib
import tracemalloc
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpt1.batch import IGNORE
from gpt1.data.windows import Windows, permutation, strided


class Ring:
    """A stream whose ids are its positions."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, min(stop, self.size))


@given(st.integers(1, 300), st.integers(0, 2**60))
def test_permutation_is_one(size: int, key: int) -> None:
    assert sorted(permutation(i, size, key) for i in range(size)) == list(range(size))


@given(st.integers(2, 200), st.integers(2, 20), st.integers(0, 5))
def test_an_epoch_predicts_every_token_once(size: int, context: int, seed: int) -> None:
    windows = Windows(Ring(size), context, batch=1, micro_batch=1, seed=seed)
    for epoch in range(2):
        seen: Counter[int] = Counter()
        for number in range(epoch * windows.per_epoch, (epoch + 1) * windows.per_epoch):
            ids = windows.window(number)
            targets = ids[1:][ids[1:] != IGNORE]
            seen.update(targets.tolist())
            assert ((targets - ids[: len(targets)]) % size == 1 % size).all()
        assert seen == Counter(range(size))


@given(st.integers(20, 400), st.integers(2, 9), st.integers(1, 4), st.integers(0, 5))
def test_any_number_of_processes_reads_the_same_tokens_in_the_same_order(
    size: int, context: int, eighths: int, seed: int
) -> None:
    """Two epochs for 1, 2, 4 and 8 processes, each of which takes its slice of every batch: none lost, none twice."""
    batch, orders = 8 * eighths, []
    for world in (1, 2, 4, 8):
        windows = Windows(Ring(size), context, batch, batch // world, seed)  # a process's share is a micro-batch
        seen: list[int] = []
        for step in range(-(-2 * windows.per_epoch // batch)):
            shares = windows(step)
            assert len(shares) == world
            for share in shares:
                seen += [number for row in share.targets_NKT[:, 0].tolist() for number in row]
        # Of whole windows, two epochs; the last batch may reach into the third.
        seen = seen[: 2 * windows.per_epoch * context]
        assert Counter(token for token in seen if token != IGNORE) == Counter([*range(size), *range(size)])
        orders.append(hashlib.sha256(np.array(seen).tobytes()).hexdigest())
    assert len(set(orders)) == 1


def test_epochs_differ_and_steps_need_no_memory() -> None:
    windows = Windows(Ring(1000), 10, batch=8, micro_batch=3, seed=1)
    first, again = windows(7), Windows(Ring(1000), 10, batch=8, micro_batch=3, seed=1)(7)
    assert [len(batch.tokens_NKT) for batch in first] == [3, 3, 2]
    assert all((a.tokens_NKT == b.tokens_NKT).all() for a, b in zip(first, again, strict=True))
    orders = [[int(windows.window(epoch * 100 + i)[1]) for i in range(100)] for epoch in range(2)]
    assert orders[0] != orders[1]


def test_a_trillion_tokens_take_as_little_memory() -> None:
    windows = Windows(Ring(10**12), 512, batch=64, micro_batch=8, seed=1)
    tracemalloc.start()
    try:
        targets_NT = np.concatenate([part.targets_NKT[:, 0] for part in windows(windows.per_epoch // 64 - 1)])
        assert tracemalloc.get_traced_memory()[1] < 64 * 512 * 8 * 10
    finally:
        tracemalloc.stop()
    assert (np.diff(targets_NT) == 1).all()
    assert len({int(first) // 10**10 for first in targets_NT[:, 0]}) > 32, "from everywhere"


@given(st.integers(1, 200), st.integers(2, 20), st.integers(1, 4))
def test_sliding_windows_predict_every_token_once(size: int, context: int, batch: int) -> None:
    seen: list[int] = []
    for part in strided(Ring(size), context, before=999, batch=batch):
        tokens, targets = part.tokens_NKT[:, 0].numpy(), part.targets_NKT[:, 0].numpy()
        for row, (inputs, outputs) in enumerate(zip(tokens, targets, strict=True)):
            scored = outputs != IGNORE
            assert (inputs[scored] == np.where(outputs[scored] == 0, 999, outputs[scored] - 1)).all()
            first = not seen and row == 0
            assert first or scored.argmax() >= context // 2
            seen += outputs[scored].tolist()
    assert seen == list(range(size))


def test_a_limit_takes_windows_from_everywhere() -> None:
    targets = np.concatenate([b.targets_NKT.numpy().ravel() for b in strided(Ring(1000), 10, 0, 4, limit=5)])
    targets = targets[targets != IGNORE]
    assert len(set(targets)) == len(targets) < 60
    assert targets.min() == 0
    assert targets.max() == 999
