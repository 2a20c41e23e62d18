"""Linear layers, GELU and dropout with PyTorch's results, by ways that are faster for training on a CPU.

- PyTorch draws a dropout mask number by number; a hash of the position is several times cheaper.
- The weight's gradient is a product whose first factor lies transposed in memory, which oneDNN's bfloat16 GEMM
  runs at half its speed; turning it over first costs less than that, if one fused pass does it.
- GELU's tanh costs as much as half a GEMM.

Legend: M rows (sequences x tokens), I inputs, O outputs; of a feed-forward layer D width, I inner width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.nn import kernels


class Linear(nn.Linear):
    """y = x W^T + b."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and kernels.worth_it(x):
            y: Tensor = _Linear.apply(x, self.weight, self.bias)
            return y
        return super().forward(x)


def feed_forward(x: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
    """down(gelu(up(x))) of two linear layers."""
    if x.dtype == torch.bfloat16 and kernels.worth_it(x):
        y: Tensor = _FeedForward.apply(x, up.weight, up.bias, down.weight, down.bias)
        return y
    return down(gelu(up(x)))


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014), while training."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.share) if self.training else x


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hendrycks and Gimpel 2016)."""
    if kernels.worth_it(x):
        y: Tensor = _Gelu.apply(x)
        return y
    return F.gelu(x, approximate="tanh")


def dropout(x: Tensor, share: float) -> Tensor:
    """Zeros for a `share` of the elements, the others divided by 1 - share; random by torch's default generator."""
    if share == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, share)
    y: Tensor = _Masked.apply(x, Mask(x.shape, x.dtype, share, again=kernels.worth_it(x)))
    return y


class Mask:
    """One dropout mask, for a forward pass and its backward: kept, or drawn `again` where that is cheaper."""

    def __init__(self, shape: torch.Size, dtype: torch.dtype, share: float, again: bool) -> None:
        self.seed_1 = torch.randint(-(2**31), 2**31, (1,), dtype=torch.int32)
        self.share = share
        self.multipliers = None if again else kernels.multipliers(shape, dtype, self.seed_1, share)

    def __call__(self, *xs: Tensor) -> list[Tensor]:
        if self.multipliers is None:
            return kernels.dropped(self.seed_1, self.share, *(x.contiguous() for x in xs))
        return [x * self.multipliers for x in xs]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        return F.linear(x, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight_OI = ctx.saved_tensors
        (grad,) = grads
        grad_bias_O, grad_OM = kernels.summed_and_turned(grad.flatten(0, -2))
        return grad @ weight_OI, grad_OM @ x.flatten(0, -2), grad_bias_O


class _FeedForward(torch.autograd.Function):
    """Keeps one of the two wide tensors, that before GELU; the other is made again where GELU's gradient is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up_ID: Tensor, up_bias_I: Tensor, down_DI: Tensor, down_bias_D: Tensor) -> Tensor:
        wide = F.linear(x, up_ID, up_bias_I)
        ctx.save_for_backward(x, wide, up_ID, down_DI)
        return F.linear(kernels.gelu(wide), down_DI, down_bias_D)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x, wide, up_ID, down_DI = ctx.saved_tensors
        (grad,) = grads
        grad_down_bias_D, grad_DM = kernels.summed_and_turned(grad.flatten(0, -2))
        activated, grad_wide = kernels.gelu_and_backward(grad @ down_DI, wide)
        grad_down_DI = grad_DM @ activated.flatten(0, -2)
        grad_up_bias_I, grad_IM = kernels.summed_and_turned(grad_wide.flatten(0, -2))
        return grad_wide @ up_ID, grad_IM @ x.flatten(0, -2), grad_up_bias_I, grad_down_DI, grad_down_bias_D


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return kernels.gelu(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return kernels.gelu_backward(grads[0], x)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Mask) -> Tensor:
        ctx.mask = mask
        return mask(x)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.mask(grads[0])[0], None
