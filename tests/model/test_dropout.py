"""Dropout and attention with it against their formulas, by kernels as they stand and compiled."""

import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gpt1.model import kernels
from gpt1.model.attention import causal_attention
from gpt1.model.dropout import Dropout, dropout, new_seed


@pytest.fixture(params=["plain", "compiled"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "compiled" and not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    kernels.compiled(request.param == "compiled")
    yield request.param
    kernels.compiled(False)


def gradients(y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, inputs, torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype))


def test_dropout_keeps_the_share_and_the_mean(way: str) -> None:
    torch.manual_seed(1)
    x = torch.ones(1000, 1000, requires_grad=True)
    y = dropout(x, 0.1)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(0.9, abs=2e-3)
    assert y.max().item() == pytest.approx(1 / 0.9)
    # Neighbours, in a row and in a column, know nothing of each other: both kept in 81 %.
    for pair in (kept[:, 1:] & kept[:, :-1], kept[1:] & kept[:-1]):
        assert pair.float().mean().item() == pytest.approx(0.81, abs=3e-3)
    # The corners of a rectangle, whose keys cancel out, neither: an odd number of them in (1 - 0.8^4) / 2.
    odd = kept[1:, 1:] ^ kept[:-1, 1:] ^ kept[1:, :-1] ^ kept[:-1, :-1]
    assert odd.float().mean().item() == pytest.approx(0.2952, abs=3e-3)
    # Nor do rows and columns differ by more than chance: 1,000 draws have a deviation of 0.0095.
    for mean in (kept.float().mean(0), kept.float().mean(1)):
        assert mean.std().item() == pytest.approx(0.0095, rel=0.15)
    # The backward pass uses the forward's mask.
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y.detach())


def test_every_call_draws_a_mask_of_its_own_and_a_seed_repeats_it(way: str) -> None:
    x = torch.ones(64, 64, requires_grad=True)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    assert (first != second).float().mean().item() == pytest.approx(0.5, abs=0.05)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)


def test_both_ways_draw_the_same_mask() -> None:
    seed, x = new_seed(33, 65, 0.3), torch.randn(33, 65)
    expected = x * kernels.multipliers(seed, x.dtype)
    torch.testing.assert_close(kernels.dropped(seed, x)[0], expected)


def test_no_dropout_while_evaluating() -> None:
    x = torch.randn(5, 5)
    assert Dropout(0.5).eval()(x) is x


def test_attention_with_dropout_is_the_formula(way: str) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 10, 4, requires_grad=True) for _ in range(3))
    torch.manual_seed(5)
    found = causal_attention(q, k, v, dropout=0.4)
    torch.manual_seed(5)
    scores = (q @ k.mT / 2).masked_fill(torch.ones(10, 10, dtype=torch.bool).triu(1), float("-inf"))
    expected = dropout(scores.softmax(-1), 0.4) @ v
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, q, k, v), gradients(expected, q, k, v))
