"""Render self-contained HTML pages from templates: one file that loads nothing and runs no script."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.console import formatted
from gpt1.errors import UserError, readable, setting
from gpt1.storage import check_folder

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **data: Any) -> str:
    """Fill a template of this package. Text is escaped, and a name that the data lacks raises an error.

    Bytes of a file's name that are not UTF-8 are shown as escapes; other characters that it cannot express become `?`.
    """
    page = readable(_environment().get_template(template).render(**data))
    return page.encode("utf-8", "replace").decode("utf-8")


def check_page(path: str, name: str) -> None:
    """Raise UserError unless `path`, given by the setting `name`, can be that of a web page."""
    if Path(path).is_dir():
        raise UserError(f"{setting(name)} {path} is a folder; name a file in it that ends in .html")
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{setting(name)} {path}: the output is a web page; give it a name that ends in .html")
    check_folder(Path(path).parent, name)


def number(value: Any) -> str:
    """Format a metric for a table: three decimals below 10, fewer above; empty for None."""
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 10 else formatted(float(value))


def percent(probability: float) -> str:
    """Format a probability; a tiny one by its power of ten."""
    return f"{probability:.1%}" if probability >= 0.001 else f"{probability:.0e}"


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("gpt1.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {"number": number, "plain": formatted, "percent": percent}
    found.tests["numeric"] = lambda value: isinstance(value, int | float)
    return found
