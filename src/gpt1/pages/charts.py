"""Charts as SVG elements: no script, no library, nothing to load. Colours are CSS classes of `templates/base.html`.

Every function returns escaped markup that a template can insert.
"""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

Point = tuple[float, float]
ToPixel = Callable[[Point], Point]  # maps a data value to a pixel coordinate
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 280, 56, 34, 26, 14
SQUARE = 330  # width of a square chart
GAUGE = 220  # width of a gauge
POINTS = 400  # a longer line is averaged down to this many points
FEW = 12  # a line of at most this many points also shows them as dots
Lines = Mapping[str, Sequence[Point]]
Bars = Mapping[str, Sequence[float]]


def line_chart(lines: Lines, x_label: str, y_label: str, bars: Bars | None = None) -> Markup:
    """Draw named lines, coloured by CSS classes `line-0`, `line-1`, ...; empty if there is nothing to draw.

    `bars` gives half the length of the error bar at every point of a line; with it the x axis is logarithmic.
    """
    drawn = {name: thinned([p for p in points if math.isfinite(p[1])]) for name, points in lines.items()}
    everything = [point for points in drawn.values() for point in points]
    if not everything or (len(everything) < 2 and bars is None):
        return Markup()
    scale: Callable[[float], float] = float if bars is None else math.log
    pairs = [pair for name, halves in (bars or {}).items() for pair in zip(drawn[name], halves, strict=True)]
    ends = [y + sign * half for (_, y), half in pairs for sign in (-1, 1)]
    x_span = _span([scale(x) for x, _ in everything])
    y_span = _span([y for _, y in everything] + ends)

    def place(point: Point) -> Point:
        x = LEFT + (scale(point[0]) - x_span[0]) / (x_span[1] - x_span[0]) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - (point[1] - y_span[0]) / (y_span[1] - y_span[0]) * (HEIGHT - BOTTOM - TOP)

    first = everything[0][0]
    marks = ticks(*x_span) if bars is None else sorted({x for x, _ in everything})
    words = f"{y_label} by {x_label}. {' '.join(map(_in_words, drawn, drawn.values()))}"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(words)}">']
    for y in ticks(*y_span):
        height = place((first, y))[1]
        parts.append(f'<path class="grid" d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, height + 4, f"{y:g}", "end"))
    parts += [_text(place((x, y_span[0]))[0], HEIGHT - BOTTOM + 16, f"{x:,g}", "middle") for x in marks]
    parts += [_text(WIDTH - RIGHT, HEIGHT - 3, x_label, "end"), _text(2, 12, y_label, "start")]
    for number, (name, points) in enumerate(drawn.items()):
        parts.append(_line(number, name, points, place, (bars or {}).get(name, ())))
    return Markup("".join(parts) + _legend(list(drawn)) + "</svg>")


def gauge(
    span: Point, values: Sequence[float], mark: float, interval: Sequence[float] = (), baseline: float | None = None
) -> Markup:
    """Draw a small scale beside the numbers of a table, hidden from screen readers.

    It shows `values` as dots, `mark` (the value, or the mean of the dots), a whisker for the interval, and a line for
    the baseline.
    """

    def at(value: float) -> float:
        return 4 + (min(max(value, span[0]), span[1]) - span[0]) / ((span[1] - span[0]) or 1) * (GAUGE - 8)

    parts = [f'<svg class="gauge" viewBox="0 0 {GAUGE} 20" aria-hidden="true">']
    parts.append(f'<path class="grid" d="M4 10H{GAUGE - 4}"/>')
    if baseline is not None:
        parts.append(f'<path class="baseline" d="M{at(baseline):.1f} 0V20"/>')
    if interval:
        low, high = map(at, interval)
        parts.append(f'<path class="whisker" d="M{low:.1f} 10H{high:.1f}M{low:.1f} 6V14M{high:.1f} 6V14"/>')
    parts += [f'<circle class="dot" cx="{at(value):.1f}" cy="10" r="3"/>' for value in values]
    parts.append(f'<rect class="mark" x="{at(mark) - 2:.1f}" y="3" width="4" height="14" rx="1"/></svg>')
    return Markup("".join(parts))


def square(low: float, high: float, x_label: str, y_label: str, inside: Callable[[ToPixel], str], words: str) -> Markup:
    """Draw a square chart with the same scale on both axes and its diagonal; `inside` returns the marks in it."""
    size = SQUARE - LEFT - RIGHT

    def place(point: Point) -> Point:
        x, y = ((value - low) / ((high - low) or 1) * size for value in point)
        return LEFT + x, RIGHT + size - y

    bottom, right = RIGHT + size, LEFT + size
    parts = [
        f'<svg class="square" viewBox="0 0 {SQUARE} {bottom + BOTTOM}" role="img" aria-label="{html.escape(words)}">'
    ]
    for value in ticks(low, high) if high > low else [low]:
        x, y = place((value, value))
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}M{x:.1f} {RIGHT}V{bottom}"/>')
        parts += [_text(LEFT - 6, y + 4, f"{value:g}", "end"), _text(x, bottom + 16, f"{value:g}", "middle")]
    middle = RIGHT + size / 2
    parts.append(f'<path class="diagonal" d="M{LEFT} {bottom}L{right} {RIGHT}"/>{inside(place)}')
    parts.append(_text(LEFT + size / 2, bottom + BOTTOM - 3, x_label, "middle"))
    rotated = f'transform="translate(12 {middle:.1f}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {rotated}>{html.escape(y_label)}</text></svg>")
    return Markup("".join(parts))


