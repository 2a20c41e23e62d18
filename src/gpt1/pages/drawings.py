"""What is known of a fine-tuned model, as pieces of a page: scores, confusions, calibration, seeds, ablations.

Numbers stand in tables; what is drawn beside them is hidden from screen readers, what stands alone tells itself in
words. Every name is escaped here. A part of which nothing is known is an empty string.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.pages.charts import Point, Transform, dot, gauge, line_chart, square
from gpt1.tasks.metrics import over_seeds

SCORES = ("accuracy", "macro_f1", "micro_f1", "f1", "matthews", "pearson", "spearman", "rmse", "mae")
ERRORS = ("rmse", "mae", "loss")
"""Lower is better, so the scale ends just above the largest, not at 1."""
BASELINES = {
    "accuracy": {"majority": "the commonest", "chance": "guessing"}, "rmse": {"mean_baseline_rmse": "the mean"},
}  # fmt: skip
DETAILS = (*SCORES, "n", "ece", "majority", "mean_baseline_rmse", "chance", "run")
"""Metrics that have a place of their own on the page."""
MOST_CLASSES = 50
"""A larger confusion matrix shows the classes with the most mistakes."""
VARIANTS = {"full": "full", "no_lm": "no LM loss", "from_scratch": "from scratch"}


def scores(found: Mapping[str, Any], caption: str) -> str:
    """Every metric with its interval and its baseline."""
    intervals, rows = found.get("intervals") or {}, []
    for name in (name for name in SCORES if name in found):
        interval = intervals.get(name, ())
        baseline, source = _baseline(name, found)
        known = [found[name], *interval, *([] if baseline is None else [baseline])]
        drawing = gauge(_span(name, known), (), found[name], interval, baseline)
        cells = (_number(found[name]), " to ".join(map(_number, interval)), f"{_number(baseline)} {source}".strip())
        rows.append(_row(name, cells, drawing))
    head = ("metric", "value", "95 % of resamples" if intervals else "", "baseline", "")
    return _table(caption, head, rows)


def classes(found: Mapping[str, Any], thresholds: Mapping[str, float]) -> str:
    """Precision, recall and F1 of each class, and the probability from which a label is predicted."""
    each = found.get("per_class") or {}
    rows = [
        _row(name, (f"{of['n']:,}", *(_share(of[key]) for key in ("precision", "recall", "f1")),
                    *([_number(thresholds.get(name))] if thresholds else [])))
        for name, of in each.items()
    ]  # fmt: skip
    head = ("class", "rows", "precision", "recall", "F1", *(["threshold"] if thresholds else []))
    return scrolled("each class", _table("Each class", head, rows)) if rows else ""


def confusion(found: Mapping[str, Any]) -> str:
    """Which class was taken for which: a row for each true class, shaded by the share of its rows."""
    names, counts = list(found.get("per_class") or {}), found.get("confusion") or []
    if not counts:
        return ""
    wrong = [sum(counts[i]) + sum(row[i] for row in counts) - 2 * counts[i][i] for i in range(len(names))]
    shown = sorted(sorted(range(len(names)), key=lambda i: -wrong[i])[:MOST_CLASSES])
    some = "" if len(shown) == len(names) else f"; of {len(names):,} classes the {len(shown)} with the most mistakes"
    caption = f"Confusion matrix: rows are the true class, columns the predicted one{some}"
    head = "".join(f'<th scope="col"><span>{html.escape(names[j])}</span></th>' for j in shown)
    rows = (
        f'<tr><th scope="row">{html.escape(names[i])}</th>'
        + "".join(_cell(counts[i][j], sum(counts[i]), i == j) for j in shown)
        + "</tr>"
        for i in shown
    )
    table = f'<table class="confusion"><tr><td></td>{head}</tr>{"".join(rows)}</table>'
    return f"<h3>{caption}</h3>{scrolled('confusion matrix', table)}"


def calibration(found: Mapping[str, Any]) -> str:
    """The reliability diagram: how often the model is right, by how sure it is."""
    bins = found.get("reliability") or []
    if not bins:
        return ""
    largest = max(each["n"] for each in bins)
    told = [
        f"{each['n']:,} rows with confidence {each['confidence']:.2f}: {each['accuracy']:.2f} right" for each in bins
    ]

    def inside(place: Transform) -> str:
        return "".join(
            dot(*place((each["confidence"], each["accuracy"])), 3 + 9 * math.sqrt(each["n"] / largest), words)
            for each, words in zip(bins, told, strict=True)
        )

    error = f", ECE {found['ece']:.3f}" if "ece" in found else ""
    drawing = square(0, 1, "confidence", "share that is right", inside, f"Reliability{error}. {'; '.join(told)}")
    note = "A dot on the diagonal is right as often as it says; its area is the number of rows."
    return f"<h3>Calibration{error}</h3><p class=note>{note}</p>{drawing}"


def joint(found: Mapping[str, Any]) -> str:
    """Predicted against true numbers, shaded by the number of rows."""
    held = found.get("joint")
    if not held:
        return ""
    low, high, counts = held["low"], held["high"], held["counts"]
    largest, step = max(map(max, counts)), (high - low) / len(counts)

    def inside(place: Transform) -> str:
        return "".join(
            _tile(place, (low + i * step, low + j * step), step, count / largest, f"{count:,} rows")
            for i, row in enumerate(counts)
            for j, count in enumerate(row)
            if count
        )

    words = f"Predicted against true numbers, both from {low:.4g} to {high:.4g}, in {len(counts)} bins each."
    return (
        "<h3>Predicted and true</h3><p class=note>The darker, the more rows; right ones lie on the diagonal.</p>"
        + square(low, high, "true", "predicted", inside, words)
    )


def seeds(found: Mapping[str, Any]) -> str:
    """Every run a dot, and mean and deviation of each metric."""
    rows, count = [], 0
    for name in (name for name in SCORES if name in found):
        mean, values = found[name]["mean"], found[name]["values"]
        spread, count = found[name].get("deviation"), len(values)
        cells = (f"{_number(mean)} ± {_number(spread)}", " ".join(map(_number, values)))
        rows.append(_row(name, cells, gauge(_span(name, values), values, mean)))
    head = ("metric", "mean ± deviation", "each", "")
    return _table(f"{count} seeds, on the validation rows", head, rows) if rows else ""


def rates(found: Mapping[str, float], metric: str, taken: float | None) -> str:
    """What each learning rate came to."""
    best = None if taken is None else f"{taken:.3g}"
    span = _span(metric, list(found.values()))
    rows = [
        _row(rate, (_number(value), "taken" if rate == best else ""), gauge(span, (), value))
        for rate, value in found.items()
    ]
    return _table("Learning rates tried, on the validation rows", ("rate", metric, "", ""), rows) if rows else ""


def ablation(found: Mapping[str, Any]) -> str:
    """The learning curve and the table, from what `gpt1 ablate` printed or wrote; it may be unfinished."""
    result = found.get("result") or found
    lines = {line["rows"]: line for line in result.get("table", ())} or _lines(found.get("cells", ()))
    metrics = [name for line in lines.values() for v in VARIANTS if v in line for name in line[v]["metrics"]]
    if not metrics:
        return ""
    metric = result.get("metric") or next(name for name in (*SCORES, *metrics) if name in metrics)
    curves: dict[str, list[Point]] = {}
    bars: dict[str, list[float]] = {}
    for variant, name in VARIANTS.items():
        of = [(rows, line[variant]["metrics"][metric]) for rows, line in sorted(lines.items()) if variant in line]
        curves[name] = [(rows, each["mean"]) for rows, each in of]
        bars[name] = [each["deviation"] or 0.0 for _, each in of]
    guessed = [(rows, line["guess"][metric]) for rows, line in sorted(lines.items()) if "guess" in line]
    if guessed:
        curves["guess"] = guessed
    table = [_row(f"{rows:,}", _ablated(line, metric)) for rows, line in sorted(lines.items())]
    on = f", on {result['n']:,} rows of {html.escape(str(result['scored_on']))}" if "n" in result else ""
    head = ("training rows", "guess", *VARIANTS.values())
    caption = f"{html.escape(metric)}, mean ± deviation over seeds{on}"
    return line_chart(curves, "training rows", metric, bars) + _table(caption, head, table)


def _lines(cells: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The models that a table has so far, as its lines."""
    found: dict[int, dict[str, list[Mapping[str, Any]]]] = {}
    for cell in cells:
        found.setdefault(cell["rows"], {}).setdefault(cell["variant"], []).append(cell["metrics"])
    return {
        rows: {variant: {"metrics": over_seeds(metrics)} for variant, metrics in line.items()}
        for rows, line in found.items()
    }


