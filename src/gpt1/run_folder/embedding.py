"""Embeddings: a text as one vector, the mean of the network's last hidden states over the tokens of the text.

A text longer than the context is cut into windows that are read independently; the mean is over all of its tokens. No
special token is added, so the vector of a text that fits is the mean of what transformers calls `last_hidden_state`.

Legend: M windows, T tokens, D width.
"""

from collections.abc import Sequence

import numpy as np
import torch

from gpt1.data.collate import rounded
from gpt1.model.gpt import GPT

# Tokens of a forward pass, padding included.
TOKENS_AT_ONCE = 4096


@torch.inference_mode()
def embed(body: GPT, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return a vector for each text, (texts, D) in float32; a text is one token id or more.

    `body` must be in evaluation mode.
    """
    context, device = body.config.context, body.tokens.weight.device
    windows = [(n, ids[low : low + context]) for n, ids in enumerate(texts) for low in range(0, len(ids), context)]
    windows.sort(key=lambda window: -len(window[1]))  # those of similar length share a batch
    sums = np.zeros((len(texts), body.config.width))
    while windows:
        T = rounded(len(windows[0][1]), context)
        M = max(1, TOKENS_AT_ONCE // T)
        chosen, windows = windows[:M], windows[M:]
        tokens_MT = torch.tensor([[*ids, *[0] * (T - len(ids))] for _, ids in chosen], device=device)
        lengths_M11 = torch.tensor([len(ids) for _, ids in chosen], device=device)[:, None, None]
        # Padding follows the tokens, so causal attention hides it; only the sum must leave it out.
        is_real_MT1 = torch.arange(T, device=device)[:, None] < lengths_M11
        sums_MD = body(tokens_MT).float().where(is_real_MT1, 0.0).sum(1)
        np.add.at(sums, [n for n, _ in chosen], sums_MD.cpu().double().numpy())
    return (sums / np.array([[len(ids)] for ids in texts])).astype(np.float32)
