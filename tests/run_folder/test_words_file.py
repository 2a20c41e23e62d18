"""Words in a run folder: the same numbers come back, and a file that is damaged is named in one line."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from conftest import one_line
from gpt1.config import Columns
from gpt1.run_folder.metadata import RunMetadata, WordsSummary
from gpt1.run_folder.words_file import NUMBERS, SETTINGS, load_words, save_words
from gpt1.tasks.words import Grams, WordsModel, width

TEXTS = ["the cat sat.", "Été 春 a \x00 cat \u2028", "\ud800 lone", "<|end|> \"'\\"]
METADATA = RunMetadata(
    kind="finetuned", task="multi-label", goal="labels", labels=["a", "b"], thresholds=[0.5, 0.5],
    columns=Columns(["text"], ["label"]), words=WordsSummary(weight=0.0, temperature=1.0),
)  # fmt: skip


@pytest.fixture
def words() -> WordsModel:
    grams = [Grams.learn("words", TEXTS, 99), Grams.learn("characters", TEXTS, 99)]
    draw = np.random.default_rng(1)
    weights_CF = draw.normal(size=(2, width("multi-label", grams))).astype(np.float32)
    return WordsModel("multi-label", "labels", 10.0, grams, weights_CF, np.ones(2, dtype=np.float32), [0.25, 0.5])


def test_the_same_numbers_come_back(words: WordsModel, tmp_path: Path) -> None:
    save_words(tmp_path, words)
    found = load_words(tmp_path, METADATA)
    assert found is not None
    rows = [(text,) for text in TEXTS]
    assert np.array_equal(found.scores(rows), words.scores(rows)), "to the last bit"
    assert (found.task, found.kind, found.strength, found.thresholds) == ("multi-label", "labels", 10.0, [0.25, 0.5])
    before = [(tmp_path / name).read_bytes() for name in (SETTINGS, NUMBERS)]
    save_words(tmp_path, found)
    assert [(tmp_path / name).read_bytes() for name in (SETTINGS, NUMBERS)] == before


def test_a_run_without_words_reads_no_file(words: WordsModel, tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text("left by another run")
    assert load_words(tmp_path, RunMetadata(kind="pretrained")) is None


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"format": 2}, "format 2 is newer than 1; update gpt1"),
        ({"task": "classification"}, 'task is "classification"'),
        ({"goal": "score"}, 'goal is "score"'),
        ({"strength": None}, "strength is null"),
        ({"thresholds": [0.5]}, "thresholds is [0.5]"),
        ({"thresholds": ["high", 1]}, 'thresholds is ["high", 1]'),
        ({"ngrams": {}}, "ngrams is {}"),
        ({"ngrams": ["cat"]}, 'ngrams is ["cat"]'),
        ({"ngrams": {"syllables": ["ca"]}}, "ngrams is "),
        ({"ngrams": {"words": ["cat", "cat"]}}, "ngrams is "),
        ({"ngrams": {"words": ["cat", 1]}}, "ngrams is "),
        ({"ngrams": {"words": "cat"}}, "ngrams is "),
    ],
)
def test_damaged_settings(words: WordsModel, tmp_path: Path, change: dict[str, Any], answer: str) -> None:
    save_words(tmp_path, words)
    path = tmp_path / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    with one_line(str(path), answer):
        load_words(tmp_path, METADATA)


@pytest.mark.parametrize(("weight", "temperature"), [(-1.0, 1.0), (1.0, 0.0), (1.0, math.nan), (math.inf, 1.0)])
def test_a_sum_that_cannot_be(words: WordsModel, tmp_path: Path, weight: float, temperature: float) -> None:
    save_words(tmp_path, words)
    with one_line("gpt1.json is damaged: words has"):
        load_words(tmp_path, replace(METADATA, words=WordsSummary(weight=weight, temperature=temperature)))


def test_damaged_numbers(words: WordsModel, tmp_path: Path) -> None:
    save_words(tmp_path, words)
    path, whole = tmp_path / NUMBERS, load_file(tmp_path / NUMBERS)
    for name, array, answer in (
        ("weight", whole["weight"][:, 1:], "tensor weight has shape (2, "),
        ("bias", np.zeros(3, dtype=np.float32), "tensor bias has shape (3,), words.json asks for (2,)"),
        ("idf.words", whole["idf.words"].astype(np.float64), "tensor idf.words has shape"),
        ("idf.characters", None, "tensor idf.characters is missing"),
    ):
        changed = whole if array is None else whole | {name: np.ascontiguousarray(array)}
        save_file({key: one for key, one in changed.items() if array is not None or key != name}, path)
        with one_line(str(path), answer, "fine-tune again"):
            load_words(tmp_path, METADATA)
    path.write_bytes(path.read_bytes()[:-9])
    with one_line(str(path), "is damaged"):
        load_words(tmp_path, METADATA)


@pytest.mark.parametrize("name", [SETTINGS, NUMBERS])
def test_a_missing_file(words: WordsModel, tmp_path: Path, name: str) -> None:
    save_words(tmp_path, words)
    (tmp_path / name).unlink()
    with one_line(str(tmp_path), name):
        load_words(tmp_path, METADATA)
    (tmp_path / name).write_bytes(b"{")
    with one_line(name, "is damaged"):
        load_words(tmp_path, METADATA)


def test_numbers_are_small_and_no_pickle(words: WordsModel, tmp_path: Path) -> None:
    save_words(tmp_path, words)
    found = load_file(tmp_path / NUMBERS)
    assert {array.dtype for array in found.values()} == {np.dtype("float32")}
    assert found.keys() == {"weight", "bias", "idf.words", "idf.characters"}
    assert torch.equal(torch.from_numpy(found["bias"]), torch.ones(2))
