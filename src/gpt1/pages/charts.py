"""Charts as SVG elements: no script, no library, nothing to load. Colours and sizes are those of `templates/base.html`.

Every function returns escaped markup that a template can insert.
"""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

Point = tuple[float, float]
ToPixel = Callable[[Point], Point]  # maps a data value to a coordinate of the drawing
VIEW = 1000  # width and height of a line chart's plot in its own units, which CSS stretches to the page
LEFT, BOTTOM, TOP, RIGHT = 44, 36, 12, 12  # margins of a square chart
SQUARE = 300  # width of a square chart; it fits a phone unscaled, so that its text keeps its size
GAUGE = 220  # width of a gauge
POINTS = 400  # a longer line is averaged down to this many points
FEW = 12  # a line of at most this many points also shows them as dots
APART = 0.12  # distance between the labels of an x axis, at least, as a fraction of it
Lines = Mapping[str, Sequence[Point]]
Bars = Mapping[str, Sequence[float]]


def line_chart(lines: Lines, x_label: str, y_label: str, bars: Bars | None = None) -> Markup:
    """Draw named lines, coloured by CSS classes `line-0`, `line-1`, ...; empty if there is nothing to draw.

    `bars` gives half the length of the error bar at every point of a line; with it the x axis is logarithmic.
    The chart is as wide as the page allows. Only its lines are stretched: labels and dots are placed in percent, and so
    keep their size on a phone.
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
        x = (scale(point[0]) - x_span[0]) / (x_span[1] - x_span[0])
        return VIEW * x, VIEW * (y_span[1] - point[1]) / (y_span[1] - y_span[0])

    first = everything[0][0]
    marks = ticks(*x_span) if bars is None else sorted({x for x, _ in everything})
    spoken = f"{y_label} by {x_label}. {' '.join(map(_in_words, drawn, drawn.values()))}"
    parts = [
        f'<figure class="chart">{_legend(y_label, list(drawn))}<svg role="img" aria-label="{html.escape(spoken)}">'
    ]
    for y in ticks(*y_span):
        height = _percent(place((first, y))[1])
        parts.append(f'<line class="grid" x2="100%" y1="{height}" y2="{height}"/>')
        parts.append(f'<text x="-6" y="{height}" dy="4" text-anchor="end">{y:g}</text>')
    for x in _apart([(place((x, y_span[0]))[0], x) for x in marks]):
        parts.append(
            f'<text x="{_percent(place((x, y_span[0]))[0])}" y="100%" dy="16" text-anchor="middle">{x:,g}</text>'
        )
    parts.append(f'<text x="100%" y="100%" dy="32" text-anchor="end">{html.escape(x_label)}</text>')
    parts.append(f'<svg viewBox="0 0 {VIEW} {VIEW}" preserveAspectRatio="none">')
    for number, (name, points) in enumerate(drawn.items()):
        parts.append(_line(number, name, points, place, (bars or {}).get(name, ())))
    parts.append("</svg>")
    for number, points in enumerate(drawn.values()):
        at = map(place, points if len(points) <= FEW else ())
        parts += [f'<circle class="point-{number}" cx="{_percent(x)}" cy="{_percent(y)}" r="3"/>' for x, y in at]
    return Markup("".join(parts) + "</svg></figure>")


def gauge(
    span: Point,
    values: Sequence[float],
    mark: float,
    interval: Sequence[float] = (),
    baseline: float | None = None,
    words_alone: float | None = None,
) -> Markup:
    """Draw a small scale next to a number, hidden from screen readers.

    It shows `values` as dots, `mark` (the value, or the mean of the dots), a whisker for the interval, and a line each
    for the baseline and for words alone.
    """

    def at(value: float) -> float:
        return 4 + (min(max(value, span[0]), span[1]) - span[0]) / ((span[1] - span[0]) or 1) * (GAUGE - 8)

    parts = [f'<svg class="gauge" viewBox="0 0 {GAUGE} 20" aria-hidden="true">']
    parts.append(f'<path class="grid" d="M4 10H{GAUGE - 4}"/>')
    for name, value in (("baseline", baseline), ("words-alone", words_alone)):
        if value is not None:
            parts.append(f'<path class="{name}" d="M{at(value):.1f} 0V20"/>')
    if interval:
        low, high = map(at, interval)
        parts.append(f'<path class="whisker" d="M{low:.1f} 10H{high:.1f}M{low:.1f} 6V14M{high:.1f} 6V14"/>')
    parts += [f'<circle class="dot" cx="{at(value):.1f}" cy="10" r="3"/>' for value in values]
    parts.append(f'<rect class="mark" x="{at(mark) - 2:.1f}" y="3" width="4" height="14" rx="1"/></svg>')
    return Markup("".join(parts))


def square(
    low: float, high: float, x_label: str, y_label: str, inside: Callable[[ToPixel], str], spoken: str
) -> Markup:
    """Draw a square chart with the same scale on both axes and its diagonal.

    `inside` returns the marks in it; `spoken` is what a screen reader says.
    """
    size = SQUARE - LEFT - RIGHT

    def place(point: Point) -> Point:
        x, y = ((value - low) / ((high - low) or 1) * size for value in point)
        return LEFT + x, RIGHT + size - y

    bottom, right = RIGHT + size, LEFT + size
    parts = [
        f'<svg class="square" viewBox="0 0 {SQUARE} {bottom + BOTTOM}" role="img" aria-label="{html.escape(spoken)}">'
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


def strip(values: Sequence[float], spoken: str) -> Markup:
    """Draw numbers as thin bars up and down from a middle line, as wide as the page; `spoken` is for screen readers."""
    largest = max(map(abs, values), default=0.0) or 1.0
    bars = "".join(f"M{i} 0h1v{-value / largest:.3f}h-1z" for i, value in enumerate(values))
    drawn = f'<path class="mark" d="{bars}"/>'
    frame = f'viewBox="0 -1 {len(values)} 2" preserveAspectRatio="none"'
    return Markup(f'<svg class="strip" {frame} role="img" aria-label="{html.escape(spoken)}">{drawn}</svg>')


def dot(x: float, y: float, radius: float, tooltip: str) -> str:
    """Draw a circle with a tooltip."""
    where = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"'
    return f'<circle class="dot" {where}><title>{html.escape(tooltip)}</title></circle>'


def tile(place: ToPixel, corner: Point, step: float, share: float, tooltip: str) -> str:
    """Draw a square of side `step`, shaded by a share of the largest, with a tooltip."""
    (x, y), (right, top) = place(corner), place((corner[0] + step, corner[1] + step))
    where = f'x="{x:.1f}" y="{top:.1f}" width="{right - x:.1f}" height="{y - top:.1f}"'
    shade = f"--s:{max(0.08, math.sqrt(share)):.0%}"
    return f'<rect class="tile" {where} style="{shade}"><title>{html.escape(tooltip)}</title></rect>'


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
    return [float(f"{step * i:.10g}") for i in range(first, math.floor(high / step) + 1)]


def _line(number: int, name: str, points: Sequence[Point], place: ToPixel, bars: Sequence[float]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, points))
    parts = [f'<polyline class="line-{number}" points="{path}"><title>{html.escape(name)}</title></polyline>']
    # Lines share their x values, so shift their error bars apart.
    for (x, y), half in zip(points, bars, strict=False):
        (left, low), high = place((x, y - half)), place((x, y + half))[1]
        left += 6 * number
        parts.append(f'<path class="line-{number}" d="M{left:.1f} {low:.1f}V{high:.1f}"/>')
    return "".join(parts)


def _apart(marks: Sequence[Point]) -> list[float]:
    """Return the x values whose labels do not overlap, from (coordinate, x value) in order; the last one is kept."""
    kept: list[Point] = []
    for mark in reversed(marks):
        if not kept or kept[-1][0] - mark[0] >= APART * VIEW:
            kept.append(mark)
    return [x for _, x in reversed(kept)]


def _legend(y_label: str, names: Sequence[str]) -> str:
    """Name the axis and the lines above the plot, where they wrap."""
    lines = [f'<span class="legend-{number}">● {html.escape(name)}</span>' for number, name in enumerate(names)]
    return f"<figcaption><span>{html.escape(y_label)}</span>{''.join(lines)}</figcaption>"


def _percent(coordinate: float) -> str:
    return f"{100 * coordinate / VIEW:.2f}%"


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
