"""Continued pre-training: what counts as text, what is refused, and that it is pre-training as by the commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest

import gpt1
from conftest import one_line, save_random_run
from gpt1.commands.prepare import prepare
from gpt1.config import Model, Prepare, pretrain_defaults
from gpt1.data.documents import ReadOptions
from gpt1.errors import UserError
from gpt1.pretraining import continued
from gpt1.pretraining.continued import UnlabelledText, continue_pretraining
from gpt1.run_folder.metadata import read_json

TEXTS = [f"{who} {does} {what}." for who in ("the hare", "my dog") for does in ("loves", "fears") for what in
         ("the garden", "long walks", "cold rain", "the sea", "ripe figs")]  # fmt: skip
ON: dict[str, Any] = {"dtype": "fp32", "threads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Model(context=12, width=32, depth=2, heads=2, inner=128)
    return save_random_run(tmp_path_factory.mktemp("base"), TEXTS, 300, model)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "more.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 4), encoding="utf-8")
    return path


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_it_is_prepare_and_pretrain(base: Path, file: Path, tmp_path: Path) -> None:
    """Byte for byte what the two commands give with the settings that it chooses."""
    found = continue_pretraining(base, file, tmp_path / "run", epochs=1, lr=0.003, **ON)
    chosen = read_json(tmp_path / "run" / "settings.json")
    prepare(Prepare(inputs=[str(file)], out=str(tmp_path / "data"), tokenizer=str(base)))
    assert [chosen["optim"][name] for name in ("lr", "matrix_lr", "decay")] == [0.003, 0.003, "linear"]
    again = gpt1.pretrain(
        tmp_path / "data", out=tmp_path / "again", preset="tiny", init=base, batch=chosen["batch"],
        steps=chosen["steps"], eval_every=chosen["eval_every"], model=chosen["model"], optim=chosen["optim"], **ON,
    )  # fmt: skip
    assert weights(tmp_path / "run") == weights(tmp_path / "again")
    assert found.val_nats_per_token == again.val_nats_per_token
    with one_line("was begun with optim.lr 0.003, not 0.001"):
        continue_pretraining(base, file, tmp_path / "run", epochs=1, lr=0.001, **ON)


def test_defaults_follow_the_recipe_and_the_text(base: Path, tmp_path: Path) -> None:
    continue_pretraining(base, TEXTS * 9, tmp_path / "run", epochs=1, **ON)
    chosen = read_json(tmp_path / "run" / "settings.json")
    assert chosen["optim"]["lr"] == pytest.approx(0.2 * pretrain_defaults("tiny", data="", out="").optim.lr)
    assert chosen["optim"]["warmup"] == chosen["steps"] // 10
    assert chosen["steps"] >= continued.MIN_UPDATES
    assert chosen["model"]["residual_dropout"] == gpt1.load(base).body.config.residual_dropout
    assert continue_pretraining(base, TEXTS * 9, tmp_path / "few", steps=3, **ON).steps == 3
    few = read_json(tmp_path / "few" / "settings.json")
    assert (few["optim"]["warmup"], few["eval_every"]) == (1, 1), "at most a tenth of the updates warms up"
    more: dict[str, Any] = {"batch": 20, "steps": None, "optim": {"weight_decay": 0.5}}
    continue_pretraining(base, TEXTS * 9, tmp_path / "large", epochs=2, **more, **ON)
    large = read_json(tmp_path / "large" / "settings.json")
    assert large["optim"]["weight_decay"] == 0.5
    assert large["steps"] == pytest.approx(2 * chosen["steps"] * chosen["batch"] / 20, abs=1)
    assert large["optim"]["warmup"] == max(1, large["steps"] // 10)
    assert large["eval_every"] == -(-large["steps"] // 2)


@pytest.mark.parametrize("texts", [TEXTS, tuple(TEXTS), np.array(TEXTS), polars.Series(TEXTS), iter(TEXTS)], ids=type)
def test_texts_come_in_any_container(texts: Any, tmp_path: Path) -> None:
    found = UnlabelledText.of(texts, ReadOptions(), tmp_path)
    (path,) = [file.path for file in found.files]
    assert [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()] == TEXTS
    (source,) = found.sources()
    assert source.path is None


def test_files_are_named_by_one_string_or_by_paths(file: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("One. Two.", encoding="utf-8")
    options = ReadOptions()
    for given in (str(file), file, [file]):
        assert [one.path for one in UnlabelledText.of(given, options, tmp_path).files] == [file]
    both = UnlabelledText.of([file, tmp_path], options, tmp_path).files
    assert [one.path for one in both] == [file, tmp_path / "notes.txt"]
    for wrong in ([file, "a text"], ["a text", 3], [str(file)]):
        with pytest.raises(TypeError, match=r"files as pathlib\.Path"):
            UnlabelledText.of(wrong, options, tmp_path)
    with one_line("nowhere.txt: no such file"):
        UnlabelledText.of("nowhere.txt", options, tmp_path)


def test_columns_of_the_task_are_read_where_a_table_has_them(tmp_path: Path) -> None:
    """Each text is a document; labels, and columns that are not asked for, are not read."""
    (tmp_path / "pairs.csv").write_text('a,b,label\nx one,y one,no\n"[""t1"", ""t2""]",,yes\n', encoding="utf-8")
    (tmp_path / "other.jsonl").write_text('{"text": "plain", "label": "no"}\n', encoding="utf-8")
    (tmp_path / "wrong.csv").write_text("c,label\nx,no\n", encoding="utf-8")
    options = ReadOptions(columns=("a", "b"))

    def read(name: str) -> list[str]:
        found = UnlabelledText.of(tmp_path / name, options, tmp_path)
        return [text for block in continued.blocks(found.files, options, len) for text in block.texts]

    assert read("pairs.csv") == ["x one", "y one", "t1\nt2"]
    assert read("other.jsonl") == ["plain"]
    with one_line("wrong.csv: no column text; it has c, label: rename it as in the labelled rows, a, b"):
        read("wrong.csv")


def test_too_little_text_is_refused_before_anything_is_written(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n", encoding="utf-8")
    (tmp_path / "good.txt").write_text(" ".join(TEXTS), encoding="utf-8")
    out = tmp_path / "run"
    with one_line("empty.txt: no text to read"):
        continue_pretraining(base, [tmp_path / "good.txt", tmp_path / "empty.txt"], out)
    for texts, words in (
        (["too short"], "9 characters of text are too few to train on"),
        (
            ["notes.txt"],
            "'notes.txt': 9 characters of text are too few to train on; give more, or files as",
        ),
        ([], "no texts"),
    ):
        with one_line(words):
            continue_pretraining(base, texts, out)
    wide = save_random_run(tmp_path / "wide", TEXTS, 300, Model(context=400, width=16, depth=1, heads=2, inner=64))
    with one_line("not enough for a window of 400"):
        continue_pretraining(wide, tmp_path / "good.txt", out)
    for texts, words in ((["a few words"] * 30, "tokens of text are not enough"), ([" " * 300], "no text to read")):
        with pytest.raises(UserError, match=f"^the texts: .*{words}"):  # not the file that holds them meanwhile
            continue_pretraining(wide, texts, out)
    with pytest.raises(TypeError, match=r"continue_pretraining\(\) has no argument 'step'; did you mean steps"):
        continue_pretraining(base, TEXTS, out, step=3)
    assert not out.exists()
