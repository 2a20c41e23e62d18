"""What each token attends to: the attention weights of a block, which `gpt`'s fused kernels never materialise.

Legend: T tokens, S tokens that attention reads, D width, H heads, d = D / H.
"""

from typing import Any

import torch
from torch import Tensor

from gpt1.model.gpt import GPT


@torch.inference_mode()
def attention_weights(body: GPT, tokens_T: Tensor, layer: int) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) of block `layer`, from 0, in fp32: weights_HTS, each row with the sum 1.

    `tokens_T` holds at most one context of ids; `body` must be in evaluation mode.
    """
    T, D, H = len(tokens_T), body.config.width, body.config.heads
    h_1TD = (body.tokens(tokens_T) + body.positions(torch.arange(T, device=tokens_T.device)))[None]
    for block in body.blocks[:layer]:
        h_1TD = block(h_1TD)
    attention: Any = body.blocks[layer].attention
    qkv_3HTd = attention.qkv(h_1TD).float().view(T, 3, H, D // H).permute(1, 2, 0, 3)
    scores_HTS = qkv_3HTd[0] @ qkv_3HTd[1].transpose(1, 2) / (D // H) ** 0.5
    future_TS = torch.ones(T, T, dtype=torch.bool, device=tokens_T.device).triu(1)
    return scores_HTS.masked_fill(future_TS, float("-inf")).softmax(-1)
