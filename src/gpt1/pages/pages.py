"""A whole page: one HTML file that loads nothing, and the style of all that is drawn on it."""

import html
from pathlib import Path

from gpt1.errors import UserError

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5d6570; --paper: #fff; --edge: #e3e5e8;
  --c0: #3f6fc6; --c1: #c9531f; --c2: #3d8a4c; --c3: #757b83; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #9aa0a6; --paper: #17181a; --edge: #33363a;
  --c0: #6f9bea; --c1: #f08a4b; --c2: #6dbb7c; --c3: #9aa0a6; } }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 760px;
  margin: 2.5rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--edge); }
h3 { font-size: 1rem; color: var(--soft); font-weight: 600; margin: 1.6rem 0 .3rem; }
table { border-collapse: collapse; margin: .8rem 0; }
td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } th[scope=col]:not(:first-child) { text-align: right; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; white-space: nowrap; }
pre, blockquote { white-space: pre-wrap; overflow-wrap: anywhere; } pre { font-size: .85rem; }
blockquote { margin: .4rem 0; padding-left: .8rem; border-left: 3px solid var(--edge); }
p.note { color: var(--soft); margin: .2rem 0; } summary { color: var(--soft); cursor: pointer; }
svg { width: 100%; } svg text { font-size: 11px; fill: var(--soft); } .grid { stroke: var(--edge); fill: none; }
svg.square { max-width: 380px; display: block; } svg.gauge { width: 220px; height: 20px; display: block; }
polyline, path[class^=line] { fill: none; stroke-width: 1.8; } .diagonal { stroke: var(--soft); stroke-dasharray: 4; }
.line-0 { stroke: var(--c0); } .line-1 { stroke: var(--c1); }
.line-2 { stroke: var(--c2); } .line-3 { stroke: var(--c3); }
.point-0, svg .legend-0 { fill: var(--c0); } .point-1, svg .legend-1 { fill: var(--c1); }
.point-2, svg .legend-2 { fill: var(--c2); } .point-3, svg .legend-3 { fill: var(--c3); }
.dot { fill: var(--c0); fill-opacity: .55; stroke: var(--c0); } .mark { fill: var(--c0); }
.whisker { stroke: var(--c0); stroke-width: 1.6; fill: none; } .baseline { stroke: var(--c1); stroke-width: 2; }
.tile { fill: var(--c0); fill-opacity: var(--s); }
.wide { overflow: auto; max-height: 34rem; margin: .8rem 0; } .wide table { margin: 0; }
.wide td { white-space: nowrap; } .wide th[scope=row] { position: sticky; left: 0; background: var(--paper); }
td.bar { padding-left: 4.6rem;
  background: linear-gradient(var(--c0) 0 0) no-repeat .6rem 50% / calc(3.5rem * var(--w)) .75rem; }
.confusion td { padding: .2rem .45rem; text-align: right; font-variant-numeric: tabular-nums; min-width: 1.6rem; }
.confusion th[scope=col]:not(:first-child) { vertical-align: bottom; padding: .2rem .3rem; text-align: center; }
.confusion th[scope=col] span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 11rem; }
.confusion th[scope=row], .confusion span { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.confusion th[scope=row] { max-width: 15rem; } .confusion .none { color: var(--soft); opacity: .6; }
.right { background: color-mix(in srgb, var(--c0) calc(.6 * var(--s)), transparent); }
.wrong { background: color-mix(in srgb, var(--c1) calc(.6 * var(--s)), transparent); }
"""


def check_page(path: str, option: str) -> None:
    """Raise UserError for a name that is no page's: it may be that of somebody's data."""
    if Path(path).is_dir():
        raise UserError(f"{option} {path} is a folder; name a file in it that ends in .html")
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{option} {path}: what is written is a web page; give it a name that ends in .html")


def page(title: str, body: str) -> str:
    """A whole HTML page that loads nothing from anywhere."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    heading = f"<h1>{html.escape(title)}</h1>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{heading}{body}</body></html>\n"
    )
