"""How well a model predicts a text: nats per token, perplexity and bits per byte, measured over sliding windows."""

import math
from dataclasses import dataclass

import torch

from gpt1.batch import IGNORE
from gpt1.data.windows import Stream, strided
from gpt1.model.cross_entropy import token_nats
from gpt1.model.gpt import GPT
from gpt1.training import parallel

# Tokens per forward pass.
TOKENS_AT_ONCE = 2048


@dataclass(frozen=True)
class Likelihood:
    """The negative log-likelihood of a text."""

    nats: float
    """-log P, summed over the predicted tokens"""
    tokens: int
    """predicted tokens, end tokens included"""

    @property
    def nats_per_token(self) -> float:
        """The loss: mean -log P of a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp of the loss, infinite if that overflows."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else math.inf

    def bits_per_byte(self, tokens_per_byte: float) -> float:
        """Return bits per byte of text, by which models with different lossless tokenizers can be compared."""
        return self.nats_per_token * tokens_per_byte / math.log(2)


def likelihood(body: GPT, stream: Stream, end_id: int, limit: int = 0) -> Likelihood:
    """Predict every token of `stream` once, the first one after an end token; see `data.windows.strided`.

    With a `limit` above 0, estimate it from that many windows, evenly spaced. Several processes share the windows out.
    Leaves the network in evaluation mode.
    """
    body.eval()
    device, world = next(body.parameters()).device, parallel.current()
    context, nats, tokens = body.config.context, 0.0, 0
    for batch in strided(stream, context, end_id, max(1, TOKENS_AT_ONCE // context), limit, world.part):
        with torch.inference_mode():
            targets_NT = batch.targets_NKT[:, 0].to(device)
            h_NTD = body(batch.tokens_NKT[:, 0].to(device))
            nats += token_nats(h_NTD, body.tokens.weight, targets_NT).cpu().double().sum().item()
            tokens += int((targets_NT != IGNORE).sum())
    nats, count = world.sum_numbers([nats, tokens])
    return Likelihood(nats, int(count))
