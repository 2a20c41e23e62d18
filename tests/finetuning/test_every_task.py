"""Every task from rows to run folder: it learns, and finetune, predict, evaluate and transformers agree on it."""

import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import save_random_run
from gpt1.commands.evaluate import evaluate
from gpt1.commands.finetune import finetune, show
from gpt1.commands.predict import predict
from gpt1.config import Evaluate, Finetune, Model, Predict, Task
from gpt1.errors import RunFailed, UserError
from gpt1.training import log

GOOD, BAD = ("loves", "adores", "enjoys"), ("hates", "fears", "loathes")
THINGS = ("figs", "rain", "songs", "bells")
Row = dict[str, Any]
CONTEXT = 40


def sentence(random: random.Random, good: bool) -> str:
    return f"she {random.choice(GOOD if good else BAD)} {random.choice(THINGS)}"


def regression(random: random.Random) -> Row:
    good = random.random() < 0.5
    return {"text": sentence(random, good), "rating": (7 if good else 2) + random.random() / 10}


def multi_label(random: random.Random) -> Row:
    good, thing = random.random() < 0.5, random.choice(THINGS[:2])
    text = f"she {random.choice(GOOD if good else BAD)} {thing}"
    return {"text": text, "labels": [thing] + (["kind"] if good else [])}


def entailment(random: random.Random) -> Row:
    one, other = random.random() < 0.5, random.random() < 0.5
    label = "entailment" if other else "contradiction"
    return {"premise": sentence(random, one), "hypothesis": sentence(random, other), "label": label}


def similarity(random: random.Random) -> Row:
    one, other = random.random() < 0.5, random.random() < 0.5
    return {"sentence1": sentence(random, one), "sentence2": sentence(random, other), "score": one + other + 0.5}


def multiple_choice(random: random.Random) -> Row:
    count = random.choice([2, 3])
    label = random.randrange(count)
    return {"story": "who is kind?", "choices": [sentence(random, i == label) for i in range(count)], "label": label}


CASES: dict[Task, tuple[Callable[[random.Random], Row], str, float]] = {
    "regression": (regression, "pearson", 0.9),
    "multi-label": (multi_label, "macro_f1", 0.8),
    "entailment": (entailment, "accuracy", 0.9),
    "similarity": (similarity, "pearson", 0.8),
    "multiple-choice": (multiple_choice, "accuracy", 0.75),
}


@pytest.fixture(params=CASES)
def task(request: pytest.FixtureRequest) -> Task:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(0)
    texts = [sentence(draw, n % 2 == 0) for n in range(200)]
    model = Model(context=CONTEXT, width=32, depth=1, heads=2, inner=128)
    return save_random_run(tmp_path_factory.mktemp("base"), [*texts, "who is kind?"], 300, model)


def write(path: Path, found: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def rows_of(task: Task, count: int, seed: int) -> list[Row]:
    draw = random.Random(seed)
    return [CASES[task][0](draw) for _ in range(count)]


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], tuple[Path, Path, dict[str, Any]]]:
    """Task -> its run folder, validation file and result; made once."""
    made: dict[Task, tuple[Path, Path, dict[str, Any]]] = {}

    def tuned_for(task: Task) -> tuple[Path, Path, dict[str, Any]]:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            train = write(folder / "train.jsonl", rows_of(task, 200, 1))
            valid = write(folder / "valid.jsonl", rows_of(task, 60, 2))
            asked = Finetune(
                run=str(base), train=str(train), valid=str(valid), out=str(folder / "run"), task=task, epochs=16,
                batch=8, lr=3e-3, dtype="fp32", threads=1,
            )  # fmt: skip
            made[task] = folder / "run", valid, finetune(asked).to_json()
        return made[task]

    return tuned_for


Tuned = Callable[[Task], tuple[Path, Path, dict[str, Any]]]


def predicted(run: Path, source: Path, out: Path) -> list[Row]:
    predict(Predict(run=str(run), input=str(source), out=str(out), dtype="fp32", threads=1, batch=7))
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_it_learns(task: Task, tuned: Tuned) -> None:
    _, metric, least = CASES[task]
    _, _, result = tuned(task)
    assert result[metric] > least
    assert result["n"] == 60
    assert result["selected_by"] == metric
    assert result["task_loss"] > 0 < result["lm_loss"], "L2 and L1 are reported apart"


