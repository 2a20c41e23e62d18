"""Labelled rows of every task: what their texts and labels are, what is split off and what is warned of."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt1.config import Columns, Task
from gpt1.data.tables import TableOptions
from gpt1.errors import UserError
from gpt1.model.objectives import LabelKind
from gpt1.tasks.labels import ClassLabels
from gpt1.tasks.rows import LabelledRows, infer_label_kind, read_labelled_rows, split_train_valid, warn_of_faults


def csv_with(folder: Path, names: str, *rows: str) -> Path:
    path = folder / "a.csv"
    path.write_text("\n".join([names, *(rows or [",".join("x" for _ in names.split(","))])]) + "\n", encoding="utf-8")
    return path


def jsonl_with(folder: Path, *found: dict[str, Any]) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


ONE = Columns(["text"], ["label"])
CHOICE = Columns(["text"], ["label"], ["choices"])


def test_one_class_however_it_is_written(tmp_path: Path) -> None:
    path = jsonl_with(tmp_path, *({"text": "a", "label": label} for label in (1, 1.0, "1")))
    assert read_labelled_rows(str(path), ONE, "classes").labels == ["1", "1", "1"]
    path = jsonl_with(tmp_path, *({"text": "a", "label": label} for label in ([1], [1.0, "1"], 1)))
    assert read_labelled_rows(str(path), ONE, "labels").labels == [{"1"}] * 3


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("1.0 0.0 1 0 1.00".split(), "1 0 1 0 1".split()),
        ("1.0 0.0".split(), "1.0 0.0".split()),
        ("True true FALSE".split(), "true true FALSE".split()),
        ("-2.0 -2 1.5 1.50".split(), "-2 -2 1.5 1.50".split()),
        ("007 7 007.0 v1.0 v1 Yes yes".split(), "007 7 007.0 v1.0 v1 Yes yes".split()),
    ],
)
def test_one_class_however_a_program_spells_it(found: list[str], expected: list[str], tmp_path: Path) -> None:
    path = csv_with(tmp_path, "text,label", *(f"a,{label}" for label in found))
    assert read_labelled_rows(str(path), ONE, "classes").labels == expected
    assert read_labelled_rows(str(path), ONE, "labels").labels == [{label} for label in expected]


def test_names_are_spelt_as_the_model_knows_them(tmp_path: Path) -> None:
    path = csv_with(tmp_path, "text,label", "a,1.0", "a,0", "a,True", "a,2")
    known = ClassLabels(["0.0", "1", "true"])
    assert read_labelled_rows(str(path), ONE, "classes", known=known).labels == ["1", "0.0", "true", "2"]
    both = ClassLabels(["1", "1.0", "0"])  # an estimator's strings are as many classes as there are
    assert read_labelled_rows(str(path), ONE, "classes", known=both).labels == ["1.0", "0", "True", "2"]


def test_a_column_for_each_label_is_a_name(tmp_path: Path) -> None:
    path = csv_with(tmp_path, "text,1,1.0", "a,1,0", "b,0,1")
    assert read_labelled_rows(str(path), Columns(["text"], ["1", "1.0"]), "labels").labels == [{"1"}, {"1.0"}]


def test_labels_of_every_kind(tmp_path: Path) -> None:
    path = csv_with(tmp_path, "text,label,toxic,rude", "a, 2.5 ,1,0", "b,-1e3,0,0", "c,4,1,1.0")
    assert read_labelled_rows(str(path), ONE, "score").labels == [2.5, -1000, 4]
    assert read_labelled_rows(str(path), Columns(["text"], ["toxic", "rude"]), "labels").labels == [
        {"toxic"}, set(), {"toxic", "rude"}
    ]  # fmt: skip
    path = csv_with(tmp_path, "text,label", "a,x|y z", "b,", "c, y z ")
    assert read_labelled_rows(str(path), ONE, "labels").labels == [{"x", "y z"}, set(), {"y z"}]
    path = csv_with(tmp_path, "text,label", 'a,"[""x"", ""y z""]"', "b,[]", 'c,"[1, 2.0]"', "d,[sic]|x")
    assert read_labelled_rows(str(path), ONE, "labels").labels == [{"x", "y z"}, set(), {"1", "2"}, {"[sic]", "x"}]
    path = jsonl_with(tmp_path, {"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}, {"text": "c"})
    with pytest.raises(UserError, match="no column label"):
        read_labelled_rows(str(csv_with(tmp_path, "text", "a")), ONE, "labels")
    assert read_labelled_rows(str(path), ONE, "labels").labels == [{"x", "y"}, set(), set()]


def test_answers_of_every_kind(tmp_path: Path) -> None:
    rows = [
        {"text": ["W: Hi.", "M: Ho."], "choices": ["a", "b", "c"], "label": 2},
        {"text": "x", "choices": ["a", "b"], "label": "1"},
    ]
    found = read_labelled_rows(str(jsonl_with(tmp_path, *rows)), CHOICE, "choice")
    assert found.texts == [("W: Hi.\nM: Ho.", "a", "b", "c"), ("x", "a", "b")]
    assert found.labels == [2, 1]
    path = csv_with(tmp_path, "text,q,c0,c1,c2,label", "s,why,a,b,c,0", "t,who,a,b,,1")
    found = read_labelled_rows(str(path), Columns(["text", "q"], ["label"], ["c0", "c1", "c2"]), "choice")
    assert found.texts == [("s\nwhy", "a", "b", "c"), ("t\nwho", "a", "b")]
    path = csv_with(
        tmp_path, "text,choices,label", '[sic] x,"[""a"", ""b""]",1', '"[""W: Hi."", ""M: Ho.""]","[""a"", ""b""]",0'
    )
    assert read_labelled_rows(str(path), CHOICE, "choice").texts == [
        ("[sic] x", "a", "b"),
        ("W: Hi.\nM: Ho.", "a", "b"),
    ]


@pytest.mark.parametrize(
    ("row", "wanted", "kind", "answer"),
    [
        ({"text": "a", "label": "high"}, ONE, "score", "column label holds 'high', not a number"),
        ({"text": "a", "label": "inf"}, ONE, "score", "column label holds 'inf', not a number"),
        ({"text": "a", "label": float("nan")}, ONE, "score", "column label is empty; give it a number"),
        ({"text": "a", "label": 10**400}, ONE, "score", "not a number"),
        ({"text": "a", "label": -1e31}, ONE, "score", "label holds -1e+31, not a number of at most 1e+30"),
        ({"text": "a", "label": ["b", None]}, ONE, "labels", "column label is empty; give it a label"),
        ({"text": "a", "label": [["b"]]}, ONE, "labels", "column label holds ['b'], not one label"),
        ({"text": " ", "label": 1}, ONE, "score", "a.jsonl:1: column text is empty; give it a text"),
        ({"text": "a", "x": 2, "y": 0}, Columns(["text"], ["x", "y"]), "labels", "column x holds 2; it must be 1 wh"),
        ({"text": "a", "choices": ["b", "c"], "label": 3}, CHOICE, "choice", "holds 3; it must be the number of"),
        ({"text": "a", "choices": ["b", "c"], "label": "2"}, CHOICE, "choice", "are numbered from 0; if yours are"),
        ({"text": "a", "choices": ["b", "c"], "label": 0.5}, CHOICE, "choice", "from 0 to 1"),
        ({"text": "a", "choices": ["b", "c"], "label": "b"}, CHOICE, "choice", "column label holds 'b', not a number"),
        ({"text": "a", "choices": ["b"], "label": 0}, CHOICE, "choice", "1 answer in choices; a choice needs two"),
        ({"text": "a", "choices": [], "label": 0}, CHOICE, "choice", "column choices is an empty list"),
        ({"text": "a", "choices": ["b", " "], "label": 0}, CHOICE, "choice", "column choices lists ' '; it must l"),
        ({"text": "a", "b": "", "c": "x", "label": 0}, Columns(["text"], ["label"], ["b", "c"]), "choice", "b is emp"),
    ],
)  # fmt: skip
def test_rows_that_are_wrong(
    row: dict[str, Any], wanted: Columns, kind: LabelKind, answer: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read_labelled_rows(str(jsonl_with(tmp_path, row)), wanted, kind)
    assert answer in str(caught.value)
    assert "a.jsonl:1: " in str(caught.value)


@pytest.mark.parametrize(
    ("task", "labels", "target", "kind"),
    [
        ("classification", ["1", "2.5"], "auto", "classes"),
        ("regression", ["1", "2"], "auto", "score"),
        ("multi-label", ["a"], "auto", "labels"),
        ("multiple-choice", ["0"], "auto", "choice"),
        ("similarity", ["0", "1"], "auto", "classes"),
        ("similarity", ["0", "1"], "score", "score"),
        ("similarity", ["0", "3.25"], "auto", "score"),
        ("similarity", ["0", "3.25"], "classes", "classes"),
        ("similarity", ["yes", "3.25"], "auto", "classes"),
        ("similarity", ["0.0", "5.0"], "auto", "classes"),
    ],
)
def test_the_kind_of_label(task: Task, labels: list[str], target: Any, kind: LabelKind, tmp_path: Path) -> None:
    path = csv_with(tmp_path, "text,label", *(f"a,{label}" for label in labels))
    assert infer_label_kind(task, target, str(path), ONE) == kind


def test_a_target_of_another_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^target goes only with task similarity, not with regression"):
        infer_label_kind("regression", "score", str(csv_with(tmp_path, "text,label")), ONE)


def labelled(labels: list[Any], groups: list[str] | None = None) -> LabelledRows:
    numbers = range(len(labels))
    return LabelledRows(
        [(f"row {n}",) for n in numbers], labels, [f"a:{n}" for n in numbers], groups or list(map(str, numbers))
    )


def test_equal_texts_with_different_labels(capsys: pytest.CaptureFixture[str]) -> None:
    rows = replace(labelled(["b", "a", "b", "c"]), texts=[("one",), ("two",), ("two",), ("two",)])
    warn_of_faults(rows, labelled([]), "classes")
    said = (
        "a:2: label 'b', but 'a' in an earlier row with the same text; 2 of 4 training rows contradict an earlier one"
    )
    assert said in capsys.readouterr().err
    sets = [frozenset("xy"), frozenset("yx"), frozenset("x")]
    warn_of_faults(replace(labelled(sets), texts=[("one",)] * 3), labelled([]), "labels")
    assert "a:2: label 'x', but 'x|y' in an earlier row" in capsys.readouterr().err
    warn_of_faults(labelled(["a", "b"]), labelled([]), "classes")
    assert "earlier row" not in capsys.readouterr().err


def test_what_is_worth_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    found = labelled(["yes", "Yes ", *["no"] * 11])
    warn_of_faults(found, found, "classes")
    said = capsys.readouterr().err
    assert (
        "labels 'Yes ', 'yes' differ only in case or spaces, and count as 2; write them alike if they are one" in said
    )
    assert "13 texts are in both training and validation rows" in said
    assert "label 'no' has 11 rows, 'Yes ' only 1" in said


def test_a_label_that_says_that_it_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    found = labelled(["NaN", "NaN", "good", "bad", "none"])
    warn_of_faults(found, labelled([]), "classes")
    assert capsys.readouterr().err == (
        "warning: label 'NaN', on 2 of 5 rows, counts as a class; if it means that the label is missing, "
        "leave those cells empty or drop the rows\n"
    )


@pytest.mark.parametrize(
    ("labels", "kind", "words"),
    [
        ([frozenset({"x,y"}), frozenset({"z"})], "labels", "'x,y' counts as one label; write several as a list"),
        ([frozenset({"['x']"}), frozenset()], "labels", "\"['x']\" counts as one label"),
        ([frozenset({"x,y", "z"})], "labels", ""),
        (list("abcdefghijkl"), "classes", "12 classes in 12 rows; is label the right column?"),
        (
            [f"{n}.5" for n in range(12)],
            "classes",
            "is label the right column? If it holds scores, set task regression",
        ),
        ([frozenset({name}) for name in "abcdefghijkl"], "labels", "12 classes in 12 rows; is label the right column?"),
        ([frozenset({"a", name}) for name in "bcdefghijk"], "labels", ""),
        (
            [f"row {n}" for n in range(12)],
            "classes",
            "the label of 12 of 12 rows is their text; is label the right col",
        ),
        (list("abcdefghi"), "classes", ""),
        (list("aabbccddeeff"), "classes", ""),
    ],
)
def test_labels_that_may_be_none(
    labels: list[Any], kind: LabelKind, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_faults(labelled(labels), labelled([]), kind)
    said = capsys.readouterr().err
    assert words in said
    assert bool(said) == bool(words)


def test_one_label_on_nearly_all_rows(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_faults(labelled([*["no"] * 18, "yes", "yes"]), labelled(["no"]), "classes")
    assert (
        "label 'no' is on 18 of 20 rows, so always predicting it is right there; class_weights auto"
        in capsys.readouterr().err
    )
    warn_of_faults(labelled([*["no"] * 17, *["yes"] * 3]), labelled([]), "classes")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("kind", ["score", "classes", "labels", "choice"])
def test_rows_to_skip(kind: LabelKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows without a text or label are dropped and counted; those that are left are as if the others were not there."""
    good = {"text": "good", "choices": ["b", "c"], "label": 1}
    wrong: list[dict[str, Any]] = [{**good, "text": None}, {**good, "text": " "}, {"choices": ["b", "c"], "label": 1}]
    wrong += [] if kind == "labels" else [{**good, "label": None}, {**good, "label": ""}]  # no label is a label set
    wrong += {"score": [{**good, "label": "n/a"}], "choice": [{**good, "choices": ["b"]}, {**good, "label": 7}]}.get(
        kind, []
    )
    path, options = jsonl_with(tmp_path, good, *wrong, good), TableOptions(skip_invalid=True)
    wanted = CHOICE if kind == "choice" else ONE
    with pytest.raises(UserError, match=r"a\.jsonl:2: column text is empty; .*\(skip_invalid drops such rows\)"):
        read_labelled_rows(str(path), wanted, kind)
    found = read_labelled_rows(str(path), wanted, kind, options)
    assert found.where == [f"{path}:1", f"{path}:{len(wrong) + 2}"]
    assert replace(found, where=[]) == replace(
        read_labelled_rows(str(jsonl_with(tmp_path, good, good)), wanted, kind), where=[]
    )
    told = f"{path}: {len(wrong)} of {len(wrong) + 2} rows skipped, the first because {path}:2: column text is empty\n"
    assert capsys.readouterr().err == told
    with pytest.raises(UserError, match=f"skip_invalid would drop all {len(wrong)} rows"):
        read_labelled_rows(str(jsonl_with(tmp_path, *wrong)), wanted, kind, options)


