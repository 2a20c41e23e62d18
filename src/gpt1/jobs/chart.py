"""A line chart as a piece of SVG: no script, no library, nothing to load."""

import html
import math
from collections.abc import Sequence

Point = tuple[float, float]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 280, 56, 34, 14, 14
POINTS = 400
"""A longer line is thinned to means of this many stretches: more cannot be seen."""


def line_chart(lines: dict[str, Sequence[Point]], x_label: str, y_label: str) -> str:
    """An <svg> of named lines, coloured by CSS classes `line-0`, `line-1`, ...; empty if there is nothing to draw."""
    drawn = {name: thinned([p for p in points if math.isfinite(p[1])]) for name, points in lines.items()}
    everything = [point for points in drawn.values() for point in points]
    if len(everything) < 2:
        return ""
    (x_low, x_high), (y_low, y_high) = (_span([p[axis] for p in everything]) for axis in (0, 1))

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y_label)} by {html.escape(x_label)}">'
    ]
    for y in ticks(y_low, y_high):
        height = place((x_low, y))[1]
        parts.append(f'<path class="grid" d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in ticks(x_low, x_high):
        parts.append(
            f'<text x="{place((x, y_low))[0]:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:,g}</text>'
        )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{html.escape(x_label)}</text>')
    for number, (name, points) in enumerate(drawn.items()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, points))
        parts.append(f'<polyline class="line-{number}" points="{path}"><title>{html.escape(name)}</title></polyline>')
        legend = f'<text class="legend-{number}" x="{WIDTH - RIGHT}" y="{TOP + 12 + 16 * number}" text-anchor="end">'
        parts.append(f"{legend}{html.escape(name)}</text>")
    return "".join(parts) + "</svg>"


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most POINTS points: each the mean of a stretch."""
    size = max(1, math.ceil(len(points) / POINTS))
    stretches = (points[low : low + size] for low in range(0, len(points), size))
    return [(sum(x for x, _ in s) / len(s), sum(y for _, y in s) / len(s)) for s in stretches]


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    raw = (high - low) / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    first = math.ceil(low / step)
    return [round(step * i, 10) for i in range(first, math.floor(high / step) + 1)]


def _span(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin
