"""Saved datasets: the rows that Hugging Face's library would give, classes by name, and faults named in one line."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
from polars import CompatLevel

from gpt1.commands.evaluate import evaluate
from gpt1.commands.finetune import finetune
from gpt1.commands.predict import predict
from gpt1.commands.prepare import prepare
from gpt1.config import Evaluate, Finetune, Model, Predict, Prepare
from gpt1.data import datasets as saved
from gpt1.data.documents import ReadOptions, at_whitespace, blocks
from gpt1.data.files import File, dataset_splits, find, sha256_of
from gpt1.data.tables import columns, rows, table
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tokenizer.train_bpe import train as train_tokenizer

MOODS = ["sad", "glad"]
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "mood": {"names": MOODS, "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["dark", "light", "loud"], "_type": "ClassLabel"}, "_type": "List"},
    "stars": {"dtype": "float64", "_type": "Value"},
}
BATCH = 1000


def numbered(first: int, count: int) -> dict[str, list[Any]]:
    """Columns as a dataset keeps them, classes as numbers."""
    numbers = range(first, first + count)
    return {
        "text": [f"text {n}: żółw" for n in numbers],
        "mood": [n % 2 for n in numbers],
        "tags": [[n % 3] * (n % 2) for n in numbers],
        "stars": [n / 2 for n in numbers],
    }


def named(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The rows of `numbered`, classes by name."""
    names = FEATURES["tags"]["feature"]["names"]  # type: ignore[index]
    return [
        {"text": text, "mood": MOODS[mood], "tags": [names[tag] for tag in tags], "stars": stars}
        for text, mood, tags, stars in zip(*columns.values(), strict=True)
    ]


def stream(batches: list[polars.DataFrame]) -> bytes:
    """An Arrow stream; polars itself writes one batch only, so several of its streams become one."""
    whole = []
    for batch in batches:
        out = io.BytesIO()
        batch.write_ipc_stream(out, compat_level=CompatLevel.oldest())
        whole.append(out.getvalue().removesuffix(saved.END_OF_STREAM))
    schema = 8 + int.from_bytes(whole[0][4:8], "little")
    return b"".join([whole[0], *(one[schema:] for one in whole[1:]), saved.END_OF_STREAM])


def save(folder: Path, *parts: dict[str, list[Any]], features: dict[str, Any] | None = None) -> Path:
    """A folder as `Dataset.save_to_disk` leaves it: a file for each part, in batches of 1,000 rows."""
    folder.mkdir(parents=True)
    files = [f"data-{n:05}-of-{len(parts):05}.arrow" for n in range(len(parts))]
    for name, part in zip(files, parts, strict=True):
        frame = polars.DataFrame(part)
        (folder / name).write_bytes(stream([frame[low : low + BATCH] for low in range(0, len(frame) or 1, BATCH)]))
    state = {"_data_files": [{"filename": name} for name in files], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or FEATURES, "license": ""}))
    return folder


def save_splits(folder: Path, **splits: dict[str, list[Any]]) -> Path:
    """A folder as `DatasetDict.save_to_disk` leaves it."""
    for name, part in splits.items():
        save(folder / name, part)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def values(path: Path) -> list[dict[str, Any]]:
    return [row.values for row in rows(table(path))]


# Rows


def test_the_rows_of_all_files_with_classes_by_name(tmp_path: Path) -> None:
    one, other = numbered(0, 2500), numbered(2500, 3)
    folder = save(tmp_path / "set.v1", one, other)
    assert values(folder) == named(one) + named(other)
    assert columns(table(folder)) == list(FEATURES)
    assert [row.values["mood"] for row in rows(table(folder), only=["mood"])] == [MOODS[n % 2] for n in range(2503)]
    assert [row.where for row in rows(table(folder))][-1] == f"{folder}:2503"
    assert values(folder / "data-00001-of-00002.arrow") == named(other), "one of its files is a table, too"


def test_the_library_gives_the_same_rows(tmp_path: Path) -> None:
    """Written and read by the real one, with several files, batches, an index of chosen rows and an unknown class."""
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict(
        numbered(0, 3200) | {"mood": [-1 if n == 7 else n % 2 for n in range(3200)]},
        features=datasets.Features(
            text=datasets.Value("string"), mood=datasets.ClassLabel(names=MOODS), stars=datasets.Value("float64"),
            tags=datasets.Sequence(datasets.ClassLabel(names=["dark", "light", "loud"])),
        ),
    )  # fmt: skip
    for number, made in enumerate([whole, whole.filter(lambda row: row["stars"] > 3), whole.select([5, 3, 7])]):
        folder = tmp_path / str(number)
        made.save_to_disk(folder, num_shards=min(3, len(made)))
        mood, tags = made.features["mood"], made.features["tags"].feature
        expected = [
            row | {"mood": None if row["mood"] == -1 else mood.int2str(row["mood"]), "tags": tags.int2str(row["tags"])}
            for row in datasets.load_from_disk(folder)
        ]
        assert values(folder) == expected
    datasets.DatasetDict(train=whole, test=whole).save_to_disk(tmp_path / "splits")
    assert dataset_splits(tmp_path / "splits") == ["train", "test"]
    assert len(values(tmp_path / "splits" / "test")) == 3200


