"""Generation: append the next token, repeat. Keys and values are cached, so each step computes one token per text.

A `Decoder` holds the texts that grow together. They may join and leave between any two steps, and each has its own
sampling and random numbers (continuous batching: Yu et al. 2022, "Orca"). A text's tokens fill its row of the cache
from column 0, so a column is a position; where texts differ in length, a mask hides what lies beyond the shorter ones.
A text that outgrows the context goes on in a window that slides.

Legend: N sequences, M of them, T new tokens, S columns that attention reads, L columns of the cache, H heads,
d = D / H, V vocabulary.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt1.model.gpt import GPT
from gpt1.model.sampling import Sampling, draw, penalised, sampling_device


@dataclass(frozen=True)
class KVCache:
    """One layer's keys and values, as the network reads and writes them during one step."""

    kv_2NHLd: Tensor
    new: Tensor
    """columns that the step fills: (T,) if they are the same in all rows, else (N, T)"""
    read: int
    """number of columns that attention reads"""

    def update(self, kv_2NHTd: Tensor) -> Tensor:
        """Store the keys and values of the new tokens; return kv_2NHSd."""
        if self.new.dim() == 1:
            self.kv_2NHLd.index_copy_(3, self.new, kv_2NHTd)
        else:
            rows_N1 = torch.arange(len(self.new), device=self.new.device)[:, None]
            self.kv_2NHLd[:, rows_N1, :, self.new] = kv_2NHTd.permute(1, 3, 0, 2, 4)
        return self.kv_2NHLd[:, :, :, : self.read]


@dataclass(frozen=True)
class Step:
    """What a step did: the texts that it advanced, in order, have these new tokens."""

    tokens: list[int]
    logits_NV: Tensor
    """scores that the tokens were drawn from, fp32, before temperature and penalty"""
    h_NTD: Tensor
    """hidden states of the tokens that were read; for a prompt of t tokens, the first t"""


@dataclass
class _Row:
    """A text in the decoder."""

    sampling: Sampling
    stream: random.Random
    window: list[int]
    """its tokens in the cache"""
    seen_V: Tensor | None
    """tokens that occur in it; kept only for a repetition penalty"""
    token: int = 0
    """the newest token, which the next step reads"""


