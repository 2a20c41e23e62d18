"""What `info` says of each kind of folder, and of folders that are none of them."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from conftest import one_line
from gpt1.commands.info import InfoResult, info, show
from gpt1.config import Columns, Info, Model
from gpt1.console import plain_console
from gpt1.data.shards import Manifest, Shard, Split, write_manifest
from gpt1.errors import UserError
from gpt1.run_folder.hugging_face import to_hf_config
from gpt1.run_folder.metadata import FinetuningData, RunMetadata, Source

SHAPE = {"model_type": "openai-gpt", "n_positions": 16, "vocab_size": 40, "n_embd": 8, "n_layer": 2, "n_head": 2}


def write(folder: Path, name: str, value: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def write_weights(folder: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file whose tensors are named but not there: the header is all that may be read."""
    tensors = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A fine-tuned run folder in miniature."""
    folder = tmp_path / "run"
    metadata = RunMetadata(
        kind="finetuned", task="classification", goal="classes", labels=["neg", "pos"],
        columns=Columns(["text"], ["label"]), steps=9, metrics={"accuracy": 0.75}, lm_coef=0.5,
    )  # fmt: skip
    write(folder, "gpt1.json", metadata.to_json())
    write(folder, "config.json", SHAPE)
    write(folder, "tokenizer.json", {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2}, {"id": 1}]})
    write_weights(folder, {"transformer.tokens_embed.weight": [40, 8], "score.weight": [2, 8]})
    return folder


def ask(folder: Path) -> InfoResult:
    return info(Info(path=str(folder)))


def test_a_fine_tuned_run(run: Path) -> None:
    found = ask(run)
    assert (found["kind"], found["stage"]) == ("run", "finetuned")
    assert found["parameters"] == 40 * 8 + 2 * 8
    assert (found["task"], found["labels"]) == ("classification", ["neg", "pos"])
    assert (found["context"], found["vocabulary"]) == (16, 40)
    assert (found["steps"], found["lm_coef"], found["metrics"]) == (9, 0.5, {"accuracy": 0.75})
    assert found["training"] is False
    json.dumps(found.to_json())
    show(found)


def test_the_bias_that_only_hugging_face_has_is_no_parameter(run: Path) -> None:
    """As many parameters as `finetune` prints and gpt1.json holds."""
    head = {"multiple_choice_head.summary.weight": [1, 8], "multiple_choice_head.summary.bias": [1]}
    write_weights(run, {"transformer.tokens_embed.weight": [40, 8], **head})
    assert ask(run).parameters == 40 * 8 + 8


def test_a_run_that_is_still_training(run: Path) -> None:
    write(run, "gpt1.json", RunMetadata(kind="pretrained", steps=9, of_steps=100).to_json())
    found = ask(run)
    assert found["training"] is True
    assert (found.task, found.labels) == (None, [])
    assert "task" not in found


def test_a_tokenizer_alone(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (run / "tokenizer.json").rename(folder / "tokenizer.json")
    assert dict(ask(folder)) == {"kind": "tokenizer", "path": str(folder), "vocabulary": 3}


def test_other_peoples_tokenizers(tmp_path: Path) -> None:
    unigram = {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": [{"id": 2}]}
    write(tmp_path, "tokenizer.json", unigram)
    assert ask(tmp_path)["vocabulary"] == 3
    write(tmp_path, "tokenizer.json", {"model": {"vocab": {"a": 0}}})
    assert ask(tmp_path)["vocabulary"] == 1
    write(tmp_path, "tokenizer.json", {"model": None})
    with one_line("tokenizer.json is not a tokenizer"):
        ask(tmp_path)


def test_a_shape_that_is_missing_is_named(run: Path) -> None:
    write(run, "config.json", {})
    with one_line("config.json is damaged: n_positions is missing"):
        ask(run)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_run(name: str, run: Path) -> None:
    (run / name).unlink()
    with pytest.raises(UserError, match=f"not a complete run: {name} is missing"):
        ask(run)


def test_a_model_that_transformers_saved(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "gpt1.json").unlink()
    shape = Model(width=8, inner=32, heads=2, vocabulary=40)
    write(run, "config.json", to_hf_config(shape, {"first": 0, "end": 0, "pad": 1}))
    found = ask(run)
    assert (found.kind, found.width, found.depth, found.parameters) == ("huggingface", 8, 12, 40 * 8 + 2 * 8)
    show(found)
    assert f"`gpt1 convert {run} --out RUN` makes a run of it" in capsys.readouterr().err


def test_a_newer_format(run: Path) -> None:
    write(run, "gpt1.json", {"format": 2})
    with pytest.raises(UserError, match="format 2 is newer than 1"):
        ask(run)


def test_json_cut_short(run: Path) -> None:
    (run / "gpt1.json").write_text('{"format": 1,')
    with pytest.raises(UserError, match=r"gpt1\.json is damaged"):
        ask(run)


@pytest.mark.parametrize("content", [b"\x10\0\0", b"\x03" + bytes(7) + b"[1]", b"\x09" + bytes(7) + b'{"a": {}}'])
def test_weights_that_are_damaged(run: Path, content: bytes) -> None:
    (run / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: not readable"):
        ask(run)


def test_no_model_yet(tmp_path: Path) -> None:
    write(tmp_path / "run", "settings.json", {})
    with pytest.raises(UserError, match="no model is saved yet"):
        ask(tmp_path / "run")


def test_prepared_data(tmp_path: Path) -> None:
    shard = Shard("train-00000.bin", tokens=9, documents=2, bytes=30, sha256="")
    made = Manifest(
        tokenizer="", kind="bytes", lossless=True, vocabulary=300, dtype="uint16",
        train=Split([shard, shard]), val=Split(),
        empty_documents=0, unknown_tokens=0, inputs=[{"path": "a.txt"}], settings={}, fingerprint="", seconds={},
    )  # fmt: skip
    write_manifest(tmp_path, made)
    found = ask(tmp_path)
    assert (found["kind"], found["vocabulary"], found["inputs"]) == ("data", 300, ["a.txt"])
    assert found["train"] == {"tokens": 18, "documents": 4, "bytes": 60}
    show(found)


def test_an_interrupted_preparation(tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(UserError, match="was interrupted"):
        ask(tmp_path)


def test_folders_of_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it holds nothing"):
        ask(tmp_path)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"it holds holiday\.jpg"):
        ask(tmp_path)
    with pytest.raises(UserError, match="no such folder or file"):
        ask(tmp_path / "none")


def test_files(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    assert dict(ask(tmp_path / "a.csv")) == {
        "kind": "file", "path": str(tmp_path / "a.csv"), "format": "csv", "bytes": 15, "header": ["text", "label"],
    }  # fmt: skip
    (tmp_path / "a.json").write_text('[{"text": "a", "label": "b"}]')
    assert (ask(tmp_path / "a.json").format, ask(tmp_path / "a.json").header) == ("json", ["text", "label"])
    (tmp_path / "b.json").write_text('{\n"text": "a"}')
    assert (ask(tmp_path / "b.json").format, ask(tmp_path / "b.json").header) == ("json", None)
    (tmp_path / "a.txt").write_text("a text")
    assert (ask(tmp_path / "a.txt").format, ask(tmp_path / "a.txt").bytes) == ("text", 6)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    assert str(ask(tmp_path / "a.pdf").format).startswith("a PDF document")
    assert ask(run / "model.safetensors").parameters == 40 * 8 + 2 * 8


def test_it_fits_a_screen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With every key there is, many labels and long metrics."""
    labels = [f"label {number}" for number in range(500)]
    metrics = {f"metric {number}": 0.5 for number in range(30)} | {"words_alone": {"accuracy": 0.5}}
    metadata = RunMetadata(
        kind="finetuned", task="classification", goal="classes", labels=labels, columns=Columns(["text"], ["label"]),
        steps=9, of_steps=9, tokens_seen=9, metrics=metrics, lm_coef=0.5, preset="tiny", recipe="fast", seed=1,
        tokenizer_kind="bytes", data=FinetuningData(train=Source(path="x" * 200, sha256=""), pretraining=None),
    )  # fmt: skip
    write(run, "gpt1.json", metadata.to_json())
    plain_console().print(show(ask(run)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert any("network" in line and "2 blocks of width 8, 2 heads" in line for line in lines)