def test_only_one_batch_is_held(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", numbered(0, 2500))
    assert [len(frame) for frame in saved.arrow_frames(folder)] == [1000, 1000, 500]


def test_numbers_without_names_stay_numbers(tmp_path: Path) -> None:
    plain = {name: {"dtype": "int64", "_type": "Value"} for name in FEATURES}
    assert values(save(tmp_path / "plain", numbered(0, 2), features=plain))[1]["mood"] == 1
    (tmp_path / "plain" / "dataset_info.json").unlink()
    assert values(tmp_path / "plain")[1]["mood"] == 1
    old = FEATURES | {"tags": [FEATURES["tags"]["feature"]]}  # type: ignore[index]
    assert values(save(tmp_path / "old", numbered(0, 2), features=old))[1]["tags"] == ["light"]


def test_the_hash_is_of_rows_and_names(tmp_path: Path) -> None:
    one = sha256_of(save(tmp_path / "a", numbered(0, 9)))
    assert one == sha256_of(save(tmp_path / "b", numbered(0, 9)))
    assert one != sha256_of(save(tmp_path / "c", numbered(1, 9)))
    other = FEATURES | {"mood": {"names": ["x", "y"], "_type": "ClassLabel"}}
    assert one != sha256_of(save(tmp_path / "d", numbered(0, 9), features=other))
    (tmp_path / "a" / "cache-0123.arrow").write_bytes(b"what the library leaves beside")
    assert one == sha256_of(tmp_path / "a")


# Documents


def test_documents_out_of_a_folder_of_many_things(tmp_path: Path) -> None:
    save(tmp_path / "in" / "set", numbered(0, 3), numbered(3, 2))
    (tmp_path / "in" / "set" / "cache-0123.arrow").write_bytes(b"x")
    save_splits(tmp_path / "in" / "more", train=numbered(5, 1), test=numbered(6, 1))
    (tmp_path / "in" / "a.txt").write_text("plain")
    found = find([str(tmp_path / "in")])
    assert [file.kind for file in found] == ["text", "arrow", "arrow", "arrow", "arrow"]
    texts = [text for block in blocks(found, ReadOptions(), at_whitespace) for text in block.texts]
    assert sorted(texts) == ["plain", *(f"text {n}: żółw" for n in range(7))]
    assert find([str(tmp_path / "in" / "set")]) == [
        File(tmp_path / "in" / "set" / f"data-{n:05}-of-00002.arrow", named=True) for n in range(2)
    ]


# Commands


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = train_tokenizer(numbered(0, 100)["text"], "bytes")
    model = Model(context=24, width=16, depth=1, heads=2, inner=64, vocabulary=tokenizer.vocabulary)
    folder = tmp_path_factory.mktemp("base")
    save_run(
        folder, GPT(model).init_weights(torch.Generator().manual_seed(1)), tokenizer, RunMetadata(kind="pretrained")
    )
    return str(folder)


def tuned(base: str, out: Path, train: Path, **more: Any) -> dict[str, Any]:
    usual = {"task": "classification", "text": "text", "label": "mood", "epochs": 1, "dtype": "fp32", "threads": 1}
    return finetune(Finetune(run=base, train=str(train), out=str(out), **(usual | more)))


def test_a_dataset_trains_as_a_table_of_the_same_rows_does(base: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "set", numbered(0, 40), numbered(40, 20))
    lines = [json.dumps(row) + "\n" for row in named(numbered(0, 60))]
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    tuned(base, tmp_path / "a", folder), tuned(base, tmp_path / "b", tmp_path / "rows.jsonl")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "a" / "gpt1.json").read_text())["labels"] == ["glad", "sad"]
    assert tuned(base, tmp_path / "c", folder, task="multi-label", label="tags")["labels"] == ["dark", "light", "loud"]


