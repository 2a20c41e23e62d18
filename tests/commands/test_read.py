"""`gpt1 finetune --read`: the task's unlabelled text first. The same in the estimators and in the ablation."""

import csv
import json
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gpt1
from conftest import one_line, save_random_run
from gpt1.commands.ablate import ablate
from gpt1.commands.finetune import finetune
from gpt1.config import Ablate, Finetune, Model
from gpt1.data.files import sha256_of
from gpt1.finetuning import epochs
from gpt1.model.gpt import GPT
from gpt1.pretraining import run
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import FinetuningData, ReadSummary, RunMetadata
from gpt1.tokenizer.train_bpe import train as train_bpe

GOOD, BAD = ("loves", "adores"), ("hates", "fears")
TEXTS = [f"{who} {does} {what}." for who in ("The hare", "my dog", "a bird") for does in GOOD + BAD for what in
         ("the garden", "long walks", "cold rain", "the sea")]  # fmt: skip
LABELS = ["good" if any(verb in text for verb in GOOD) else "bad" for text in TEXTS]
SHAPE = Model(context=20, width=32, depth=2, heads=2, inner=128)
QUICK: dict[str, Any] = {"epochs": 2, "batch": 8, "lr": 3e-3, "dtype": "fp32", "threads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_run(tmp_path_factory.mktemp("base"), TEXTS, 300, SHAPE)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled rows, whose text column is not called text."""
    path = tmp_path_factory.mktemp("rows") / "train.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        pairs = list(zip(TEXTS, LABELS, strict=True))
        csv.writer(file).writerows([("sentence", "label"), *random.Random(0).sample(pairs, len(pairs))])
    return path


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("more") / "more.txt"
    path.write_text("\n".join(random.Random(1).sample(TEXTS, len(TEXTS))), encoding="utf-8")
    return path


def asked(base: Path, rows: Path, out: Path, *read: Path, **changes: Any) -> Finetune:
    once = {"read_epochs": 1.0} if read else {}
    return Finetune(run=str(base), train=str(rows), out=str(out), read=list(map(str, read)), **(QUICK | once | changes))


def outcome(out: Path) -> tuple[bytes, dict[str, Any]]:
    facts = json.loads((out / "gpt1.json").read_text(encoding="utf-8"))
    facts["metrics"].pop("seconds")
    return (out / "model.safetensors").read_bytes(), facts


@pytest.fixture(scope="module")
def whole(base: Path, rows: Path, more: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned run that has read the training rows and another file first."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finetune(asked(base, rows, out, rows, more))
    return out


def summary(out: Path) -> ReadSummary:
    data = load_run(out).metadata.data
    assert isinstance(data, FinetuningData)
    assert data.read is not None
    return data.read


def test_it_is_recorded_and_nothing_is_left_over(whole: Path, rows: Path, more: Path, base: Path) -> None:
    found = summary(whole)
    assert [(file.path, file.sha256) for file in found.files] == [(str(p), sha256_of(p)) for p in (rows, more)]
    assert (found.epochs, found.lr) == (1.0, pytest.approx(0.002))
    # Of the table its sentences, not its labels: as many tokens as the texts have, less those that are held out.
    tokenizer = load_run(base).tokenizer
    tokens = sum(len(ids) + 1 for ids in tokenizer.encode_batch(TEXTS)) + len(tokenizer.encode(more.read_text())) + 1
    assert 0.8 * tokens < found.tokens < tokens
    assert sorted(path.name for path in whole.iterdir() if path.is_dir()) == []
    card = (whole / "README.md").read_text(encoding="utf-8")
    assert "| data (read) | train.csv, more.txt |" in card
    assert f"| tokens (read) | {found.tokens:,} |" in card


def test_it_is_the_fine_tuning_of_the_run_that_continue_pretraining_writes(
    base: Path, rows: Path, more: Path, tmp_path: Path
) -> None:
    gpt1.continue_pretraining(base, more, tmp_path / "run", epochs=1, dtype="fp32", threads=1)
    finetune(asked(tmp_path / "run", rows, tmp_path / "after"))
    finetune(asked(base, rows, tmp_path / "at once", more))
    assert outcome(tmp_path / "after")[0] == outcome(tmp_path / "at once")[0]
    finetune(asked(base, rows, tmp_path / "without"))
    assert outcome(tmp_path / "without")[0] != outcome(tmp_path / "at once")[0]


def stop_at(monkeypatch: pytest.MonkeyPatch, module: Any, update: int) -> None:
    real = module.train

    def train(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for report in real(*args, **kwargs):
            if report.step == update:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    monkeypatch.setattr(module, "train", train)


def test_a_stop_is_invisible(
    base: Path, rows: Path, more: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it reads, and while it is fine-tuned."""
    out = tmp_path / "run"
    for module, update in ((run, 3), (run, 15), (epochs, 5)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
            stop_at(patch, module, update)
            finetune(asked(base, rows, out, rows, more))
        assert str(caught.value).count("the same command continues from there") == 1
        assert [path.name for path in out.iterdir()] == ["stopped"]
    with one_line("was begun with other content of read"):
        finetune(asked(base, rows, out, rows))
    finetune(asked(base, rows, out, rows, more))
    assert outcome(out) == outcome(whole)


def test_done_is_done_and_other_text_is_refused(
    base: Path, rows: Path, more: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = outcome(whole)
    finetune(asked(base, rows, whole, rows, more))
    assert "is already fine-tuned with these settings" in capsys.readouterr().err
    for changed in (asked(base, rows, whole), asked(base, rows, whole, more)):
        with one_line("was made with other content of read"):
            finetune(changed)
    with one_line("was made with read_epochs 1.0, not 2"):
        finetune(asked(base, rows, whole, rows, more, read_epochs=2.0))
    assert outcome(whole) == before


def test_wrong_requests_are_refused_before_anything_is_trained(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run, epochs):
        monkeypatch.setattr(module, "train", None)
    (empty := tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    (short := tmp_path / "short.txt").write_text("Only this.", encoding="utf-8")
    out = tmp_path / "run"
    for read, words in (
        (tmp_path / "nowhere.txt", "nowhere.txt: no such file"),
        (empty, "empty.txt: no text to read"),
        (short, "short.txt: 10 characters of text are too few to train on"),
    ):
        with one_line(words):
            finetune(asked(base, rows, out, read))
    for changes, words in (
        ({"read_epochs": 0.0}, "read_epochs 0 must be more than 0"),
        ({"read_lr": 0.1}, "read_lr is for unlabelled text; name its files with read"),
    ):
        with one_line(words):
            finetune(asked(base, rows, out, **changes))
    with one_line("from_scratch starts from random weights"):
        finetune(asked(base, rows, out, rows, from_scratch=True))
    assert not out.exists()


def test_reading_the_validation_rows_is_warned_of(
    base: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (valid := tmp_path / "valid.csv").write_bytes(rows.read_bytes())
    finetune(asked(base, rows, tmp_path / "run", valid, valid=str(valid), epochs=1))
    assert "warning: " + f"{valid} is also among the files of read" in capsys.readouterr().err


def test_a_lossy_tokenizer(rows: Path, tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, "gpt1")
    body = GPT(replace(SHAPE, vocabulary=tokenizer.vocabulary)).init_weights(torch.Generator().manual_seed(7))
    save_run(tmp_path / "base", body, tokenizer, RunMetadata(kind="pretrained", preset="tiny"))
    finetune(asked(tmp_path / "base", rows, tmp_path / "run", rows, epochs=1))
    assert summary(tmp_path / "run").steps > 10
    assert not tokenizer.lossless


def test_the_estimators_read_texts_or_files(base: Path, more: Path, tmp_path: Path) -> None:
    """A path means what it means to the command; texts have no path."""
    usual: dict[str, Any] = {"epochs": 1, "read_epochs": 1, "lr": 3e-3, "batch": 8, "dtype": "fp32", "threads": 1}
    from_file, from_texts, without = (
        gpt1.Classifier(base, read=read, **usual).fit(TEXTS, LABELS) for read in ([more], [more.read_text()], None)
    )
    assert (from_file.predict_proba(TEXTS) == from_texts.predict_proba(TEXTS)).all()
    assert not (from_file.predict_proba(TEXTS) == without.predict_proba(TEXTS)).all()
    from_texts.save(tmp_path / "texts")
    assert [source.path for source in summary(tmp_path / "texts").files] == [None]
    assert gpt1.Classifier.load(tmp_path / "texts").read is None


def test_a_loaded_estimator_reads_the_files_of_the_command(whole: Path, rows: Path, more: Path) -> None:
    assert gpt1.Classifier.load(whole).read == [rows, more]


def test_an_ablation_reads_once(base: Path, rows: Path, more: Path, tmp_path: Path) -> None:
    """All variants start from what was read, except random weights; a finished table is not made again."""
    usual: dict[str, Any] = {
        "run": str(base),
        "train": str(rows),
        "test": str(rows),
        "sizes": "all",
        "seeds": 1,
    } | QUICK
    out = tmp_path / "table.json"
    wanted = Ablate(**usual, out=str(out), read=[str(more)], read_epochs=1.0)
    read = ablate(wanted)
    without = ablate(Ablate(**usual))
    scores = [[vars(line.table[0])[name] for name in ("full", "from_scratch")] for line in (read, without)]
    assert scores[0][0] != scores[1][0]
    assert scores[0][1] == scores[1][1]
    assert json.loads(out.read_text())["data"]["read"]["path"] == str(more)
    assert ablate(wanted) == read
    with one_line("was begun with other content of read"):
        ablate(Ablate(**usual, out=str(out)))
