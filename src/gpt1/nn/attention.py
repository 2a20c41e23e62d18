"""Causal attention by the fastest exact route: fused kernels, or batched products where those win.

On a CPU the fused kernel's backward is several times slower than four batched matrix products as long as the
T x T weights fit in memory, and it has no dropout at all; `docs/benchmarks.md` has the figures.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PRODUCTS_UP_TO = 1024
"""Longest sequence whose attention weights are held while training on a CPU."""


def causal_attention(
    q_NHTd: Tensor, k_NHSd: Tensor, v_NHSd: Tensor, mask_NTS: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v as a_NHTd, each query seeing the keys that `mask_NTS` allows.

    Without a mask, query t sees keys 0 .. t; a single query (T = 1) sees every key.
    """
    T = q_NHTd.shape[2]
    if mask_NTS is None and q_NHTd.requires_grad and q_NHTd.device.type == "cpu" and T <= PRODUCTS_UP_TO:
        return _by_products(q_NHTd, k_NHSd, v_NHSd, dropout)
    mask_N1TS = None if mask_NTS is None else mask_NTS[:, None]
    # One new token may look at everything; more of them without a mask start from an empty cache.
    causal = mask_NTS is None and T > 1
    return F.scaled_dot_product_attention(
        q_NHTd, k_NHSd, v_NHSd, attn_mask=mask_N1TS, dropout_p=dropout, is_causal=causal
    )


def _by_products(q_NHTd: Tensor, k_NHTd: Tensor, v_NHTd: Tensor, dropout: float) -> Tensor:
    N, H, T, d = q_NHTd.shape
    q_BTd, k_BTd, v_BTd = (x.reshape(N * H, T, d) for x in (q_NHTd, k_NHTd, v_NHTd))
    future_TT = torch.full((T, T), float("-inf"), dtype=q_NHTd.dtype, device=q_NHTd.device).triu(1)
    weights_BTT = torch.baddbmm(future_TT, q_BTd, k_BTd.mT, alpha=d**-0.5).softmax(-1)
    return (F.dropout(weights_BTT, dropout) @ v_BTd).view(N, H, T, d)
