"""The report page: arrange the data of runs, evaluations and ablations for `templates/report.html`.

The data are gpt1.json, metrics.jsonl and the `--json` output of commands, so torch is not needed. A part without data
is empty, and the template leaves it out.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gpt1.pages.charts import Point, ToPixel, dot, gauge, line_chart, square, tile
from gpt1.pages.render import number, render
from gpt1.pages.summary import BASELINES, SCORES, RunResults, Summary, metric_span
from gpt1.run_folder.metadata import read_json
from gpt1.tasks.metrics import over_seeds
from gpt1.training import log

PRETRAINING = {"lm": "training loss", "val_nats_per_token": "validation loss"}
FINETUNING = {"lm": "LM loss", "task": "task loss", "val_loss": "validation task loss"}
SHAPE = ("kind", "task", "preset", "recipe", "parameters", "steps", "seed", "lr", "lm_coef", "long", "selected_by")
# Metrics that have their own place on the page.
PLACED = (*SCORES, "n", "ece", "majority", "mean_baseline_rmse", "chance", "run")
MOST_CLASSES = 50  # a larger confusion matrix shows the classes with the most mistakes
# Variants of an ablation and their columns in its table.
HEADINGS = {"full": "full", "no_lm": "no LM loss", "from_scratch": "from scratch"}


@dataclass(frozen=True)
class DataTable:
    """A table with a caption, column names and rows."""

    caption: str
    head: Sequence[str]
    rows: list["DataRow"]


@dataclass(frozen=True)
class DataRow:
    """A row: its name, its cells and a gauge of its value. A cell that is a float, from 0 to 1, also shows as a bar."""

    name: str
    cells: Sequence[str | float]
    gauge: Markup = field(default_factory=Markup)


def report_page(
    title: str, summaries: Sequence[Summary], runs: Sequence[Mapping[str, Any]], documents: Sequence[Mapping[str, Any]]
) -> str:
    """Return the page for prepared runs (`run_section`) and documents (`document_section`), summaries first."""
    return render("report.html", title=title, summaries=summaries, runs=runs, documents=documents)


def run_section(name: str, run: Path, anchor: str, results: RunResults) -> dict[str, Any]:
    """Arrange one run, which the user calls `name`: metadata, scores, curves, samples and settings."""
    found, rows = results.metadata, log.read(run)
    metrics = found.get("metrics", {})
    metric = f"val_{next((name for name in (found.get('selected_by'), *SCORES) if name in metrics), '')}"
    losses = FINETUNING if "goal" in found else PRETRAINING
    curves = {name: [(row["step"], row[key]) for row in rows if key in row] for key, name in losses.items()}
    selected = [] if metric in losses else [(row["step"], row[metric]) for row in rows if metric in row]
    thresholds = dict(zip(found.get("labels", ()), found.get("thresholds", ()), strict=False))
    validation = None
    if "goal" in found and not results.tests:
        on = f"{metrics.get('n', 0):,} validation rows; slightly too high if they selected epoch, rate or seed"
        validation = score_parts(metrics, on, thresholds)
    settings = run / "settings.json"
    return {
        "name": name,
        "anchor": anchor,
        "shape": [(key, found[key]) for key in SHAPE if found.get(key) not in (None, "")],
        "tests": [evaluation(test, thresholds) for test in results.tests],
        "validation": validation,
        "seeds": seeds_table(found.get("seeds") or {}),
        "rates": rates_table(found.get("learning_rates") or {}, str(found.get("selected_by")), found.get("lr")),
        "losses": line_chart({name: line for name, line in curves.items() if len(line) > 1}, "updates", "nats"),
        "selected": line_chart({metric.replace("val_", "validation "): selected}, "updates", ""),
        "trained": [(name, value) for name, value in single_values(metrics) if name not in PLACED],
        "samples": [(f"{row['step']:,}", row["sample"]) for row in rows if "sample" in row],
        "settings": json.dumps(read_json(settings), indent=2, ensure_ascii=False) if settings.exists() else "",
    }


def document_section(name: str, anchor: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Arrange an evaluation, or an ablation, whose run is not on the page."""
    evaluated = "run" in found
    return {
        "name": name,
        "anchor": anchor,
        "evaluation": evaluation(found, {}) if evaluated else None,
        "ablation": None if evaluated else ablation(found),
    }