def test_evaluate_finds_what_finetune_found(task: Task, tuned: Tuned) -> None:
    """On the same rows, from the saved folder: the temperature, the thresholds and the scale are all in it."""
    run, valid, result = tuned(task)
    found = evaluate(Evaluate(run=str(run), files=[str(valid)], dtype="fp32", threads=1)).to_json()
    intervals, bins = found.pop("intervals"), found.pop("reliability", [])
    assert (found.pop("run"), found.pop("scored_on")) == (str(run), [str(valid)])
    assert sum(each["n"] for each in bins) == (len(bins) and 60)
    for name, value in found.items():
        if name == "joint":
            assert np.sum(value["counts"]) == 60
            continue
        # Rounding changes the ranks of rows whose predictions are nearly the same.
        tolerance = 1e-2 if name == "spearman" else 1e-5
        expected = result[name]
        assert value == (pytest.approx(expected, abs=tolerance) if isinstance(value, float) else expected)
    for name, (low, high) in intervals.items():
        assert low <= found[name] <= high, name


def test_several_files_are_evaluated_together(task: Task, tuned: Tuned, tmp_path: Path) -> None:
    run, valid, _ = tuned(task)
    lines = valid.read_text(encoding="utf-8").splitlines(keepends=True)
    parts = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, part in zip(parts, (lines[:25], lines[25:]), strict=True):
        path.write_text("".join(part), encoding="utf-8")
    usual = {"run": str(run), "dtype": "fp32", "threads": 1}
    together = evaluate(Evaluate(files=list(map(str, parts)), **usual))  # type: ignore[arg-type]
    whole = evaluate(Evaluate(files=[str(valid)], **usual))  # type: ignore[arg-type]
    metric = CASES[task][1]
    assert together[metric] == pytest.approx(whole[metric], abs=1e-6)
    assert [together["files"][str(path)]["n"] for path in parts] == [25, 35]


