"""Passes over memory that PyTorch has no single CPU call for, fused by its compiler where one is at hand.

Each function here is plain PyTorch and runs as it stands; after `compiled(True)` TorchInductor and the machine's C++
compiler make it one loop over its input, at a cost of seconds when it is first called. Figures: docs/benchmarks.md.

Legend: M rows (sequences x tokens), D columns, C = 3 D, I columns of a feed-forward layer; N sequences, H heads, T
tokens, d = D / H.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
SLOPE, CUBIC = 2 * (2 / torch.pi) ** 0.5, 0.044715
"""gelu(x) = x sigmoid(SLOPE (x + CUBIC x^3)), the tanh form (Hendrycks and Gimpel 2016): 1 + tanh z = 2 sigmoid 2z."""
VARIANTS = 64
"""Shapes that each function may be compiled for in one process."""
_switch = {"compiled": False}


class Seed(NamedTuple):
    """What a dropout mask of M rows and D columns is drawn from: random int32 numbers, and the share to drop."""

    rows_M1: Tensor
    columns_D: Tensor
    share: float


def compiled(on: bool) -> None:
    """Compile the functions of this module when they are next called, or run them as they stand."""
    _switch["compiled"] = on
    if on:
        # Each shape is a variant; a function that meets more than 8 would run as it stands, several times slower.
        torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)


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
def gelu(x_MI: Tensor, bias_I: Tensor) -> Tensor:
    """gelu(x + bias), in float32 inside."""
    return _gelu(x_MI.float() + bias_I.float())[0].to(x_MI.dtype)


@_fused
def gelu_and_backward(grad_MI: Tensor, x_MI: Tensor, bias_I: Tensor) -> tuple[Tensor, Tensor]:
    """gelu(x + bias), and the gradient with respect to x."""
    y_MI, slope_MI = _gelu(x_MI.float() + bias_I.float())
    return y_MI.to(x_MI.dtype), (grad_MI.float() * slope_MI).to(x_MI.dtype)


def _gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """x sigmoid(SLOPE (x + CUBIC x^3)), two thirds cheaper than the tanh it equals; and its derivative."""
    gate = torch.sigmoid(SLOPE * (x + CUBIC * x**3))
    return x * gate, gate + x * gate * (1 - gate) * SLOPE * (1 + 3 * CUBIC * x**2)


@_fused
def heads_apart(x_MC: Tensor, bias_C: Tensor, sequences: int, heads: int) -> Tensor:
    """x + bias, whose C columns hold q, k and v of all heads side by side, as qkv_3NHTd in memory."""
    width = len(bias_C) // (3 * heads)
    return (x_MC + bias_C).view(sequences, -1, 3, heads, width).permute(2, 0, 3, 1, 4).contiguous()


@_fused
def sum_and_norm(
    x_MD: Tensor,
    y_MD: Tensor,
    bias_D: Tensor,
    gain_D: Tensor,
    shift_D: Tensor,
    seed: Seed | None,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """LayerNorm(x + dropout(y + bias)); and the sum, its mean and 1 / deviation over D, which its backward needs."""
    y_MD = _drop(y_MD.float() + bias_D.float(), seed)
    sum_MD = (x_MD.float() + y_MD).to(x_MD.dtype)
    mean_M1 = sum_MD.float().mean(1, keepdim=True)
    inverse_M1 = ((sum_MD.float() - mean_M1).square().mean(1, keepdim=True) + epsilon).rsqrt()
    norm_MD = _unit(sum_MD, mean_M1, inverse_M1) * gain_D.float() + shift_D.float()
    return norm_MD.to(x_MD.dtype), sum_MD, mean_M1, inverse_M1


@_fused
def sum_and_norm_backward(
    grad_MD: Tensor,
    sum_MD: Tensor,
    mean_M1: Tensor,
    inverse_M1: Tensor,
    gain_D: Tensor,
    seed: Seed | None,
) -> tuple[Tensor, Tensor]:
    """The gradients of `sum_and_norm` with respect to x and y: without dropout they may be one tensor."""
    unit_MD = _unit(sum_MD, mean_M1, inverse_M1)
    grad_unit_MD = grad_MD.float() * gain_D.float()
    slope_M1 = (grad_unit_MD * unit_MD).mean(1, keepdim=True)
    grad_x_MD = inverse_M1 * (grad_unit_MD - grad_unit_MD.mean(1, keepdim=True) - unit_MD * slope_M1)
    return grad_x_MD.to(grad_MD.dtype), _drop(grad_x_MD, seed).to(grad_MD.dtype)


@_fused
def norm_sums(grad_MD: Tensor, sum_MD: Tensor, mean_M1: Tensor, inverse_M1: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `sum_and_norm` with respect to its gain and shift, which are sums over M."""
    grad_MD = grad_MD.float()
    return (grad_MD * _unit(sum_MD, mean_M1, inverse_M1)).sum(0).to(sum_MD.dtype), grad_MD.sum(0).to(sum_MD.dtype)


def _unit(sum_MD: Tensor, mean_M1: Tensor, inverse_M1: Tensor) -> Tensor:
    """The sum with mean 0 and deviation 1 over D, in float32."""
    return (sum_MD.float() - mean_M1) * inverse_M1


def turned(x_MD: Tensor, scale: Tensor | None = None) -> Tensor:
    """x^T, times a scalar, as rows in memory."""
    out_DM = x_MD.new_empty(x_MD.shape[::-1])
    _turn(out_DM, x_MD, scale)
    return out_DM


@_fused
def _turn(out_DM: Tensor, x_MD: Tensor, scale: Tensor | None) -> None:
    # Into a tensor that is there: the loop over one that the compiler makes takes up to twice the time.
    if scale is None:
        out_DM.copy_(x_MD.T)
    else:
        torch.mul(x_MD.T, scale, out=out_DM)


@_fused
def dropped(seed: Seed, *xs_MD: Tensor) -> list[Tensor]:
    """Each x, all of one shape, with the same share of its elements 0 and the others divided by 1 - share.

    Which ones is a function of the seed alone, so a backward pass draws the mask again instead of keeping it.
    """
    return [_drop(x_MD, seed) for x_MD in xs_MD]


def multipliers(seed: Seed, dtype: torch.dtype) -> Tensor:
    """What `dropped` multiplies by, 0 or 1 / (1 - share): a mask to keep, where drawing it again is not cheaper."""
    return _kept(seed).to(dtype).mul_(1 / (1 - seed.share))


def _drop(x_MD: Tensor, seed: Seed | None) -> Tensor:
    return torch.where(_kept(seed), x_MD * (1 / (1 - seed.share)), 0) if seed else x_MD


def _kept(seed: Seed) -> Tensor:
    """Where a hash of the row's and the column's number is in the lower 1 - share of all 32-bit numbers.

    One round of multiply, shift, xor and multiply as in Wellons' hash-prospector (2018); the mask makes the shift
    unsigned. They are random already, which saves the rounds that would spread a position's bits.
    """
    x_MD = (seed.rows_M1 ^ seed.columns_D) * 0x7FEB352D
    x_MD = (x_MD ^ (x_MD >> 15 & 0x1FFFF)) * -2073254261
    return x_MD < int(2**32 * (1 - seed.share)) - 2**31
