"""Texts that grow together: their newest tokens, the keys and values behind them, and the step that adds a token.

Prompts of different lengths stand flush right, padding on the left, so every step writes one column of the cache;
a mask hides the padding, and positions count real tokens only.

Legend: N sequences, T new tokens, S columns that attention reads, C columns in all, H heads, d = D / H, V vocabulary.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt1.model.gpt import GPT
from gpt1.model.sampling import Sampling, draw, penalised


@dataclass(frozen=True)
class Columns:
    """A layer's keys and values during one step."""

    kv_2NHCd: Tensor
    new_T: Tensor
    """the columns that the step fills"""
    read: int
    """columns that attention reads, from the first on; those not filled yet must be masked"""

    def update(self, kv_2NHTd: Tensor) -> Tensor:
        """Store the new tokens' keys and values; return kv_2NHSd."""
        self.kv_2NHCd.index_copy_(3, self.new_T, kv_2NHTd)
        return self.kv_2NHCd[:, :, :, : self.read]


class Writing:
    """Whatever a step reads and changes, in tensors that stay where they are.

    How far the texts are is a tensor too, so that every step is the same work (see
    `model.cuda_graphs`). It is made for so many rows and columns, and may be begun again and again.
    """

    def __init__(self, body: GPT, rows: int, columns: int, sampling: Sampling) -> None:
        config, weight = body.config, body.tokens.weight
        shape_2NHCd = (2, rows, config.heads, columns, config.width // config.heads)
        self.sampling = sampling
        self.kv_2NHCd = [weight.new_zeros(shape_2NHCd) for _ in range(config.depth)]
        self.tokens_N1 = weight.new_zeros((rows, 1), dtype=torch.int64)
        """the newest token of each text"""
        self.column_1 = weight.new_zeros(1, dtype=torch.int64)
        """where its keys and values will stand"""
        self.pad_N1 = torch.zeros_like(self.tokens_N1)
        self.uniform_CN = weight.new_zeros((columns, rows), dtype=torch.float64)
        """what decides a draw from the column"""
        penalty, shape_NV = sampling.repetition_penalty, (rows, config.vocabulary)
        self.seen_NV = None if penalty == 1 else weight.new_zeros(shape_NV, dtype=torch.bool)

    def begin(self, body: GPT, prompts: Sequence[Sequence[int]], streams: Sequence[random.Random], steps: int) -> None:
        """Read the prompts and draw their first tokens; the numbers for all `steps` are taken from the streams now."""
        longest, device = max(map(len, prompts)), self.tokens_N1.device
        self.ragged = min(map(len, prompts)) < longest
        self.pad_N1.copy_(torch.tensor([[longest - len(prompt)] for prompt in prompts]))
        numbers = [[stream.random() for stream in streams] for _ in range(steps)]
        self.uniform_CN[longest - 1 : longest - 1 + steps] = torch.tensor(numbers, dtype=torch.float64)
        rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        tokens_NT, columns_T = torch.tensor(rows, device=device), torch.arange(longest, device=device)
        if self.seen_NV is not None:
            self.seen_NV.copy_(_seen(tokens_NT, columns_T >= self.pad_N1, self.seen_NV.shape[1]))
        self._advance(body, tokens_NT, columns_T, longest, self.ragged)

    def step(self, body: GPT, read: int, masked: bool) -> None:
        """Draw one token more of every text; `masked` if the first `read` columns are not all filled and real."""
        self._advance(body, self.tokens_N1, self.column_1, read, masked)

    def _advance(self, body: GPT, tokens_NT: Tensor, columns_T: Tensor, read: int, masked: bool) -> None:
        positions_NT = (columns_T - self.pad_N1).clamp(0, body.config.context - 1)
        mask_NTS = _mask(self.pad_N1, columns_T, read, body.tokens.weight.dtype) if masked else None
        caches = [Columns(kv_2NHCd, columns_T, read) for kv_2NHCd in self.kv_2NHCd]
        logits_NV = body.logits(body(tokens_NT, positions_NT, mask_NTS, caches)[:, -1]).float()
        if self.seen_NV is not None:
            logits_NV = penalised(logits_NV, self.seen_NV, self.sampling.repetition_penalty)
        uniform_N = self.uniform_CN.index_select(0, columns_T[-1:])[0]
        self.tokens_N1.copy_(draw(logits_NV, self.sampling, uniform_N)[:, None])
        if self.seen_NV is not None:
            self.seen_NV.scatter_(1, self.tokens_N1, True)
        self.column_1.copy_(columns_T[-1:] + 1)


def _mask(pad_N1: Tensor, columns_T: Tensor, read: int, dtype: torch.dtype) -> Tensor:
    """mask_NTS, 0 where a column may look and -inf elsewhere, as attention adds it to the scores.

    A column sees the real ones up to itself. Padding sees itself, or its softmax would be over nothing.
    """
    columns_S = torch.arange(read, device=pad_N1.device)
    past_TS, self_TS = columns_S <= columns_T[:, None], columns_S == columns_T[:, None]
    sees_NTS = (columns_S >= pad_N1)[:, None] & past_TS | self_TS
    return torch.zeros(sees_NTS.shape, dtype=dtype, device=pad_N1.device).masked_fill_(~sees_NTS, float("-inf"))


def _seen(tokens_NT: Tensor, real_NT: Tensor, vocabulary: int) -> Tensor:
    """seen_NV: which tokens stand in each prompt."""
    seen_NV = torch.zeros(len(tokens_NT), vocabulary + 1, dtype=torch.bool, device=tokens_NT.device)
    # Padding falls into a column of its own, which is then cut off.
    return seen_NV.scatter_(1, tokens_NT.where(real_NT, vocabulary), True)[:, :-1]