class Decoder:
    """Texts that grow together, one token each at every step.

    Row n belongs to the n-th text. A text's tokens do not depend on the other texts, except for rounding: products of
    matrices with more rows may add up in another order. `body` must be in evaluation mode.
    """

    def __init__(self, body: GPT) -> None:
        self.body, self.rows = body, list[_Row]()
        self._kv_2NHLd: list[Tensor] = []  # of each layer; rows and columns grow as texts need them

    @torch.inference_mode()
    def join(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        streams: Sequence[random.Random],
        new: Sequence[int],
    ) -> Step:
        """Add texts behind the others: read their prompts, of 1 .. context ids, and draw the first new token of each.

        Each draws from its own stream of random numbers. `new` is the number of tokens that each is expected to get; a
        prompt of p ids can take context - p + 1 before its window slides, the last one predicted from a full context.
        """
        device, config = self.body.tokens.weight.device, self.body.config
        longest = max(map(len, prompts))
        most = max(len(prompt) + count - 1 for prompt, count in zip(prompts, new, strict=True))
        self._reserve(len(self.rows) + len(prompts), min(max(most, longest), config.context))
        tokens_NT = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
        first = len(self.rows)
        for prompt, sampling, stream in zip(prompts, samplings, streams, strict=True):
            seen_V = None
            if sampling.repetition_penalty != 1:
                seen_V = torch.zeros(config.vocabulary, dtype=torch.bool, device=sampling_device(device))
                seen_V[list(prompt)] = True
            self.rows.append(_Row(sampling, stream, list(prompt), seen_V))
        columns_T = torch.arange(longest, device=device)
        # What follows a shorter prompt is padding, which causal attention hides; its columns are written again later.
        caches = [KVCache(kv_2NHLd[:, first : len(self.rows)], columns_T, longest) for kv_2NHLd in self._kv_2NHLd]
        h_NTD = self.body(tokens_NT, None, None, caches)
        last_N = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        return self._draw(self.rows[first:], h_NTD, h_NTD[torch.arange(len(prompts), device=device), last_N])

    @torch.inference_mode()
    def step(self) -> Step:
        """Append its newest token to each text and draw the next.

        The window of a text that fills the context slides first: it drops its first `slide` tokens, and what remains is
        read again from position 0. So every token is predicted from the tokens of its window alone, as if these were
        the whole text.
        """
        device = self.body.tokens.weight.device
        for n, row in enumerate(self.rows):
            if len(row.window) == self.body.config.context:
                self._slide(n)
        filled = [len(row.window) for row in self.rows]
        read = max(filled) + 1
        columns_N1 = torch.tensor(filled, device=device)[:, None]
        mask_N1S = None
        if ragged := min(filled) < max(filled):
            mask_N1S = (torch.arange(read, device=device) <= columns_N1)[:, None]
        new = columns_N1 if ragged else columns_N1[0]
        caches = [KVCache(kv_2NHLd[:, : len(self.rows)], new, read) for kv_2NHLd in self._kv_2NHLd]
        tokens_N1 = torch.tensor([[row.token] for row in self.rows], device=device)
        h_N1D = self.body(tokens_N1, columns_N1, mask_N1S, caches)
        for row in self.rows:
            row.window.append(row.token)
        return self._draw(self.rows, h_N1D, h_N1D[:, -1])

    @torch.inference_mode()
    def leave(self, n: int) -> None:
        """Remove the n-th text; the last one takes its row."""
        last = self.rows.pop()
        if n < len(self.rows):
            self.rows[n] = last
            for kv_2NHLd in self._kv_2NHLd:
                filled = len(last.window)
                kv_2NHLd[:, n, :, :filled] = kv_2NHLd[:, len(self.rows), :, :filled]
        if not self.rows:
            self._kv_2NHLd = []

    def _slide(self, n: int) -> None:
        row, device = self.rows[n], self.body.tokens.weight.device
        row.window = row.window[slide(self.body.config.context) :]
        columns_T = torch.arange(len(row.window), device=device)
        caches = [KVCache(kv_2NHLd[:, n : n + 1], columns_T, len(row.window)) for kv_2NHLd in self._kv_2NHLd]
        if row.window:  # nothing is left of a context of one token
            self.body(torch.tensor([row.window], device=device), None, None, caches)

    def _reserve(self, rows: int, columns: int) -> None:
        """Make room in the cache."""
        config, weight, old = self.body.config, self.body.tokens.weight, self._kv_2NHLd
        had_rows, had_columns = (old[0].shape[1], old[0].shape[3]) if old else (0, 0)
        if rows <= had_rows and columns <= had_columns:
            return
        if rows > had_rows:
            rows = max(rows, 2 * had_rows)  # so that texts that join one by one seldom copy the others
        shape_2NHLd = (2, max(rows, had_rows), config.heads, max(columns, had_columns), config.width // config.heads)
        # Zeros, since what the mask hides is multiplied by 0 and must be a number.
        self._kv_2NHLd = [weight.new_zeros(shape_2NHLd) for _ in range(config.depth)]
        for new_2NHLd, old_2NHLd in zip(self._kv_2NHLd, old, strict=False):
            new_2NHLd[:, :had_rows, :, :had_columns] = old_2NHLd

    def _draw(self, rows: Sequence[_Row], h_NTD: Tensor, last_ND: Tensor) -> Step:
        """Draw the next token of each row, those with the same sampling together."""
        logits_NV = self.body.logits(last_ND).float().to(sampling_device(last_ND.device))
        numbers = [row.stream.random() for row in rows]
        uniform_N = torch.tensor(numbers, dtype=torch.float64, device=logits_NV.device)
        alike: dict[Sampling, list[int]] = {}
        for n, row in enumerate(rows):
            alike.setdefault(row.sampling, []).append(n)
        for sampling, members in alike.items():
            is_all = len(members) == len(rows)
            logits_MV = logits_NV if is_all else logits_NV[members]
            seen = [row.seen_V for row in (rows[n] for n in members) if row.seen_V is not None]
            if seen:
                logits_MV = penalised(logits_MV, torch.stack(seen), sampling.repetition_penalty)
            tokens_M = draw(logits_MV, sampling, uniform_N if is_all else uniform_N[members])
            for n, token in zip(members, tokens_M.tolist(), strict=True):
                rows[n].token = token
                if (seen_V := rows[n].seen_V) is not None:
                    seen_V[token] = True
        return Step([row.token for row in rows], logits_NV, h_NTD)


def slide(context: int) -> int:
    """Return by how many tokens a full window slides: a quarter of the context, at least 1.

    Sliding by one token would read the whole window again for each; by more would leave each less to be predicted from.
    """
    return max(1, context // 4)
