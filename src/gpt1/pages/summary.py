"""The summary of a run: what it is, how good it is, and against what.

The data are gpt1.json and the output of `gpt1 evaluate --json`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from gpt1.pages.charts import Point, gauge
from gpt1.pages.render import number

SCORES = ("accuracy", "macro_f1", "micro_f1", "f1", "matthews", "pearson", "spearman", "rmse", "mae")
BITS = ("bits_per_byte", "val_bits_per_byte")
# Lower is better, so the scale ends just above the largest value, not at 1.
ERRORS = ("rmse", "mae", "loss", *BITS)
BASELINES = {
    "accuracy": {"majority": "guessing the most common", "chance": "chance"},
    "rmse": {"mean_baseline_rmse": "guessing the mean"},
}
EVEN_GUESS = "guessing every token alike"


@dataclass(frozen=True)
class RunResults:
    """A run, and the evaluations of it."""

    metadata: dict[str, Any]
    """gpt1.json; empty if only an evaluation is known"""
    tests: list[dict[str, Any]] = field(default_factory=list)
    """output of `gpt1 evaluate --json`"""

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of the first evaluation, or else those of training."""
        return self.tests[0] if self.tests else self.metadata.get("metrics", {})


@dataclass(frozen=True)
class Summary:
    """A run in a few lines."""

    name: str
    anchor: str
    """id of its section on the page"""
    what: str
    metric: str = ""
    """the most telling metric; empty if nothing was measured"""
    value: float = 0.0
    on: str = ""
    """the rows or text it was measured on"""
    interval: Sequence[float] = ()
    references: dict[str, float] = field(default_factory=dict)
    """what is reached without the network, by name"""
    others: dict[str, float] = field(default_factory=dict)
    """the other metrics"""

    @property
    def verdict(self) -> str:
        """A sentence that compares the value with the first reference."""
        name, other = next(iter(self.references.items()), ("", self.value))
        better = (self.value - other) * (-1 if self.metric in ERRORS else 1)
        if not name or not math.isfinite(better):
            return ""
        if number(self.value) == number(other):
            return f"As good as {name}."
        return f"{'Better' if better > 0 else 'Worse'} than {name} by {number(abs(better))}."

    @property
    def gauge(self) -> Markup:
        """The value with its interval, and lines for words alone and for the baseline."""
        words = self.references.get("words alone")
        baseline = next((value for name, value in self.references.items() if name != "words alone"), None)
        span = metric_span(self.metric, [self.value, *self.interval, *self.references.values()])
        return gauge(span, (), self.value, self.interval, baseline, words)


def summary(name: str, anchor: str, results: RunResults) -> Summary:
    """Summarise a run: by the metric that selected it, or else by the first that it has."""
    found, selected = results.metrics, results.metadata.get("selected_by")
    known = [key for key in (selected, *SCORES, *BITS) if key in (*SCORES, *BITS) and key in found]
    what = _what(results.metadata) if results.metadata else f"evaluation of {found['run']}"
    if not known:
        return Summary(name, anchor, what)
    metric = known[0]
    references = {source: found[key] for key, source in BASELINES.get(metric, {}).items() if key in found}
    if metric in (words := found.get("words_alone") or {}):
        references = {"words alone": words[metric], **references}
    if metric == "val_bits_per_byte" and (bits := _even_guess(results.metadata)):
        references[EVEN_GUESS] = bits
    return Summary(
        name, anchor, what, metric, found[metric],
        measured_on(results),
        (found.get("intervals") or {}).get(metric, ()), references,
        {key: found[key] for key in known[1:] if key != metric},
    )  # fmt: skip


def measured_on(results: RunResults) -> str:
    """Name the rows or the text behind the metrics."""
    rows = f"{results.metrics['n']:,} " if "n" in results.metrics else ""
    if not results.tests:
        return f"{rows}validation {'rows' if rows else 'text'}"
    return f"{rows}{'rows of ' if rows else ''}{', '.join(map(str, results.tests[0]['scored_on']))}"


def metric_span(name: str, values: Sequence[float]) -> Point:
    """Return the ends of a metric's scale."""
    return (0.0, 1.05 * max(values, default=1.0)) if name in ERRORS else (min([0.0, *values]), 1.0)


def _what(metadata: Mapping[str, Any]) -> str:
    """Describe a run in a few words."""
    classes, steps = len(metadata.get("labels") or ()), metadata.get("steps")
    if "goal" in metadata:
        said = ["fine-tuned" + (f" for {metadata['task']}" if metadata.get("task") else "")]
        said += [f"{classes:,} classes"] if classes else []
        said += ["from random weights"] if metadata.get("from_scratch") else []
        said += ["words alone added"] if (metadata.get("words") or {}).get("weight") else []
    else:
        said = ["pre-trained" + (f" for {steps:,} updates" if steps else "")]
    said += [f"{metadata['parameters']:,} parameters"] if metadata.get("parameters") else []
    return ", ".join(said)


def _even_guess(metadata: Mapping[str, Any]) -> float | None:
    """Return the bits per byte of giving every token the same probability, if the validation text is known."""
    text = (metadata.get("data") or {}).get("val") or {}
    if not (text.get("bytes") and text.get("tokens") and metadata.get("vocabulary")):
        return None
    return math.log2(metadata["vocabulary"]) * text["tokens"] / text["bytes"]