def _ablated(line: Mapping[str, Any], metric: str) -> list[str]:
    cells = [_number(line["guess"][metric]) if "guess" in line else ""]
    for variant in VARIANTS:
        of = line[variant]["metrics"][metric] if variant in line else None
        spread = "" if of is None or of["deviation"] is None else f" ± {_number(of['deviation'])}"
        cells.append("" if of is None else _number(of["mean"]) + spread)
    return cells


def _baseline(name: str, found: Mapping[str, Any]) -> tuple[float | None, str]:
    return next(((found[key], word) for key, word in BASELINES.get(name, {}).items() if key in found), (None, ""))


def _span(name: str, values: Sequence[float]) -> Point:
    """Where a metric's scale begins and ends."""
    return (0.0, 1.05 * max(values, default=1.0)) if name in ERRORS else (min([0.0, *values]), 1.0)


def _row(name: str, cells: Sequence[str], drawing: str = "") -> str:
    """A row of a table whose cells are markup already; its name is not."""
    drawn = f"<td>{drawing}</td>" if drawing else ""
    numbers = "".join(cell if cell.startswith("<td") else f'<td class="number">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{html.escape(name)}</th>{numbers}{drawn}</tr>'


def _table(caption: str, head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    return f"<table><caption>{caption}</caption><tr>{cells}</tr>{''.join(rows)}</table>" if rows else ""


def scrolled(what: str, table: str) -> str:
    """A table that may be larger than the page; the keyboard can reach it to scroll."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{what}">{table}</div>'


def _share(value: float) -> str:
    """A cell with a bar behind its number."""
    return f'<td class="number bar" style="--w:{value:.3f}">{value:.3f}</td>'


def _cell(count: int, of: int, right: bool) -> str:
    share = count / of if of else 0.0
    kind = ("right" if right else "wrong") if count else "none"
    return f'<td class="{kind}" style="--s:{share:.0%}">{count:,}</td>'


def _tile(place: Transform, corner: Point, step: float, share: float, words: str) -> str:
    (x, y), (right, top) = place(corner), place((corner[0] + step, corner[1] + step))
    size = f'x="{x:.1f}" y="{top:.1f}" width="{right - x:.1f}" height="{y - top:.1f}"'
    return f'<rect class="tile" {size} style="--s:{max(0.08, math.sqrt(share)):.0%}"><title>{words}</title></rect>'


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.4g}"
