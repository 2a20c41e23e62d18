"""`gpt1 report`: runs, evaluations and ablations -> one self-contained HTML page."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gpt1.config import Report
from gpt1.errors import UserError
from gpt1.pages.render import check_page
from gpt1.pages.report import RunResults, comparison, document_section, report_page, run_section
from gpt1.results import Result
from gpt1.run_folder.metadata import read_metadata
from gpt1.storage import write_text

# Keys of the output of `gpt1 evaluate --json`, `gpt1 ablate --out` and `gpt1 ablate --json`; a notebook has cells too.
DOCUMENTS = ({"run", "scored_on"}, {"format", "cells"}, {"metric", "table"})


@dataclass(frozen=True)
class ReportResult(Result):
    """What `gpt1 report` returns."""

    page: str
    """the page written"""
    runs: list[str]
    """run folders and files on it"""


def report(settings: Report) -> ReportResult:
    """Write the page.

    Raises UserError for a folder that is not a run, and a file that holds neither an evaluation nor an ablation.
    """
    check_page(settings.out, "out")
    given = list(dict.fromkeys(settings.runs))
    documents = {name: _read_document(Path(name)) for name in given if Path(name).is_file()}
    runs = {name: RunResults(read_metadata(Path(name)).to_json()) for name in given if name not in documents}
    folders = {Path(name).resolve(): run for name, run in runs.items()}
    alone = []
    for name, found in documents.items():
        run = folders.get(Path(found["run"]).resolve()) if "run" in found else None
        if run:
            run.tests.append(found)
        else:
            alone.append(name)
    title = "gpt1: " + ", ".join(Path(name).name for name in runs or given)
    sections = [_arrange(name, partial(run_section, Path(name), runs[name])) for name in runs]
    others = [_arrange(name, partial(document_section, name, documents[name])) for name in alone]
    write_text(settings.out, report_page(title, sections, others, comparison(runs)))
    return ReportResult(str(settings.out), given)


def show(result: ReportResult) -> str:
    """Say where the page is."""
    return f"report of {', '.join(result.runs)}: {result.page}"


def _arrange(name: str, arrange: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Arrange a run or a document. Raises UserError if its content is not what gpt1 writes there."""
    try:
        return arrange()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"holds values that cannot be drawn, or its evaluations do ({type(error).__name__}: {error})"
        raise UserError(f"{name}: {what}; write them again") from error


def _read_document(path: Path) -> dict[str, Any]:
    """Read the output of `gpt1 evaluate --json` or `gpt1 ablate`."""
    try:
        found = json.loads(path.read_bytes())  # detects the encoding; a Windows shell may write UTF-16
    except ValueError as error:
        raise UserError(f"{path}: neither a run folder nor JSON ({error})") from None
    if isinstance(found, dict) and any(keys <= found.keys() for keys in DOCUMENTS):
        return found
    raise UserError(
        f"{path}: not the output of `gpt1 evaluate RUN FILE --json` or `gpt1 ablate --out`; give such a file or a run"
    )
