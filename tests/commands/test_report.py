"""The report page: self-contained, escaped, with every figure, and one line for what cannot be drawn."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from conftest import one_line
from gpt1.commands.report import report
from gpt1.config import Report
from gpt1.errors import UserError
from gpt1.run_folder.metadata import FILES
from gpt1.tasks.metrics import classification_metrics, label_set_metrics, score_metrics


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    info = {
        "format": 1, "kind": "pretrained", "preset": "tiny", "recipe": "fast", "seed": 1, "steps": 3,
        "parameters": 1234, "context": 16, "vocabulary": 40, "tokenizer": "", "metrics": {"val_bits_per_byte": 2.125},
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
    assert dict(report(Report(runs=[str(run)], out=str(out)))) == {"page": str(out), "runs": [str(run)]}
    text = out.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert all(value and value.startswith("#") for name, value in page.attributes if name in ("src", "href"))
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
    with pytest.raises(UserError, match=r"test\.json: no such file$"):
        report(Report(runs=[str(tmp_path / "test.json")], out=str(tmp_path / "page.html")))
    assert not (tmp_path / "page.html").exists()


# Names of classes that would break a page that does not escape them.
NASTY = [f'</td><script>"{n}"&\'\N{SNOWMAN}' for n in range(100)]


class Strict(HTMLParser):
    """Fails where a tag is closed that is not the open one; keeps texts, tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.unboxed = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        # The two columns of `pairs` wrap instead.
        self.unboxed += tag == "table" and self.open[-1] != "div" and ("class", "pairs") not in attrs
        # In SVG what has no content closes itself; the parser reports those as `startendtag`.
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def tuned(folder: Path, **metadata: Any) -> Path:
    """A fine-tuned run of which only gpt1.json matters."""
    folder.mkdir()
    for name in FILES:
        (folder / name).touch()
    usual = {
        "format": 1, "kind": "finetuned", "task": "classification", "goal": "classes", "labels": [], "metrics": {},
        "columns": {"texts": ["text"], "label": ["label"]}, "parameters": 1234, "context": 16, "vocabulary": 40,
        "tokenizer": "",
    }  # fmt: skip
    (folder / "gpt1.json").write_text(json.dumps(usual | metadata), encoding="utf-8")
    return folder


