"""Cross-entropy over the vocabulary, without ever holding all logits.

The logits of an update (tokens x vocabulary) would be by far its largest tensor. They are computed for a slice of the
tokens at a time. The loss is a scalar, so the gradient that arrives from outside is one number: the gradients with
respect to the hidden states and the matrix are computed in the same pass, and the backward pass only scales them.

Legend: M tokens, m those of a slice, V vocabulary, P the padded vocabulary, p a chunk of it, D width.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.batch import IGNORE

Transpose = Callable[[Tensor, Tensor], Tensor]

# Largest size of the logits held at once, in bytes. Fewer slices make larger, faster products.
SLICE_BYTES = 2**28
# Rows and vocabulary are padded to multiples of this: oneDNN compiles, and keeps, a kernel for every new shape, and its
# products with an odd vocabulary run at two thirds of their speed.
MULTIPLE = 64
# Columns of logits that a product on a CPU computes at a time, so that the rows of the matrix stay in the cache.
COLUMNS = 4096


def transpose_contiguous(x_MD: Tensor, scale: Tensor) -> Tensor:
    """Return scale x^T in contiguous memory, written in one pass."""
    return torch.mul(x_MD.T, scale, out=x_MD.new_empty(x_MD.shape[::-1]))


def cross_entropy(
    h_NTD: Tensor,
    matrix_VD: Tensor,
    targets_NT: Tensor,
    weights_NT: Tensor,
    transpose: Transpose = transpose_contiguous,
) -> Tensor:
    """Return the weighted sum of -log softmax(h W^T)[target], a scalar in nats (float32; float64 for float64 input).

    Targets equal to IGNORE are left out, whatever their weight. Weights get no gradient. `transpose` does what
    `transpose_contiguous` does; `model.fused_cpu` gives a compiled one.
    """
    h_MD, targets_M, weights_M = h_NTD.flatten(0, 1), targets_NT.flatten(), weights_NT.flatten()
    real_M = targets_M != IGNORE
    if h_NTD.device.type != "cpu":
        # Selecting rows would need their number on the host, which would have to wait for the GPU.
        weights_M, targets_M = weights_M * real_M, targets_M.clamp(min=0)
    elif len(kept_M := real_M.nonzero().squeeze(1)) < len(targets_M):
        missing = -len(kept_M) % MULTIPLE
        kept_M, weights_M = F.pad(kept_M, (0, missing)), F.pad(weights_M[kept_M], (0, missing))  # padded with weight 0
        h_MD, targets_M = h_MD[kept_M], targets_M[kept_M].clamp(min=0)
    loss: Tensor = _SlicedCrossEntropy.apply(h_MD, matrix_VD, targets_M, weights_M, transpose)
    return loss


@torch.inference_mode()
def token_nats(h_NTD: Tensor, matrix_VD: Tensor, targets_NT: Tensor) -> Tensor:
    """Return nats_NT, -log softmax(h W^T)[target] at each position, in float32; 0 where the target is IGNORE."""
    # Five times the size of a bfloat16 logit, since its float32 copy and the log-softmax of that take 4 bytes each.
    slices = _slices(len(matrix_VD) * 5, h_NTD.flatten(0, 1), targets_NT.flatten())
    nats = [
        F.cross_entropy((h_mD @ matrix_VD.T).float(), targets_m, ignore_index=IGNORE, reduction="none")
        for h_mD, targets_m in slices
    ]
    return torch.cat(nats).view_as(targets_NT)


def _slices(columns: int, h_MD: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split the tensors along M, so that a slice's matrix of `columns` columns fits in SLICE_BYTES."""
    pieces = max(1, -(-len(h_MD) * columns * h_MD.element_size() // SLICE_BYTES))
    rows = -(-len(h_MD) // pieces)
    return zip(*(x.split(rows + -rows % MULTIPLE) for x in (h_MD, *others)), strict=True)


class _SlicedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h_MD: Tensor, matrix_VD: Tensor, targets_M: Tensor, weights_M: Tensor, transpose: Transpose
    ) -> Tensor:
        with_grad = any(ctx.needs_input_grad[:2])
        wide = torch.promote_types(h_MD.dtype, torch.float32)
        loss = torch.zeros((), dtype=wide, device=h_MD.device)
        matrix_PD = F.pad(matrix_VD, (0, 0, 0, -len(matrix_VD) % MULTIPLE))
        slices = list(_slices(len(matrix_PD), h_MD, targets_M, weights_M))
        grads_h, grads_matrix = [], []
        for remaining, (h_mD, targets_m, weights_m) in zip(range(len(slices))[::-1], slices, strict=True):
            p_mP = _softmax(h_mD, matrix_PD, len(matrix_VD))
            at = (torch.arange(len(h_mD), device=h_mD.device), targets_m)
            p_target_m, weights_m1 = p_mP[at].to(wide), weights_m[:, None].to(wide)
            # Beyond 87 nats the probability underflows float32; the gradient stays correct.
            loss -= p_target_m.clamp(min=torch.finfo(wide).tiny).log() @ weights_m1[:, 0]
            if with_grad:
                # The gradient of the logits is weight * (p - one-hot); the weight is applied to the smaller factor.
                grad_mP = p_mP.index_put_(at, (p_target_m - 1).to(p_mP.dtype))
                grads_h.append((grad_mP @ matrix_PD).mul_(weights_m1))
                if not remaining:
                    del matrix_PD  # make room for its gradient
                # As (D, P): a first factor that is a transposed view halves the speed of oneDNN's product.
                grads_matrix.append((h_mD * weights_m1).to(h_mD.dtype).T.contiguous() @ grad_mP)
        ctx.transpose = transpose
        if with_grad:
            ctx.save_for_backward(torch.cat(grads_h), _sum(grads_matrix)[:, : len(matrix_VD)])
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_h_MD, grad_matrix_DV = ctx.saved_tensors
        scale = grads[0]
        return grad_h_MD.mul_(scale), ctx.transpose(grad_matrix_DV, scale), None, None, None


def _softmax(h_mD: Tensor, matrix_PD: Tensor, vocabulary: int) -> Tensor:
    """Return p_mP, next-token probabilities in the memory of the logits; 0 for the padding of the matrix."""
    logits_mP = h_mD.new_empty(len(h_mD), len(matrix_PD))
    columns = COLUMNS if h_mD.device.type == "cpu" else len(matrix_PD)
    for logits_mp, matrix_pD in zip(logits_mP.split(columns, 1), matrix_PD.split(columns), strict=True):
        torch.mm(h_mD, matrix_pD.T, out=logits_mp)
    logits_mP[:, vocabulary:] = float("-inf")
    return torch.softmax(logits_mP, 1, out=logits_mP)


def _sum(parts: list[Tensor]) -> Tensor:
    """Return the sum in the format of the parts, accumulated in at least float32."""
    if len(parts) == 1:
        return parts[0]
    total = parts[0].to(torch.promote_types(parts[0].dtype, torch.float32))
    for part in parts[1:]:
        total += part
    return total.to(parts[0].dtype)
