"""`gpt1 report`: runs, evaluations and ablations -> one self-contained HTML page."""

import html
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from gpt1.config import Report
from gpt1.errors import UserError
from gpt1.pages import drawings
from gpt1.pages.charts import line_chart
from gpt1.pages.pages import check_page, page
from gpt1.run_folder.metadata import read_json, read_metadata
from gpt1.storage import write_text
from gpt1.training import log

PRETRAINING = {"lm": "training loss", "val_nats_per_token": "validation loss"}
FINETUNING = {"lm": "LM loss", "task": "task loss", "val_loss": "validation task loss"}
DOCUMENTS = ({"run", "scored_on"}, {"format", "cells"}, {"metric", "table"})
"""Keys of what `gpt1 evaluate --json`, `gpt1 ablate --out` and `gpt1 ablate --json` write; a notebook has cells too."""
SHAPE = ("kind", "task", "preset", "recipe", "parameters", "steps", "seed", "lr", "lm_coef", "long", "selected_by")


@dataclass(frozen=True)
class Subject:
    """A run and what was measured of it."""

    info: dict[str, Any]
    """gpt1.json"""
    tests: list[dict[str, Any]] = field(default_factory=list)
    """what `gpt1 evaluate` told"""

    @property
    def metrics(self) -> dict[str, Any]:
        """The final test's, or else those of training."""
        return self.tests[0] if self.tests else self.info.get("metrics", {})


def report(settings: Report) -> dict[str, Any]:
    """Write the page; returns its path and what is on it.

    Raises UserError for a folder that is not a run, and a file that holds neither an evaluation nor an ablation.
    """
    check_page(settings.out, "--out")
    given = list(dict.fromkeys(settings.runs))
    documents = {name: _document(Path(name)) for name in given if Path(name).is_file()}
    runs = {name: Subject(read_metadata(Path(name)).to_json()) for name in given if name not in documents}
    places = {Path(name).resolve(): run for name, run in runs.items()}
    alone = []
    for name, found in documents.items():
        owner = places.get(Path(found["run"]).resolve()) if "run" in found else None
        if owner:
            owner.tests.append(found)
        else:
            alone.append(name)
    title = "gpt1: " + ", ".join(Path(name).name for name in runs or given)
    parts = [_comparison(runs)]
    parts += [_sound(name, partial(section, Path(name), runs[name])) for name in runs]
    parts += [_sound(name, partial(_alone, name, documents[name])) for name in alone]
    write_text(settings.out, page(title, "".join(parts)))
    return {"page": str(settings.out), "runs": given}


def show(result: dict[str, Any]) -> RenderableType:
    """Where the page is."""
    return f"report of {', '.join(result['runs'])}: {result['page']}"


def section(run: Path, subject: Subject) -> str:
    """One run: facts, scores, curves, samples, settings."""
    info, rows = subject.info, log.read(run)
    metric = f"val_{info.get('selected_by')}"
    losses = FINETUNING if "goal" in info else PRETRAINING
    curves = {name: [(row["step"], row[key]) for row in rows if key in row] for key, name in losses.items()}
    chosen = [] if metric in losses else [(row["step"], row[metric]) for row in rows if metric in row]
    trained = [(name, value) for name, value in _flat(info.get("metrics", {})) if name not in drawings.DETAILS]
    parts = [
        f"<h2>{html.escape(str(run))}</h2>",
        table((key, info[key]) for key in SHAPE if info.get(key) not in (None, "")),
        _scores(subject),
        drawings.seeds(info.get("seeds") or {}),
        drawings.rates(info.get("learning_rates") or {}, str(info.get("selected_by")), info.get("lr")),
        _titled("Training", line_chart({k: v for k, v in curves.items() if len(v) > 1}, "updates", "nats")),
        line_chart({metric.replace("val_", "validation "): chosen}, "updates", ""),
        table(trained) if trained else "",
        _titled("Samples as it learned", "".join(map(_sample, [row for row in rows if "sample" in row]))),
        _settings(run),
    ]
    return "".join(parts)


