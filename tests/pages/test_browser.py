"""The pages in a real browser: on a phone and on a desktop, in light and dark, for the keyboard and for screen readers.

Needs an installed Chromium; nothing is downloaded. axe-core checks contrast, names, order of headings and more.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt1.commands.report import report
from gpt1.config import Report
from gpt1.pages.explain import explain_page
from gpt1.pages.explain_row import row_page
from gpt1.run_folder.metadata import FILES
from gpt1.tasks.metrics import classification_metrics

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

PHONE, DESKTOP = 360, 1280
SMALLEST = 11  # pixels of a chart's labels
VAL = {"tokens": 10, "documents": 1, "bytes": 30, "sha256": [""]}
# The size of a text as it is rendered: an <svg> with a viewBox scales what is in it.
LABELS = """() => [...document.querySelectorAll("svg text")].map(text => {
    const { a, b } = text.getScreenCTM();
    return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b);
})"""
# Boxes that scroll sideways although the page has room beside them.
CUT = """() => [...document.querySelectorAll(".wide")].filter(box =>
    box.scrollWidth > box.clientWidth && box.clientWidth < document.querySelector("main").clientWidth).length"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of one run, a report of many with an evaluation and an ablation, and an explained text."""
    folder = tmp_path_factory.mktemp("pages")
    tuned = _tuned(
        folder / ("a-run-with-a-very-long-name-" * 4), [f"a class number {n} of many words" for n in range(6)]
    )
    pretrained = _pretrained(folder / "pretrained")
    others = [_tuned(folder / f"run-{n}", ["yes", "no"]) for n in range(1)]
    test = folder / "test.json"
    test.write_text(
        json.dumps({"run": str(tuned), "scored_on": ["/a/long/path/" * 6 + "test.csv"], **_metrics(["a", "b"])})
    )
    ablation = folder / "ablation.json"
    cells = [
        {"rows": rows, "variant": variant, "seed": seed, "lr": 0.1, "metrics": {"accuracy": 0.1 * seed + rows / 2000}}
        for rows in (10, 100, 120, 1000) for variant in ("full", "no_lm", "from_scratch") for seed in (1, 2)
    ]  # fmt: skip
    ablation.write_text(json.dumps({"format": 1, "cells": cells}))
    explained = folder / "explained.html"
    explained.write_text(explain_page(_explained(), "run"), encoding="utf-8")
    predicted = folder / "predicted.html"
    predicted.write_text(row_page(_predicted(), "run"), encoding="utf-8")
    for name, runs in (("one", [tuned]), ("many", [tuned, pretrained, *others, test, ablation])):
        report(Report(runs=[str(run) for run in runs], out=str(folder / f"{name}.html")))
    return {"one": folder / "one.html", "many": folder / "many.html", "explained": explained, "predicted": predicted}


