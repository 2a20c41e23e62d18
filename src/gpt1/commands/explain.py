"""`gpt1 explain`: how the loss of a text comes about, token by token (the paper, equation 1).

Every token, and the end token behind the text, is predicted once, as `gpt1 evaluate` does: over sliding windows, the
first token after an end token. The probabilities multiply to P(text), which a computer's float cannot hold for long;
their logarithms add up to the same, and do.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gpt1.batch import IGNORE
from gpt1.config import Explain
from gpt1.console import table
from gpt1.data.windows import Ids, strided
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.pages.explain import explain_page
from gpt1.pages.pages import check_page
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.storage import write_text
from gpt1.training.device import setup_device
from gpt1.training.likelihood import Likelihood

LOGITS_AT_ONCE = 64
SUMMARY = ("nats_per_token", "perplexity", "bits_per_byte", "tokens", "bytes", "comparable", "model")


def explain(settings: Explain) -> dict[str, Any]:
    """The probability of each token, and how they become the loss; writes the page if `html` is given.

    Returns nats_per_token, perplexity, bits_per_byte (with `comparable`, false for a lossy tokenizer), tokens, bytes,
    nats, context, model, text, `windows`, `positions` and `product_is_zero_at`, the first position where the product of
    the probabilities so far is 0 in float32, or None. Raises UserError for a text without tokens.
    """
    if settings.html:
        check_page(settings.html, "--html")
    device, dtype = setup_device(settings.device, settings.dtype, settings.threads, settings.seed)
    if settings.top < 1:
        raise UserError(f"--top {settings.top} must be at least 1")
    model = load_run(settings.run)
    ids = model.tokenizer.encode(settings.text)
    if not ids:
        raise UserError("there is nothing to explain: the text has no tokens")
    # A page that shows probabilities should not show bf16's rounding, unless asked to.
    body = model.body.to(device, torch.float32 if settings.dtype == "auto" else dtype)
    windows, positions = _predictions(body, model, [*ids, model.tokenizer.end_id], settings.top)
    result = _summary(model, settings.text, positions) | {"windows": windows, "positions": positions}
    if settings.html:
        write_text(settings.html, explain_page(result, Path(settings.run).name))
        result["page"] = settings.html
    return result


def show(result: dict[str, Any]) -> Group:
    """A row a token, then the loss."""
    rows = Table(box=box.SIMPLE)
    for name in ("", "token", "p", "nats", "product", "sum of logs", "instead"):
        # Only the last column gives way on a narrow screen.
        rows.add_column(name, no_wrap=name != "instead", justify="left" if name in ("token", "instead") else "right")
    for p in result["positions"]:
        instead = "  ".join(f"{a['token']} {a['probability']:.0%}" for a in p["alternatives"] if a["id"] != p["id"])
        product = Text(f"{p['product']:.1e}") if p["product"] else Text("0", style="red")
        rows.add_row(
            str(p["position"]), Text(p["token"], style="bold"), f"{p['probability']:.2g}", f"{p['nats']:.2f}",
            product, f"{p['sum']:.2f}", Text(instead, no_wrap=True, overflow="ellipsis"),
        )  # fmt: skip
    return Group(rows, table({name: result[name] for name in SUMMARY}), Text(underflow(result)))


def underflow(result: dict[str, Any]) -> str:
    """What became of the product, in a sentence."""
    at, nats = result["product_is_zero_at"], result["nats"]
    if at is None:
        return f"The product is {result['positions'][-1]['product']:.2e}; the sum of its logarithms is {-nats:,.2f}."
    return (
        f"At token {at} the product falls below the smallest number float32 can hold (1.4e-45) and stays 0; "
        f"the sum of logarithms goes on to {-nats:,.2f}."
    )


def _predictions(body: GPT, model: LoadedRun, ids: list[int], top: int) -> tuple[list[dict], list[dict]]:
    """The windows, and a dictionary for each predicted token."""
    context, found, windows = body.config.context, [], []
    for number, batch in enumerate(strided(Ids(ids), context, model.tokenizer.end_id, 1)):
        scored = (batch.targets_NKT[0, 0] != IGNORE).nonzero()[:, 0]
        start = number * (context // 2)
        predicts = [start + int(scored[0]), start + int(scored[-1]) + 1]
        windows.append({"start": start, "stop": predicts[1], "predicts": predicts})
        found += _window(body, batch.tokens_NKT[0], batch.targets_NKT[0, 0], scored, top)
    names = model.tokenizer.pieces([i for p in found for i in (p["id"], *(a["id"] for a in p["alternatives"]))])
    named = iter(names)
    product, total = np.float32(1), 0.0
    for position, p in enumerate(found):
        p["position"], p["token"] = position, next(named)
        for alternative in p["alternatives"]:
            alternative["token"] = next(named)
        with np.errstate(under="ignore"):
            product = product * np.float32(p["probability"])
        total -= p["nats"]
        p["product"], p["sum"] = float(product), total
    return windows, found


@torch.inference_mode()
def _window(body: GPT, tokens_1T: Tensor, targets_T: Tensor, scored_S: Tensor, top: int) -> list[dict[str, Any]]:
    """What the model says at the positions `scored_S` of a window."""
    device = next(body.parameters()).device
    h_SD = body(tokens_1T.to(device))[0, scored_S.to(device)]
    found = []
    for h_PD, target_P in zip(h_SD.split(LOGITS_AT_ONCE), targets_T[scored_S].split(LOGITS_AT_ONCE), strict=True):
        logp_PV = body.logits(h_PD).float().log_softmax(-1)
        logp_P = logp_PV.gather(-1, target_P.to(device)[:, None])
        rank_P = (logp_PV > logp_P).sum(-1) + 1
        best_PA = logp_PV.topk(min(top, logp_PV.shape[-1]))
        rows = zip(target_P, logp_P[:, 0], rank_P, best_PA.indices, best_PA.values, strict=True)
        found += [_position(*(x.tolist() for x in row)) for row in rows]
    return found


def _position(target: int, logp: float, rank: int, best: list[int], best_logp: list[float]) -> dict[str, Any]:
    return {
        "id": target,
        "probability": math.exp(logp),
        "nats": -logp,
        "rank": rank,
        "alternatives": [{"id": i, "probability": math.exp(lp)} for i, lp in zip(best, best_logp, strict=True)],
    }


def _summary(model: LoadedRun, text: str, positions: list[dict[str, Any]]) -> dict[str, Any]:
    loss = Likelihood(sum(p["nats"] for p in positions), len(positions))
    size = len(text.encode("utf-8", "replace"))
    body_of = "the language-model part of a fine-tuned run" if model.head is not None else "a language model"
    return {
        "nats_per_token": loss.nats_per_token,
        "perplexity": loss.perplexity,
        "bits_per_byte": loss.bits_per_byte(loss.tokens / size),
        "comparable": model.tokenizer.lossless,
        "nats": loss.nats,
        "tokens": loss.tokens,
        "bytes": size,
        "context": model.body.config.context,
        "model": body_of,
        "text": text,
        "product_is_zero_at": next((p["position"] for p in positions if p["product"] == 0), None),
    }
