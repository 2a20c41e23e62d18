"""Inference on a CPU with 8-bit weights: half the bytes of bfloat16, for generation, which memory bandwidth limits.

y = x W^T + b becomes y_mo = s_m t_o sum_i p_mi q_oi + b_o: each row o of W is rounded to integers
q = round(W_o / t) with t = max|W_o| / 127, each row m of x to p = round(x_m / s) with s = max|x_m| / 127, and the
products of integers are summed exactly. Each row of x has its own scale, so a text does not depend on those beside it.
Embeddings, LayerNorm and attention are unchanged.

Two libraries multiply the integers, with the same result. FBGEMM is faster for one row, oneDNN for many; each has
its own layout of W, so together they take as much memory as bfloat16. PyTorch is deprecating the quantized tensors that
FBGEMM needs; oneDNN alone would reach 1.4 instead of 1.6 times the speed of bfloat16.

Legend: M rows (sequences x tokens), I inputs, O outputs.
"""

import warnings

import torch
from torch import Tensor, nn

from gpt1.model.gpt import GPT
from gpt1.model.packed import ROWS, InferenceGPT

UNITS = 127
# Added to p inside FBGEMM's product, whose left factor is unsigned.
OFFSET = 128
# Replaces the largest absolute value of a row of zeros.
SMALLEST = 1e-30
# Number of rows up to which FBGEMM is faster.
FEW = 4


class Int8Linear(nn.Module):
    """x W^T + b; x may have any floating-point format, and y has the same."""

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
        unit = wide / top  # from -1 to 1
        if unit.numel() <= FEW * unit.shape[-1]:
            y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(unit, 1 / UNITS, OFFSET, self.few)
        else:
            y = torch.ops.onednn.qlinear_pointwise(
                unit.mul_(UNITS).round_().to(torch.int8), 1 / UNITS, 0, self.many, self.scale_O, self.zero_O,
                None, 1.0, 0, torch.float32, "none", [], "",
            )  # fmt: skip
        return torch.addcmul(self.bias_O, y, top).to(x.dtype)


def largest(x: Tensor) -> Tensor:
    """Return max|x_m| of each row, slightly above 0 for a row of zeros; the last axis becomes 1."""
    return x.abs().amax(-1, keepdim=True).clamp_(min=SMALLEST)


def has_int8() -> bool:
    """Return whether this CPU and this PyTorch have the products that `quantize_int8` needs."""
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return (
        bool(has.get("avx512_vnni"))  # without it FBGEMM adds pairs of products in 16 bits, which may overflow
        and torch.backends.quantized.engine in ("x86", "fbgemm")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.onednn, "qlinear_pointwise")
    )


def quantize_int8(body: GPT) -> GPT:
    """Take over `body`, float32 on a CPU with `has_int8`; every linear layer, the output included, becomes 8-bit."""
    return InferenceGPT(body, Int8Linear)


def _fbgemm(q_OI: Tensor, scale_O: Tensor, zero_O: Tensor) -> torch.ScriptObject:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the deprecation mentioned above
        weight = torch._make_per_channel_quantized_tensor(q_OI, scale_O.double(), zero_O, 0)
        return torch.ops.quantized.linear_prepack(weight, None)