def dot(x: float, y: float, radius: float, words: str) -> str:
    """Draw a circle with a tooltip."""
    where = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"'
    return f'<circle class="dot" {where}><title>{html.escape(words)}</title></circle>'


def tile(place: ToPixel, corner: Point, step: float, share: float, words: str) -> str:
    """Draw a square of side `step`, shaded by a share of the largest, with a tooltip."""
    (x, y), (right, top) = place(corner), place((corner[0] + step, corner[1] + step))
    where = f'x="{x:.1f}" y="{top:.1f}" width="{right - x:.1f}" height="{y - top:.1f}"'
    shade = f"--s:{max(0.08, math.sqrt(share)):.0%}"
    return f'<rect class="tile" {where} style="{shade}"><title>{html.escape(words)}</title></rect>'


def thinned(points: Sequence[Point]) -> list[Point]:
    """Average consecutive points down to at most POINTS."""
    size = max(1, math.ceil(len(points) / POINTS))
    groups = (points[low : low + size] for low in range(0, len(points), size))
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers between two values."""
    raw = (high - low) / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    first = math.ceil(low / step)
    return [round(step * i, 10) for i in range(first, math.floor(high / step) + 1)]


def _line(number: int, name: str, points: Sequence[Point], place: ToPixel, bars: Sequence[float]) -> str:
    at = list(map(place, points))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    parts = [f'<polyline class="line-{number}" points="{path}"><title>{html.escape(name)}</title></polyline>']
    if len(points) <= FEW:
        parts += [f'<circle class="point-{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in at]
    # Lines share their x values, so shift their error bars apart.
    for (x, y), half in zip(points, bars, strict=False):
        (left, low), high = place((x, y - half)), place((x, y + half))[1]
        left += 3 * number
        parts.append(f'<path class="line-{number}" d="M{left:.1f} {low:.1f}V{high:.1f}"/>')
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    """Draw the names above the lines, right-aligned."""
    parts, x = [], float(WIDTH - RIGHT)
    for number, name in reversed(list(enumerate(names))):
        parts.append(f'<text class="legend-{number}" x="{x:.0f}" y="12" text-anchor="end">● {html.escape(name)}</text>')
        x -= 7 * len(name) + 26
    return "".join(parts)


def _in_words(name: str, points: Sequence[Point]) -> str:
    if not points:
        return f"{name}: nothing."
    (x, y), (x_end, y_end) = points[0], points[-1]
    return f"{name}: {y:.4g} at {x:,.6g} to {y_end:.4g} at {x_end:,.6g}."


def _text(x: float, y: float, words: Any, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(str(words))}</text>'


def _span(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin
