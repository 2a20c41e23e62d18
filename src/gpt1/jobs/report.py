"""`gpt1 report`: runs -> one self-contained HTML page of curves, samples, metrics and settings."""

import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from gpt1.config import Report
from gpt1.jobs.chart import line_chart
from gpt1.jobs.facts import read_facts
from gpt1.storage import write_text
from gpt1.train import log

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #6b7280; --paper: #fff; --edge: #e3e5e8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #9aa0a6; --paper: #17181a; --edge: #33363a; } }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 760px;
  margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--edge); }
h3 { font-size: 1rem; color: var(--soft); font-weight: 600; }
table { border-collapse: collapse; } td, th { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } th { color: var(--soft); font-weight: 500; }
pre, blockquote { white-space: pre-wrap; overflow-wrap: anywhere; } pre { font-size: .85rem; }
blockquote { margin: .4rem 0; padding-left: .8rem; border-left: 3px solid var(--edge); }
svg { width: 100%; } svg text { font-size: 11px; fill: var(--soft); } .grid { stroke: var(--edge); }
polyline { fill: none; stroke-width: 1.8; }
.line-0 { stroke: #4878cf; } .line-1 { stroke: #d65f2f; } .line-2 { stroke: #4b9b5a; }
svg .legend-0 { fill: #4878cf; } svg .legend-1 { fill: #d65f2f; } svg .legend-2 { fill: #4b9b5a; }
"""
CURVES = {"lm": "training loss", "val_nats_per_token": "validation loss", "task": "task loss"}


def report(settings: Report) -> dict[str, Any]:
    """Write the page; returns its path and the runs on it. Raises UserError for a folder that is not a run."""
    runs = {name: read_facts(Path(name)) for name in settings.runs}
    body = "".join(section(Path(name), info) for name, info in runs.items())
    title = "gpt1: " + ", ".join(Path(name).name for name in runs)
    write_text(settings.out, page(title, _comparison(runs) + body))
    return {"page": str(settings.out), "runs": list(runs)}


def show(result: dict[str, Any]) -> RenderableType:
    """Where the page is."""
    return f"report of {len(result['runs'])} run(s): {result['page']}"


def page(title: str, body: str) -> str:
    """A whole HTML page that loads nothing from anywhere."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    heading = f"<h1>{html.escape(title)}</h1>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{heading}{body}</body></html>\n"
    )


def section(run: Path, info: dict[str, Any]) -> str:
    """One run: facts, curves, metrics, samples, settings."""
    rows = log.read(run)
    curves = {name: [(row["step"], row[key]) for row in rows if key in row] for key, name in CURVES.items()}
    facts = {
        key: info[key] for key in ("kind", "task", "preset", "recipe", "parameters", "steps", "seed") if info.get(key)
    }
    parts = [
        f"<h2>{html.escape(str(run))}</h2>",
        table(facts.items()),
        line_chart({name: points for name, points in curves.items() if len(points) > 1}, "updates", "nats"),
        _titled("Metrics", table(_flat(info.get("metrics", {})))),
        _titled("Samples as it learned", "".join(map(_sample, [row for row in rows if "sample" in row]))),
        _settings(run),
    ]
    return "".join(parts)


def table(rows: Iterable[tuple[str, Any]]) -> str:
    """Two columns, name and value."""
    cells = (
        f'<tr><th>{html.escape(name)}</th><td class="{_kind(value)}">{html.escape(_text(value))}</td></tr>'
        for name, value in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _comparison(runs: dict[str, dict[str, Any]]) -> str:
    if len(runs) < 2:
        return ""
    names = ("val_bits_per_byte", "accuracy", "macro_f1")
    shown = [name for name in names if any(name in info.get("metrics", {}) for info in runs.values())]
    head = "".join(f"<th>{name}</th>" for name in ("run", "parameters", *shown))
    rows = [
        [run, info.get("parameters", ""), *(info.get("metrics", {}).get(name, "") for name in shown)]
        for run, info in runs.items()
    ]
    cells = ("".join(f'<td class="{_kind(value)}">{html.escape(_text(value))}</td>' for value in row) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _flat(metrics: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in metrics.items() if not isinstance(value, dict | list)]


def _sample(row: dict[str, Any]) -> str:
    return f"<h3>after update {row['step']:,}</h3><blockquote>{html.escape(row['sample'])}</blockquote>"


def _settings(run: Path) -> str:
    path = run / "settings.json"
    if not path.exists():
        return ""
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=2)
    return f"<details><summary>settings</summary><pre>{html.escape(text)}</pre></details>"


def _titled(title: str, content: str) -> str:
    return f"<h3>{title}</h3>{content}" if content not in ("", "<table></table>") else ""


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) else "text"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if type(value) is int else str(value)
