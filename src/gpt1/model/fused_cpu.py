"""The two halves of a Block in training on a CPU, forward and backward written out.

Each is LayerNorm(x + dropout(f(x))). Left to PyTorch, as much time goes into passes over memory as into products.
Here biases, dropout, sums and norms share a few compiled passes (`model.kernels`), the scores' scale and the residual's
gradient ride on products, and of the feed-forward layer's two wide tensors one is kept, the other made again.

A weight's gradient is a product whose first factor lies transposed in memory, which oneDNN's bfloat16 GEMM runs at
half its speed: turning it over first costs less. All weights get a gradient, frozen or not.

Legend: N sequences, H heads, B = N H, T tokens, M = N T, d width of a head, D width, C = 3 D (q, k and v side by side),
I inner width (in `_weight_gradient` the inputs, O the outputs, of any linear layer).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gpt1.model import kernels
from gpt1.model.attention import products, products_backward, weights_mask
from gpt1.model.dropout import Mask, new_seed
from gpt1.model.kernels import Seed


def attention_half(
    x_NTD: Tensor,
    qkv: nn.Linear,
    out: nn.Linear,
    norm: nn.LayerNorm,
    heads: int,
    attention_dropout: float,
    dropout: float,
) -> Tensor:
    """norm(x + dropout(out(attention(qkv(x)))))."""
    weights = (qkv.weight, qkv.bias, out.weight, out.bias, norm.weight, norm.bias)
    mask = weights_mask(x_NTD, len(x_NTD) * heads, attention_dropout)
    h_NTD: Tensor = _Attention.apply(x_NTD, heads, mask, dropout, norm.eps, *weights)
    return h_NTD


def feed_forward_half(x_NTD: Tensor, up: nn.Linear, down: nn.Linear, norm: nn.LayerNorm, dropout: float) -> Tensor:
    """norm(x + dropout(down(gelu(up(x)))))."""
    weights = (up.weight, up.bias, down.weight, down.bias, norm.weight, norm.bias)
    h_NTD: Tensor = _FeedForward.apply(x_NTD, dropout, norm.eps, *weights)
    return h_NTD


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_NTD: Tensor, heads: int, mask: Mask | None, dropout: float, epsilon: float, *weights: Tensor
    ) -> Tensor:
        qkv_CD, qkv_bias_C, out_DD, out_bias_D, gain_D, shift_D = weights
        N, T, D = x_NTD.shape
        x_MD = x_NTD.flatten(0, 1)
        qkv_3NHTd = kernels.heads_apart(x_MD @ qkv_CD.T, qkv_bias_C, N, heads)
        qkv_3BTd = qkv_3NHTd.flatten(1, 2)
        a_BTd, p_BTT = products(qkv_3BTd, mask)
        a_MD = _together(a_BTd, N)
        ctx.seed = new_seed(N * T, D, dropout) if dropout else None
        y_MD = a_MD @ out_DD.T
        h_MD, *norm = kernels.sum_and_norm(x_MD, y_MD, out_bias_D, gain_D, shift_D, ctx.seed, epsilon)
        ctx.save_for_backward(x_MD, qkv_3BTd, p_BTT, a_MD, qkv_CD, out_DD, *norm, gain_D)
        ctx.mask, ctx.N = mask, N
        return h_MD.view(N, T, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, qkv_3BTd, p_BTT, a_MD, qkv_CD, out_DD, *norm = ctx.saved_tensors
        grad_MD, grad_x_MD, *grad_norm = _norm_backward(grads[0], norm, ctx.seed)
        grad_out_bias_D, grad_out_DD = grad_MD.sum(0), _weight_gradient(grad_MD, a_MD)
        grad_a_BTd = _apart(grad_MD @ out_DD, ctx.N, *qkv_3BTd.shape[1:])
        grad_qkv_MC = _side_by_side(products_backward(grad_a_BTd, qkv_3BTd, p_BTT, ctx.mask), ctx.N)
        grad_qkv_bias_C, grad_qkv_CD = grad_qkv_MC.sum(0), _weight_gradient(grad_qkv_MC, x_MD)
        # Last, since without dropout `grad_x_MD` may be `grad_MD` itself.
        grad_x_NTD = grad_x_MD.addmm_(grad_qkv_MC, qkv_CD).view_as(grads[0])
        weights = grad_qkv_CD, grad_qkv_bias_C, grad_out_DD, grad_out_bias_D, *grad_norm
        return grad_x_NTD, None, None, None, None, *weights


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NTD: Tensor, dropout: float, epsilon: float, *weights: Tensor) -> Tensor:
        up_ID, up_bias_I, down_DI, down_bias_D, gain_D, shift_D = weights
        x_MD = x_NTD.flatten(0, 1)
        wide_MI = x_MD @ up_ID.T
        y_MD = kernels.gelu(wide_MI, up_bias_I) @ down_DI.T
        ctx.seed = new_seed(len(x_MD), x_MD.shape[1], dropout) if dropout else None
        h_MD, *norm = kernels.sum_and_norm(x_MD, y_MD, down_bias_D, gain_D, shift_D, ctx.seed, epsilon)
        ctx.save_for_backward(x_MD, wide_MI, up_ID, up_bias_I, down_DI, *norm, gain_D)
        return h_MD.view_as(x_NTD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, wide_MI, up_ID, up_bias_I, down_DI, *norm = ctx.saved_tensors
        grad_MD, grad_x_MD, *grad_norm = _norm_backward(grads[0], norm, ctx.seed)
        activated_MI, grad_wide_MI = kernels.gelu_and_backward(grad_MD @ down_DI, wide_MI, up_bias_I)
        grad_down_bias_D, grad_down_DI = grad_MD.sum(0), _weight_gradient(grad_MD, activated_MI)
        del activated_MI
        grad_up_bias_I, grad_up_ID = grad_wide_MI.sum(0), _weight_gradient(grad_wide_MI, x_MD)
        # Last, since without dropout `grad_x_MD` may be `grad_MD` itself.
        grad_x_NTD = grad_x_MD.addmm_(grad_wide_MI, up_ID).view_as(grads[0])
        return grad_x_NTD, None, None, grad_up_ID, grad_up_bias_I, grad_down_DI, grad_down_bias_D, *grad_norm


def _norm_backward(grad_NTD: Tensor, norm: list[Tensor], seed: Seed | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """grad_y_MD and grad_x_MD of the sum y + x under the norm, and those of gain and shift."""
    grad_MD = grad_NTD.flatten(0, 1)
    sum_MD, mean_M1, inverse_M1, gain_D = norm
    grad_x_MD, grad_y_MD = kernels.sum_and_norm_backward(grad_MD, sum_MD, mean_M1, inverse_M1, gain_D, seed)
    return grad_y_MD, grad_x_MD, *kernels.norm_sums(grad_MD, sum_MD, mean_M1, inverse_M1)


def _weight_gradient(grad_MO: Tensor, x_MI: Tensor) -> Tensor:
    """grad^T x, of which a first factor is turned over: the narrower one, and the result if that was x."""
    if grad_MO.shape[1] <= x_MI.shape[1]:
        return kernels.turned(grad_MO) @ x_MI
    return kernels.turned(kernels.turned(x_MI) @ grad_MO)


def _apart(x_MD: Tensor, sequences: int, B: int, T: int, d: int) -> Tensor:
    """x_BTd: the columns of each head as rows in memory."""
    return x_MD.view(sequences, T, -1, d).transpose(1, 2).reshape(B, T, d)


def _together(x_BTd: Tensor, sequences: int) -> Tensor:
    """x_MD: the heads side by side."""
    return x_BTd.unflatten(0, (sequences, -1)).transpose(1, 2).flatten(0, 1).flatten(1)


def _side_by_side(parts: tuple[Tensor, ...], sequences: int) -> Tensor:
    """x_MC: the heads of q, those of k, those of v."""
    B, T, d = parts[0].shape
    x_MC = parts[0].new_empty(sequences * T, 3 * B // sequences * d)
    x_3NHTd = x_MC.view(sequences, T, 3, -1, d).permute(2, 0, 3, 1, 4)
    for to_NHTd, part_BTd in zip(x_3NHTd, parts, strict=True):
        to_NHTd.copy_(part_BTd.view_as(to_NHTd))
    return x_MC
