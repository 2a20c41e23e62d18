"""Passes over memory that PyTorch has no single CPU call for, fused by its compiler where one is at hand.

Each function here is plain PyTorch and runs as it stands; after `compiled(True)` TorchInductor and the machine's C++
compiler make it one loop over its input, at a cost of seconds when it is first called. Figures: docs/benchmarks.md.

Legend: M rows (sequences x tokens), D columns.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
SHARES = 2**31
"""Numbers that `_random` draws from, 0 .. 2^31 - 1; a share of them is what dropout keeps."""
SLOPE, CUBIC = 2 * (2 / torch.pi) ** 0.5, 0.044715
"""gelu(x) = x sigmoid(SLOPE (x + CUBIC x^3)), the tanh form (Hendrycks and Gimpel 2016): 1 + tanh z = 2 sigmoid 2z."""
_switch = {"compiled": False}


def compiled(on: bool) -> None:
    """Compile the functions of this module when they are next called, or run them as they stand."""
    _switch["compiled"] = on


def worth_it(x: Tensor) -> bool:
    """Whether a training pass over `x` should go through the compiled functions."""
    return _switch["compiled"] and x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled()


def _fused(function: Callable[P, R]) -> Callable[P, R]:
    build = functools.cache(lambda: torch.compile(function, dynamic=False))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return (build() if _switch["compiled"] else function)(*args, **kwargs)

    return call


@_fused
def gelu(x: Tensor) -> Tensor:
    """x sigmoid(SLOPE (x + CUBIC x^3)), in float32 inside; two thirds cheaper than the tanh it equals."""
    wide = x.float()
    return (wide * torch.sigmoid(SLOPE * (wide + CUBIC * wide**3))).to(x.dtype)


@_fused
def gelu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient with respect to x."""
    wide = x.float()
    gate = torch.sigmoid(SLOPE * (wide + CUBIC * wide**3))
    slope = gate + wide * gate * (1 - gate) * SLOPE * (1 + 3 * CUBIC * wide**2)
    return (grad.float() * slope).to(x.dtype)


@_fused
def gelu_and_backward(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """gelu(x), and the gradient with respect to x."""
    wide = x.float()
    gate = torch.sigmoid(SLOPE * (wide + CUBIC * wide**3))
    slope = gate + wide * gate * (1 - gate) * SLOPE * (1 + 3 * CUBIC * wide**2)
    return (wide * gate).to(x.dtype), (grad.float() * slope).to(x.dtype)


@_fused
def turned(x_MD: Tensor) -> Tensor:
    """x^T as rows in memory."""
    return x_MD.T.contiguous()


@_fused
def summed_and_turned(x_MD: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over M, and x^T as rows in memory."""
    return x_MD.sum(0, dtype=torch.float32).to(x_MD.dtype), x_MD.T.contiguous()


@_fused
def dropped(seed_1: Tensor, dropout: float, *xs: Tensor) -> list[Tensor]:
    """Each x, all of one shape, with the same share `dropout` of its elements 0 and the others divided by 1 - dropout.

    Which ones is a function of the seed (int32) and the place in memory order alone, so a backward pass draws the mask
    again instead of keeping it.
    """
    kept = _random(xs[0].numel(), seed_1).view(xs[0].shape) < _kept(dropout)
    return [torch.where(kept, x * (1 / (1 - dropout)), 0) for x in xs]


def multipliers(shape: torch.Size, dtype: torch.dtype, seed_1: Tensor, dropout: float) -> Tensor:
    """What `dropped` multiplies by, 0 or 1 / (1 - dropout): a mask to keep, where drawing it again is not cheaper."""
    return (_random(shape.numel(), seed_1) < _kept(dropout)).to(dtype).mul_(1 / (1 - dropout)).view(shape)


def _kept(dropout: float) -> int:
    return int(SHARES * (1 - dropout))


def _random(count: int, seed_1: Tensor) -> Tensor:
    """`count` int32 numbers, evenly spread over 0 .. 2^31 - 1: a multiplicative hash of 0 .. count - 1 under a seed.

    Two rounds of shift, xor and multiply as in Wellons' hash-prospector (2018); the masks make the shifts unsigned.
    """
    x = torch.arange(count, dtype=torch.int32, device=seed_1.device) * -1640531527
    x = (x ^ (x >> 16 & 0xFFFF)) * 0x7FEB352D + seed_1
    x = (x ^ (x >> 15 & 0x1FFFF)) * -2073254261
    return x ^ x >> 16  # a signed shift, so the top bit cancels out
