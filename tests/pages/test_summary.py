"""The summary of a run: the metric that tells most, and what is reached without the network."""

import re
from typing import Any

import pytest

from gpt1.pages.summary import EVEN_GUESS, RunResults, summary

TUNED = {
    "kind": "finetuned", "goal": "classes", "task": "classification", "labels": ["a", "b"], "parameters": 1_234,
    "selected_by": "macro_f1", "words": {"weight": 2.0, "temperature": 1.0},
}  # fmt: skip
METRICS = {"n": 1_000, "accuracy": 0.75, "macro_f1": 0.5, "majority": 0.625, "words_alone": {"macro_f1": 0.625}}


def test_a_fine_tuned_run_is_measured_by_what_selected_it() -> None:
    found = summary("runs/a", "run-1", RunResults(TUNED | {"metrics": METRICS}))
    assert found.what == "fine-tuned for classification, 2 classes, words alone added, 1,234 parameters"
    assert (found.metric, found.value, found.on) == ("macro_f1", 0.5, "1,000 validation rows")
    assert (found.references, found.others) == ({"words alone": 0.625}, {"accuracy": 0.75})
    assert found.verdict == "Worse than words alone by 0.125."


def test_a_test_comes_before_validation() -> None:
    test = {"n": 9, "accuracy": 0.75, "chance": 0.25, "scored_on": ["a", "b"], "intervals": {"accuracy": [0.5, 1.0]}}
    found = summary("a", "run-1", RunResults(TUNED | {"metrics": METRICS}, [test]))
    assert (found.metric, found.on, found.interval) == ("accuracy", "9 rows of a, b", [0.5, 1.0])
    assert found.references == {"chance": 0.25}
    assert found.verdict == "Better than chance by 0.500."
    assert summary("f", "file-1", RunResults({}, [test | {"run": "runs/a"}])).what == "evaluation of runs/a"


def test_a_pre_trained_run_is_compared_with_an_even_guess() -> None:
    """Of 256 tokens each has 8 bits; at two bytes a token that is 4 bits per byte."""
    data = {"val": {"tokens": 10, "bytes": 20}}
    metadata = {"steps": 7, "vocabulary": 256, "metrics": {"val_bits_per_byte": 1.5}, "data": data}
    found = summary("a", "run-1", RunResults(metadata))
    assert (found.what, found.on, found.references) == ("pre-trained for 7 updates", "validation text", {EVEN_GUESS: 4})
    assert found.verdict == f"Better than {EVEN_GUESS} by 2.500."


@pytest.mark.parametrize(
    ("value", "words", "said"), [(0.5004, 0.5, "As good as"), (0.6, 0.5, "Better than"), (float("nan"), 0.5, "")]
)
def test_the_verdict_on_scores(value: float, words: float, said: str) -> None:
    metrics: dict[str, Any] = {"accuracy": value, "words_alone": {"accuracy": words}}
    assert summary("a", "", RunResults({"goal": "classes", "metrics": metrics})).verdict.startswith(said)


def test_less_is_better_for_errors() -> None:
    found = summary("a", "", RunResults({"goal": "score", "metrics": {"rmse": 2.0, "mean_baseline_rmse": 3.0}}))
    assert found.verdict == "Better than guessing the mean by 1.000."
    dot, line = (
        re.search(pattern, found.gauge) for pattern in (r'class="mark" x="([\d.]+)"', r'"baseline" d="M([\d.]+)')
    )
    assert dot and line and float(dot[1]) < float(line[1])


def test_without_metrics_only_the_run_is_described() -> None:
    found = summary("a", "", RunResults({"goal": "classes", "from_scratch": True, "metrics": {"loss": 1.0}}))
    assert (found.what, found.metric, found.verdict) == ("fine-tuned, from random weights", "", "")
