"""Words alone beside a fine-tuned network: always shown, said where they win, and added to it on request."""

import csv
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from conftest import one_line, save_random_run
from gpt1.commands import ablate as ablation
from gpt1.commands import explain as explanation
from gpt1.commands.ablate import ablate
from gpt1.commands.convert import convert
from gpt1.commands.evaluate import evaluate
from gpt1.commands.evaluate import show as show_evaluation
from gpt1.commands.explain import explain
from gpt1.commands.finetune import finetune, show
from gpt1.commands.predict import predict
from gpt1.commands.report import report
from gpt1.config import Ablate, Command, Convert, Evaluate, Explain, Finetune, Model, Predict, Report
from gpt1.errors import UserError
from gpt1.finetuning import sweep, words_alone
from gpt1.finetuning.predictor import Predictor, load_predictor
from gpt1.finetuning.words_alone import WEIGHTS
from gpt1.tasks.words import WordsModel

GOOD, BAD = "loves adores enjoys likes".split(), "hates fears loathes shuns".split()
PEOPLE, THINGS = "hare dog bird cat fox".split(), "figs rain songs bells walks gardens".split()
FP32: dict[str, Any] = {"dtype": "fp32", "threads": 1}


def sentence(draw: random.Random, good: bool) -> str:
    words = [draw.choice(PEOPLE), draw.choice(GOOD if good else BAD), draw.choice(THINGS), draw.choice(THINGS)]
    return "the " + " ".join(words)