def _folder(folder: Path, metadata: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for name in FILES:
        (folder / name).touch()
    usual = {"format": 1, "parameters": 2_000_000, "context": 16, "vocabulary": 40, "tokenizer": "", "seed": 1}
    (folder / "gpt1.json").write_text(json.dumps(usual | metadata))
    (folder / "settings.json").write_text(json.dumps({"run": "a" * 300}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _metrics(names: list[str]) -> dict[str, Any]:
    gold = [name for name in names for _ in range(30)]
    found = classification_metrics(gold, [*gold[7:], *gold[:7]], names).to_json()
    reliability = [{"n": n, "confidence": n / 10, "accuracy": n / 12} for n in range(1, 10)]
    words = classification_metrics(gold, gold, names).to_json()
    calibration = {"ece": 0.25, "reliability": reliability}
    return found | calibration | {"intervals": {"accuracy": [0.5, 0.9]}, "words_alone": words}


def _tuned(folder: Path, names: list[str]) -> Path:
    metadata = {
        "kind": "finetuned", "task": "classification", "goal": "classes", "labels": names, "metrics": _metrics(names),
        "columns": {"texts": ["text"], "label": ["label"]}, "selected_by": "accuracy", "lr": 0.001,
        "learning_rates": {"0.001": 0.5, "0.004": 0.25}, "seeds": {"accuracy": {"mean": 0.5, "values": [0.5, 0.5]}},
    }  # fmt: skip
    rows = [
        {"step": s, "lm": 5 - s / 20, "task": 1 / s, "val_loss": 2 / s, "val_accuracy": s / 100} for s in range(1, 60)
    ]
    return _folder(folder, metadata, rows)


def _pretrained(folder: Path) -> Path:
    data = {"fingerprint": "", "tokenizer": "", "train": VAL, "val": VAL}
    rows = [{"step": 100_000 * s, "lm": 5 / s, "sample": f"Once {s} " + "x" * 200} for s in range(1, 20)]
    metadata = {"kind": "pretrained", "steps": 7, "metrics": {"val_bits_per_byte": 1.5}, "data": data}
    return _folder(folder, metadata, rows)


def _explained() -> dict[str, Any]:
    tokens = ["Once", " upon", " " * 200, "\\xe2", "x" * 200, "<b>", " a", *(f" word{n}" for n in range(8))]
    positions, total = [], 0.0
    for number, token in enumerate(tokens):
        nats = number % 9
        total -= nats
        alternatives = [
            {"id": 10_000 + n, "token": " " * n + "y" * 10 * n, "probability": 0.5 / (n + 1)} for n in range(5)
        ]
        positions.append({
            "position": number, "id": number, "token": token, "probability": 2.7**-nats, "nats": nats, "rank": 12_345,
            "alternatives": alternatives, "product": 0.0 if number > 8 else 2.7**total, "sum": total,
        })  # fmt: skip
    windows = [{"start": 4 * n, "stop": 4 * n + 8, "predicts": [4 * n + 4, 4 * n + 8]} for n in range(2)]
    return {
        "model": "a language model", "context": 16, "comparable": False, "nats_per_token": 1.25, "perplexity": 3.5,
        "bits_per_byte": 0.875, "tokens": len(positions), "positions": positions, "windows": windows,
        "product_is_zero_at": 9,
    }  # fmt: skip


def _predicted() -> dict[str, Any]:
    texts = ["a long " + "x" * 300 + " context", "one answer", "another " * 30]
    words = [
        {"text": 0, "start": 0, "stop": 1, "word": "a", "change": 1.0},
        {"text": 0, "start": 7, "stop": 307, "word": "x" * 300, "change": -1.0},
        {"text": 1, "start": 0, "stop": 3, "word": "one", "change": 0.1},
    ]
    tokens = [
        {"id": 1, "token": token, "role": role}
        for token, role in (("", "start"), ("x" * 300, "text"), (" " * 200, "text"), ("", "delimiter"), ("", "extract"))
    ]
    sequence = {"tokens": tokens, "h": [n % 7 - 3.0 for n in range(768)], "scores": [1.0]}
    evidence = [
        {"feature": "y" * 60 * n, "kind": "words", "of": "answer and context", "contribution": n - 2} for n in range(5)
    ]
    return {
        "task": "multiple-choice", "texts": texts, "predicted_label": 0, "about": "0", "context": 16, "windows": 1,
        "outputs": [{"name": str(n), "score": -1.5, "probability": n, "words_probability": 1 - n} for n in range(2)],
        "is_cut": True, "sequences": [sequence, sequence], "words": words, "together": 2, "words_weight": 2.0,
        "temperature": 1.25,
        "words_alone": {"predicted_label": 1, "about": "1", "score": 1.0, "constant": 0.0, "evidence": evidence},
    }  # fmt: skip


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "light"), (DESKTOP, "dark")])
@pytest.mark.parametrize("name", ["one", "many", "explained", "predicted"])
def test_a_page_fits_is_legible_and_accessible(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(page.evaluate(LABELS), default=SMALLEST) >= SMALLEST
    assert name == "predicted" or page.evaluate("document.querySelectorAll('svg text').length") > 5
    assert page.evaluate(CUT) == 0
    faults = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert not faults, [(fault["id"], fault["nodes"][0]["html"]) for fault in faults]
    assert not complaints
    assert asked == [pages[name].as_uri()], "the page is one file"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    page.close()


@pytest.mark.parametrize("name", ["explained", "predicted"])
def test_nothing_of_an_explanation_scrolls(browser: Any, pages: dict[str, Path], name: str) -> None:
    page = browser.new_page(viewport={"width": PHONE, "height": 800})
    page.goto(pages[name].as_uri())
    scrolls = "one => ['auto', 'scroll'].includes(getComputedStyle(one).overflowX)"
    assert page.evaluate(f"[...document.querySelectorAll('body *')].filter({scrolls}).length") == 0
    page.close()


def test_the_labels_of_an_axis_do_not_overlap(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": PHONE, "height": 800})
    page.goto(pages["many"].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    overlaps = """() => [...document.querySelectorAll(".chart > svg")].flatMap(svg => {
        const boxes = [...svg.querySelectorAll("text[dy='16']")].map(text => text.getBoundingClientRect());
        return boxes.slice(1).filter((box, i) => box.left < boxes[i].right);
    }).length"""
    assert page.evaluate(overlaps) == 0
    page.close()


def test_the_keyboard_unfolds_and_scrolls(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": PHONE, "height": 800})
    page.goto(pages["many"].as_uri())
    focused = "document.activeElement"
    while not page.evaluate(f"{focused}.matches('summary')"):
        page.keyboard.press("Tab")
        assert page.evaluate(f"{focused} !== document.body"), "no summary can be reached"
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") != "none"
    page.keyboard.press("Enter")
    assert page.evaluate(f"{focused}.parentElement.open")
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.matches('.wide')")
    page.keyboard.press("ArrowRight")
    for _ in range(100):  # `wait_for_function` needs eval, which the page's policy forbids
        if page.evaluate(f"{focused}.scrollLeft") > 0:
            break
        page.wait_for_timeout(50)
    else:
        pytest.fail("the table does not scroll")
    page.close()


def test_no_script_runs_in_a_page(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    """Should escaping ever fail, the page's own policy still stops a script and a request."""
    text = pages["one"].read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.html"
    attack = "<script>document.title = 'run'</script><img src='file:///x.png' onerror=\"document.title = 'run'\">"
    wrong.write_text(text.replace("</main>", f"{attack}</main>"), encoding="utf-8")
    page = browser.new_page()
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    page.goto(wrong.as_uri())
    assert page.title().startswith("gpt1: ")
    assert asked == [wrong.as_uri()]
    page.close()
