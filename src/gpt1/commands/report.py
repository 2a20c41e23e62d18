"""`gpt1 report`: runs, evaluations and ablations -> one self-contained HTML page."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.config import Report
from gpt1.errors import UserError, addressed
from gpt1.keywords import command
from gpt1.pages.render import check_page
from gpt1.pages.report import document_section, report_page, run_section
from gpt1.pages.summary import RunResults, summary
from gpt1.results import Result
from gpt1.run_folder.metadata import check_format, read_metadata
from gpt1.run_folder.starter import find_run
from gpt1.storage import write_text

# Keys of the output of `gpt1 evaluate --json`, `gpt1 ablate --out` and `gpt1 ablate --json`. `cells` alone would also
# match a notebook.
DOCUMENTS = ({"run", "scored_on"}, {"format", "cells"}, {"metric", "table"})

# More runs are counted in the title, not named.
MOST_NAMES = 4


@dataclass(frozen=True)
class ReportResult(Result):
    """What `gpt1 report` prints: where the page is, and what is on it."""

    page: str
    """the page written"""
    runs: list[str]
    """run folders and files on it"""


@command(Report, "runs")
def report(settings: Report) -> ReportResult:
    """Write the page.

    Raises UserError for a folder that is not a run, a file that holds neither an evaluation nor an ablation, and values
    that cannot be drawn.
    """
    check_page(settings.out, "out")
    given = list(dict.fromkeys(settings.runs))
    for name in given:
        if Path(name).suffix == ".json" and not Path(name).exists():
            raise UserError(f"{name}: no such file")
    documents = {name: _read_document(Path(name)) for name in given if Path(name).is_file()}
    runs = {name: RunResults(read_metadata(Path(name)).to_json()) for name in given if name not in documents}
    folders = {Path(addressed(name)).resolve(): run for name, run in runs.items()}
    others: dict[str, dict[str, Any]] = {}
    for name, found in documents.items():
        with _refusing_odd_values(name):
            if "run" in found and (run := folders.get(Path(found["run"]).resolve())):
                run.tests.append(found)
            else:
                others[name] = found
    summaries, sections, other_sections = [], [], []
    for anchor, (name, run) in enumerate(runs.items(), 1):
        with _refusing_odd_values(name):
            sections.append(run_section(name, find_run(name), f"run-{anchor}", run))
            summaries.append(summary(name, f"run-{anchor}", run))
    for anchor, (name, found) in enumerate(others.items(), 1):
        with _refusing_odd_values(name):
            other_sections.append(document_section(name, f"file-{anchor}", found))
            if "run" in found:
                summaries.append(summary(name, f"file-{anchor}", RunResults({}, [found])))
    names = [Path(name).name for name in runs or given]
    title = "gpt1: " + (", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} runs")
    write_text(settings.out, report_page(title, summaries, sections, other_sections))
    return ReportResult(str(settings.out), given)


def show(result: ReportResult) -> str:
    """Say where the page is."""
    return f"report of {', '.join(result.runs)}: {result.page}"


@contextmanager
def _refusing_odd_values(name: str) -> Iterator[None]:
    """Raise UserError if the content of a run or a document is not what gpt1 writes there."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        what = f"holds values that cannot be drawn, or its evaluations do ({type(error).__name__}: {error})"
        raise UserError(f"{name}: {what}; write them again") from error


def _read_document(path: Path) -> dict[str, Any]:
    """Read the output of `gpt1 evaluate --json` or `gpt1 ablate`."""
    try:
        found = json.loads(path.read_bytes())  # detects the encoding; a Windows shell may write UTF-16
    except ValueError as error:
        raise UserError(f"{path}: neither a run folder nor JSON ({error})") from None
    if isinstance(found, dict) and any(keys <= found.keys() for keys in DOCUMENTS):
        check_format(found, path)
        return found
    raise UserError(
        f"{path}: not the output of `gpt1 evaluate RUN FILE --json` or `gpt1 ablate --out`; give such a file or a run"
    )