def rows_of(count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    return [(sentence(draw, i % 2 == 0), "+" if i % 2 == 0 else "-") for i in range(count)]


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, which knows nothing, and rows whose verb is the class, with one label in ten wrong."""
    place = tmp_path_factory.mktemp("words")
    save_random_run(
        place / "base",
        [text for text, _ in rows_of(400, 9)],
        300,
        Model(context=24, width=16, depth=1, heads=2, inner=64),
    )
    for name, count, seed in (("train", 200, 1), ("valid", 80, 2), ("test", 60, 3)):
        rows = rows_of(count, seed)
        wrong = {"+": "-", "-": "+"}
        write(place / f"{name}.csv", [(text, wrong[y] if i % 10 == 7 else y) for i, (text, y) in enumerate(rows)])
    return place


def settings(folder: Path, out: Path, **changes: Any) -> Finetune:
    """So low a rate that the network learns nothing."""
    usual: dict[str, Any] = {"epochs": 1, "batch": 16, "lr": 1e-6, "valid": str(folder / "valid.csv")} | FP32
    return Finetune(run=str(folder / "base"), train=str(folder / "train.csv"), out=str(out), **(usual | changes))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    finetune(settings(folder, folder / "plain"))
    return folder / "plain"


@pytest.fixture(scope="module")
def both(folder: Path) -> Path:
    finetune(settings(folder, folder / "both", with_words=True))
    return folder / "both"


def p_of(run: Path) -> np.ndarray:
    texts = [(text,) for text, _ in rows_of(40, 5)]
    return load_predictor(run, Command(**FP32)).predict(texts, 8)[0]


def measured(run: Path, folder: Path, *names: str) -> dict[str, Any]:
    files = [str(folder / f"{name}.csv") for name in names]
    return evaluate(Evaluate(run=str(run), files=files, **FP32)).to_json()


def test_words_win_and_it_is_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = finetune(settings(folder, tmp_path / "run"))
    assert result["words_alone"]["accuracy"] > 0.85 > 0.65 > result["accuracy"]
    assert result["words_alone"].keys() == result["words_alone"].to_json().keys() <= result.keys()
    assert result["words_weight"] == 0
    numbers = f"accuracy {result['words_alone']['accuracy']:.4g} against {result['accuracy']:.4g}"
    sentence = f"words alone (TF-IDF + logistic regression) do better: {numbers}; with_words in fine-tuning uses both"
    assert sentence in capsys.readouterr().err
    console = Console(width=100)
    with console.capture() as captured:
        console.print(show(result))
    assert "accuracy, words alone" in captured.get()
    assert "accuracy, words alone" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    measured(tmp_path / "run", folder, "test")
    assert "words alone (TF-IDF + logistic regression) do better: accuracy" in capsys.readouterr().err


def test_evaluate_measures_both_on_the_same_rows(plain: Path, folder: Path) -> None:
    found, together = measured(plain, folder, "valid"), measured(plain, folder, "valid", "test")
    known = json.loads((plain / "gpt1.json").read_text(encoding="utf-8"))["metrics"]
    assert found["words_alone"] == known["words_alone"]
    assert {"n", "accuracy", "macro_f1", "per_class", "confusion", "ece"} <= found["words_alone"].keys()
    each = [one["words_alone"] for one in together["files"].values()]
    assert [one["n"] for one in each] == [80, 60]
    expected = sum(one["accuracy"] * one["n"] for one in each) / 140
    assert together["words_alone"]["accuracy"] == pytest.approx(expected)


def test_evaluate_measures_the_network_without_the_words(plain: Path, both: Path, folder: Path, tmp_path: Path) -> None:
    """Both runs hold the same network, since the words are added after training."""
    alone, together = measured(plain, folder, "valid", "test"), measured(both, folder, "valid", "test")
    assert "network_alone" not in alone
    assert together["network_alone"]["accuracy"] == alone["accuracy"] != together["accuracy"]
    assert together["network_alone"]["per_class"] == alone["per_class"]
    console = Console(width=100)
    with console.capture() as captured:
        console.print(show_evaluation(together))
    assert "accuracy, network alone" in captured.get()
    (tmp_path / "test.json").write_text(json.dumps(together))
    report(Report(runs=[str(both), str(tmp_path / "test.json")], out=str(tmp_path / "page.html")))
    assert "network alone" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_evaluate_scores_the_words_of_a_row_once(
    plain: Path, both: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although they are shown alone and within the sum."""
    scored, scores = [], WordsModel.scores
    monkeypatch.setattr(WordsModel, "scores", lambda self, rows: scored.append(len(rows)) or scores(self, rows))
    for run in (plain, both):
        measured(run, folder, "valid", "test")
        assert scored == [80, 60]
        scored.clear()


def test_the_sum_does_as_well_as_words(plain: Path, both: Path, folder: Path, tmp_path: Path) -> None:
    alone, sum_of_both = measured(plain, folder, "valid"), measured(both, folder, "valid")
    assert sum_of_both["words_alone"] == alone["words_alone"]
    assert sum_of_both["accuracy"] >= alone["words_alone"]["accuracy"] > alone["accuracy"]
    known = json.loads((both / "gpt1.json").read_text(encoding="utf-8"))
    assert sum_of_both["accuracy"] == pytest.approx(known["metrics"]["accuracy"])
    assert known["metrics"]["loss"] < 0.5, "the loss of the sum"
    assert known["words"]["weight"] in WEIGHTS[1:]
    rows, out = str(folder / "test.csv"), tmp_path / "out.jsonl"
    predict(Predict(run=str(both), input=rows, out=str(out), **FP32))
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    right = np.mean([row["predicted_label"] == row["label"] for row in found])
    assert right == pytest.approx(measured(both, folder, "test")["accuracy"])


def test_the_network_in_the_folder_stays_as_it_was(plain: Path, both: Path) -> None:
    """For programs that know no words; the card says so."""
    assert (plain / "model.safetensors").read_bytes() == (both / "model.safetensors").read_bytes()
    assert (plain / "words.safetensors").read_bytes() == (both / "words.safetensors").read_bytes()
    assert "transformers runs the network alone" in " ".join((both / "README.md").read_text(encoding="utf-8").split())
    assert "runs the network alone" not in (plain / "README.md").read_text(encoding="utf-8")


def test_weight_0_is_the_network_alone(
    plain: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words_alone, "WEIGHTS", (0.0,))
    result = finetune(settings(folder, tmp_path / "run", with_words=True))
    known = json.loads((plain / "gpt1.json").read_text(encoding="utf-8"))["metrics"]
    assert result.to_json().items() >= {name: known[name] for name in ("accuracy", "loss", "temperature")}.items()
    assert np.array_equal(p_of(tmp_path / "run"), p_of(plain))


def test_few_validation_rows_leave_the_weight_to_the_training_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each training row is scored once, by models that did not read it; words win here, so they weigh much."""
    few, read, scored, fit = write(tmp_path / "few.csv", rows_of(9, 4)), [], [], sweep.fit
    monkeypatch.setattr(sweep, "fit", lambda base, rows, *a, **kw: read.append(rows.train) or fit(base, rows, *a, **kw))
    network_scores = Predictor.network_scores
    monkeypatch.setattr(
        Predictor, "network_scores",
        lambda self, texts, batch: scored.append(texts) or network_scores(self, texts, batch),
    )  # fmt: skip
    result = finetune(settings(folder, tmp_path / "run", valid=few, with_words=True))
    *parts, whole = read
    assert len(parts) == sweep.FOLDS
    assert all({"+", "-"} == set(part.labels) for part in parts), "though the classes alternate"
    assert sorted(text for texts in scored for text in texts) == sorted(whole.texts)
    assert all(not set(part.texts) & set(texts) for part, texts in zip(parts, scored, strict=True))
    assert result["words_weight"] > words_alone.USUAL_WEIGHT
    assert measured(tmp_path / "run", tmp_path, "few")["accuracy"] == pytest.approx(result["accuracy"])


def test_too_few_rows_use_the_usual_weight(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "MAX_CROSS_ROWS", 0)
    few = write(tmp_path / "few.csv", rows_of(9, 4))
    result = finetune(settings(folder, tmp_path / "run", valid=few, with_words=True))
    assert result["words_weight"] == words_alone.USUAL_WEIGHT


def test_windows_are_averaged(folder: Path, tmp_path: Path) -> None:
    long = [(f"{text} " * 4, label) for text, label in rows_of(80, 6)]
    rows = write(tmp_path / "long.csv", long)
    result = finetune(settings(folder, tmp_path / "run", valid=rows, long="windows", with_words=True))
    found = measured(tmp_path / "run", tmp_path, "long")
    assert found["accuracy"] == pytest.approx(result["accuracy"])
    assert found["accuracy"] > 0.9
    assert found["ece"] == pytest.approx(result["ece"], abs=1e-6)


# Other folders


def test_a_run_of_before_has_no_words(plain: Path, folder: Path, tmp_path: Path, capsys: Any) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for path in plain.iterdir():
        if not path.name.startswith("words"):
            (old / path.name).write_bytes(path.read_bytes())
    known, asked = (json.loads((old / name).read_text(encoding="utf-8")) for name in ("gpt1.json", "settings.json"))
    del known["words"], known["metrics"]["words_alone"], asked["with_words"]
    (old / "gpt1.json").write_text(json.dumps(known))
    (old / "settings.json").write_text(json.dumps(asked))
    assert np.array_equal(p_of(old), p_of(plain))
    found = measured(old, folder, "test")
    assert found == {
        name: value for name, value in measured(plain, folder, "test").items() if name != "words_alone"
    } | {"run": str(old)}
    capsys.readouterr()
    again = finetune(settings(folder, old))
    assert "is already fine-tuned with these settings" in capsys.readouterr().err
    assert not {"words_alone", "words_weight"} & again.keys()
    report(Report(runs=[str(old)], out=str(tmp_path / "page.html")))


def test_another_choice_is_another_result(plain: Path, both: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="was made with with_words False, not True; choose another out"):
        finetune(settings(folder, plain, with_words=True))
    with pytest.raises(UserError, match="was made with with_words True, not False"):
        finetune(settings(folder, both))
    assert finetune(settings(folder, both, with_words=True))["words_weight"] > 0


@pytest.mark.parametrize("name", ["words.json", "words.safetensors"])
def test_a_damaged_run_is_one_line(both: Path, tmp_path: Path, name: str) -> None:
    for path in both.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(b"{")
    with one_line(name, "is damaged"):
        p_of(tmp_path)
    (tmp_path / name).unlink()
    with one_line(name):
        p_of(tmp_path)


def test_convert_copies_the_words(both: Path, tmp_path: Path) -> None:
    convert(Convert(src=str(both), out=str(tmp_path / "copy"), **FP32))
    assert np.array_equal(p_of(tmp_path / "copy"), p_of(both))


# Tables and pages


def test_ablate_has_them_in_every_line(folder: Path, tmp_path: Path) -> None:
    usual = {name: str(folder / f"{name}.csv") for name in ("train", "valid", "test")}
    asked = Ablate(
        run=str(folder / "base"), out=str(tmp_path / "table.json"), epochs=1, lr=1e-6, seeds=2, sizes="20,all", **usual,
        **FP32,
    )  # fmt: skip
    result = ablate(asked)
    fine = finetune(settings(folder, tmp_path / "run"))
    expected = evaluate(Evaluate(run=str(tmp_path / "run"), files=[usual["test"]], **FP32))["words_alone"]
    assert fine["words_alone"].n == 80
    whole = result["table"][1]["words_alone"]
    assert whole["accuracy"]["values"] == [expected["accuracy"]] * 2, "with all rows every seed has the same"
    assert result["table"][0]["words_alone"]["accuracy"]["mean"] < whole["accuracy"]["mean"]
    console = Console(width=120)
    with console.capture() as captured:
        console.print(ablation.show(result))
    text = " ".join(captured.get().split())
    assert f"{whole['accuracy']['mean']:.3f} ± 0.000" in text
    assert "which do better than full on" in text and "added to its own" not in text
    with console.capture() as captured:
        console.print(ablation.show(replace(result, with_words=True)))
    assert "each other model with the scores of words alone added to its own" in " ".join(captured.get().split())
    for content in (lambda found: found, lambda found: {name: found[name] for name in found if name != "result"}):
        kept = json.loads(Path(asked.out).read_text(encoding="utf-8"))
        (tmp_path / "drawn.json").write_text(json.dumps(content(kept)))
        report(Report(runs=[str(tmp_path / "drawn.json")], out=str(tmp_path / "page.html")))
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert page.count("words alone") >= 2, "in the chart and in the table"
        assert f"{whole['accuracy']['mean']:.3f} ± 0.000" in page


def test_explain_says_that_they_are_added(both: Path) -> None:
    found = explain(Explain(run=str(both), text="the dog loves figs", **FP32))
    console = Console(width=160)
    with console.capture() as captured:
        console.print(explanation.show(found))
    weight = load_predictor(both, Command(**FP32)).share.weight
    assert f"by W_y and {weight:g} times the scores of words alone, to probabilities:" in captured.get()


def test_report_shows_them_beside_each_metric(both: Path, folder: Path, tmp_path: Path) -> None:
    tested = measured(both, folder, "test")
    (tmp_path / "test.json").write_text(json.dumps(tested))
    for runs in ([str(both)], [str(both), str(tmp_path / "test.json")]):
        report(Report(runs=runs, out=str(tmp_path / "page.html")))
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert '<th scope="col">words alone</th>' in page
    assert f'<td class="number">{tested["words_alone"]["macro_f1"]:.3f}</td>' in page
