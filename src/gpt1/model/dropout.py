"""Dropout whose mask is a hash of row and column: PyTorch's CPU draws it number by number, several times slower."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gpt1.model import kernels
from gpt1.model.kernels import Seed


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014), while training."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.now())

    def now(self) -> float:
        """The share that is dropped: none while evaluating."""
        return self.share if self.training else 0.0


def dropout(x: Tensor, share: float) -> Tensor:
    """Zeros for a `share` of the elements, the others divided by 1 - share; random by torch's default generator."""
    if share == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, share)
    y: Tensor = _Masked.apply(x, Mask(x.shape, x.dtype, share, again=kernels.worth_it(x)))
    return y


def new_seed(rows: int, columns: int, share: float) -> Seed:
    """The seed of one mask, from torch's default generator."""
    rows_M1, columns_D = (torch.randint(-(2**31), 2**31, size, dtype=torch.int32) for size in ((rows, 1), (columns,)))
    return Seed(rows_M1, columns_D, share)


class Mask:
    """One dropout mask, for a forward pass and its backward: kept, or drawn `again` where that is cheaper."""

    def __init__(self, shape: torch.Size, dtype: torch.dtype, share: float, again: bool) -> None:
        self.seed = new_seed(shape[:-1].numel(), shape[-1], share)
        self.multipliers = None if again else kernels.multipliers(self.seed, dtype).view(shape)

    def __call__(self, *xs: Tensor) -> list[Tensor]:
        if self.multipliers is None:
            dropped = kernels.dropped(self.seed, *(x.flatten(0, -2).contiguous() for x in xs))
            return [y.view_as(x) for y, x in zip(dropped, xs, strict=True)]
        return [x * self.multipliers for x in xs]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Mask) -> Tensor:
        ctx.mask = mask
        return mask(x)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.mask(grads[0])[0], None
