"""The cross-entropy over the vocabulary, without ever holding all logits.

The logits of a step (tokens x vocabulary) are by far its largest tensor. Here they exist for a slice of tokens at
a time, and since the loss is a sum whose outer gradient is one number, the gradients with respect to the hidden
states and the matrix are computed in the same pass: the backward only scales them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.batch import IGNORE

SLICE_BYTES = 8 * 2**20
MIN_ROWS = 512
"""Size of one slice of float32 logits: small beside the activations, large enough for a full-speed GEMM."""

MULTIPLE = 64
"""oneDNN compiles, and keeps, a kernel for every new number of rows; few numbers keep time and memory down."""


def vocabulary_loss(h_NTD: Tensor, matrix_VD: Tensor, targets_NT: Tensor, weights_NT: Tensor) -> Tensor:
    """Weighted sum of -log softmax(h W^T)[target], a scalar in nats (float32, or float64 for float64 input).

    Targets equal to IGNORE are left out, whatever their weight. Weights get no gradient.
    """
    kept_M = (targets_NT != IGNORE).flatten().nonzero().squeeze(1)
    h_MD, targets_M, weights_M = h_NTD.flatten(0, 1), targets_NT.flatten(), weights_NT.flatten()
    if len(kept_M) < len(targets_M):
        kept_M, weights_M = _rounded_up(kept_M, weights_M[kept_M])
        h_MD, targets_M = h_MD[kept_M], targets_M[kept_M].clamp(min=0)
    loss: Tensor = _SlicedCrossEntropy.apply(h_MD, matrix_VD, targets_M, weights_M)
    return loss


@torch.inference_mode()
def token_nats(h_NTD: Tensor, matrix_VD: Tensor, targets_NT: Tensor) -> Tensor:
    """nats_NT: -log softmax(h W^T)[target] at each position, float32; 0 where the target is IGNORE."""
    h_MD, targets_M = h_NTD.flatten(0, 1), targets_NT.flatten()
    step = _slice_rows(len(matrix_VD))
    slices = [
        F.cross_entropy((h_mD @ matrix_VD.T).float(), targets_m, ignore_index=IGNORE, reduction="none")
        for h_mD, targets_m in zip(h_MD.split(step), targets_M.split(step), strict=True)
    ]
    return torch.cat(slices).view_as(targets_NT)


def _rounded_up(kept_M: Tensor, weights_M: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and weights to a multiple of MULTIPLE; what is added weighs nothing."""
    missing = -len(kept_M) % MULTIPLE
    return F.pad(kept_M, (0, missing)), F.pad(weights_M, (0, missing))


def _slice_rows(vocabulary: int) -> int:
    return max(MIN_ROWS, SLICE_BYTES // (4 * vocabulary))


class _SlicedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_MD: Tensor, matrix_VD: Tensor, targets_M: Tensor, weights_M: Tensor) -> Tensor:
        with_grad = any(ctx.needs_input_grad[:2])
        wide = torch.promote_types(h_MD.dtype, torch.float32)
        loss = torch.zeros((), dtype=wide, device=h_MD.device)
        grad_h_MD = torch.empty_like(h_MD) if with_grad else None
        grad_matrix_VD = torch.zeros_like(matrix_VD, dtype=wide) if with_grad else None
        step = _slice_rows(len(matrix_VD))
        for low in range(0, len(h_MD), step):
            rows = slice(low, low + step)
            logits_mV = (h_MD[rows] @ matrix_VD.T).to(wide)
            targets_m1, weights_m1 = targets_M[rows, None], weights_M[rows, None].to(wide)
            exp_mV = logits_mV.sub_(logits_mV.amax(1, keepdim=True))
            target_m1 = exp_mV.gather(1, targets_m1)
            total_m1 = exp_mV.exp_().sum(1, keepdim=True)
            loss += ((total_m1.log() - target_m1) * weights_m1).sum()
            if grad_h_MD is not None and grad_matrix_VD is not None:
                grad_mV = exp_mV.mul_(weights_m1 / total_m1).scatter_add_(1, targets_m1, -weights_m1).to(h_MD.dtype)
                torch.mm(grad_mV, matrix_VD, out=grad_h_MD[rows])
                grad_matrix_VD += grad_mV.T @ h_MD[rows]
        ctx.save_for_backward(grad_h_MD, grad_matrix_VD)
        ctx.matrix_dtype = matrix_VD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_h_MD, grad_matrix_VD = ctx.saved_tensors
        scale = grads[0]
        return grad_h_MD * scale.to(grad_h_MD.dtype), (grad_matrix_VD * scale).to(ctx.matrix_dtype), None, None
