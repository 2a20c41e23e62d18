"""Batches: right padding, what is a target, and an epoch that shows every example once, with almost no padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.batch import IGNORE, Batch
from gpt1.config import Model
from gpt1.data.collate import Epochs, Example, by_length, collate, rounded
from gpt1.data.tasks import Frame, classification
from gpt1.nn.model import GPT
from gpt1.nn.objectives import TaskModel

PAD = 9


def examples_of(lengths: list[int]) -> list[Example]:
    """One sequence each, of its own number repeated."""
    return [Example([[n] * length], label=n % 3) for n, length in enumerate(lengths)]


def seen(batches: list[Batch]) -> list[int]:
    """The numbers of the examples in the step's batches."""
    return [int(n) for batch in batches for n in batch.tokens_NKT[:, 0, 0]]


def test_a_batch_by_hand() -> None:
    batch = collate([Example([[1, 2, 3]], 1), Example([[4, 5]], 0)], PAD, 9)
    assert batch.tokens_NKT.tolist() == [[[1, 2, 3]], [[4, 5, PAD]]]
    assert batch.targets_NKT.tolist() == [[[2, 3, IGNORE]], [[5, IGNORE, IGNORE]]]
    assert batch.extract_NK is not None
    assert batch.extract_NK.tolist() == [[2], [1]]
    assert batch.labels_N is not None
    assert batch.labels_N.tolist() == [1, 0]
    assert batch.tokens_NKT.dtype == batch.targets_NKT.dtype == batch.labels_N.dtype == torch.int64


def test_examples_may_have_different_numbers_of_sequences() -> None:
    batch = collate([Example([[1, 2], [1, 3, 4]]), Example([[5, 6]])], PAD, 9)
    assert batch.tokens_NKT.tolist() == [[[1, 2, PAD], [1, 3, 4]], [[5, 6, PAD], [PAD, PAD, PAD]]]
    assert batch.real_NK is not None
    assert batch.real_NK.tolist() == [[True, True], [True, False]]
    assert (batch.targets_NKT[1, 1] == IGNORE).all()
    assert batch.labels_N is None


@given(st.integers(1, 2000), st.integers(0, 2000))
def test_few_lengths_and_little_padding(length: int, more: int) -> None:
    found = rounded(length, length + more)
    assert length <= found <= min(length + length / 8, length + more)


def test_eight_lengths_an_octave() -> None:
    assert len({rounded(length, 4096) for length in range(64, 128)}) == 9
    assert len({rounded(length, 4096) for length in range(1, 512)}) == 56


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


def test_a_step_depends_on_nothing_but_seed_and_number() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 333).tolist()
    straight, jumping = (Epochs(examples_of(lengths), 8, 3, PAD, seed=4) for _ in range(2))
    expected = [seen(straight(step)) for step in range(100)]
    for step in (99, 3, 57, 0, 42):
        assert seen(jumping(step)) == expected[step]
    assert [seen(Epochs(examples_of(lengths), 8, 3, PAD, seed=5)(step)) for step in range(100)] != expected


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
    assert sum(lengths) / sum(sizes) > 0.9
    padded = sum(max(lengths[i] for i in chosen) * len(chosen) for chosen in by_length(examples, batch))
    assert sum(lengths) / padded > 0.97


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 9))
def test_prediction_takes_every_example_once_longest_first(lengths: list[int], batch: int) -> None:
    chosen = [i for numbers in by_length(examples_of(lengths), batch) for i in numbers]
    assert sorted(chosen) == list(range(len(lengths)))
    assert [lengths[i] for i in chosen] == sorted(lengths, reverse=True)


@pytest.mark.parametrize("micro_batch", [5, 2])
def test_l3_from_ids_to_gradient(micro_batch: int) -> None:
    """The paper's formulas, one text at a time: no padding, no batch; `start text extract` written out."""
    still = {"embedding_dropout": 0.0, "residual_dropout": 0.0, "attention_dropout": 0.0}
    body = GPT(Model(context=12, width=16, depth=2, heads=2, inner=64, vocabulary=40, **still))
    model = TaskModel(body.init_weights(torch.Generator().manual_seed(1)), classes=3, head_dropout=0.0).double()
    model.init_head(torch.Generator().manual_seed(2))
    texts, labels = [[5, 9, 3], [8], [], [4, 4, 7, 1, 2, 30], list(range(20))], [2, 0, 1, 1, 0]

    reference = torch.zeros((), dtype=torch.double)
    for text, label in zip(texts, labels, strict=True):
        ids = torch.tensor([37, *text[:10], 39])
        h_TD = body(ids[None])[0]
        task = -(h_TD[-1] @ model.head.weight.T).log_softmax(-1)[label]
        nats = [-(h_TD[t] @ body.tokens.weight.T).log_softmax(-1)[ids[t + 1]] for t in range(len(ids) - 1)]
        reference = reference + (task + 0.5 * torch.stack(nats).mean()) / 5

    frame = Frame(start=37, delimiter=38, extract=39, context=12)
    examples = [Example(classification(text, frame), label) for text, label in zip(texts, labels, strict=True)]
    sums = [model(batch) for batch in Epochs(examples, 5, micro_batch, 36, seed=3)(0)]
    total = torch.stack([sum_["task"] / 5 + 0.5 * sum_["lm"] / 5 for sum_ in sums]).sum()
    torch.testing.assert_close(total, reference, atol=1e-9, rtol=0)
    ours, theirs = (torch.autograd.grad(value, list(model.parameters())) for value in (total, reference))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)
