"""Metrics of rows against predictions, measures of text against one plain pass; over several files, their total."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from gpt1.commands.evaluate import evaluate, show
from gpt1.commands.predict import predict
from gpt1.commands.prepare import prepare
from gpt1.commands.pretrain import pretrain
from gpt1.config import Columns, Evaluate, Model, Predict, Prepare, pretrain_defaults
from gpt1.data.tables import rows, table
from gpt1.errors import RunFailed, UserError
from gpt1.finetuning.predictor import Predictor
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tokenizer.train_bpe import train

TEXT = "The dog ran; the cat sat.\r\nÉté, 春!\n"
LABELS = ["9", "10", "x"]


def make_run(folder: Path, kind: str = "pretrained", tokenizer_kind: str = "bytes") -> Path:
    """A run with random weights."""
    tokenizer = train([TEXT * 20], tokenizer_kind, 280 if tokenizer_kind == "bytes" else 0)  # type: ignore[arg-type]
    tuned = kind == "finetuned"
    tokenizer = tokenizer.with_task_tokens() if tuned else tokenizer
    model = Model(context=64, width=32, depth=2, heads=4, inner=128, vocabulary=tokenizer.vocabulary)
    body = GPT(model).init_weights(torch.Generator().manual_seed(1))
    head = 3 * torch.randn(3, 32, generator=torch.Generator().manual_seed(2)) if tuned else None
    metadata = RunMetadata(kind="pretrained")
    if tuned:
        metadata = RunMetadata(
            kind="finetuned", task="classification", goal="classes", labels=LABELS, long="head",
            columns=Columns(["text"], ["stars"]),
        )  # fmt: skip
    save_run(folder, body, tokenizer, metadata, head)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("finetuned"), "finetuned")


def measured(run: Path, *files: Path, **settings: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"dtype": "fp32", "threads": 1} | settings
    found = evaluate(Evaluate(run=str(run), files=[str(file) for file in files], **asked)).to_json()
    assert (found.pop("run"), found.pop("scored_on")) == (str(run), [str(file) for file in files])
    return found


def file_with(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table_with(path: Path, labels: list[Any], name: str = "stars") -> Path:
    found = [{"text": f"the dog {'ran ' * (n % 5)}{n}", name: label} for n, label in enumerate(labels)]
    return file_with(path, "".join(json.dumps(row) + "\n" for row in found))


# Text


def test_text_against_one_plain_pass(pretrained: Path, tmp_path: Path) -> None:
    found = measured(pretrained, file_with(tmp_path / "a.txt", TEXT))
    run = load_run(pretrained)
    ids = [*run.tokenizer.encode(TEXT), run.tokenizer.end_id]
    logits = run.body.logits(run.body(torch.tensor([[run.tokenizer.end_id, *ids[:-1]]])))[0]
    nats = F.cross_entropy(logits, torch.tensor(ids), reduction="sum").item()
    assert found == {
        "nats_per_token": pytest.approx(nats / len(ids), rel=1e-5),
        "perplexity": pytest.approx(math.exp(nats / len(ids)), rel=1e-4),
        "bits_per_byte": pytest.approx(nats / math.log(2) / len(TEXT.encode()), rel=1e-5),
        "tokens": len(ids),
        "bytes": len(TEXT.encode()),
        "comparable": True,
    }


def test_it_is_what_pretrain_measured(tmp_path: Path) -> None:
    """The bits per byte that training ends with are those of the validation file."""
    text, val = file_with(tmp_path / "a.txt", TEXT * 60), file_with(tmp_path / "val.txt", TEXT * 9 + "The end")
    prepare(Prepare(inputs=[str(text)], val=[str(val)], out=str(tmp_path / "data"), vocabulary=280, repair=False))
    asked = pretrain_defaults("tiny", data=str(tmp_path / "data"), out=str(tmp_path / "run"))
    size = Model(context=16, width=32, depth=2, heads=2, inner=128)
    result = pretrain(replace(asked, model=size, steps=3, batch=4, dtype="fp32", threads=1))
    found = measured(tmp_path / "run", val)
    assert found["bits_per_byte"] == pytest.approx(result["val_bits_per_byte"], rel=1e-6)
    assert found["nats_per_token"] == pytest.approx(result["val_nats_per_token"], rel=1e-6)


def test_the_total_of_several_texts(pretrained: Path, tmp_path: Path) -> None:
    files = [file_with(tmp_path / "a.txt", TEXT * 9), file_with(tmp_path / "b.txt", "the end")]
    found = measured(pretrained, *files)
    each = [measured(pretrained, file) for file in files]
    assert found["files"] == dict(zip(map(str, files), each, strict=True))
    assert (found["tokens"], found["bytes"]) == (each[0]["tokens"] + each[1]["tokens"], len((TEXT * 9).encode()) + 7)
    nats = sum(one["nats_per_token"] * one["tokens"] for one in each)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / found["bytes"])


def test_bytes_are_those_of_utf_8(pretrained: Path, tmp_path: Path) -> None:
    expected = measured(pretrained, file_with(tmp_path / "a.txt", TEXT))
    assert measured(pretrained, file_with(tmp_path / "b.txt", TEXT.encode("utf-16")), encoding="utf-16") == expected


def test_a_lossy_tokenizer_is_not_comparable(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tokenizer_kind="gpt1")
    assert measured(run, file_with(tmp_path / "a.txt", TEXT))["comparable"] is False


def test_how_a_file_is_read(pretrained: Path, finetuned: Path, tmp_path: Path) -> None:
    labelled = table_with(tmp_path / "a.jsonl", ["9", "x"])
    assert "accuracy" in measured(finetuned, labelled)
    assert "accuracy" in measured(finetuned, labelled, as_="rows")
    texts = [json.loads(line)["text"] for line in labelled.read_text(encoding="utf-8").splitlines()]
    for run, more in ((finetuned, {"as_": "text"}), (pretrained, {})):
        found = measured(run, labelled, **more)
        alone = [measured(run, file_with(tmp_path / "one.txt", text), as_="text") for text in texts]
        assert found["bytes"] == sum(len(text.encode()) for text in texts), "the column of the text, no braces"
        assert found["tokens"] == sum(one["tokens"] for one in alone), "an end token closes each"
    with pytest.raises(UserError, match=r"a.jsonl:1: no field body; it has text, stars: choose one with text"):
        measured(pretrained, labelled, text="body")
    assert "bits_per_byte" in measured(finetuned, file_with(tmp_path / "a.txt", TEXT))


# Rows


def test_rows_against_predict_and_scikit_learn(finetuned: Path, tmp_path: Path) -> None:
    labels = [LABELS[n % 3] for n in range(30)]
    source, out = table_with(tmp_path / "a.jsonl", labels), tmp_path / "out.jsonl"
    predict(Predict(run=str(finetuned), input=str(source), out=str(out), dtype="fp32", threads=1))
    predicted = [row.values["predicted_label"] for row in rows(table(out))]
    found = measured(finetuned, source, batch=4)
    assert len(set(predicted)) > 1
    assert found["n"] == 30
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, labels=LABELS, average="macro"))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(labels, predicted))
    assert found["majority"] == pytest.approx(1 / 3)
    assert list(found["per_class"]) == LABELS


def test_an_older_run_does_not_record_the_majority_of_training(
    finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = table_with(tmp_path / "a.jsonl", ["9", "9", "10"])
    assert measured(finetuned, source)["majority"] == pytest.approx(2 / 3)
    assert (
        "does not record the most common label of training; majority is that of these rows" in capsys.readouterr().err
    )
    shutil.copytree(finetuned, newer := tmp_path / "newer")
    metadata = json.loads((newer / "gpt1.json").read_text())
    (newer / "gpt1.json").write_text(json.dumps(metadata | {"majority": ["10"]}))
    assert measured(newer, source)["majority"] == pytest.approx(1 / 3)
    assert "most common label" not in capsys.readouterr().err


def test_numbers_are_class_names_too(finetuned: Path, tmp_path: Path) -> None:
    as_text = table_with(tmp_path / "a.jsonl", ["9", "10", "9"])
    as_numbers = table_with(tmp_path / "b.jsonl", [9, 10.0, 9])
    assert measured(finetuned, as_text) == measured(finetuned, as_numbers)


def test_the_total_of_several_tables(finetuned: Path, tmp_path: Path) -> None:
    files = [table_with(tmp_path / "a.jsonl", ["9"] * 7), table_with(tmp_path / "b.jsonl", ["x", "10"])]
    found = measured(finetuned, *files)
    assert [one["n"] for one in found["files"].values()] == [7, 2]
    assert found["n"] == 9
    assert found["accuracy"] == pytest.approx(sum(one["accuracy"] * one["n"] for one in found["files"].values()) / 9)
    assert found["majority"] == pytest.approx(7 / 9)


def test_other_columns(finetuned: Path, tmp_path: Path) -> None:
    renamed = table_with(tmp_path / "a.jsonl", ["9", "x"], name="class")
    assert measured(finetuned, renamed, label="class") == measured(
        finetuned, table_with(tmp_path / "b.jsonl", ["9", "x"])
    )


def test_what_a_person_sees(pretrained: Path, finetuned: Path, tmp_path: Path) -> None:
    screen = Console(record=True, width=100)
    rows, text = table_with(tmp_path / "a.jsonl", ["9", "x", "x"]), file_with(tmp_path / "a.txt", TEXT)
    for run, file in ((finetuned, rows), (pretrained, text)):
        screen.print(show(evaluate(Evaluate(run=str(run), files=[str(file)], dtype="fp32", threads=1))))
    seen = screen.export_text()
    for word in ("precision", "recall", "F1", "accuracy", "majority", "nats_per_token", "perplexity", "bits_per_byte"):
        assert word in seen
    assert re.search(r"accuracy, 95 % bootstrap interval.*\d to \d", seen), "on one line"


# Faults


@pytest.mark.parametrize(
    ("name", "content", "settings", "answer"),
    [
        ("a.txt", None, {}, "a.txt: no such file"),
        ("a.txt", "", {}, "a.txt: an empty file"),
        ("a.txt", b"fine \xff", {}, "a.txt:1: byte 5 (0xff) is not utf-8 text"),
        ("a.txt", "fine", {"encoding": "utf8x"}, "encoding utf8x: no such text encoding"),
        ("a.txt", "fine", {"as_": "rows"}, "a.txt: not a known kind of table"),
        (
            "a.csv",
            "text,class\na,9\n",
            {},
            "a.csv: no column stars; the columns are text, class; choose with label",
        ),
        ("a.csv", "body,stars\na,9\n", {}, "a.csv: no column text; the columns are body, stars"),
        ("a.csv", "text,stars\na,9\nb,\n", {}, "a.csv:3: column stars is empty; give it a label"),
        ("a.csv", "text,stars\n", {}, "a.csv: no rows"),
        ("a.csv", "text,stars\na,9\n", {"batch": 0}, "batch 0 must be at least 1"),
        ("a.csv", "text,stars\na,9\n", {"encoding": "utf8x"}, "encoding utf8x: no such text encoding"),
    ],
)
def test_a_wrong_request(
    name: str, content: str | bytes | None, settings: dict[str, Any], answer: str, finetuned: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        file_with(path, content)
    with pytest.raises(UserError) as caught:
        measured(finetuned, path, **settings)
    assert answer in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_large_a_batch(finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def network_scores(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Predictor, "network_scores", network_scores)
    with pytest.raises(RunFailed, match=r"^out of memory; lower batch, 4$"):
        measured(finetuned, table_with(tmp_path / "a.jsonl", ["9"]), batch=4)


def test_a_pre_trained_run_labels_no_rows(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is pre-trained, not fine-tuned"):
        measured(pretrained, table_with(tmp_path / "a.jsonl", ["9"]), as_="rows")


def test_a_label_that_training_never_saw(finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It counts as wrong, aloud; a file with no other labels was made for another classifier."""
    path = table_with(tmp_path / "a.jsonl", ["9", "new", "x", "new"])
    found = measured(finetuned, path)
    assert found["n"] == 4
    assert found["accuracy"] <= 0.5
    assert found["per_class"]["new"]["recall"] == 0
    assert f"warning: {path}:2: label 'new' does not occur in training; 2 such rows count" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"b.jsonl:1: label 'bad' in column stars does not occur in training, which h"):
        measured(finetuned, table_with(tmp_path / "b.jsonl", ["bad", "good"]))
