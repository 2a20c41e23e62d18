"""The page of `gpt1 explain`: one HTML file without scripts, which loads nothing from anywhere."""

import html
import math
from collections.abc import Sequence
from typing import Any

from gpt1.pages.charts import Point, line_chart
from gpt1.pages.pages import page

STYLE = """<style>
body { max-width: 60rem; --bar: #4878cf; --true: #d65f2f; --heat: #e8590c; }
@media (prefers-color-scheme: dark) { body { --bar: #5f8fe0; --true: #f08a4b; --heat: #f76707; } }
p.lead, p.note { color: var(--soft); max-width: 46rem; }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.figures div { border: 1px solid var(--edge); border-radius: .6rem; padding: .6rem 1rem; min-width: 8rem; }
.figures b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: .85rem; }
.text { line-height: 2.1; font-size: 1.05rem; }
.text a, td.context b, .chip { font-family: ui-monospace, monospace; font-size: .9em; white-space: pre-wrap; }
.text a { color: inherit; text-decoration: none; padding: .15em .1em; border-radius: .25em; overflow-wrap: anywhere;
  background: color-mix(in srgb, var(--heat) calc(.7 * var(--s)), transparent); border-bottom: 1px solid var(--edge); }
.text a:hover, .text a:focus { outline: 2px solid var(--bar); }
.wide { overflow-x: auto; } .wide table { width: 100%; font-size: .9rem; }
.wide th { position: sticky; top: 0; background: var(--paper); } .wide td { border-top: 1px solid var(--edge); }
tr:target { background: color-mix(in srgb, var(--bar) 18%, transparent); }
.zero { color: var(--true); font-weight: 600; }
.row { display: grid; grid-template-columns: 6.5rem 1fr 3.6rem; gap: .5rem; align-items: center; font-size: .85rem; }
.row + .row { margin-top: .1rem; } .row .chip { overflow: hidden; text-overflow: ellipsis; white-space: pre; }
.row i { display: block; height: .7em; border-radius: .2em; background: var(--bar); width: var(--w); min-width: 1px; }
.row.true { color: var(--true); font-weight: 600; } .row.true i { background: var(--true); }
.row span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
td.bars { min-width: 16rem; width: 50%; } th.n { text-align: right; }
.line-0 { stroke-width: 7; opacity: .35; stroke-linecap: round; }
.window { position: relative; height: 1.1rem; margin: .25rem 0; background: var(--edge); border-radius: .2rem; }
.window i { position: absolute; height: 100%; left: var(--l); width: var(--w); border-radius: .2rem; min-width: 2px;
  background: color-mix(in srgb, var(--bar) 30%, transparent); } .window i.predicts { background: var(--bar); }
</style>"""
FULL_HEAT = 12.0
"""Bits of surprise at which a token's colour is full."""
WINDOWS_SHOWN = 40


def explain_page(result: dict[str, Any], run: str) -> str:
    """The page for what `commands.explain.explain` returns; `run` is the name of the model."""
    sections = [STYLE, _figures(result), _coloured(result), _product(result), _windows(result), _distributions(result)]
    return page(f"How {run} reads this text", "".join(sections))


def _figures(result: dict[str, Any]) -> str:
    figures = {
        "loss, nats per token": f"{result['nats_per_token']:.3f}",
        "perplexity": f"{result['perplexity']:,.1f}",
        "bits per byte" + ("" if result["comparable"] else ", not comparable: lossy tokenizer"): (
            f"{result['bits_per_byte']:.3f}"
        ),
        "predicted tokens": f"{result['tokens']:,}",
    }
    boxes = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in figures.items())
    return (
        f'<p class="lead">The model ({html.escape(result["model"])}) gives every next token a probability. The loss '
        "is the mean of &minus;log&nbsp;p over the tokens of the text, the end token behind it included; perplexity is "
        "e to the loss; bits per byte is the whole surprise, in bits, divided by the text's bytes.</p>"
        f'<div class="figures">{boxes}</div>'
    )