def parsed(out: Path, *given: Path) -> Strict:
    report(Report(runs=[str(path) for path in given], out=str(out)))
    text, found = out.read_text(encoding="utf-8"), Strict()
    found.feed(text)
    assert not found.open, "every tag is closed"
    for svg in re.findall(r"<figure.*?</figure>|<svg (?!role).*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    assert "script" not in found.tags
    assert found.unboxed == 0, "on a narrow screen a table scrolls in a box of its own"
    return found


def metrics_of(names: list[str]) -> dict[str, Any]:
    gold = [name for name in names for _ in range(3)]
    predicted = [*gold[1:], gold[0]]
    found = classification_metrics(gold, predicted, names).to_json()
    return found | {"ece": 0.25, "reliability": [{"n": 3, "confidence": 0.75, "accuracy": 1.0}]}


def test_names_are_escaped(tmp_path: Path) -> None:
    run = tuned(tmp_path / "<b>run", labels=NASTY, metrics=metrics_of(NASTY))
    page = parsed(tmp_path / "page.html", run)
    assert all(name in page.text for name in NASTY)
    assert "of 100 classes the 50 with the most mistakes" in page.text


def test_classes_are_drawn(tmp_path: Path) -> None:
    run = tuned(tmp_path / "run", labels=["a", "b"], metrics=metrics_of(["a", "b"]))
    page = parsed(tmp_path / "page.html", run)
    for words in (
        "accuracy 0.667",
        "0.500 guessing the most common",
        "ECE 0.250",
        "6 validation rows",
        "a 3 0.667",
        "a 2 1 b 1 2",
    ):
        assert words in " ".join(page.text.split()), words


def test_where_the_last_epoch_was_kept_the_usual_metric_is_drawn(tmp_path: Path) -> None:
    run = tuned(tmp_path / "run", metrics={"n": 7, "accuracy": 0.5}, selected_by="last epoch")
    rows = [{"step": step, "val_accuracy": step / 4} for step in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = " ".join(parsed(tmp_path / "page.html", run).text.split())
    assert "validation accuracy" in text
    assert "selected_by last epoch" in text


def test_a_final_test_counts_if_there_is_one(tmp_path: Path) -> None:
    """Its numbers, its intervals and its name stand where those of validation did; whatever way the run is spelt."""
    run = tuned(tmp_path / "run", metrics={"n": 7, "accuracy": 0.123456, "majority": 0.5}, seed=1)
    other = tuned(tmp_path / "other", metrics={"n": 7, "accuracy": 0.875, "majority": 0.5})
    test = tmp_path / "test.json"
    found = {"n": 9, "accuracy": 0.625, "majority": 0.4, "intervals": {"accuracy": [0.5, 0.75]}}
    for encoding in ("utf-8", "utf-16"):
        written = {"run": str(run / ".." / "run"), "scored_on": ["<held>.csv"], **found}
        test.write_text(json.dumps(written), encoding=encoding)
        page = parsed(tmp_path / "page.html", run, other, test)
        text = " ".join(page.text.split())
        assert "Scores on 9 rows of <held>.csv" in text
        assert "accuracy 0.625 0.500 to 0.750 0.400 guessing the most common" in text
        assert "0.123" not in text
        assert "0.875 on 7 validation rows" in text, "the other run has only its validation"
    alone = parsed(tmp_path / "page.html", test)
    assert "Scores on 9 rows of <held>.csv" in " ".join(alone.text.split()), "without its run it is drawn all the same"


def test_scores_label_sets_seeds_and_rates_are_drawn(tmp_path: Path) -> None:
    gold, predicted = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.5, 3.0])
    metrics = score_metrics(gold, predicted).to_json()
    seeds = {"pearson": {"mean": 0.5, "deviation": 0.25, "values": [0.25, 0.75]}}
    rates = {"0.001": 0.25, "0.004": 0.75}
    score = tuned(
        tmp_path / "score", goal="score", metrics=metrics, seeds=seeds, learning_rates=rates, lr=0.004,
        selected_by="pearson",
    )  # fmt: skip
    page = parsed(tmp_path / "page.html", score)
    text = " ".join(page.text.split())
    for words in (
        "0.816 guessing the mean",
        "0.500 ± 0.250 0.250 0.750",
        "0.004 0.750 selected",
        "2 seeds, on the validation rows",
    ):
        assert words in text, words
    sets = label_set_metrics(np.array([[True, False]]), np.array([[True, True]]), ["x", "y"]).to_json()
    labels = tuned(tmp_path / "labels", goal="labels", labels=["x", "y"], thresholds=[0.25, 0.5], metrics=sets)
    page = parsed(tmp_path / "page.html", labels)
    assert "x 1 1.000 1.000 1.000 0.250" in " ".join(page.text.split())


SCORES = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "n": 3}


def cell(rows: int, variant: str, accuracy: float) -> dict[str, Any]:
    return {"rows": rows, "variant": variant, "seed": 1, "lr": 0.1, "metrics": {"accuracy": accuracy}}


