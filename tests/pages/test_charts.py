"""Charts are drawn to scale, are well-formed SVG, and escape what they name."""

import math
import re
from xml.etree import ElementTree

import pytest

from gpt1.pages.charts import GAUGE, POINTS, gauge, line_chart, square, thinned, ticks


def line_points(svg: str) -> list[tuple[float, float]]:
    """The pixel coordinates of the first line."""
    found = re.search(r'points="([^"]+)"', svg)
    assert found is not None
    return [(float(x), float(y)) for x, y in (point.split(",") for point in found[1].split())]


def test_chart_keeps_proportions() -> None:
    (x0, y0), (x1, y1), (x2, y2) = line_points(line_chart({"a": [(0, 0), (5, 5), (10, 10)]}, "x", "y"))
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.11)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.11)
    assert y0 > y2, "larger values stand higher"


def test_with_error_bars_the_x_axis_is_logarithmic() -> None:
    svg = line_chart({"a": [(10, 1), (100, 2), (1000, 3)]}, "rows", "accuracy", {"a": [0.5, 0.0, 0.5]})
    (x0, _), (x1, _), (x2, _) = line_points(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    bars = [(float(a), float(b)) for a, b in re.findall(r'class="line-0" d="M[\d.]+ ([\d.]+)V([\d.]+)"', svg)]
    assert [low > high for low, high in bars] == [True, False, True]


def test_long_lines_are_thinned_to_means() -> None:
    thin = thinned([(float(i), float(i)) for i in range(10_000)])
    assert len(thin) <= POINTS
    assert thin[0] == (12.0, 12.0)


def test_ticks_are_round() -> None:
    assert ticks(0.13, 4.9) == [1.0, 2.0, 3.0, 4.0]
    assert ticks(0, 1e-11) == [0, 2e-12, 4e-12, 6e-12, 8e-12, 1e-11]


def test_nothing_is_drawn_of_nothing() -> None:
    assert line_chart({}, "x", "y") == ""
    assert line_chart({"a": [(1, 1)]}, "x", "y") == "", "one point is no line"
    assert line_chart({"a": [(1, math.nan), (2, math.inf)]}, "x", "y") == ""


def test_a_gauge_keeps_to_its_width() -> None:
    svg = gauge((0.0, 1.0), [0.5], 9.0, (-3.0, 7.0), baseline=0.5)
    ElementTree.fromstring(svg)
    assert f'cx="{GAUGE / 2:.1f}"' in svg, "half of the scale is its middle"
    assert all(0 <= float(x) <= GAUGE for x in re.findall(r'(?:x="|M)(-?[\d.]+)', svg))


def test_names_are_escaped() -> None:
    nasty = "</svg><script>\"&'"
    line = line_chart({nasty: [(1, 1), (2, 2)]}, nasty, nasty)
    box = square(0, 1, nasty, nasty, lambda place: "", nasty)
    for svg in (line, box):
        assert "<script" not in svg
        assert nasty in "".join(ElementTree.fromstring(svg).itertext())
