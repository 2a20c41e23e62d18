"""How probable each token of a text is to a run (the paper, equation 1).

Every token, and the end token after the text, is predicted once, as in `gpt1 evaluate`: in sliding windows, with an end
token before the first token. The product of the probabilities is P(text), which soon underflows a float; the sum of
their logarithms does not.

Legend: T tokens of a window, S scored positions of it, P some of these, V vocabulary, A alternatives.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.batch import IGNORE
from gpt1.data.windows import Ids, strided
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.results import NULLABLE, Result
from gpt1.run_folder.folder import LoadedRun
from gpt1.run_folder.generation import LOGITS_AT_ONCE
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training.likelihood import Likelihood

Window = dict[str, Any]
Position = dict[str, Any]


@dataclass(frozen=True)
class TextExplanation(Result):
    """The probability of each token, and the loss they add up to."""

    nats_per_token: float
    """the loss: -log P of a token, on average"""
    perplexity: float
    """e to the loss"""
    bits_per_byte: float
    """the loss in bits, per UTF-8 byte of the text"""
    comparable: bool
    """whether bits_per_byte can be compared between tokenizers: false for a lossy one"""
    nats: float
    """-log P, summed over the tokens"""
    tokens: int
    """predicted tokens, the end token included"""
    bytes: int
    """UTF-8 bytes of the text"""
    context: int
    """tokens the model reads at once"""
    model: str
    """what kind of model it is"""
    text: str
    """the text explained"""
    product_is_zero_at: int | None = field(metadata=NULLABLE)
    """first position at which the product so far is 0 in float32"""
    windows: list[dict[str, Any]]
    """each window's `start`, `stop` and what it `predicts`, [first, last + 1)"""
    positions: list[dict[str, Any]]
    """tokens: `position`, `id`, `token`, `probability`, `nats`, `rank`, `alternatives`; `product` and `sum` so far"""


def explain_text(run: LoadedRun, body: GPT, text: str, top: int) -> TextExplanation:
    """Return how probable each token of a text is to a run's network, `body`, with `top` alternatives to each.

    Raises UserError for a text without tokens.
    """
    tokenizer = run.tokenizer
    ids = tokenizer.encode(text)
    if not ids:
        raise UserError("there is nothing to explain: the text has no tokens")
    windows, positions = predict_tokens(body, tokenizer, [*ids, tokenizer.end_id], top)
    loss = Likelihood(sum(p["nats"] for p in positions), len(positions))
    size = len(text.encode("utf-8", "replace"))
    return TextExplanation(
        nats_per_token=loss.nats_per_token,
        perplexity=loss.perplexity,
        bits_per_byte=loss.bits_per_byte(loss.tokens / size),
        comparable=tokenizer.lossless,
        nats=loss.nats,
        tokens=loss.tokens,
        bytes=size,
        context=body.config.context,
        model="the language-model part of a fine-tuned run" if run.head is not None else "a language model",
        text=text,
        product_is_zero_at=next((p["position"] for p in positions if p["product"] == 0), None),
        windows=windows,
        positions=positions,
    )


def predict_tokens(body: GPT, tokenizer: Tokenizer, ids: list[int], top: int) -> tuple[list[Window], list[Position]]:
    """Return the windows over `ids`, and for each predicted token its probability and the `top` alternatives.

    A window has `start`, `stop` and `predicts` [first, last + 1). A position has `position`, `id`, `token`,
    `probability`, `nats`, `rank`, `alternatives`, and the `product` (in float32) and `sum` of log-probabilities so far.
    """
    context, positions, windows = body.config.context, list[Position](), list[Window]()
    for number, batch in enumerate(strided(Ids(ids), context, tokenizer.end_id, 1)):
        scored_S = (batch.targets_NKT[0, 0] != IGNORE).nonzero()[:, 0]
        start = number * (context // 2)
        predicts = [start + int(scored_S[0]), start + int(scored_S[-1]) + 1]
        windows.append({"start": start, "stop": predicts[1], "predicts": predicts})
        positions += _predict_window(body, batch.tokens_NKT[0], batch.targets_NKT[0, 0], scored_S, top)
    pieces = iter(tokenizer.pieces([i for p in positions for i in (p["id"], *(a["id"] for a in p["alternatives"]))]))
    product, total = np.float32(1), 0.0
    for number, position in enumerate(positions):
        position["position"], position["token"] = number, next(pieces)
        for alternative in position["alternatives"]:
            alternative["token"] = next(pieces)
        with np.errstate(under="ignore"):
            product = product * np.float32(position["probability"])
        total -= position["nats"]
        position["product"], position["sum"] = float(product), total
    return windows, positions


@torch.inference_mode()
def _predict_window(body: GPT, tokens_1T: Tensor, targets_T: Tensor, scored_S: Tensor, top: int) -> list[Position]:
    """Return the predictions at the positions `scored_S` of a window."""
    device = next(body.parameters()).device
    h_SD = body(tokens_1T.to(device))[0, scored_S.to(device)]
    found = []
    for h_PD, target_P in zip(h_SD.split(LOGITS_AT_ONCE), targets_T[scored_S].split(LOGITS_AT_ONCE), strict=True):
        logp_PV = body.logits(h_PD).float().log_softmax(-1)
        logp_P1 = logp_PV.gather(-1, target_P.to(device)[:, None])
        rank_P = (logp_PV > logp_P1).sum(-1) + 1
        best_PA = logp_PV.topk(min(top, logp_PV.shape[-1]))
        columns = target_P, logp_P1[:, 0], rank_P, best_PA.indices, best_PA.values
        for target, logp, rank, ids, logps in zip(*(column.tolist() for column in columns), strict=True):
            alternatives = [{"id": i, "probability": math.exp(lp)} for i, lp in zip(ids, logps, strict=True)]
            found.append(
                {"id": target, "probability": math.exp(logp), "nats": -logp, "rank": rank, "alternatives": alternatives}
            )
    return found