def test_answers_numbered_from_1_are_not_skipped(tmp_path: Path) -> None:
    """Skipping the last answers would leave every other label off by one."""
    rows = [{"text": "a", "choices": ["b", "c"], "label": label} for label in (1, 2, 1)]
    with pytest.raises(UserError, match=r":2: column label holds 2, but the 2 answers are numbered from 0"):
        read_labelled_rows(str(jsonl_with(tmp_path, *rows)), CHOICE, "choice", TableOptions(skip_invalid=True))


def test_a_broken_line_is_not_skipped(tmp_path: Path) -> None:
    """It may mean that the whole file is read wrongly."""
    path = csv_with(tmp_path, "text,label", "a,1", "b", "c,2")
    with pytest.raises(UserError, match=":3: 1 fields where the header has 2"):
        read_labelled_rows(str(path), ONE, "classes", TableOptions(skip_invalid=True))


def test_scores_with_a_decimal_comma(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text;other;label\na;b;3,5\nc;d;1,250\n")
    read = Columns(["text", "other"], ["label"])
    assert infer_label_kind("similarity", "auto", str(path), read) == "score"
    assert read_labelled_rows(str(path), read, "score").labels == [3.5, 1.25]
    path.write_text('text,other,label\na,b,"3,5"\nc,d,"4"\n')
    assert infer_label_kind("similarity", "auto", str(path), read) == "score"
    assert read_labelled_rows(str(path), read, "score").labels == [3.5, 4]


def test_rows_without_any_label_are_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """The few rows that have labels may all validate."""
    warn_of_faults(labelled([frozenset()] * 3), labelled([frozenset("x")]), "labels")
    assert "label 'x' occurs only in validation rows" in capsys.readouterr().err


def test_scores_that_are_taken_for_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv_with(tmp_path, "text,label", "a,1.5", "a,x")
    assert infer_label_kind("similarity", "auto", str(path), ONE) == "classes"
    said = capsys.readouterr().err
    assert "label 'x' is not a number, so all labels count as classes; if they are scores, set target score" in said
    path = csv_with(tmp_path, "text,label", "a,1", "a,x")
    assert infer_label_kind("similarity", "auto", str(path), ONE) == "classes"
    assert not capsys.readouterr().err


def test_a_tenth_validates() -> None:
    found = labelled(["a", "b"] * 15)
    train, valid = split_train_valid(found, seed=3)
    assert len(valid) == 3
    assert sorted(train.where + valid.where) == sorted(found.where)
    assert split_train_valid(found, seed=3)[1] == valid != split_train_valid(found, seed=4)[1]


def test_the_only_row_of_a_label_is_learnt() -> None:
    names = [f"rare {n}" for n in range(4)]
    for seed in range(8):
        train, valid = split_train_valid(labelled([*names, *["often"] * 16]), seed)
        assert (len(valid), set(train.labels)) == (2, {*names, "often"})
        train, valid = split_train_valid(
            labelled([*(frozenset({name, "b"}) for name in names), *[frozenset("b")] * 16]), seed
        )
        assert (len(valid), frozenset().union(*train.labels)) == (2, {*names, "b"})
        train, valid = split_train_valid(labelled(names), seed)
        assert (len(train), len(valid)) == (3, 1)
        train, valid = split_train_valid(labelled([0.1, 0.2, 0.3, *[0.4] * 17]), seed)
        assert (len(train), len(valid)) == (18, 2)


def test_rows_with_the_same_first_text_stay_together() -> None:
    """SNLI shows a premise three times; one that is learnt must not validate."""
    groups = [f"premise {n // 3}" for n in range(60)]
    train, valid = split_train_valid(labelled(["a"] * 60, groups), seed=1)
    assert len(valid) == 6
    assert not set(train.groups) & set(valid.groups)
    train, valid = split_train_valid(labelled(["a"] * 20, ["one"] * 20), seed=1)
    assert (len(train), len(valid)) == (18, 2)
