"""Generation: append the next token, repeat. Each step costs one token, since keys and values are kept.

Prompts of different lengths stand flush right, padding on the left, so every step writes one column of the cache;
a mask hides the padding, and positions count real tokens only.

Legend: N sequences, T new tokens, S columns so far, C columns in all, L layers, H heads, d = D / H, V vocabulary.
"""

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gpt1.nn.model import GPT
from gpt1.nn.sampling import Sampling, draw, penalised


class KeyValues:
    """The keys and values of every layer, allocated once, in the model's number format."""

    def __init__(self, body: GPT, rows: int, columns: int) -> None:
        config = body.config
        shape = (config.depth, rows, config.heads, columns, config.width // config.heads)
        self.k_NHCd = list(body.tokens.weight.new_empty(shape))
        self.v_NHCd = list(body.tokens.weight.new_empty(shape))
        self.length = 0
        """columns filled; whoever runs the model moves it on, once all layers have written"""

    def update(self, layer: int, k_NHTd: Tensor, v_NHTd: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' keys and values; return those of all columns so far, new ones last."""
        stop = self.length + k_NHTd.shape[2]
        k_NHCd, v_NHCd = self.k_NHCd[layer], self.v_NHCd[layer]
        k_NHCd[:, :, self.length : stop] = k_NHTd
        v_NHCd[:, :, self.length : stop] = v_NHTd
        return k_NHCd[:, :, :stop], v_NHCd[:, :, :stop]


@torch.inference_mode()
def decode(
    body: GPT, prompts: Sequence[Sequence[int]], sampling: Sampling, streams: Sequence[random.Random], steps: int
) -> Iterator[list[int]]:
    """Yield the next id of each prompt, `steps` times or until every context is full; close it to stop sooner.

    Each prompt has 1 .. context ids, and draws from its own stream of random numbers: its tokens do not depend on
    the prompts beside it (but for rounding). With p ids it can take context - p + 1 more, the last one from a full
    context; ids yielded for it after that mean nothing. `body` must be in evaluation mode.
    """
    lengths, context = [len(prompt) for prompt in prompts], body.config.context
    longest, steps = max(lengths), min(steps, context - min(lengths) + 1)
    device = body.tokens.weight.device
    pad_N1 = torch.tensor([[longest - length] for length in lengths], device=device)
    columns_C = torch.arange(longest + steps - 1, device=device)
    real_NC = columns_C >= pad_N1 if max(lengths) > min(lengths) else None
    tokens_NT = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    penalty = sampling.repetition_penalty
    seen_NV = None if penalty == 1 else _seen(tokens_NT, columns_C[:longest] >= pad_N1, body.config.vocabulary)
    cache = KeyValues(body, len(prompts), longest + steps - 1)
    for _ in range(steps):
        logits_NV = _next_logits(body, tokens_NT, pad_N1, real_NC, cache)
        if seen_NV is not None:
            logits_NV = penalised(logits_NV, seen_NV, penalty)
        uniform_N = torch.tensor([stream.random() for stream in streams], dtype=torch.float64, device=device)
        tokens_NT = draw(logits_NV, sampling, uniform_N)[:, None]
        if seen_NV is not None:
            seen_NV.scatter_(1, tokens_NT, True)
        yield tokens_NT[:, 0].tolist()


def _next_logits(body: GPT, tokens_NT: Tensor, pad_N1: Tensor, real_NC: Tensor | None, cache: KeyValues) -> Tensor:
    start, stop = cache.length, cache.length + tokens_NT.shape[1]
    columns_T = torch.arange(start, stop, device=tokens_NT.device)
    positions_NT = (columns_T - pad_N1).clamp(0, body.config.context - 1)
    mask_NTS = None if real_NC is None else _mask(real_NC[:, :stop], columns_T)
    h_NTD = body(tokens_NT, positions_NT, mask_NTS, cache)
    cache.length = stop
    return body.logits(h_NTD[:, -1]).float()


def _mask(real_NS: Tensor, columns_T: Tensor) -> Tensor:
    """mask_NTS: a column sees the real ones up to itself. Padding sees itself, or its softmax would be over nothing."""
    columns_S = torch.arange(real_NS.shape[1], device=real_NS.device)
    past_TS = columns_S <= columns_T[:, None]
    self_TS = columns_S == columns_T[:, None]
    return real_NS[:, None] & past_TS | self_TS


def _seen(tokens_NT: Tensor, real_NT: Tensor, vocabulary: int) -> Tensor:
    """seen_NV: which tokens stand in each prompt."""
    seen_NV = torch.zeros(len(tokens_NT), vocabulary + 1, dtype=torch.bool, device=tokens_NT.device)
    # Padding falls into a column of its own, which is then cut off.
    return seen_NV.scatter_(1, tokens_NT.where(real_NT, vocabulary), True)[:, :-1]
