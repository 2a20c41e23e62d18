"""Causal attention by the fastest exact route: fused kernels, or batched products where those win.

On a CPU the fused kernel's backward is several times slower than batched matrix products as long as the
T x T weights fit in memory, and it has no dropout at all; `docs/benchmarks.md` has the figures.

Legend: N sequences, H heads, B = N H, T tokens, S tokens seen so far, d width of a head.
"""

import functools
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.model import kernels
from gpt1.model.dropout import Mask

PRODUCTS_UP_TO = 1024
"""Longest sequence whose attention weights are held while training on a CPU."""


def causal_attention(
    q_NHTd: Tensor, k_NHSd: Tensor, v_NHSd: Tensor, mask_NTS: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v as a_NHTd, each query seeing the keys that `mask_NTS` allows.

    Without a mask, query t sees keys 0 .. t; a single query (T = 1) sees every key.
    """
    N, H, T, d = q_NHTd.shape
    if by_products(q_NHTd, mask_NTS):
        qkv_BTd = (x.reshape(N * H, T, d) for x in (q_NHTd, k_NHSd, v_NHSd))
        a_BTd: Tensor = _ByProducts.apply(*qkv_BTd, weights_mask(q_NHTd, N * H, dropout))
        return a_BTd.view(N, H, T, d)
    mask_N1TS = None if mask_NTS is None else mask_NTS[:, None]
    # One new token may look at everything; more of them without a mask start from an empty cache.
    causal = mask_NTS is None and T > 1
    return F.scaled_dot_product_attention(
        q_NHTd, k_NHSd, v_NHSd, attn_mask=mask_N1TS, dropout_p=dropout, is_causal=causal
    )


def by_products(x: Tensor, mask_NTS: Tensor | None) -> bool:
    """Whether attention over the T of x (..., T, columns) is causal training that goes by `products`."""
    return mask_NTS is None and x.requires_grad and x.device.type == "cpu" and x.shape[-2] <= PRODUCTS_UP_TO


def weights_mask(x: Tensor, B: int, dropout: float) -> Mask | None:
    """The dropout mask of attention's weights (B, T, T) over the T of x (..., T, columns), if any is dropped."""
    T = x.shape[-2]
    return Mask(torch.Size((B, T, T)), x.dtype, dropout, kernels.worth_it(x)) if dropout else None


def products(qkv_BTd: Iterable[Tensor], mask: Mask | None) -> tuple[Tensor, Tensor]:
    """a_BTd, the attention's output, and p_BTT, the softmax, which its backward needs beside q, k, v and the mask."""
    q_BTd, k_BTd, v_BTd = qkv_BTd
    T, d = q_BTd.shape[1:]
    future_TT = torch.full((T, T), float("-inf"), dtype=q_BTd.dtype).triu(1)
    s_BTT = torch.baddbmm(future_TT, q_BTd, k_BTd.mT, alpha=d**-0.5)
    p_BTT = torch.softmax(s_BTT, -1, out=s_BTT)
    (dropped_BTT,) = mask(p_BTT) if mask else (p_BTT,)
    return dropped_BTT @ v_BTd, p_BTT


def products_backward(
    grad_BTd: Tensor, qkv_BTd: Iterable[Tensor], p_BTT: Tensor, mask: Mask | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients with respect to q, k and v."""
    q_BTd, k_BTd, v_BTd = qkv_BTd
    dropped_BTT, grad_p_BTT = p_BTT, grad_BTd @ v_BTd.mT
    if mask:
        dropped_BTT, grad_p_BTT = mask(p_BTT, grad_p_BTT)
    grad_v_BTd = dropped_BTT.mT @ grad_BTd
    grad_s_BTT = torch._softmax_backward_data(grad_p_BTT, p_BTT, -1, p_BTT.dtype)
    # The scale rides on the product; `beta=0` ignores what the first argument holds.
    scaled = functools.partial(torch.baddbmm, q_BTd, beta=0, alpha=q_BTd.shape[2] ** -0.5)
    return scaled(grad_s_BTT, k_BTd), scaled(grad_s_BTT.mT, q_BTd), grad_v_BTd


class _ByProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BTd: Tensor, k_BTd: Tensor, v_BTd: Tensor, mask: Mask | None) -> Tensor:
        a_BTd, p_BTT = products((q_BTd, k_BTd, v_BTd), mask)
        ctx.save_for_backward(q_BTd, k_BTd, v_BTd, p_BTT)
        ctx.mask = mask
        return a_BTd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *qkv_BTd, p_BTT = ctx.saved_tensors
        return *products_backward(grads[0], qkv_BTd, p_BTT, ctx.mask), None
