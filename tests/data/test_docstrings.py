"""The demo's data: enough text, fixed, and no test row inside the corpus."""

import csv
import json
from collections import Counter
from pathlib import Path

from gpt1.commands.demo import CLASSES, ENDINGS_TEST, TEST, TRAIN, write_files
from gpt1.data.docstrings import docstrings, endings, labelled, topics


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


def test_each_ending_is_right_once_and_wrong_once() -> None:
    """So its words alone say nothing; nor does an ending of the test occur in training."""
    found = docstrings()
    train, test = endings(found, 60, 30)
    assert (train, test) == endings(found, 60, 30)
    assert (len(train), len(test)) == (120, 60)
    for rows in (train, test):
        right = Counter(one.choices[one.label] for one in rows)
        wrong = Counter(one.choices[1 - one.label] for one in rows)
        assert right == wrong
        assert set(right.values()) == {1}
        assert Counter(one.label for one in rows)[0] == len(rows) / 2
    assert not {end for one in train for end in one.choices} & {end for one in test for end in one.choices}
    texts = [" ".join(d.text.split()) for d in found]
    for one in test[:10]:
        assert any(f"{one.context} {one.choices[one.label]}" in text for text in texts)


def test_files(tmp_path: Path) -> None:
    write_files(tmp_path)
    corpus = {json.loads(line)["text"] for line in (tmp_path / "corpus.jsonl").read_text("utf-8").splitlines()}
    rows = {name: list(csv.DictReader((tmp_path / f"{name}.csv").open(encoding="utf-8"))) for name in ("train", "test")}
    assert len(rows["train"]) == CLASSES * TRAIN
    assert len(rows["test"]) <= CLASSES * TEST
    assert not corpus & {row["text"] for row in rows["test"]}
    lines = (tmp_path / "endings-test.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 2 * ENDINGS_TEST
    one_line = [" ".join(text.split()) for text in corpus]
    for row in map(json.loads, lines):
        assert not any(f"{row['context']} {row['choices'][row['label']]}" in text for text in one_line)
