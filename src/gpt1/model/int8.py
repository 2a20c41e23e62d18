"""Weights in 8 bits: half the bytes of bfloat16, so generation, which waits for memory, is that much faster.

y = x W^T + b becomes y_mo = s_m t_o sum_i p_mi q_oi + b_o: each row o of W is rounded to integers
q = round(W_o / t) with t = max|W_o| / 127, each row m of x to p = round(x_m / s) with s = max|x_m| / 127, and the
products of integers are summed exactly. A row of x is rounded by itself, so a text does not depend on those beside it.
Embeddings, LayerNorm and attention stay as they are.

Two libraries multiply the integers, with one result. FBGEMM's product is faster for one row, oneDNN's for many; each
has its own layout of W, so together they hold as much as bfloat16. PyTorch has begun to retire the kind of tensor that
FBGEMM is reached through; without it, oneDNN's alone would do, at 1.4 instead of 1.6 times the speed of bfloat16.

Legend: M rows (sequences x tokens), I inputs, O outputs.
"""

import warnings

import torch
from torch import Tensor, nn

from gpt1.model.gpt import GPT
from gpt1.model.packed import ROWS, Reading

UNITS = 127
OFFSET = 128
"""Added to p inside FBGEMM's product, whose left factor is unsigned."""
SMALLEST = 1e-30
"""Stands in for the largest number of a row of zeros."""
FEW = 4
"""Rows up to which FBGEMM is faster."""


class Int8(nn.Module):
    """x W^T + b; x may have any number format, and y has the same."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        largest_O1 = largest(weight_OI)
        q_OI = (weight_OI / largest_O1).mul_(UNITS).round_().to(torch.int8)
        self.scale_O, self.zero_O = largest_O1[:, 0] / UNITS, torch.zeros(len(q_OI), dtype=torch.int64)
        self.bias_O = torch.zeros(()) if bias_O is None else bias_O.float()
        self.many = torch.ops.onednn.qlinear_prepack(q_OI, [ROWS, q_OI.shape[1]])
        self.few = _fbgemm(q_OI, self.scale_O, self.zero_O)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        top = largest(wide)
        part = wide / top
        if part.numel() <= FEW * part.shape[-1]:
            y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(part, 1 / UNITS, OFFSET, self.few)
        else:
            y = torch.ops.onednn.qlinear_pointwise(
                part.mul_(UNITS).round_().to(torch.int8), 1 / UNITS, 0, self.many, self.scale_O, self.zero_O,
                None, 1.0, 0, torch.float32, "none", [], "",
            )  # fmt: skip
        return torch.addcmul(self.bias_O, y, top).to(x.dtype)


def largest(x: Tensor) -> Tensor:
    """max|x_m| of each row, and a little above 0 for a row of zeros; the last axis becomes 1."""
    return x.abs().amax(-1, keepdim=True).clamp_(min=SMALLEST)


def has_int8() -> bool:
    """Whether this machine's CPU and this PyTorch have the products that `quantized` needs."""
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return (
        bool(has.get("avx512_vnni"))  # without it FBGEMM adds two products in 16 bits, which may overflow
        and torch.backends.quantized.engine in ("x86", "fbgemm")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.onednn, "qlinear_pointwise")
    )


def quantized(body: GPT) -> GPT:
    """`body`, float32 on a CPU with `has_int8`, made over: every matrix product is an Int8, that of the output too."""
    return Reading(body, Int8)


def _fbgemm(q_OI: Tensor, scale_O: Tensor, zero_O: Tensor) -> torch.ScriptObject:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this kind of tensor will go: see above
        weight = torch._make_per_channel_quantized_tensor(q_OI, scale_O.double(), zero_O, 0)
        return torch.ops.quantized.linear_prepack(weight, None)
