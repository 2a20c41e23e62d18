"""Templates: escaped, complete, shipped with the package, and without anything to load."""

import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from conftest import one_line
from gpt1.console import formatted
from gpt1.pages.render import check_page, number, percent, render

EMPTY: dict[str, list] = {"summaries": [], "runs": [], "documents": []}
TEMPLATES = {path.name: path.read_text("utf-8") for path in (files("gpt1.pages") / "templates").iterdir()}


def test_text_is_escaped() -> None:
    page = render("report.html", title="</title><script>alert(1)</script>", **EMPTY)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 2, "in the title and in the heading"


def test_what_utf8_cannot_express_is_replaced() -> None:
    assert "<h1>caf\\xe9</h1>" in render("report.html", title="caf\udce9", **EMPTY)
    assert "<h1>half ?</h1>" in render("report.html", title="half \ud83d", **EMPTY)


def test_missing_data_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="summaries"):
        render("report.html", title="a", runs=[], documents=[])


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_load_nothing_and_trust_nothing(name: str) -> None:
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|\bsrc=|\bon\w+=|https?:", TEMPLATES[name])
    assert not re.search(r"\|\s*safe|autoescape", TEMPLATES[name])
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', TEMPLATES[name]))


def test_templates_are_shipped() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text("utf-8"))
    assert project["tool"]["setuptools"]["package-data"]["gpt1.pages"] == ["templates/*.html"]
    assert all(name.endswith(".html") for name in TEMPLATES)


def test_the_template_engine_is_loaded_by_the_first_page() -> None:
    script = "import sys, gpt1.commands.report; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_numbers() -> None:
    assert [number(value) for value in (None, 0.12345, -9.5, 12345.678)] == ["", "0.123", "-9.500", "12,346"]
    assert [formatted(value) for value in (12345, 0.5, "a", True)] == ["12,345", "0.5", "a", "True"]
    assert [formatted(value) for value in (12345.678, -1000.0, 999.96)] == ["12,346", "-1,000", "1000"]
    assert [percent(value) for value in (0.5, 0.001, 0.00001)] == ["50.0%", "0.1%", "1e-05"]


def test_only_a_page_is_written(tmp_path: Path) -> None:
    check_page(str(tmp_path / "page.HTML"), "out")
    with one_line(f"out {tmp_path} is a folder"):
        check_page(str(tmp_path), "out")
    with one_line("html notes.md", ".html"):
        check_page("notes.md", "html")
