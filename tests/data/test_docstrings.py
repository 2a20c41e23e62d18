"""The demo's data: enough text, fixed, and no test row inside the corpus."""

import csv
import json
from collections import Counter
from pathlib import Path

from gpt1.commands.demo import CLASSES, TEST, TRAIN, write_files
from gpt1.data.docstrings import docstrings, labelled, topics


def test_there_is_enough_text() -> None:
    found = docstrings()
    assert len({d.text for d in found}) == len(found) > 3_000
    assert sum(len(d.text) for d in found) + sum(map(len, topics())) > 1_500_000


def test_labels_are_balanced_and_fixed() -> None:
    found = docstrings()
    train, test = labelled(found, classes=4, train=10, test=30)
    assert set(Counter(d.package for d in train).values()) == {10}
    assert max(Counter(d.package for d in test).values()) <= 30
    assert not {d.text for d in train} & {d.text for d in test}
    assert (train, test) == labelled(found, classes=4, train=10, test=30)


def test_files(tmp_path: Path) -> None:
    write_files(tmp_path)
    corpus = {json.loads(line)["text"] for line in (tmp_path / "corpus.jsonl").read_text("utf-8").splitlines()}
    rows = {name: list(csv.DictReader((tmp_path / f"{name}.csv").open(encoding="utf-8"))) for name in ("train", "test")}
    assert len(rows["train"]) == CLASSES * TRAIN
    assert len(rows["test"]) <= CLASSES * TEST
    assert not corpus & {row["text"] for row in rows["test"]}
