"""GPT-1: the network of "Improving Language Understanding by Generative Pre-Training" (Radford et al. 2018, 4.1).

A decoder-only Transformer with LayerNorm *after* each residual sum, learned positions, GELU in its tanh form and an
output matrix tied to the token embedding. This file is complete: everything else changes a model from outside
(`model.fused_cpu` for training on a CPU, `model.packed` and `model.int8` for inference, `torch.compile`).
Constructors only allocate parameters; `GPT.init_weights` sets their values.

Legend: N sequences, T tokens, S keys that attention reads, D width, H heads, d = D / H, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.config import EPSILON, Model

INIT_STD = 0.02


class Cache(Protocol):
    """One layer's keys and values of the tokens seen so far; see `model.kv_cache`."""

    def update(self, kv_2NHTd: Tensor) -> Tensor:
        """Store the keys and values of new tokens; return kv_2NHSd, everything attention reads."""


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, nn.Dropout(config.attention_dropout)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x_NTD: Tensor, mask_NTS: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        N, T, D = x_NTD.shape
        qkv_3NHTd = self.qkv(x_NTD).view(N, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q_NHTd, k_NHSd, v_NHSd = qkv_3NHTd
        if cache is not None:
            k_NHSd, v_NHSd = cache.update(qkv_3NHTd[1:])
        a_NHTd = self.attend(q_NHTd, k_NHSd, v_NHSd, mask_NTS, self.dropout.p if self.training else 0.0)
        return self.out(a_NHTd.transpose(1, 2).reshape(N, T, D))

    @staticmethod
    def attend(q_NHTd: Tensor, k_NHSd: Tensor, v_NHSd: Tensor, mask_NTS: Tensor | None, p: float) -> Tensor:
        """Return a_NHTd = softmax(q k^T / sqrt(d)) v, with dropout p on the weights.

        Without a mask, query t sees keys 0 .. t; a single query (T = 1) sees every key.
        """
        mask_N1TS = None if mask_NTS is None else mask_NTS[:, None]
        causal = mask_NTS is None and q_NHTd.shape[2] > 1
        return F.scaled_dot_product_attention(
            q_NHTd, k_NHSd, v_NHSd, attn_mask=mask_N1TS, dropout_p=p, is_causal=causal
        )


class FeedForward(nn.Module):
    """Two linear layers around a GELU, applied to each position."""

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
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x_NTD: Tensor, mask_NTS: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        n_NTD = self.attention_norm(x_NTD + self.dropout(self.attention(x_NTD, mask_NTS, cache)))
        return self.feed_forward_norm(n_NTD + self.dropout(self.feed_forward(n_NTD)))


class GPT(nn.Module):
    """Token ids -> hidden states; `logits` turns hidden states into scores of the next token."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(
        self,
        tokens_NT: Tensor,
        positions_NT: Tensor | None = None,
        mask_NTS: Tensor | None = None,
        caches: Sequence[Cache] | None = None,
    ) -> Tensor:
        """Return h_NTD, the hidden state at each token.

        Args:
            tokens_NT: int64 token ids.
            positions_NT: positions of the tokens within the context; default: 0 .. T-1.
            mask_NTS: True where a token may attend (or the values to add to the scores, 0 or -inf); replaces the causal
                mask. Needed only if the caches hold tokens and T > 1, if they return more columns than are filled, or
                with left padding.
            caches: one per layer, for generation.

        Raises IndexError if a token or position is outside its table.
        """
        if positions_NT is None:
            positions_NT = torch.arange(tokens_NT.shape[1], device=tokens_NT.device)
        h_NTD = self.dropout(self.tokens(tokens_NT) + self.positions(positions_NT))
        for layer, block in enumerate(self.blocks):
            h_NTD = block(h_NTD, mask_NTS, caches[layer] if caches else None)
        return h_NTD

    def logits(self, h_NTD: Tensor) -> Tensor:
        """Return scores of the next token over the vocabulary: h times the transposed embedding, without a bias."""
        return F.linear(h_NTD, self.tokens.weight)

    @classmethod
    def from_weights(cls, config: Model, weights: Mapping[str, Tensor]) -> "GPT":
        """Return a network whose parameters share the memory of `weights`, which are named as in its state dict."""
        with torch.device("meta"):
            body = cls(config)
        body.load_state_dict(weights, assign=True)
        return body

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> "GPT":
        """Draw matrices and embeddings from N(0, 0.02), set biases to 0 and gains to 1 (4.1); return self."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, INIT_STD, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        return self


def count_parameters(config: Model) -> tuple[int, int]:
    """Return the number of parameters, and how many of them are in the blocks' matrices, without building the model."""
    in_matrices = config.depth * (4 * config.width**2 + 2 * config.width * config.inner)
    in_vectors = config.depth * (9 * config.width + config.inner)
    return (config.vocabulary + config.context) * config.width + in_matrices + in_vectors, in_matrices


def weights_in_products(config: Model) -> int:
    """Return the number of weights in the matrix products of each token: the blocks and the output."""
    return count_parameters(config)[1] + config.vocabulary * config.width


def flops_per_token(config: Model) -> int:
    """Return the FLOPs of a token's matrix products in training: the forward pass, and twice that for the backward.

    Attention is counted as full T x T matrices, as usual (Chowdhery et al. 2022, appendix B); a causal kernel needs
    half of that.
    """
    return 6 * weights_in_products(config) + 12 * config.depth * config.context * config.width