def evaluation(found: Mapping[str, Any], thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Arrange the output of `gpt1 evaluate --json`."""
    on = ", ".join(map(str, found["scored_on"]))
    return {
        "on": on,
        "parts": score_parts(found, f"{found['n']:,} rows of {on}" if "n" in found else on, thresholds),
        "rest": [(name, value) for name, value in single_values(found) if name not in PLACED],
        "groups": [(name, of["accuracy"]) for name, of in (found.get("groups") or {}).items()],
    }


def score_parts(found: Mapping[str, Any], on: str, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Arrange everything measured on labelled rows."""
    return {
        "scores": scores_table(found, f"Scores on {on}"),
        "classes": class_table(found, thresholds),
        "confusion": confusion_matrix(found),
        "calibration": calibration_figure(found),
        "joint": joint_figure(found),
    }


def scores_table(found: Mapping[str, Any], caption: str) -> DataTable:
    """Arrange every metric with its interval, its baseline, and that of words and of the network alone."""
    intervals, words, rows = found.get("intervals") or {}, found.get("words_alone") or {}, []
    alone = {f"{part} alone": found[f"{part}_alone"] for part in ("words", "network") if found.get(f"{part}_alone")}
    for name in (name for name in SCORES if name in found):
        interval = intervals.get(name, ())
        known = ((found[key], source) for key, source in BASELINES.get(name, {}).items() if key in found)
        baseline, source = next(known, (None, ""))
        shown = [value for value in (baseline, words.get(name)) if value is not None]
        span = metric_span(name, [found[name], *interval, *shown])
        cells = [number(found[name]), " to ".join(map(number, interval)), f"{number(baseline)} {source}".strip()]
        cells += [number(of[name]) for of in alone.values()]
        rows.append(DataRow(name, cells, gauge(span, (), found[name], interval, baseline, words.get(name))))
    head = ["metric", "value", "95 % interval" if intervals else "", "baseline"]
    return DataTable(caption, [*head, *alone, ""], rows)


def class_table(found: Mapping[str, Any], thresholds: Mapping[str, float]) -> DataTable:
    """Arrange precision, recall and F1 of each class, and the threshold of each label."""
    rows = []
    for name, of in (found.get("per_class") or {}).items():
        shares = [float(of[key]) for key in ("precision", "recall", "f1")]
        rows.append(DataRow(name, [f"{of['n']:,}", *shares, *([number(thresholds.get(name))] if thresholds else [])]))
    head = ["class", "rows", "precision", "recall", "F1", *(["threshold"] if thresholds else [])]
    return DataTable("Each class", head, rows)


def confusion_matrix(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arrange the confusion matrix: a row for each true class, shaded by the share of its rows."""
    names, counts = list(found.get("per_class") or {}), found.get("confusion") or []
    if not counts:
        return None
    wrong = [sum(counts[i]) + sum(row[i] for row in counts) - 2 * counts[i][i] for i in range(len(names))]
    shown = sorted(sorted(range(len(names)), key=lambda i: -wrong[i])[:MOST_CLASSES])

    def cell(i: int, j: int) -> dict[str, Any]:
        count, total = counts[i][j], sum(counts[i])
        kind = ("right" if i == j else "wrong") if count else "none"
        return {"kind": kind, "share": f"{count / total if total else 0.0:.0%}", "rows": f"{count:,}"}

    rows = [(names[i], [cell(i, j) for j in shown]) for i in shown]
    return {"names": [names[j] for j in shown], "rows": rows, "hidden": len(names) - len(shown)}


def calibration_figure(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Draw the reliability diagram: accuracy by confidence."""
    bins = found.get("reliability") or []
    if not bins:
        return None
    largest = max(each["n"] for each in bins)
    words = [
        f"{each['n']:,} rows with confidence {each['confidence']:.2f}: {each['accuracy']:.2f} right" for each in bins
    ]

    def inside(place: ToPixel) -> str:
        return "".join(
            dot(*place((each["confidence"], each["accuracy"])), 3 + 9 * math.sqrt(each["n"] / largest), said)
            for each, said in zip(bins, words, strict=True)
        )

    error = f", ECE {found['ece']:.3f}" if "ece" in found else ""
    drawn = square(0, 1, "confidence", "share that is right", inside, f"Reliability{error}. {'; '.join(words)}")
    note = "For a dot on the diagonal, the model is right as often as it claims; the area shows the number of rows."
    return {"title": f"Calibration{error}", "note": note, "svg": drawn}


def joint_figure(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Draw predicted against true numbers, shaded by the number of rows."""
    histogram = found.get("joint")
    if not histogram:
        return None
    low, high, counts = histogram["low"], histogram["high"], histogram["counts"]
    largest, step = max(map(max, counts)), (high - low) / len(counts)

    def inside(place: ToPixel) -> str:
        return "".join(
            tile(place, (low + i * step, low + j * step), step, count / largest, f"{count:,} rows")
            for i, row in enumerate(counts)
            for j, count in enumerate(row)
            if count
        )

    words = f"Predicted against true numbers, both from {low:.4g} to {high:.4g}, in {len(counts)} bins each."
    note = "The darker, the more rows; correct predictions lie on the diagonal."
    drawn = square(low, high, "true", "predicted", inside, words)
    return {"title": "Predicted and true", "note": note, "svg": drawn}


def seeds_table(found: Mapping[str, Any]) -> DataTable:
    """Arrange mean and deviation of each metric over the seeds, with a dot for each seed."""
    rows, count = [], 0
    for name in (name for name in SCORES if name in found):
        mean, values = found[name]["mean"], found[name]["values"]
        spread, count = found[name].get("deviation"), len(values)
        cells = (f"{number(mean)} ± {number(spread)}", " ".join(map(number, values)))
        rows.append(DataRow(name, cells, gauge(metric_span(name, values), values, mean)))
    return DataTable(f"{count} seeds, on the validation rows", ("metric", "mean ± deviation", "each", ""), rows)


def rates_table(found: Mapping[str, float], metric: str, selected: float | None) -> DataTable:
    """Arrange the result of each learning rate."""
    best = None if selected is None else f"{selected:.3g}"
    span = metric_span(metric, list(found.values()))
    rows = [
        DataRow(rate, (number(value), "selected" if rate == best else ""), gauge(span, (), value))
        for rate, value in found.items()
    ]
    return DataTable("Learning rates tried, on the validation rows", ("rate", metric, "", ""), rows)


def ablation(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Draw the learning curve and arrange the table of `gpt1 ablate`, which may be unfinished."""
    result = found.get("result") or found
    lines = {line["rows"]: line for line in result.get("table", ())} or _lines(found.get("cells", ()))
    metrics = [name for line in lines.values() for v in HEADINGS if v in line for name in line[v]["metrics"]]
    if not metrics:
        return None
    metric = result.get("metric") or next(name for name in (*SCORES, *metrics) if name in metrics)
    curves: dict[str, list[Point]] = {}
    bars: dict[str, list[float]] = {}
    for variant, name in HEADINGS.items():
        scores = [(rows, line[variant]["metrics"][metric]) for rows, line in sorted(lines.items()) if variant in line]
        curves[name] = [(rows, each["mean"]) for rows, each in scores]
        bars[name] = [each["deviation"] or 0.0 for _, each in scores]
    if words := [
        (rows, line["words_alone"][metric]) for rows, line in sorted(lines.items()) if line.get("words_alone")
    ]:
        curves["words alone"] = [(rows, each["mean"]) for rows, each in words]
        bars["words alone"] = [each["deviation"] or 0.0 for _, each in words]
    if guesses := [(rows, line["guess"][metric]) for rows, line in sorted(lines.items()) if "guess" in line]:
        curves["guess"] = guesses
    rows = [DataRow(f"{size:,}", _ablation_cells(line, metric)) for size, line in sorted(lines.items())]
    on = f", on {result['n']:,} rows of {result['scored_on']}" if "n" in result else ""
    head = ("training rows", "guess", "words alone", *HEADINGS.values())
    table = DataTable(f"{metric}, mean ± deviation over seeds{on}", head, rows)
    return {"chart": line_chart(curves, "training rows", metric, bars), "table": table}


def single_values(metrics: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the metrics that are single values, not lists or objects."""
    return [(name, value) for name, value in metrics.items() if not isinstance(value, dict | list)]


def _lines(cells: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Collect the models trained so far into lines of the table, by number of training rows."""
    found: dict[int, dict[str, list[Mapping[str, Any]]]] = {}
    for cell in cells:
        line = found.setdefault(cell["rows"], {})
        line.setdefault(cell["variant"], []).append(cell["metrics"])
        if cell.get("words_alone"):
            line.setdefault("words_alone", []).append(cell["words_alone"])
    return {
        rows: {
            name: over_seeds(of) if name == "words_alone" else {"metrics": over_seeds(of)} for name, of in line.items()
        }
        for rows, line in found.items()
    }


def _ablation_cells(line: Mapping[str, Any], metric: str) -> list[str]:
    cells = [number(line["guess"][metric]) if "guess" in line else ""]
    each = [line.get("words_alone"), *(line[variant]["metrics"] if variant in line else None for variant in HEADINGS)]
    for metrics in each:
        scores = metrics[metric] if metrics else None
        spread = "" if scores is None or scores["deviation"] is None else f" ± {number(scores['deviation'])}"
        cells.append("" if scores is None else number(scores["mean"]) + spread)
    return cells
