"""Causal attention by the fastest exact route: fused kernels, or batched products where those win.

On a CPU the fused kernel's backward is several times slower than batched matrix products as long as the
T x T weights fit in memory, and it has no dropout at all; `docs/benchmarks.md` has the figures.

Legend: N sequences, H heads, B = N H, T tokens, S tokens seen so far, d width of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.nn import kernels
from gpt1.nn.layers import Mask

PRODUCTS_UP_TO = 1024
"""Longest sequence whose attention weights are held while training on a CPU."""


def causal_attention(
    q_NHTd: Tensor, k_NHSd: Tensor, v_NHSd: Tensor, mask_NTS: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v as a_NHTd, each query seeing the keys that `mask_NTS` allows.

    Without a mask, query t sees keys 0 .. t; a single query (T = 1) sees every key.
    """
    N, H, T, d = q_NHTd.shape
    if mask_NTS is None and q_NHTd.requires_grad and q_NHTd.device.type == "cpu" and T <= PRODUCTS_UP_TO:
        q_BTd, k_BTd, v_BTd = (x.reshape(N * H, T, d) for x in (q_NHTd, k_NHSd, v_NHSd))
        shape_BTT, again = torch.Size((N * H, T, T)), kernels.worth_it(q_NHTd)
        mask = Mask(shape_BTT, q_NHTd.dtype, dropout, again) if dropout else None
        a_BTd: Tensor = _ByProducts.apply(q_BTd, k_BTd, v_BTd, mask)
        return a_BTd.view(N, H, T, d)
    mask_N1TS = None if mask_NTS is None else mask_NTS[:, None]
    # One new token may look at everything; more of them without a mask start from an empty cache.
    causal = mask_NTS is None and T > 1
    return F.scaled_dot_product_attention(
        q_NHTd, k_NHSd, v_NHSd, attn_mask=mask_N1TS, dropout_p=dropout, is_causal=causal
    )


class _ByProducts(torch.autograd.Function):
    """Four products forward and backward; of the T x T tensors only the softmax p is kept between them."""

    @staticmethod
    def forward(ctx: Any, q_BTd: Tensor, k_BTd: Tensor, v_BTd: Tensor, mask: Mask | None) -> Tensor:
        T, d = q_BTd.shape[1:]
        future_TT = torch.full((T, T), float("-inf"), dtype=q_BTd.dtype).triu(1)
        s_BTT = torch.baddbmm(future_TT, q_BTd, k_BTd.mT, alpha=d**-0.5)
        p_BTT = torch.softmax(s_BTT, -1, out=s_BTT)
        ctx.save_for_backward(q_BTd, k_BTd, v_BTd, p_BTT)
        ctx.mask = mask
        (dropped_BTT,) = mask(p_BTT) if mask else (p_BTT,)
        return dropped_BTT @ v_BTd

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_BTd, k_BTd, v_BTd, p_BTT = ctx.saved_tensors
        dropped_BTT, grad_p_BTT = p_BTT, grads[0] @ v_BTd.mT
        if ctx.mask:
            dropped_BTT, grad_p_BTT = ctx.mask(p_BTT, grad_p_BTT)
        grad_v_BTd = dropped_BTT.mT @ grads[0]
        grad_s_BTT = torch._softmax_backward_data(grad_p_BTT, p_BTT, -1, p_BTT.dtype)
        scale = q_BTd.shape[2] ** -0.5
        return (grad_s_BTT @ k_BTd).mul_(scale), (grad_s_BTT.mT @ q_BTd).mul_(scale), grad_v_BTd, None
