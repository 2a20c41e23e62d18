"""Memory-bound passes of CPU training that PyTorch has no single call for, fused by its compiler if asked.

Each function is plain PyTorch and runs as it is. `Kernels(compiled=True)` holds the same functions compiled by
TorchInductor and the machine's C++ compiler into one loop over their input, at a cost of seconds when each is first
called. Figures: docs/benchmarks.md.

Legend: M rows (sequences x tokens), D columns, C = 3 D, I columns of a feed-forward layer; N sequences, H heads, T
tokens, d = D / H.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

# gelu(x) = x sigmoid(SLOPE (x + CUBIC x^3)), the tanh form (Hendrycks and Gimpel 2016): 1 + tanh z = 2 sigmoid 2z.
SLOPE, CUBIC = 2 * (2 / torch.pi) ** 0.5, 0.044715

# Shapes that each function may be compiled for; each shape is a variant, and beyond the limit (8 by default) a function
# would run uncompiled, several times slower.
SHAPES = 64


class DropoutSeed(NamedTuple):
    """The seed of a dropout mask of M rows and D columns: random int32 keys, and the dropout probability p."""

    rows_M1: Tensor
    columns_D: Tensor
    p: float


def new_seed(rows: int, columns: int, p: float) -> DropoutSeed:
    """Draw the seed of one mask from torch's default generator."""
    rows_M1, columns_D = (torch.randint(-(2**31), 2**31, size, dtype=torch.int32) for size in ((rows, 1), (columns,)))
    return DropoutSeed(rows_M1, columns_D, p)


class Kernels:
    """The functions of this module as one model uses them: compiled or not. Models share only the compiled code."""

    def __init__(self, compiled: bool) -> None:
        self.compiled = compiled
        self.gelu = _choose(gelu, compiled)
        self.gelu_and_backward = _choose(gelu_and_backward, compiled)
        self.split_heads = _choose(split_heads, compiled)
        self.add_and_norm = _choose(add_and_norm, compiled)
        self.add_and_norm_backward = _choose(add_and_norm_backward, compiled)
        self.norm_weight_gradients = _choose(norm_weight_gradients, compiled)
        self.drop = _choose(drop, compiled)
        self._transpose_into = _choose(transpose_into, compiled)

    def transpose_contiguous(self, x_MD: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return x^T, times a scalar tensor if given, in contiguous memory."""
        out_DM = x_MD.new_empty(x_MD.shape[::-1])
        self._transpose_into(out_DM, x_MD, scale)
        return out_DM


def _choose(function: Callable[P, R], compiled: bool) -> Callable[P, R]:
    return _compiled(function) if compiled else function


@functools.cache
def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    # PyTorch caches compiled code on disk by everything but the CPU. Code generated for another one, in a folder that
    # several machines share or on a disk that has moved, would read and write the wrong memory.
    torch.compiler.config.cache_key_tag = torch.compiler.config.cache_key_tag or torch.backends.cpu.get_cpu_capability()
    if "recompile_limit" in inspect.signature(torch.compile).parameters:  # torch >= 2.13
        options: dict[str, Any] = {"recompile_limit": SHAPES}  # the type annotations of torch 2.13 lack it
        return torch.compile(function, dynamic=False, **options)
    compiled = torch.compile(function, dynamic=False)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch._dynamo.config.patch(recompile_limit=SHAPES):
            return compiled(*args, **kwargs)

    return call


def gelu(x_MI: Tensor, bias_I: Tensor) -> Tensor:
    """Return gelu(x + bias), computed in float32."""
    return _gelu(x_MI.float() + bias_I.float())[0].to(x_MI.dtype)


def gelu_and_backward(grad_MI: Tensor, x_MI: Tensor, bias_I: Tensor) -> tuple[Tensor, Tensor]:
    """Return gelu(x + bias), and the gradient with respect to x."""
    y_MI, slope_MI = _gelu(x_MI.float() + bias_I.float())
    return y_MI.to(x_MI.dtype), (grad_MI.float() * slope_MI).to(x_MI.dtype)


def _gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return gelu(x) by the sigmoid, two thirds cheaper than the tanh it equals, and its derivative."""
    gate = torch.sigmoid(SLOPE * (x + CUBIC * x**3))
    return x * gate, gate + x * gate * (1 - gate) * SLOPE * (1 + 3 * CUBIC * x**2)


def split_heads(x_MC: Tensor, bias_C: Tensor, sequences: int, heads: int) -> Tensor:
    """Return x + bias, whose C columns hold q, k and v of all heads side by side, as contiguous qkv_3NHTd."""
    width = len(bias_C) // (3 * heads)
    return (x_MC + bias_C).view(sequences, -1, 3, heads, width).permute(2, 0, 3, 1, 4).contiguous()


def add_and_norm(
    x_MD: Tensor,
    y_MD: Tensor,
    bias_D: Tensor,
    gain_D: Tensor,
    shift_D: Tensor,
    seed: DropoutSeed | None,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return LayerNorm(x + dropout(y + bias)); and the sum, its mean and 1 / deviation over D, for the backward."""
    y_MD = _drop(y_MD.float() + bias_D.float(), seed)
    sum_MD = (x_MD.float() + y_MD).to(x_MD.dtype)
    mean_M1 = sum_MD.float().mean(1, keepdim=True)
    inverse_M1 = ((sum_MD.float() - mean_M1).square().mean(1, keepdim=True) + epsilon).rsqrt()
    norm_MD = _standardise(sum_MD, mean_M1, inverse_M1) * gain_D.float() + shift_D.float()
    return norm_MD.to(x_MD.dtype), sum_MD, mean_M1, inverse_M1


def add_and_norm_backward(
    grad_MD: Tensor,
    sum_MD: Tensor,
    mean_M1: Tensor,
    inverse_M1: Tensor,
    gain_D: Tensor,
    seed: DropoutSeed | None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `add_and_norm` with respect to x and y; without dropout they may be the same tensor."""
    unit_MD = _standardise(sum_MD, mean_M1, inverse_M1)
    grad_unit_MD = grad_MD.float() * gain_D.float()
    slope_M1 = (grad_unit_MD * unit_MD).mean(1, keepdim=True)
    grad_x_MD = inverse_M1 * (grad_unit_MD - grad_unit_MD.mean(1, keepdim=True) - unit_MD * slope_M1)
    return grad_x_MD.to(grad_MD.dtype), _drop(grad_x_MD, seed).to(grad_MD.dtype)


def norm_weight_gradients(
    grad_MD: Tensor, sum_MD: Tensor, mean_M1: Tensor, inverse_M1: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `add_and_norm` with respect to gain and shift, which are sums over M."""
    grad_MD = grad_MD.float()
    grad_gain_D = (grad_MD * _standardise(sum_MD, mean_M1, inverse_M1)).sum(0)
    return grad_gain_D.to(sum_MD.dtype), grad_MD.sum(0).to(sum_MD.dtype)


def _standardise(sum_MD: Tensor, mean_M1: Tensor, inverse_M1: Tensor) -> Tensor:
    """Return the sum with mean 0 and deviation 1 over D, in float32."""
    return (sum_MD.float() - mean_M1) * inverse_M1


def transpose_into(out_DM: Tensor, x_MD: Tensor, scale: Tensor | None) -> None:
    """Write x^T, times a scalar tensor if given, into `out_DM`."""
    # Write into an existing tensor: the loop over one that the compiler allocates takes up to twice the time.
    if scale is None:
        out_DM.copy_(x_MD.T)
    else:
        torch.mul(x_MD.T, scale, out=out_DM)


def drop(seed: DropoutSeed, *xs_MD: Tensor) -> list[Tensor]:
    """Apply one dropout mask to each x, all of the same shape: an element is 0, or divided by 1 - p.

    The mask is a function of the seed alone, so a backward pass can draw it again instead of keeping it.
    """
    return [_drop(x_MD, seed) for x_MD in xs_MD]


def mask_multipliers(seed: DropoutSeed, dtype: torch.dtype) -> Tensor:
    """Return the factors that `drop` applies, 0 or 1 / (1 - p): a mask to store if drawing it again is not cheaper."""
    return _kept(seed).to(dtype).mul_(1 / (1 - seed.p))


def _drop(x_MD: Tensor, seed: DropoutSeed | None) -> Tensor:
    return torch.where(_kept(seed), x_MD * (1 / (1 - seed.p)), 0) if seed else x_MD


def _kept(seed: DropoutSeed) -> Tensor:
    """Return True where a hash of the row's and the column's key is in the lower 1 - p of the 32-bit numbers.

    One round of multiply, shift, xor and multiply as in Wellons' hash-prospector (2018); `& 0x1FFFF` makes the
    shift unsigned. The keys are random already, which saves the rounds that would spread the bits of a position.
    """
    x_MD = (seed.rows_M1 ^ seed.columns_D) * 0x7FEB352D
    x_MD = (x_MD ^ (x_MD >> 15 & 0x1FFFF)) * -2073254261
    return x_MD < int(2**32 * (1 - seed.p)) - 2**31