def test_predictions_have_names(task: Task, tuned: Tuned, tmp_path: Path) -> None:
    run, valid, result = tuned(task)
    gold, found = rows_of(task, 60, 2), predicted(run, valid, tmp_path / "out.jsonl")
    for row, source in zip(found, gold, strict=True):
        assert {name: row[name] for name in source} == source, "the row's own columns stay"
        if task in ("regression", "similarity"):
            assert isinstance(row["predicted_label"], float)
            assert "probabilities" not in row
        elif task == "multiple-choice":
            assert list(row["probabilities"]) == [str(i) for i in range(len(source["choices"]))]
            assert row["predicted_label"] == max(
                range(len(source["choices"])), key=lambda i: row["probabilities"][str(i)]
            )
        else:
            assert list(row["probabilities"]) == result["labels"]
    if task != "multi-label":
        column = {"regression": "rating", "similarity": "score"}.get(task, "label")
        right = [row["predicted_label"] == row[column] for row in found]
        if "accuracy" in result:
            assert np.mean(right) == pytest.approx(result["accuracy"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_have_a_column_for_each_probability(task: Task, kind: str, tuned: Tuned, tmp_path: Path) -> None:
    run, valid, result = tuned(task)
    predict(Predict(run=str(run), input=str(valid), out=str(tmp_path / f"out.{kind}"), dtype="fp32", threads=1))
    import polars

    path = tmp_path / f"out.{kind}"
    found = polars.read_parquet(path) if kind == "parquet" else polars.read_csv(path)
    names = {"multiple-choice": ["0", "1", "2"]}.get(task, result["labels"])
    added = ["predicted_label", *(f"probability_{name}" for name in names)]
    assert found.columns == [*rows_of(task, 1, 2)[0], *added]
    if task == "multiple-choice":
        empty = found["probability_2"].is_null().to_list()
        assert empty == [len(row["choices"]) == 2 for row in rows_of(task, 60, 2)]


def test_a_first_line_that_is_skipped(tuned: Tuned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of standard input too, of which only a flat table needs to know all rows at once."""
    run, _, _ = tuned("multiple-choice")
    lines = [{"story": "who?", "choices": answers} for answers in (["a"], ["a", "b"], ["a", "b", "c"])]
    given = "".join(json.dumps(line) + "\n" for line in lines)
    for out, names in (("o.jsonl", "probabilities"), ("o.csv", "probability_2")):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        asked = Predict(run=str(run), input="-", out=str(tmp_path / out), dtype="fp32", threads=1)
        with pytest.raises(UserError, match=r"standard input:1: 1 answer in choices; a choice needs two"):
            predict(asked)
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        assert predict(replace(asked, skip_invalid=True)).rows == 2
        assert names in (tmp_path / out).read_text()


def test_transformers_predicts_the_same(task: Task, tuned: Tuned, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run, valid, _ = tuned(task)
    found, gold = predicted(run, valid, tmp_path / "out.jsonl"), rows_of(task, 60, 2)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    model = getattr(transformers, config["architectures"][0]).from_pretrained(run).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    facts = json.loads((run / "gpt1.json").read_text(encoding="utf-8"))

    def logits(*texts: str) -> torch.Tensor:
        given = tokenizer(*texts, return_tensors="pt")
        if task != "multiple-choice":
            return model(input_ids=given["input_ids"]).logits[0]
        last = torch.tensor([[given["input_ids"].shape[1] - 1]])
        return model(input_ids=given["input_ids"][None], mc_token_ids=last).mc_logits[0]

    with torch.no_grad():
        for row, source in list(zip(found, gold, strict=True))[:10]:
            if task == "regression":
                theirs = logits(source["text"]).item() * facts["scale"] + facts["mean"]
                assert row["predicted_label"] == pytest.approx(theirs, abs=1e-4)
            elif task == "similarity":
                both = source["sentence1"], source["sentence2"]
                theirs = (logits(*both) + logits(*both[::-1])).item() * facts["scale"] + facts["mean"]
                assert row["predicted_label"] == pytest.approx(theirs, abs=1e-4)
            elif task == "multiple-choice":
                scores = torch.cat([logits(source["story"], answer) for answer in source["choices"]])
                assert list(row["probabilities"].values()) == pytest.approx(scores.softmax(-1).tolist(), abs=1e-5)
            elif task == "multi-label":
                theirs = logits(source["text"]).sigmoid().tolist()
                assert list(row["probabilities"].values()) == pytest.approx(theirs, abs=1e-5)
            else:
                theirs = logits(source["premise"], source["hypothesis"]).softmax(-1).tolist()
                assert list(row["probabilities"].values()) == pytest.approx(theirs, abs=1e-5)


def test_long_rows_are_read_in_windows(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What decides stands at the end of a text thrice the context; the answer is the mean over the windows."""
    draw = random.Random(3)
    pad = "bells figs songs rain " * 12
    rows = [{"text": f"{n} {pad}{sentence(draw, n % 2 == 0)}", "label": "yn"[n % 2]} for n in range(200)]
    train = write(tmp_path / "train.jsonl", rows)
    usual = {"run": str(base), "train": str(train), "epochs": 14, "batch": 8, "lr": 5e-3, "dtype": "fp32", "threads": 1}
    found = {
        long: finetune(Finetune(out=str(tmp_path / long), long=long, **usual))["accuracy"]  # type: ignore[arg-type]
        for long in ("head", "windows")
    }
    assert found["windows"] > 0.8 > found["head"]
    assert "training: 180 of 180 rows (100.0%) are longer than the context of 40 tokens; they are read in windows" in (
        capsys.readouterr().err
    )
    rows_read = predicted(tmp_path / "windows", train, tmp_path / "out.jsonl")
    assert np.mean([row["predicted_label"] == row["label"] for row in rows_read]) > 0.8


def skewed(tmp_path: Path) -> Path:
    """Nine rows in ten are of one class, and one row in seven has the text of the other class."""
    draw = random.Random(5)
    rows = []
    for n in range(300):
        good = n % 10 == 0
        rows.append({"text": sentence(draw, good != (n % 7 == 0)), "label": "rare" if good else "common"})
    return write(tmp_path / "skewed.jsonl", rows)


def test_class_weights_find_rare_classes(base: Path, tmp_path: Path) -> None:
    train = skewed(tmp_path)
    usual = {
        "run": str(base),
        "train": str(train),
        "valid": str(train),
        "epochs": 10,
        "batch": 8,
        "lr": 5e-3,
        "select": "macro_f1",
    }
    recall = {}
    for name in ("none", "auto", "rare=9", "rare=0.001"):
        asked = Finetune(out=str(tmp_path / name), class_weights=name, dtype="fp32", threads=1, **usual)  # type: ignore[arg-type]
        recall[name] = finetune(asked)["per_class"]["rare"]["recall"]
    assert recall["auto"] > recall["none"] >= recall["rare=0.001"] == 0
    assert recall["rare=9"] > 0.5


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"class_weights": "rare"}, "class_weights rare: write NAME=WEIGHT with one of common, rare, or auto"),
        ({"class_weights": "balance"}, "with one of common, rare, or auto; did you mean balanced?"),
        ({"class_weights": "rare=2,other=1"}, "class_weights other=1: write NAME=WEIGHT with one of common, rare"),
        ({"class_weights": "rare=-2"}, "class_weights rare=-2: the weight must be a number above 0"),
        ({"class_weights": "rare=2,rare=3"}, "class_weights rare=2,rare=3: rare is named twice"),
        ({"seed": 2**63}, f"seed {2**63} must be from 0 to 2^63 - 1"),
        ({"threads": 10**6}, "threads 1000000 must be from 0 (every core)"),
        ({"task": "regression"}, "column label holds 'rare', not a number"),
        ({"select": "pearson"}, "select pearson: this task has accuracy, f1, loss, macro_f1, matthews"),
        ({"seeds": 0}, "seeds 0 must be 1 or more"),
        ({"transfer_layers": 2}, "transfer_layers 2 must be from 0 to 1, the blocks of"),
        ({"freeze": 2}, "freeze 2: only 1 blocks start from pre-trained weights"),
        ({"freeze": 1, "from_scratch": True}, "freeze 1: only 0 blocks start from pre-trained weights"),
        ({"patience": -1}, "patience -1 must be 0 or more"),
    ],
)
def test_wrong_settings(base: Path, tmp_path: Path, changes: dict[str, Any], answer: str) -> None:
    asked: dict[str, Any] = {"run": str(base), "train": str(skewed(tmp_path)), "out": str(tmp_path / "run")}
    with pytest.raises(UserError) as caught:
        finetune(Finetune(**(asked | {"dtype": "fp32", "threads": 1} | changes)))
    assert answer in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number(base: Path, tmp_path: Path) -> None:
    """Such a model would predict its first class for every row; it is not kept."""
    train = write(tmp_path / "train.jsonl", [{"text": f"she {n}", "label": "ab"[n % 2]} for n in range(40)])
    usual = {"run": str(base), "train": str(train), "batch": 8, "dtype": "fp32", "threads": 1}
    with pytest.raises(RunFailed, match="after epoch 1 the validation loss is not finite; lower lr, 1e"):
        finetune(Finetune(out=str(tmp_path / "run"), epochs=1, lr=1e9, **usual))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "flags", "answer"),
    [
        ("regression", {"text": "text,rating"}, "task regression reads one column, not columns text, rating"),
        ("regression", {"context": "text"}, "context does not go with task regression; name its columns with text"),
        ("regression", {"choices": "text"}, "choices does not go with task regression"),
        ("similarity", {"text": "sentence1"}, "task similarity reads two columns, text ONE,OTHER, not col"),
        ("similarity", {"text": "sentence1,sentence1"}, "sentence1,sentence1 names a column twice"),
        ("multiple-choice", {"text": "story"}, "text does not go with task multiple-choice"),
        ("entailment", {"text": "premise,none"}, "no column none; the columns are premise, hypothesis, label"),
    ],
)
def test_columns_of_another_task(task: Task, flags: dict[str, str], answer: str, tuned: Tuned, tmp_path: Path) -> None:
    run, valid, _ = tuned(task)
    with pytest.raises(UserError) as caught:
        predict(Predict(run=str(run), input=str(valid), out=str(tmp_path / "o.csv"), threads=1, **flags))
    assert answer in str(caught.value)
    with pytest.raises(UserError) as caught:
        evaluate(Evaluate(run=str(run), files=[str(valid)], threads=1, **flags))
    assert answer in str(caught.value)