def table(rows: Iterable[tuple[str, Any]]) -> str:
    """Two columns, name and value."""
    cells = (
        f'<tr><th scope="row">{html.escape(name)}</th><td class="{_kind(value)}">{html.escape(_text(value))}</td></tr>'
        for name, value in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _sound(name: str, draw: Callable[[], str]) -> str:
    """What is drawn of a run or a document. Raises UserError if what it holds is not what gpt1 writes there."""
    try:
        return draw()
    except (KeyError, TypeError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{name}: it or its evaluations hold what cannot be drawn ({told}); write them again"
        ) from error


def _alone(name: str, found: dict[str, Any]) -> str:
    """A document whose run is not on the page."""
    drawn = _scored(found, {}) if "run" in found else drawings.ablation(found)
    return f"<h2>{html.escape(name)}</h2>{drawn}"


def _document(path: Path) -> dict[str, Any]:
    """What `gpt1 evaluate --json` or `gpt1 ablate` wrote."""
    try:
        found = json.loads(path.read_bytes())  # of bytes it finds out the encoding, as a Windows shell may write UTF-16
    except ValueError as error:
        raise UserError(f"{path}: neither a run folder nor JSON ({error})") from None
    if isinstance(found, dict) and any(keys <= found.keys() for keys in DOCUMENTS):
        return found
    raise UserError(
        f"{path}: not what `gpt1 evaluate RUN FILE --json` or `gpt1 ablate --out` writes; give such a file or a run"
    )


def _scores(subject: Subject) -> str:
    """Of the final test if there is one, else of the validation rows; and which."""
    goal = subject.info.get("goal")
    thresholds = dict(zip(subject.info.get("labels", ()), subject.info.get("thresholds", ()), strict=False))
    if subject.tests:
        return "".join(_scored(found, thresholds) for found in subject.tests)
    metrics = subject.info.get("metrics", {})
    rows = f"{metrics.get('n', 0):,} validation rows; if they chose epoch, rate or seed, a little too good"
    return _drawn(metrics, rows, thresholds) if goal else ""


def _scored(found: dict[str, Any], thresholds: dict[str, float]) -> str:
    on = html.escape(", ".join(map(str, found["scored_on"])))
    rest = [(name, value) for name, value in _flat(found) if name not in drawings.DETAILS]
    each = table((name, of["accuracy"]) for name, of in (found.get("groups") or {}).items())
    caption = f"{found['n']:,} rows of {on}" if "n" in found else on
    return _drawn(found, caption, thresholds) + _titled("On " + on, table(rest)) + _titled("Accuracy by group", each)


def _drawn(found: dict[str, Any], on: str, thresholds: dict[str, float]) -> str:
    return "".join(
        (drawings.scores(found, f"Scores on {on}"), drawings.classes(found, thresholds), drawings.confusion(found),
         drawings.calibration(found), drawings.joint(found))
    )  # fmt: skip


def _comparison(runs: dict[str, Subject]) -> str:
    if len(runs) < 2:
        return ""
    names = ("val_bits_per_byte", *drawings.SCORES)
    shown = [name for name in names if any(name in run.metrics for run in runs.values())]
    head = "".join(f'<th scope="col">{name}</th>' for name in ("run", "parameters", *shown, "measured on"))
    rows = [
        [name, run.info.get("parameters", ""), *(run.metrics.get(key, "") for key in shown), _measured_on(run)]
        for name, run in runs.items()
    ]
    cells = ("".join(f'<td class="{_kind(value)}">{html.escape(_text(value))}</td>' for value in row) for row in rows)
    return drawings.scrolled("all runs", f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>")


def _measured_on(run: Subject) -> str:
    return ", ".join(map(str, run.tests[0]["scored_on"])) if run.tests else "validation"


def _flat(metrics: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in metrics.items() if not isinstance(value, dict | list)]


def _sample(row: dict[str, Any]) -> str:
    return f"<h3>after update {row['step']:,}</h3><blockquote>{html.escape(row['sample'])}</blockquote>"


def _settings(run: Path) -> str:
    path = run / "settings.json"
    if not path.exists():
        return ""
    text = json.dumps(read_json(path), indent=2)
    return f"<details><summary>settings</summary><pre>{html.escape(text)}</pre></details>"


def _titled(title: str, content: str) -> str:
    return f"<h3>{title}</h3>{content}" if content not in ("", "<table></table>") else ""


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) else "text"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if type(value) is int else str(value)
