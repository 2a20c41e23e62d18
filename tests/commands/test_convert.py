"""The command around the layouts: where it may write, what it takes, and that nothing wrong is ever kept."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gpt1
from gpt1.cli.main import main
from gpt1.commands import convert as job
from gpt1.config import Convert, Model
from gpt1.conversion import verify
from gpt1.conversion.external import ExternalCheckpoint
from gpt1.conversion.verify import probe_words
from gpt1.errors import RunFailed
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import LoadedRun, save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def run(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    model = replace(Model(context=16, width=64, depth=2, heads=1, inner=256), vocabulary=tokenizer.vocabulary)
    body = GPT(model).init_weights(torch.Generator().manual_seed(1))
    save_run(tmp_path / "run", body, tokenizer, RunMetadata(kind="pretrained"))
    return tmp_path / "run"


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([*map(str, argv)])
    return code, *capsys.readouterr()


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "convert", run, "--to", "openai", "--out", tmp_path / "release")
    assert (code, "largest_difference" in out) == (0, True)
    assert "<|end|> and <|pad|> were trained" in err
    code, out, _ = said(capsys, "convert", tmp_path / "release", "--out", tmp_path / "again", "--json")
    assert code == 0
    keys = "source to parameters context vocabulary heads new_tokens left_out compared_with logits tokens"
    assert json.loads(out).keys() == {*keys.split(), "largest_difference", "seconds"}
    for command in ("info", "generate", "report"):
        extra = ["--out", tmp_path / "page.html"] if command == "report" else []
        assert said(capsys, command, tmp_path / "again", *extra)[0] == 0
    card = (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert "converted_from | openai" in card
    assert gpt1.convert is job.convert


def test_a_place_that_is_taken(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    for out, words in (("file", "is a file"), ("mine", "letter.txt"), ("run", "config.json")):
        code, _, err = said(capsys, "convert", run, "--out", tmp_path / out)
        assert (code, words in err, err.count("\n")) == (2, True, 1)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    (tmp_path / "empty").mkdir()
    assert said(capsys, "convert", run, "--out", tmp_path / "empty")[0] == 0


def test_sources_that_are_none(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    for source, words in (
        (tmp_path / "nowhere", "no such folder"),
        (run / "model.safetensors", "this is a file"),
        (tmp_path / "empty", "it holds nothing"),
        (tmp_path / "photos", "cat.jpg"),
        ("nobody/nothing", "hub"),
    ):
        code, _, err = said(capsys, "convert", source, "--out", tmp_path / "out")
        lines = err.strip().split("\n")
        assert (code, words in lines[-1], str(source) in lines[-1]) == (2, True, True), err
    code, _, err = said(capsys, "convert", run, "--out", tmp_path / "out", "--heads", 4)
    assert (code, "--heads" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def failing(src: Path, out: Path, words: str, **settings: Any) -> None:
    with pytest.raises(RunFailed, match=words):
        job.convert(Convert(src=str(src), out=str(out), **settings))
    assert not out.exists()


@pytest.mark.parametrize("wrong", [1e-3, np.nan])
@pytest.mark.parametrize("what", ["logits", "weights"])
def test_what_differs_is_not_kept(
    what: str, wrong: float, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose network computes something else, or has other weights, than its source."""
    job.convert(Convert(src=str(run), out=str(tmp_path / "release"), to="openai"))
    real = job.load_run

    def changed(folder: Path) -> LoadedRun:
        loaded = real(folder)
        if what == "weights":
            loaded.body.blocks[1].attention.out.bias.data[3] += wrong
        else:
            logits = loaded.body.logits
            monkeypatch.setattr(loaded.body, "logits", lambda h_TD: logits(h_TD) + wrong)
        return loaded

    monkeypatch.setattr(job, "load_run", changed)
    words = r"logits would differ by up to (0\.001|nan)" if what == "logits" else r"attention\.out\.bias would differ"
    failing(tmp_path / "release", tmp_path / "out", words)
    failing(run, tmp_path / "out", words, to="openai")
    failing(run, tmp_path / "out", words)  # with transformers
    monkeypatch.setitem(sys.modules, "transformers", None)
    failing(run, tmp_path / "out", words)


def test_other_token_ids_are_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job.convert(Convert(src=str(run), out=str(tmp_path / "release"), to="openai"))
    monkeypatch.setattr(verify, "TEXTS", ["A CAT"])
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: [0])
    failing(run, tmp_path / "out", "'A CAT' other token ids")
    failing(tmp_path / "release", tmp_path / "out", "other token ids")


def test_swapped_weights_are_noticed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the naming of tensors is found, since the comparison goes by their order."""
    job.convert(Convert(src=str(run), out=str(tmp_path / "release"), to="openai"))
    real = ExternalCheckpoint.take_tensors

    def swapped(found: ExternalCheckpoint) -> Any:
        model, tensors = real(found)
        one, two = "transformer.h.0.attn.c_proj.weight", "transformer.h.1.attn.c_proj.weight"
        return model, tensors | {one: tensors[two], two: tensors[one]}

    monkeypatch.setattr(ExternalCheckpoint, "take_tensors", swapped)
    failing(tmp_path / "release", tmp_path / "out", r"blocks\.0\.attention\.out\.weight would differ")


def test_a_full_disk_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for to in ("run", "openai"):
        with pytest.raises(OSError, match="No space"):
            job.convert(Convert(src=str(run), out=str(tmp_path / "out"), to=to))  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()


def test_words_to_compare() -> None:
    found = probe_words({"cat</w>": 1, "Cat</w>": 2, "a1</w>": 3, "dog": 4, "b</w>": 5})
    assert found == ["b", "cat", "bcat", "catb"]