def test_several_labels_are_evaluated_for_one(tuned: Tuned) -> None:
    run, valid, _ = tuned("entailment")
    with pytest.raises(UserError, match="has one label column, not columns label, premise"):
        evaluate(Evaluate(run=str(run), files=[str(valid)], label="label,premise", threads=1))


def test_rows_of_another_task(tuned: Tuned, tmp_path: Path) -> None:
    """Every model is given the rows of every other: a column is missing, and the message lists those of the table."""
    for one in CASES:
        for other in CASES:
            run, rows = tuned(one)[0], tuned(other)[1]
            if one != other and {one, other} != {"regression", "multi-label"}:
                with pytest.raises(UserError, match=r"no column .*; the columns are "):
                    predict(Predict(run=str(run), input=str(rows), out=str(tmp_path / "o.csv"), threads=1))


def test_seeds_and_rates_are_reported(base: Path, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", rows_of("regression", 80, 1))
    usual = {"run": str(base), "train": str(train), "task": "regression", "epochs": 2, "batch": 8, "dtype": "fp32"}
    many = finetune(Finetune(out=str(tmp_path / "many"), seeds=3, lr=3e-3, threads=1, **usual))  # type: ignore[arg-type]
    pearson = many["seeds"]["pearson"]
    assert len(pearson["values"]) == 3
    assert pearson["mean"] == pytest.approx(np.mean(pearson["values"]))
    assert pearson["deviation"] == pytest.approx(np.std(pearson["values"], ddof=1))
    assert many["pearson"] == max(pearson["values"]), "the best on validation is kept"
    one = finetune(Finetune(out=str(tmp_path / "one"), lr=3e-3, threads=1, **usual))  # type: ignore[arg-type]
    assert one["pearson"] == pearson["values"][0], "the first seed is the one given"
    scratch = finetune(Finetune(out=str(tmp_path / "scratch"), from_scratch=True, threads=1, **usual))  # type: ignore[arg-type]
    assert len(scratch["learning_rates"]) == 3
    assert scratch["pearson"] == max(scratch["learning_rates"].values())
    assert f"{scratch['lr']:.3g}" in scratch["learning_rates"]
    assert show(scratch)
    assert show(many)


def too_fast(base: Path, folder: Path, **settings: Any) -> Finetune:
    """A regression whose validation is best long before the end."""
    train = write(folder / "train.jsonl", rows_of("regression", 80, 1))
    return Finetune(
        run=str(base), train=str(train), task="regression", batch=8, lr=1e-2, dtype="fp32", threads=1, **settings
    )


def test_training_stops_when_nothing_gets_better(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = too_fast(base, tmp_path, out=str(tmp_path / "run"), epochs=50, patience=2)
    result = finetune(asked)
    said = capsys.readouterr().err
    assert "no better validation since epoch" in said
    last = int(said.rpartition("stopped after epoch ")[2].split()[0])
    assert last == result["epoch"] + 2 < 50


def test_few_validation_rows_choose_no_epoch_unless_asked_to(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = too_fast(base, tmp_path, out=str(tmp_path / "last"), epochs=8)
    last = finetune(asked)
    assert (last["epoch"], last["selected_by"]) == (8, "last epoch")
    said = (
        f"only {last['n']} validation rows, too few to select an epoch: keeping the last (select pearson selects one)"
    )
    assert said in capsys.readouterr().err
    chosen = finetune(replace(asked, out=str(tmp_path / "best"), select="pearson"))
    found = [row["val_pearson"] for row in log.read(tmp_path / "best") if "val_pearson" in row]
    assert chosen["epoch"] == 1 + int(np.argmax(found)) < 8, "or the seed does not tell the two apart"
    assert chosen["selected_by"] == "pearson"
    assert "too few" not in capsys.readouterr().err