def test_splits_train_and_validate(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = save_splits(tmp_path / "dict", train=numbered(0, 30), validation=numbered(30, 10), test=numbered(40, 5))
    assert tuned(base, tmp_path / "run", whole)["n"] == 10
    said = capsys.readouterr().err
    assert f"{whole}: training on {whole / 'train'}, validating on {whole / 'validation'}\n" in said
    facts = json.loads((tmp_path / "run" / "gpt1.json").read_text())["data"]
    assert (facts["train"]["path"], facts["train"]["rows"]) == (str(whole / "train"), 30)
    assert tuned(base, tmp_path / "given", whole, valid=str(whole / "test"))["n"] == 5
    without = save_splits(tmp_path / "two", train=numbered(0, 30), test=numbered(30, 10))
    assert tuned(base, tmp_path / "tenth", without)["n"] == 3
    usual: dict[str, Any] = {"run": str(tmp_path / "run"), "dtype": "fp32", "threads": 1}
    predict(Predict(input=str(whole / "test"), out=str(tmp_path / "out.parquet"), **usual))
    assert polars.read_parquet(tmp_path / "out.parquet")["mood"].to_list() == [MOODS[n % 2] for n in range(40, 45)]
    assert evaluate(Evaluate(files=[str(whole / "test")], **usual))["n"] == 5


def test_prepare_reads_the_train_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = save_splits(tmp_path / "dict", train=numbered(0, 30), validation=numbered(30, 10), test=numbered(40, 5))
    usual: dict[str, Any] = {"inputs": [str(whole)]}
    found = prepare(Prepare(out=str(tmp_path / "data"), **usual))
    assert (found["train_documents"], found["val_documents"]) == (30, 10)
    assert f"{whole}: training on {whole / 'train'}, validating on {whole / 'validation'}\n" in capsys.readouterr().err
    val = [str(whole / "test")]
    assert prepare(Prepare(out=str(tmp_path / "again"), val=val, **usual))["val_documents"] == 5
    with pytest.raises(UserError, match="no column body; it has text, mood, tags, stars: choose one with text"):
        prepare(Prepare(out=str(tmp_path / "none"), text="body", **usual))


# Faults


def part_of(folder: Path) -> Path:
    return next(folder.glob("*.arrow"))


def cut(folder: Path, left: int) -> None:
    part_of(folder).write_bytes(part_of(folder).read_bytes()[:left])


def rename(folder: Path, *names: str) -> None:
    features = FEATURES | {"mood": {"names": names, "_type": "ClassLabel"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda d: part_of(d).unlink(), "data-00000-of-00001.arrow: missing, though state.json names it; copy"),
    "no end": (lambda d: cut(d, -8), ".arrow: damaged or truncated (it ends within a batch of rows); save or copy it"),
    "half a batch": (lambda d: cut(d, -500), "data-00000-of-00001.arrow: damaged or truncated (it ends within"),
    "half a schema": (lambda d: cut(d, 100), ".arrow: damaged or truncated (it ends within a batch of rows)"),
    "no stream": (lambda d: part_of(d).write_bytes(b"ARROW1\0\0" * 9), "(not an Arrow stream, as `save_to_disk` writ"),
    "noise": (lambda d: part_of(d).write_bytes(saved.CONTINUATION + b"\x10\0\0\0" + b"\xff" * 99), ": damaged or"),
    "no list": (lambda d: (d / "state.json").write_text("{}"), "state.json: damaged, it holds no _data_files; save"),
    "a wrong list": (lambda d: (d / "state.json").write_text('{"_data_files": [1]}'), ": damaged, its _data_files n"),
    "odd features": (lambda d: (d / "dataset_info.json").write_text('{"features": [1]}'), "holds no features"),
    "no features": (lambda d: (d / "dataset_info.json").write_text("["), "dataset_info.json: damaged, it holds no f"),
    "a class too many": (
        lambda d: rename(d, "sad"), "set:2: column mood holds the class number 1, but dataset_info.json names 1 classes"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged(fault: str, tmp_path: Path) -> None:
    damage, answer = FAULTS[fault]
    folder = save(tmp_path / "set", numbered(0, 30))
    damage(folder)
    with pytest.raises(UserError) as caught:
        values(folder)
    assert answer in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_wrong_folder_or_column(base: str, tmp_path: Path) -> None:
    odd = save_splits(tmp_path / "odd", left=numbered(0, 9), right=numbered(9, 9))
    several = f"{odd}: a dataset of 2 splits (left, right); name the folder of one, such as {odd / 'left'}"
    usual: dict[str, Any] = {"run": base, "dtype": "fp32", "threads": 1}
    for attempt in (
        lambda: tuned(base, tmp_path / "run", odd),
        lambda: predict(Predict(input=str(odd), **usual)),
        lambda: evaluate(Evaluate(files=[str(odd)], **usual)),
        lambda: prepare(Prepare(inputs=[str(odd)], out=str(tmp_path / "data"))),
    ):
        with pytest.raises(UserError) as caught:
            attempt()
        assert str(caught.value) == several
    with pytest.raises(UserError, match="a dataset of 2 splits"):
        prepare(Prepare(inputs=[str(odd / "left")], val=[str(odd)], out=str(tmp_path / "data")))
    with pytest.raises(UserError, match=r"lft: no such file; .*odd has the splits left, right$"):
        predict(Predict(input=str(odd / "lft"), **usual))
    (odd / "dataset_dict.json").write_text('{"splits": null}')
    with pytest.raises(UserError, match="damaged, it holds no splits"):
        predict(Predict(input=str(odd), **usual))
    with pytest.raises(UserError, match="a folder, but not of a dataset that save_to_disk wrote"):
        predict(Predict(input=base, **usual))
    with pytest.raises(UserError, match="no column body; the columns are text, mood, tags, stars"):
        tuned(base, tmp_path / "run", odd / "left", text="body")
    with pytest.raises(UserError, match="no rows"):
        tuned(base, tmp_path / "run", save(tmp_path / "none", {"text": [], "mood": []}))
