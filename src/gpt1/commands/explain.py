"""`gpt1 explain`: how the loss of a text comes about, token by token."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gpt1.config import Explain
from gpt1.console import table
from gpt1.errors import UserError, setting
from gpt1.keywords import command
from gpt1.pages.explain import explain_page, predict_tokens
from gpt1.pages.render import check_page
from gpt1.results import NULLABLE, Result
from gpt1.run_folder.folder import load_run
from gpt1.storage import write_text
from gpt1.training.device import out_of_memory, setup_device
from gpt1.training.likelihood import Likelihood

SUMMARY = ("nats_per_token", "perplexity", "bits_per_byte", "tokens", "bytes", "comparable", "model")


@dataclass(frozen=True)
class ExplainResult(Result):
    """What `gpt1 explain` prints: the probability of each token, and the loss they add up to."""

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
    page: str | None = None
    """page written"""


@command(Explain, "run", "text")
def explain(settings: Explain) -> ExplainResult:
    """Predict each token of a text; write the page if `html` is given. Raises UserError for a text without tokens."""
    if settings.html:
        check_page(settings.html, "html")
    device, dtype = setup_device(settings.device, settings.dtype, settings.threads, settings.seed)
    if settings.top < 1:
        raise UserError(f"{setting('top')} {settings.top} must be at least 1")
    run = load_run(settings.run)
    tokenizer = run.tokenizer
    ids = tokenizer.encode(settings.text)
    if not ids:
        raise UserError("there is nothing to explain: the text has no tokens")
    # Probabilities on a page should not show bf16's rounding, unless asked to.
    body = run.body.to(device, torch.float32 if settings.dtype == "auto" else dtype)
    with out_of_memory("explain a shorter text"):
        windows, positions = predict_tokens(body, tokenizer, [*ids, tokenizer.end_id], settings.top)
    loss = Likelihood(sum(p["nats"] for p in positions), len(positions))
    size = len(settings.text.encode("utf-8", "replace"))
    result = ExplainResult(
        nats_per_token=loss.nats_per_token,
        perplexity=loss.perplexity,
        bits_per_byte=loss.bits_per_byte(loss.tokens / size),
        comparable=tokenizer.lossless,
        nats=loss.nats,
        tokens=loss.tokens,
        bytes=size,
        context=body.config.context,
        model="the language-model part of a fine-tuned run" if run.head is not None else "a language model",
        text=settings.text,
        product_is_zero_at=next((p["position"] for p in positions if p["product"] == 0), None),
        windows=windows,
        positions=positions,
        page=settings.html or None,
    )
    if settings.html:
        write_text(settings.html, explain_page(result, Path(settings.run).name))
    return result


def show(result: ExplainResult) -> Group:
    """Return a table with a row for each token, then the loss."""
    rows = Table(box=box.SIMPLE)
    for name in ("", "token", "p", "nats", "product", "sum of logs", "instead"):
        # Only the last column is cut on a narrow screen.
        rows.add_column(name, no_wrap=name != "instead", justify="left" if name in ("token", "instead") else "right")
    for p in result.positions:
        instead = "  ".join(f"{a['token']} {a['probability']:.0%}" for a in p["alternatives"] if a["id"] != p["id"])
        product = Text(f"{p['product']:.1e}") if p["product"] else Text("0", style="red")
        rows.add_row(
            str(p["position"]), Text(p["token"], style="bold"), f"{p['probability']:.2g}", f"{p['nats']:.2f}",
            product, f"{p['sum']:.2f}", Text(instead, no_wrap=True, overflow="ellipsis"),
        )  # fmt: skip
    return Group(rows, table({name: result[name] for name in SUMMARY}), Text(describe_product(result)))


def describe_product(result: ExplainResult) -> str:
    """Say in a sentence what became of the product."""
    if result.product_is_zero_at is None:
        return f"The product is {result.positions[-1]['product']:.2e}; the sum of logarithms is {-result.nats:,.2f}."
    return (
        f"At token {result.product_is_zero_at} the product falls below the smallest number float32 can hold (1.4e-45) "
        f"and stays 0; the sum of logarithms goes on to {-result.nats:,.2f}."
    )
