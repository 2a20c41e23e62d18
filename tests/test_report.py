"""The report page: self-contained, escaped, and its chart drawn to scale."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gpt1.config import Report
from gpt1.errors import UserError
from gpt1.jobs.chart import POINTS, line_chart, thinned, ticks
from gpt1.jobs.facts import FILES
from gpt1.jobs.report import report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    info = {
        "format": 1, "kind": "pretrained", "preset": "tiny", "recipe": "fast", "seed": 1, "steps": 3,
        "parameters": 1234, "metrics": {"val_bits_per_byte": 2.125},
    }  # fmt: skip
    rows = [{"step": s, "lm": 4.0 - s} for s in (1, 2, 3)] + [{"step": 3, "val_nats_per_token": 1.5}]
    rows.append({"step": 3, "sample": "<script>alert(1)</script> & so on"})
    for name in FILES:
        (folder / name).touch()
    (folder / "gpt1.json").write_text(json.dumps(info))
    (folder / "settings.json").write_text(json.dumps({"seed": 1, "optim": {"lr": 0.01}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Page(HTMLParser):
    """Collects tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_page_loads_nothing_and_escapes_everything(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert report(Report(runs=[str(run)], out=str(out))) == {"page": str(out), "runs": [str(run)]}
    text = out.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so on" in text
    assert "2.125" in text
    assert "1,234" in text
    assert page.tags.count("polyline") == 1  # one validation point is no line


def test_several_runs_are_compared(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    other = shutil.copytree(run, tmp_path / "other")
    report(Report(runs=[str(run), str(other)], out=str(out)))
    assert out.read_text(encoding="utf-8").count("2.125") >= 3


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        report(Report(runs=[str(tmp_path)], out=str(tmp_path / "page.html")))
    assert not (tmp_path / "page.html").exists()


def test_chart_keeps_proportions() -> None:
    svg = line_chart({"a": [(0, 0), (5, 5), (10, 10)]}, "x", "y")
    points = re.search(r'points="([^"]+)"', svg)
    assert points is not None
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in points[1].split())
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.11)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.11)
    assert y0 > y2  # larger values stand higher


def test_long_lines_are_thinned_to_means() -> None:
    points = [(float(i), float(i)) for i in range(10_000)]
    thin = thinned(points)
    assert len(thin) <= POINTS
    assert thin[0] == (12.0, 12.0)


def test_ticks_are_round() -> None:
    assert ticks(0.13, 4.9) == [1.0, 2.0, 3.0, 4.0]
    assert line_chart({}, "x", "y") == ""
