"""GPT-1: the network of "Improving Language Understanding by Generative Pre-Training" (Radford et al. 2018, 4.1).

A decoder-only Transformer with LayerNorm *after* each residual sum, learned positions, GELU in its tanh form and
an output matrix tied to the token embedding. The constructors make shapes only; `GPT.init_weights` draws values.

Legend: N sequences, T tokens, S tokens seen so far (T without a cache), D width, H heads, d = D / H, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.config import Model
from gpt1.model import kernels
from gpt1.model.attention import by_products, causal_attention
from gpt1.model.dropout import Dropout
from gpt1.model.fused_cpu import attention_half, feed_forward_half

EPSILON = 1e-5
INIT_STD = 0.02


class Cache(Protocol):
    """A layer's keys and values of the tokens already seen; see `model.decode`."""

    def update(self, kv_2NHTd: Tensor) -> Tensor:
        """Store the new tokens' keys and values; return kv_2NHSd, those that attention reads."""


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, Dropout(config.attention_dropout)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x_NTD: Tensor, mask_NTS: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        N, T, D = x_NTD.shape
        qkv_3NHTd = self.qkv(x_NTD).view(N, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q_NHTd, k_NHSd, v_NHSd = qkv_3NHTd
        if cache is not None:
            k_NHSd, v_NHSd = cache.update(qkv_3NHTd[1:])
        a_NHTd = causal_attention(q_NHTd, k_NHSd, v_NHSd, mask_NTS, self.dropout.now())
        return self.out(a_NHTd.transpose(1, 2).reshape(N, T, D))


class FeedForward(nn.Module):
    """Two layers around a GELU, at each position on its own."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.inner)
        self.down = nn.Linear(config.inner, config.width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_NTD), approximate="tanh"))


class Block(nn.Module):
    """Attention, then feed-forward; each is added to its input, and the sum is normalised (post-LayerNorm)."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.width, EPSILON)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.width, EPSILON)
        self.dropout = Dropout(config.residual_dropout)

    def forward(self, x_NTD: Tensor, mask_NTS: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        n_NTD = self._attend(x_NTD, mask_NTS, cache)
        if kernels.worth_it(n_NTD):
            f = self.feed_forward
            return feed_forward_half(n_NTD, f.up, f.down, self.feed_forward_norm, self.dropout.now())
        return self.feed_forward_norm(n_NTD + self.dropout(self.feed_forward(n_NTD)))

    def _attend(self, x_NTD: Tensor, mask_NTS: Tensor | None, cache: Cache | None) -> Tensor:
        if cache is None and by_products(x_NTD, mask_NTS) and kernels.worth_it(x_NTD):
            a = self.attention
            rates = a.dropout.now(), self.dropout.now()
            return attention_half(x_NTD, a.qkv, a.out, self.attention_norm, a.heads, *rates)
        return self.attention_norm(x_NTD + self.dropout(self.attention(x_NTD, mask_NTS, cache)))


class GPT(nn.Module):
    """Token ids -> hidden states; `logits` turns hidden states into next-token scores."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.dropout = Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(
        self,
        tokens_NT: Tensor,
        positions_NT: Tensor | None = None,
        mask_NTS: Tensor | None = None,
        caches: Sequence[Cache] | None = None,
    ) -> Tensor:
        """h_NTD, the hidden state at each token.

        `positions_NT` (default 0 .. T-1) numbers the tokens within the context. `mask_NTS`, True where a token may
        look, replaces the causal mask (or what to add to the scores, 0 or -inf); it is needed only where the caches,
        one a layer, hold tokens and T > 1, or give more than there are so far, or where padding stands on the left.
        Raises IndexError if a token or position lies outside its table.
        """
        if positions_NT is None:
            positions_NT = torch.arange(tokens_NT.shape[1], device=tokens_NT.device)
        h_NTD = self.dropout(self.tokens(tokens_NT) + self.positions(positions_NT))
        for layer, block in enumerate(self.blocks):
            h_NTD = block(h_NTD, mask_NTS, caches[layer] if caches else None)
        return h_NTD

    def logits(self, h_NTD: Tensor) -> Tensor:
        """Scores of the next token over the vocabulary: the transposed embedding, without a bias."""
        return F.linear(h_NTD, self.tokens.weight)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> "GPT":
        """Matrices and embeddings N(0, 0.02), biases 0, gains 1 (4.1); returns self."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, INIT_STD, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        return self
