"""The page that explains a text: arrange a `TextExplanation` (`--json` of `gpt1 explain`) for its template."""

import math
from collections.abc import Mapping
from typing import Any

from gpt1.pages.charts import line_chart
from gpt1.pages.render import render

FULL_HEAT = 12.0  # bits of surprise at which a token's colour is full
WINDOWS_SHOWN = 40


def explain_page(result: Mapping[str, Any], run: str) -> str:
    """Return the page for the result of `gpt1 explain`; `run` is the name of the model."""
    not_comparable = "" if result["comparable"] else ", not comparable: lossy tokenizer"
    return render(
        "explain.html",
        title=f"How {run} reads this text",
        model=result["model"],
        context=result["context"],
        zero_at=result.get("product_is_zero_at"),
        figures=[
            ("loss, nats per token", f"{result['nats_per_token']:.3f}"),
            ("perplexity", f"{result['perplexity']:,.1f}"),
            (f"bits per byte{not_comparable}", f"{result['bits_per_byte']:.3f}"),
            ("predicted tokens", f"{result['tokens']:,}"),
        ],
        positions=_arrange_positions(result["positions"]),
        windows=[_arrange_window(window, result["tokens"]) for window in result["windows"][:WINDOWS_SHOWN]],
        more_windows=max(0, len(result["windows"]) - WINDOWS_SHOWN),
        product_chart=line_chart(
            {
                "sum of log p": [(p["position"], p["sum"]) for p in result["positions"]],
                "log of the float32 product": [
                    (p["position"], math.log(p["product"])) for p in result["positions"] if p["product"]
                ],
            },
            "tokens",
            "log P so far",
        ),
    )


def _arrange_positions(positions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    before, found = "", []
    for p in positions:
        bits = p["nats"] / math.log(2)
        known = any(alternative["id"] == p["id"] for alternative in p["alternatives"])
        candidates = [*p["alternatives"], *([] if known else [p])]
        shown = {"bits": bits, "heat": f"{min(1, bits / FULL_HEAT):.0%}", "before": before[-24:] or "the start"}
        found.append(p | shown | {"candidates": candidates})
        before += p["token"]
    return found


def _arrange_window(window: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Place a window, and what it predicts, on a strip as wide as the text."""

    def style(start: int, stop: int) -> str:
        return f"--l:{start / tokens:.4%};--w:{(stop - start) / tokens:.4%}"

    first, stop = window["predicts"]
    words = f"reads tokens {window['start']:,} to {window['stop'] - 1:,}, predicts {first:,} to {stop - 1:,}"
    return {"words": words, "sees": style(window["start"], window["stop"]), "predicts": style(first, stop)}