def _coloured(result: dict[str, Any]) -> str:
    tokens = "<wbr>".join(
        f'<a href="#t{p["position"]}" style="--s:{min(1, p["nats"] / math.log(2) / FULL_HEAT):.0%}" '
        f'title="p = {p["probability"]:.4g}, {p["nats"] / math.log(2):.1f} bits">{html.escape(p["token"])}</a>'
        for p in result["positions"]
    )
    note = "The stronger the colour, the greater the surprise. A token leads to its distribution."
    return f'<h2>The text</h2><p class="note">{note}</p><p class="text">{tokens}</p>'


def _product(result: dict[str, Any]) -> str:
    positions = result["positions"]
    lines: dict[str, Sequence[Point]] = {
        "sum of log p": [(p["position"], p["sum"]) for p in positions],
        "log of the float32 product": [(p["position"], math.log(p["product"])) for p in positions if p["product"]],
    }
    at, last = result["product_is_zero_at"], positions[-1]
    end = (
        f"At token {at} the product falls below 1.4e-45, the smallest number float32 holds, and is "
        f'<b class="zero">0</b> from there on: as if the text were impossible. The sum goes on to {last["sum"]:,.1f}.'
        if at is not None
        else f"This text is short enough for the product, {last['product']:.2e}; its logarithm is {last['sum']:,.1f}."
    )
    return (
        "<h2>The product that underflows, the sum that does not</h2>"
        '<p class="note">P(text) is the product of the probabilities; its logarithm is the sum of theirs. '
        f"{end}</p>{line_chart(lines, 'tokens', 'log P so far')}"
    )


def _windows(result: dict[str, Any]) -> str:
    windows, tokens, k = result["windows"], result["tokens"], result["context"]

    def strip(name: str, start: int, stop: int) -> str:
        return f'<i class="{name}" style="--l:{start / tokens:.4%};--w:{(stop - start) / tokens:.4%}"></i>'

    strips = "".join(
        f'<div class="window" title="tokens {w["start"]}&ndash;{w["stop"] - 1}">'
        f"{strip('sees', w['start'], w['stop'])}{strip('predicts', *w['predicts'])}</div>"
        for w in windows[:WINDOWS_SHOWN]
    )
    more = f'<p class="note">and {len(windows) - WINDOWS_SHOWN:,} more</p>' if len(windows) > WINDOWS_SHOWN else ""
    return (
        f'<h2>Windows of {k:,} tokens</h2><p class="note">The model sees {k:,} tokens at most. A longer text is read '
        "in windows half a context apart; each predicts (dark) only what the one before did not, after what it "
        f"sees (pale), so every token is predicted once.</p>{strips}{more}"
    )


def _distributions(result: dict[str, Any]) -> str:
    head = "<tr><th></th><th>after</th><th>the next token is</th>" + "".join(
        f'<th class="n">{name}</th>' for name in ("rank", "product", "sum of log p")
    )
    before, rows = "", []
    for p in result["positions"]:
        zero = "zero" if p["product"] == 0 else ""
        rows.append(
            f'<tr id="t{p["position"]}"><td class="number">{p["position"]}</td>'
            f'<td class="context"><b>{html.escape(before[-24:]) or "the start"}</b></td>'
            f'<td class="bars">{_bars(p)}</td><td class="number">{p["rank"]:,}</td>'
            f'<td class="number {zero}">{p["product"]:.2g}</td><td class="number">{p["sum"]:.2f}</td></tr>'
        )
        before += p["token"]
    note = "The most probable tokens at each position; the one that came is marked."
    return (
        f'<h2>The distribution at each position</h2><p class="note">{note}</p>'
        f'<div class="wide"><table>{head}</tr>{"".join(rows)}</table></div>'
    )


def _bars(position: dict[str, Any]) -> str:
    shown = list(position["alternatives"])
    if all(alternative["id"] != position["id"] for alternative in shown):
        shown.append(position)
    return "".join(_bar(candidate, candidate["id"] == position["id"]) for candidate in shown)


def _bar(candidate: dict[str, Any], true: bool) -> str:
    return (
        f'<div class="row{" true" if true else ""}"><span class="chip">{html.escape(candidate["token"])}</span>'
        f'<i style="--w:{candidate["probability"]:.2%}"></i><span>{_percent(candidate["probability"])}</span></div>'
    )


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else f"{probability:.0e}"