def test_an_unfinished_ablation_is_drawn(tmp_path: Path) -> None:
    cells = [cell(10, "full", 0.25), cell(10, "full", 0.75), cell(100, "full", 0.5), cell(10, "no_lm", 0.125)]
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"format": 1, "cells": cells}))
    text = " ".join(parsed(tmp_path / "page.html", path).text.split())
    assert "10 0.500 ± 0.354 0.125" in text
    assert "100 0.500" in text
    path.write_text(json.dumps({"format": 1, "cells": []}))
    parsed(tmp_path / "page.html", path)
    path.write_text(json.dumps({"format": 2, "cells": []}))
    with pytest.raises(UserError, match=r"table\.json: format 2 is newer than 1; update gpt1"):
        report(Report(runs=[str(path)], out=str(tmp_path / "page.html")))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"metrics": "x"}, "metrics must be an object"),
        ({"metrics": {"accuracy": "high", "n": 3}, "goal": "classes"}, "cannot be drawn"),
        ({"metrics": {"per_class": {"a": SCORES | {"n": None}}}, "goal": "classes"}, "cannot be drawn"),
        ({"metrics": {"per_class": {"a": SCORES | {"f1": None}}}, "goal": "classes"}, "cannot be drawn"),
        ({"metrics": {"per_class": {"a": SCORES, "b": SCORES}, "confusion": [[3]]}, "goal": "classes"}, "IndexError"),
        ({"metrics": {"reliability": [{"n": 0, "confidence": 1, "accuracy": 1}]}, "goal": "classes"}, "ZeroDivision"),
        ({"metrics": {"joint": {"low": 0, "high": float("inf"), "counts": [[1]]}}, "goal": "score"}, "OverflowError"),
    ],
)
def test_metadata_that_cannot_be_drawn_is_refused(
    run: Path, tmp_path: Path, metadata: dict[str, Any], words: str
) -> None:
    known = json.loads((run / "gpt1.json").read_text())
    (run / "gpt1.json").write_text(json.dumps(known | metadata))
    with one_line(str(run), words):
        report(Report(runs=[str(run)], out=str(tmp_path / "r.html")))
    assert not (tmp_path / "r.html").exists()


def test_a_damaged_curve_is_refused(run: Path, tmp_path: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("garbage\n")
    with one_line("metrics.jsonl:", "delete the line"):
        report(Report(runs=[str(run)], out=str(tmp_path / "r.html")))


def test_a_sample_without_a_step_is_refused(run: Path, tmp_path: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": null, "sample": "text"}\n')
    with one_line(str(run), "cannot be drawn"):
        report(Report(runs=[str(run)], out=str(tmp_path / "r.html")))


@pytest.mark.parametrize("found", [{"run": 5, "scored_on": ["a.csv"]}, {"run": "\0", "scored_on": 5}])
def test_an_odd_evaluation_is_refused(run: Path, tmp_path: Path, found: dict[str, Any]) -> None:
    path = tmp_path / "test.json"
    path.write_text(json.dumps(found))
    with one_line(str(path), "cannot be drawn"):
        report(Report(runs=[str(run), str(path)], out=str(tmp_path / "r.html")))


def test_only_a_page_is_replaced(run: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("precious")
    with one_line(f"out {notes}", ".html"):
        report(Report(runs=[str(run)], out=str(notes)))
    with one_line(f"out {tmp_path} is a folder"):
        report(Report(runs=[str(run)], out=str(tmp_path)))
    assert notes.read_text() == "precious"


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    run = tuned(tmp_path / "run")
    (run / "settings.json").write_text("{")
    with pytest.raises(UserError, match=r"settings\.json is damaged"):
        report(Report(runs=[str(run)], out=str(tmp_path / "page.html")))


def test_a_run_with_little_metadata(tmp_path: Path) -> None:
    """Of a model from elsewhere, or an older run, pieces are missing."""
    for number, metadata in enumerate([{}, {"metrics": {"n": 0}}, {"metrics": {"per_class": {}, "confusion": []}}]):
        parsed(tmp_path / "page.html", tuned(tmp_path / str(number), **metadata))


@pytest.mark.parametrize("content", ["text", "[1]", '{"a": 1}', "", '{"cells": [{}], "nbformat": 4}'])
def test_a_file_that_is_no_evaluation(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"a\.json: n(either|ot)"):
        report(Report(runs=[str(path)], out=str(tmp_path / "page.html")))
    assert not (tmp_path / "page.html").exists()
