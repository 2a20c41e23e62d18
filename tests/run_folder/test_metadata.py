"""gpt1.json: what is written has the documented keys in their order, and what is read is checked key by key."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import one_line
from gpt1.config import Columns
from gpt1.run_folder.metadata import (
    FinetuningData,
    PretrainingData,
    RunMetadata,
    Source,
    SplitSummary,
    Versions,
    read_metadata,
)  # fmt: skip

SIZE: dict[str, Any] = {
    "parameters": 10, "context": 4, "vocabulary": 5, "tokenizer": "ab", "tokenizer_kind": "bytes",
    "versions": Versions(python="3.11", torch="2", gpt1="1"),
}  # fmt: skip
SPLIT = SplitSummary(tokens=3, documents=2, bytes=9, sha256=["a", "b"])
CORPUS = PretrainingData(fingerprint="f", tokenizer="t", train=SPLIT, val=SPLIT)
PRETRAINED = RunMetadata(
    kind="pretrained", preset="tiny", recipe=None, seed=1, steps=2, of_steps=3, tokens_seen=4, data=CORPUS,
    metrics={"val_bits_per_byte": 1.5}, **SIZE,
)  # fmt: skip
FINETUNED = RunMetadata(
    kind="finetuned", task="multi-label", goal="labels", labels=["a", "b"], thresholds=[0.5, 1],
    columns=Columns(["text"], ["label"]), long="head", lm_coef=0.5, lr=1e-3, from_scratch=False, seed=1, steps=9,
    data=FinetuningData(
        model=Source(path="m", sha256="1"), train=Source(path=None, sha256="2", rows=7), pretraining=None
    ),
    selected_by="macro_f1", metrics={"n": 1}, learning_rates={"0.1": 0.5}, label_type="int",
    seeds={"n": {"mean": 1.0, "deviation": None, "values": [1.0]}}, **SIZE,
)  # fmt: skip
CONVERTED = RunMetadata(kind="pretrained", converted_from="openai: release", **SIZE)
LAST = "parameters context vocabulary tokenizer tokenizer_kind versions"


@pytest.mark.parametrize(
    ("metadata", "keys"),
    [
        (PRETRAINED, "format kind preset recipe seed steps of_steps tokens_seen data metrics"),
        (
            FINETUNED,
            "format kind task goal labels thresholds columns long lm_coef lr from_scratch seed preset recipe steps "
            "data selected_by metrics learning_rates seeds label_type",
        ),
        (CONVERTED, "format kind converted_from metrics"),
    ],
    ids=["pretrained", "finetuned", "converted"],
)
def test_keys_order_and_the_way_back(metadata: RunMetadata, keys: str) -> None:
    """In the order of format 1, as each command has always written it."""
    value = json.loads(json.dumps(metadata.to_json()))
    assert list(value) == f"{keys} {LAST}".split()
    assert RunMetadata.from_json(value) == metadata
    assert RunMetadata.from_json(value).to_json() == value


def test_values_that_are_null() -> None:
    """Some keys are written even if nothing is known."""
    value = FINETUNED.to_json()
    assert (value["preset"], value["recipe"]) == (None, None)
    assert value["data"]["train"] == {"path": None, "sha256": "2", "rows": 7}
    assert (list(value["data"]), value["data"]["pretraining"]) == (["model", "train", "pretraining"], None)
    assert value["thresholds"] == [0.5, 1]


def test_keys_of_a_later_writer_are_kept() -> None:
    value = json.loads(json.dumps(PRETRAINED.to_json())) | {"license": "MIT"}
    value["data"]["language"] = value["data"]["val"]["language"] = "fr"
    found = RunMetadata.from_json(value)
    assert found.other == {"license": "MIT"}
    assert replace(found, seed=2).to_json() == value | {"seed": 2}


WRONG = [
    ({"format": 2}, "format 2 is newer than 1; update gpt1"),
    ({"format": "1"}, 'format must be a whole number, not "1"'),
    ({"kind": None}, "kind must be one of pretrained, finetuned, not null"),
    ({"kind": "tuned"}, 'kind must be one of pretrained, finetuned, not "tuned"'),
    ({"lr": "x"}, 'lr must be a number, not "x"'),
    ({"lr": True}, "lr must be a number, not true"),
    ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
    ({"from_scratch": 1}, "from_scratch must be true or false, not 1"),
    ({"labels": "ab"}, 'labels must be a list, not "ab"'),
    ({"labels": ["a", 2]}, "labels[1] must be a text, not 2"),
    ({"metrics": []}, "metrics must be an object, not []"),
    ({"learning_rates": {"0.1": None}}, "learning_rates.0.1 must be a number, not null"),
    ({"columns": {"texts": ["a"]}}, "columns.label is missing"),
    ({"columns": {"texts": ["a"], "label": ["b"], "more": []}}, "columns.more is unknown; update gpt1"),
    ({"data": {"pretraining": None, "train": {"path": None}}}, "data.train.sha256 is missing"),
    ({"data": {"pretraining": None, "train": {"path": 1, "sha256": ""}}}, "data.train.path must be a text, not 1"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[words for _, words in WRONG])
def test_a_wrong_value_is_named(change: dict[str, Any], words: str) -> None:
    value = json.loads(json.dumps(FINETUNED.to_json())) | change
    with one_line("runs/a/gpt1.json", words):
        RunMetadata.from_json(value, "runs/a/gpt1.json")


@pytest.mark.parametrize("key", "format kind parameters context vocabulary tokenizer task goal labels columns".split())
def test_a_missing_key_is_named(key: str) -> None:
    value = FINETUNED.to_json()
    del value[key]
    with one_line("gpt1.json is damaged", f"{key} is missing"):
        RunMetadata.from_json(value)


@pytest.mark.parametrize("value", [[], "x", None, {}])
def test_what_is_no_metadata(value: Any) -> None:
    with one_line("gpt1.json is damaged"):
        RunMetadata.from_json(value)


def test_no_torch(tmp_path: Path) -> None:
    """Reading a run's metadata costs no torch."""
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "gpt1.json").write_text(json.dumps(PRETRAINED.to_json()), encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; from gpt1.run_folder.metadata import read_metadata; "
        "assert read_metadata(Path(sys.argv[1])).steps == 2; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == 0
    assert read_metadata(tmp_path) == PRETRAINED
