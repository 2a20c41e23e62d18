"""A block's halves written out, against the same block left to PyTorch."""

import shutil
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.config import Model
from gpt1.model import kernels
from gpt1.model.gpt import Block

SHAPE = Model(context=24, width=32, heads=2, inner=80, attention_dropout=0.2, residual_dropout=0.3)


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    yield
    kernels.compiled(False)


def a_block() -> Block:
    """With weights, biases and gains that are all random, so that none can be left out unseen."""
    torch.manual_seed(0)
    block = Block(SHAPE)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
    return block


def run(block: Block, x: Tensor, compiled: bool) -> tuple[Tensor, ...]:
    """The output, and the gradients of the input and of every parameter; dropout from one seed."""
    kernels.compiled(compiled)
    torch.manual_seed(5)
    x = x.detach().requires_grad_()
    y = block(x)
    grad = torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype)
    return y, *torch.autograd.grad(y, (x, *block.parameters()), grad)


def test_gelu_and_its_gradient_are_pytorchs_tanh_form() -> None:
    x, bias, grad = torch.linspace(-9, 9, 999)[None], torch.full((999,), 0.25), torch.linspace(-1, 1, 999)[None]
    sum_ = (x + bias).requires_grad_()
    expected = F.gelu(sum_, approximate="tanh")
    expected.backward(grad)
    for compiled in (False, True):
        kernels.compiled(compiled)
        y, grad_x = kernels.gelu_and_backward(grad, x, bias)
        torch.testing.assert_close(y, expected.detach(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(kernels.gelu(x, bias), y)
        torch.testing.assert_close(grad_x, sum_.grad, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("rates", [(0.2, 0.0), (0.0, 0.3), (0.0, 0.0)])
def test_without_a_dropout_too(rates: tuple[float, float]) -> None:
    block, x = a_block(), torch.randn(3, 12, 32)
    block.attention.dropout.share, block.dropout.share = rates
    for found, expected in zip(run(block, x, True), run(block, x, False), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_a_gradient_of_a_gradient_is_refused() -> None:
    block, x = a_block(), torch.randn(3, 12, 32, requires_grad=True)
    kernels.compiled(True)
    (grad,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiated Tensor|differentiate twice"):
        torch.autograd.grad(grad.sum(), x)


@pytest.mark.parametrize("training", [True, False])
def test_a_block_is_the_plain_one(training: bool) -> None:
    block, x = a_block().train(training), torch.randn(3, 12, 32)
    for found, expected in zip(run(block, x, True), run(block, x, False), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_one() -> None:
    block, x = a_block(), torch.randn(3, 12, 32).bfloat16()
    exact = run(block, x.float(), False)
    block = block.bfloat16()
    for fast, plain, truth in zip(run(block, x, True), run(block, x, False), exact, strict=True):
        assert fast.dtype == torch.bfloat16
        assert (fast - truth).norm() <= 1.25 * (plain - truth).norm() + 1e-3 * truth.norm()


def test_a_context_too_long_for_products_takes_the_fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = a_block().eval(), torch.randn(2, 12, 32)
    expected = run(block, x, False)
    monkeypatch.setattr("gpt1.model.fused_cpu.products", None)
    monkeypatch.setattr("gpt1.model.attention.products", None)
    monkeypatch.setattr("gpt1.model.attention.PRODUCTS_UP_TO", 8)
    for found, wanted in zip(run(block, x, True), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
