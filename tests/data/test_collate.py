"""Batches: right padding, what is a target, and an epoch that shows every example once, with almost no padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.batch import IGNORE, Batch
from gpt1.data import collate as collating
from gpt1.data.collate import Epochs, Example, by_length, collate, rounded

PAD = 9


def examples_of(lengths: list[int]) -> list[Example]:
    """One sequence each, of its own number repeated."""
    return [Example([[n] * length], label=n % 3) for n, length in enumerate(lengths)]


def seen(batches: list[Batch]) -> list[int]:
    """The numbers of the examples in the step's batches."""
    return [int(n) for batch in batches for n in batch.tokens_NKT[:, 0, 0]]


def test_a_batch_by_hand() -> None:
    batch = collate([Example([[1, 2, 3]], 1), Example([[4, 5]], 0)], PAD, 3)
    assert batch.tokens_NKT.tolist() == [[[1, 2, 3]], [[4, 5, PAD]]]
    assert batch.targets_NKT.tolist() == [[[2, 3, IGNORE]], [[5, IGNORE, IGNORE]]]
    assert batch.extract_NK is not None
    assert batch.extract_NK.tolist() == [[2], [1]]
    assert batch.labels_N is not None
    assert batch.labels_N.tolist() == [1, 0]
    assert batch.tokens_NKT.dtype == batch.targets_NKT.dtype == batch.labels_N.dtype == torch.int64


def test_examples_may_have_different_numbers_of_sequences() -> None:
    batch = collate([Example([[1, 2], [1, 3, 4]]), Example([[5, 6]])], PAD, 3)
    assert batch.tokens_NKT.tolist() == [[[1, 2, PAD], [1, 3, 4]], [[5, 6, PAD], [PAD, PAD, PAD]]]
    assert batch.real_NK is not None
    assert batch.real_NK.tolist() == [[True, True], [True, False]]
    assert (batch.targets_NKT[1, 1] == IGNORE).all()
    assert batch.labels_N is None


@given(st.integers(1, 2000), st.integers(0, 2000))
def test_few_lengths_and_little_padding(length: int, more: int) -> None:
    found = rounded(length, length + more)
    assert length <= found <= min(length + max(1, length / 16), length + more)


def test_sixteen_lengths_an_octave() -> None:
    assert len({rounded(length, 4096) for length in range(64, 128)}) == 17
    assert len({rounded(length, 4096) for length in range(1, 512)}) == 80


@given(
    st.lists(st.integers(2, 30), min_size=1, max_size=200),
    st.integers(1, 7), st.integers(1, 7), st.integers(0, 9),
)  # fmt: skip
def test_an_epoch_shows_every_example_once(lengths: list[int], batch: int, micro_batch: int, seed: int) -> None:
    epochs = Epochs(examples_of(lengths), batch, micro_batch, PAD, seed)
    for epoch in range(2):
        steps = [epochs(epoch * epochs.per_epoch + turn) for turn in range(epochs.per_epoch)]
        assert sorted(n for batches in steps for n in seen(batches)) == list(range(len(lengths)))
        assert all(len(seen(batches)) <= batch for batches in steps)
        assert all(len(part.tokens_NKT) <= micro_batch for batches in steps for part in batches)


def test_a_forward_pass_holds_so_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sequences an example: of 40 tokens one example alone is more than fits, of 3 there is room for several."""
    monkeypatch.setattr(collating, "MICRO_TOKENS", 60)
    lengths = np.random.default_rng(0).integers(3, 40, 100).tolist()
    epochs = Epochs([Example([[n] * length] * 2) for n, length in enumerate(lengths)], 8, 0, PAD, seed=1)
    steps = [epochs(turn) for turn in range(epochs.per_epoch)]
    assert sorted(n for parts in steps for n in seen(parts)) == list(range(100))
    sizes = [(len(part.tokens_NKT), part.tokens_NKT.numel()) for parts in steps for part in parts]
    assert all(tokens <= 60 or rows == 1 for rows, tokens in sizes)
    assert {rows for rows, _ in sizes} > {1, 2}


def test_a_step_depends_on_nothing_but_seed_and_number() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 333).tolist()
    straight, jumping = (Epochs(examples_of(lengths), 8, 3, PAD, seed=4) for _ in range(2))
    expected = [seen(straight(step)) for step in range(100)]
    for step in (99, 3, 57, 0, 42):
        assert seen(jumping(step)) == expected[step]
    assert [seen(Epochs(examples_of(lengths), 8, 3, PAD, seed=5)(step)) for step in range(100)] != expected


@pytest.mark.parametrize("size", [2, 3, 8])
def test_parts_make_up_each_batch(size: int) -> None:
    """Part r of n has rows r, r + n ... of a batch; the last batch of an epoch, of 4 rows, leaves parts empty."""
    lengths = np.random.default_rng(0).integers(3, 40, 100).tolist()
    whole = Epochs(examples_of(lengths), 8, 3, PAD, seed=4)
    parts = [Epochs(examples_of(lengths), 8, 3, PAD, 4, slice(rank, None, size)) for rank in range(size)]
    sizes = set()
    for step in range(2 * whole.per_epoch):
        found = [seen(part(step)) for part in parts]
        rows = sum(map(len, found))
        assert [found[n % size][n // size] for n in range(rows)] == seen(whole(step))
        sizes.add(rows)
    assert sizes == {8, 4}


def test_the_order_changes_with_the_epoch() -> None:
    epochs = Epochs(examples_of([5] * 64), 8, 8, PAD, seed=1)
    first, second = ([seen(epochs(8 * epoch + turn)) for turn in range(8)] for epoch in range(2))
    assert first != second
    assert {frozenset(one) for one in first} != {frozenset(one) for one in second}


@pytest.mark.parametrize("batch", [8, 32])
def test_almost_nothing_is_padding(batch: int) -> None:
    """Lengths spread as those of real sentences are: a mean of 25 tokens, a few of 100."""
    lengths = np.random.default_rng(0).lognormal(3.0, 0.6, 4000).astype(int).clip(3, 120).tolist()
    examples = examples_of(lengths)
    epochs = Epochs(examples, batch, batch, PAD, seed=1)
    sizes = [part.tokens_NKT.numel() for turn in range(epochs.per_epoch) for part in epochs(turn)]
    assert sum(lengths) / sum(sizes) > 0.95
    padded = sum(max(lengths[i] for i in chosen) * len(chosen) for chosen in by_length(examples, batch))
    assert sum(lengths) / padded > 0.97


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 9))
def test_prediction_takes_every_example_once_longest_first(lengths: list[int], batch: int) -> None:
    chosen = [i for numbers in by_length(examples_of(lengths), batch) for i in numbers]
    assert sorted(chosen) == list(range(len(lengths)))
    assert [lengths[i] for i in chosen] == sorted(lengths, reverse=True)
