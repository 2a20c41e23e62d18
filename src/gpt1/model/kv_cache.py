"""Generation: append the next token, repeat. Keys and values are cached, so each step computes one token per text.

Prompts of different lengths are padded on the left, so that every step fills one column of the cache; a mask hides the
padding, and positions count real tokens only.

Legend: N sequences, T new tokens, S columns that attention reads, L columns of the cache, H heads, d = D / H,
V vocabulary.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt1.model.gpt import GPT
from gpt1.model.sampling import Sampling, draw, penalised


@dataclass(frozen=True)
class KVCache:
    """One layer's keys and values, as the network reads and writes them during one step."""

    kv_2NHLd: Tensor
    new_T: Tensor
    """columns that the step fills"""
    read: int
    """number of columns that attention reads"""

    def update(self, kv_2NHTd: Tensor) -> Tensor:
        """Store the keys and values of the new tokens; return kv_2NHSd."""
        self.kv_2NHLd.index_copy_(3, self.new_T, kv_2NHTd)
        return self.kv_2NHLd[:, :, :, : self.read]


@torch.inference_mode()
def generate_ids(
    body: GPT,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    streams: Sequence[random.Random],
    steps: int,
    beyond: bool = False,
) -> Iterator[list[int]]:
    """Yield the next id of each prompt, `steps` times or until every context is full; close the iterator to stop.

    Each prompt has 1 .. context ids and draws from its own stream of random numbers, so its tokens do not depend on the
    other prompts (but for rounding). A prompt of p ids can take context - p + 1 more, the last one predicted from a
    full context; ids yielded for it after that are meaningless. `body` must be in evaluation mode.

    With `beyond`, a text goes on: as soon as it is one token longer than the context, its window slides. The window
    drops its first `slide` tokens, and what remains is read again from position 0. So every token is predicted from the
    tokens of its window alone, as if these were the whole text.
    """
    context = body.config.context
    longest = max(map(len, prompts))
    steps = steps if beyond else min(steps, context - min(map(len, prompts)) + 1)
    columns = longest + steps - 1
    texts = _Texts(body, sampling, streams, min(columns, context) if beyond else columns)
    windows = [list(prompt) for prompt in prompts]
    tokens_N = texts.read(windows)
    for _ in range(steps - 1):
        yield (ids := tokens_N.tolist())
        for window, token in zip(windows, ids, strict=True):
            window.append(token)
        if beyond and max(map(len, windows)) > context:
            windows = [window[slide(context) :] if len(window) > context else window for window in windows]
            tokens_N = texts.read(windows)
        else:
            tokens_N = texts.step(tokens_N)
    yield tokens_N.tolist()


def slide(context: int) -> int:
    """Return by how many tokens a full window slides: a quarter of the context, at least 1.

    Sliding by one token would read the whole window again for each; by more would leave each less to be predicted from.
    """
    return max(1, context // 4)


class _Texts:
    """Texts that grow together: their caches, their padding, and the tokens seen so far."""

    def __init__(self, body: GPT, sampling: Sampling, streams: Sequence[random.Random], columns: int) -> None:
        config, weight, N = body.config, body.tokens.weight, len(streams)
        self.body, self.sampling, self.streams = body, sampling, streams
        shape_2NHLd = (2, N, config.heads, columns, config.width // config.heads)
        self.kv_2NHLd = [weight.new_zeros(shape_2NHLd) for _ in range(config.depth)]
        self.seen_NV: Tensor | None = None  # tokens that occur in each text; kept only for a repetition penalty

    def read(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Read a window of each text from position 0, whatever was read before, and return the next tokens_N."""
        longest, self.filled = max(map(len, windows)), 0
        padding = [longest - len(window) for window in windows]
        self.pad_N1 = torch.tensor(padding, device=self.body.tokens.weight.device)[:, None]
        self.ragged = any(padding)
        rows = [[0] * pad + list(window) for pad, window in zip(padding, windows, strict=True)]
        tokens_NT = torch.tensor(rows, device=self.pad_N1.device)
        # A token that has left the window has been seen all the same.
        if self.sampling.repetition_penalty != 1 and self.seen_NV is None:
            real_NT = torch.arange(longest, device=tokens_NT.device) >= self.pad_N1
            self.seen_NV = _seen(tokens_NT, real_NT, self.body.config.vocabulary)
        return self._advance(tokens_NT)

    def step(self, tokens_N: Tensor) -> Tensor:
        """Append a token to each text and return the next, tokens_N."""
        return self._advance(tokens_N[:, None])

    def _advance(self, tokens_NT: Tensor) -> Tensor:
        first, self.filled = self.filled, self.filled + tokens_NT.shape[1]
        columns_T = torch.arange(first, self.filled, device=tokens_NT.device)
        positions_NT = (columns_T - self.pad_N1).clamp(0, self.body.config.context - 1)
        weight = self.body.tokens.weight
        mask_NTS = _mask(self.pad_N1, columns_T, self.filled, weight.dtype) if self.ragged else None
        caches = [KVCache(kv_2NHLd, columns_T, self.filled) for kv_2NHLd in self.kv_2NHLd]
        h_NTD = self.body(tokens_NT, positions_NT, mask_NTS, caches)
        logits_NV = self.body.logits(h_NTD[:, -1]).float()
        if self.seen_NV is not None:
            logits_NV = penalised(logits_NV, self.seen_NV, self.sampling.repetition_penalty)
        numbers = [stream.random() for stream in self.streams]
        uniform_N = torch.tensor(numbers, dtype=torch.float64, device=logits_NV.device)
        tokens_N = draw(logits_NV, self.sampling, uniform_N)
        if self.seen_NV is not None:
            self.seen_NV.scatter_(1, tokens_N[:, None], True)
        return tokens_N


def _mask(pad_N1: Tensor, columns_T: Tensor, read: int, dtype: torch.dtype) -> Tensor:
    """Return mask_NTS to add to the scores: 0 where a column may attend, -inf elsewhere.

    A column sees the real columns up to itself. Padding sees itself, since a softmax over nothing is not defined.
    """
    columns_S = torch.arange(read, device=pad_N1.device)
    past_TS, self_TS = columns_S <= columns_T[:, None], columns_S == columns_T[:, None]
    sees_NTS = (columns_S >= pad_N1)[:, None] & past_TS | self_TS
    return torch.zeros(sees_NTS.shape, dtype=dtype, device=pad_N1.device).masked_fill_(~sees_NTS, float("-inf"))


def _seen(tokens_NT: Tensor, real_NT: Tensor, vocabulary: int) -> Tensor:
    """Return seen_NV, True for the tokens of each prompt."""
    seen_NV = torch.zeros(len(tokens_NT), vocabulary + 1, dtype=torch.bool, device=tokens_NT.device)
    # Padding is marked in an extra column, which is then cut off.
    return seen_NV.scatter_(1, tokens_NT.where(real_NT, vocabulary), True)[:, :-1]
