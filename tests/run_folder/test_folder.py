"""The run folder: what is saved comes back, the same bytes each time, and a broken folder is named in one line."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import NOT_UTF8, one_line, only_linux_names
from gpt1.config import Columns, Model
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import FILES, FORMAT, RunMetadata
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train

METADATA = RunMetadata(kind="pretrained", steps=7, metrics={"val_bits_per_byte": 1.5}, preset="tiny")
LABELS = ["b|ad", "a <good>"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["Once upon a time there was a cat. " * 30], "bytes", 280)


@pytest.fixture(scope="module")
def body(tokenizer: Tokenizer) -> GPT:
    model = Model(context=16, width=16, depth=2, heads=2, inner=64, vocabulary=tokenizer.vocabulary)
    return GPT(model).init_weights(torch.Generator().manual_seed(1))


@pytest.fixture
def run(body: GPT, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_run(tmp_path / "run", body, tokenizer, METADATA)
    return tmp_path / "run"


def test_what_is_saved_comes_back(run: Path, body: GPT, tokenizer: Tokenizer) -> None:
    loaded = load_run(run)
    assert loaded.body.config == body.config
    for name, tensor in body.state_dict().items():
        assert torch.equal(loaded.body.state_dict()[name], tensor), name
    assert loaded.tokenizer.encode("a cat") == tokenizer.encode("a cat")
    assert loaded.head is None
    assert not loaded.body.training
    assert (loaded.metadata.kind, loaded.metadata.steps, loaded.metadata.metrics) == ("pretrained", 7, METADATA.metrics)
    assert loaded.metadata.parameters == sum(p.numel() for p in body.parameters())
    assert "val_bits_per_byte" in (run / "README.md").read_text(encoding="utf-8")


@only_linux_names
def test_a_folder_whose_name_is_not_utf8(body: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_run(tmp_path / NOT_UTF8, body, tokenizer, METADATA)
    found = load_run(tmp_path / NOT_UTF8).body.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in body.state_dict().items())


def test_a_head_comes_back_with_its_labels(body: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer = tokenizer.with_task_tokens()
    body = GPT(replace(body.config, vocabulary=tokenizer.vocabulary)).init_weights()
    head = torch.randn(2, 16)
    metadata = RunMetadata(
        kind="finetuned", task="classification", goal="classes", labels=LABELS, columns=Columns(["text"], ["label"])
    )
    save_run(tmp_path, body, tokenizer, metadata, head)
    loaded = load_run(tmp_path)
    assert loaded.head is not None
    assert torch.equal(loaded.head, head)
    assert loaded.metadata.labels == LABELS
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "b|ad", "1": "a <good>"}
    assert config["label2id"] == {"b|ad": 0, "a <good>": 1}
    assert r"b\|ad, a &lt;good>" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_the_same_model_gives_the_same_bytes(run: Path, body: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_run(tmp_path / "again", body, tokenizer, METADATA)
    names = sorted(path.name for path in run.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert {"generation_config.json", "tokenizer_config.json", *FILES} <= set(names)
    for name in names:
        assert (run / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_bf16_is_saved_as_fp32(run: Path, body: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    half = GPT(body.config).to(torch.bfloat16)
    half.load_state_dict(body.state_dict())
    save_run(tmp_path / "half", half, tokenizer, METADATA)
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float32}


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def refused(folder: Path, *words: str) -> None:
    """Loading is one line of UserError that holds all words."""
    with one_line(*words):
        load_run(folder)


def test_loading_leaves_the_compiler_out(run: Path) -> None:
    program = (
        "import sys; from gpt1.run_folder.folder import load_run; load_run(sys.argv[1]); "
        "print([name for name in ('torch._dynamo', 'sympy', 'polars', 'sklearn', 'ftfy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "no such run folder")
    refused(Path("openai-community/openai-gpt"), "`gpt1 convert openai-community/openai-gpt --out RUN` fetches a model")
    (tmp_path / "manifest.json").write_text("{}")
    refused(tmp_path, "prepared data", "gpt1 pretrain")


@pytest.mark.parametrize("name", FILES)
def test_incomplete(run: Path, name: str) -> None:
    (run / "settings.json").touch()  # a job's first file
    (run / name).unlink()
    refused(run, "not a complete run", f"{name} is missing")


def test_a_model_that_transformers_saved(run: Path) -> None:
    (run / "gpt1.json").unlink()
    refused(run, "is a Hugging Face model, not a run", f"`gpt1 convert {run} --out RUN`")


def test_newer_format(run: Path) -> None:
    edit(run / "gpt1.json", format=FORMAT + 1)
    refused(run, "gpt1.json", "format 2 is newer", "update gpt1")


@pytest.mark.parametrize("change", [{"model_type": "gpt2"}, {"afn": "relu"}, {"layer_norm_epsilon": 1e-12}])
def test_another_architecture(run: Path, change: dict[str, object]) -> None:
    edit(run / "config.json", **change)
    (run / "gpt1.json").unlink()
    refused(run, "config.json", str(next(iter(change.values()))), "cannot be used")


def test_damaged(run: Path) -> None:
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[:-100])
    refused(run, "model.safetensors", "damaged")
    (run / "gpt1.json").write_text("{", encoding="utf-8")
    refused(run, "gpt1.json", "damaged")
    (run / "gpt1.json").write_text("{}", encoding="utf-8")
    refused(run, "gpt1.json", "damaged", "format is missing")


def test_a_tensor_or_shape_without_a_partner(run: Path) -> None:
    weights = run / "model.safetensors"
    whole = load_file(weights)
    name = "transformer.h.1.mlp.c_fc.weight"
    save_file({k: v for k, v in whole.items() if k != name}, weights)
    refused(run, name, "missing")
    save_file({**whole, "transformer.h.2.ln_1.weight": torch.zeros(16)}, weights)
    refused(run, "transformer.h.2.ln_1.weight", "unknown")
    save_file({**whole, name: whole[name].T.contiguous()}, weights)
    refused(run, name, "(64, 16)", "(16, 64)")
    save_file({**whole, "score.weight": torch.zeros(2, 16)}, weights)
    refused(run, "score.weight", "pretrained")


def test_a_tokenizer_of_another_model(run: Path) -> None:
    train(["other words entirely. " * 30], "bytes").save(run, 16)
    refused(run, "tokenizer.json", "not the one")


def test_an_inner_size_hugging_face_has_not(body: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    odd = GPT(replace(body.config, inner=48))
    with pytest.raises(UserError, match=re.escape("model.inner 48 must be 4 times model.width 16")):
        save_run(tmp_path / "odd", odd, tokenizer, METADATA)
    assert not (tmp_path / "odd").exists()


OTHER = replace(METADATA, task="regression", steps=9)


def test_a_full_disk_leaves_the_old_model(
    run: Path, body: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("folder.save_file", "model_card.model_card"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(f"gpt1.run_folder.{step}", full_disk)
            save_run(run, body, tokenizer, OTHER)
        assert load_run(run).metadata.steps == 7
        assert not list(run.glob(".*"))


def test_killed_between_two_files_the_folder_is_incomplete(
    run: Path, body: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace
    (run / "settings.json").touch()  # a job's first file

    def replace_until_killed(source: Path, target: Path) -> None:
        if Path(target) == run / "model.safetensors":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_until_killed)
    with pytest.raises(KeyboardInterrupt):
        save_run(run, body, tokenizer, OTHER)
    refused(run, "gpt1.json is missing")
    monkeypatch.undo()
    save_run(run, body, tokenizer, OTHER)
    assert load_run(run).metadata.steps == 9
