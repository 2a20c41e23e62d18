"""Which columns of a table a task reads: guessed by their names, requested, or those of training."""

import json
from pathlib import Path

import pytest

from gpt1.config import Columns, Evaluate, Predict, Task
from gpt1.data.tables import columns, table
from gpt1.errors import UserError
from gpt1.tasks.columns import ColumnNames, guess_columns, select_columns
from gpt1.tasks.rows import read_labelled_rows


def csv_with(folder: Path, names: str) -> Path:
    """A table with one row."""
    path = folder / "a.csv"
    path.write_text(f"{names}\n{','.join('x' for _ in names.split(','))}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("names", "task", "flags", "texts", "choices", "label"),
    [
        ("text,label", "classification", {}, "text", "", "label"),
        ("id,Sentence,n,SENTIMENT", "classification", {}, "Sentence", "", "SENTIMENT"),
        ("remark,label", "classification", {}, "remark", "", "label"),
        ("text,package", "classification", {}, "text", "", "package"),
        ("remark,package", "classification", {"text": "remark"}, "remark", "", "package"),
        ("remark,package", "classification", {"label": "package"}, "remark", "", "package"),
        ("text,label,sentence", "classification", {"text": "sentence"}, "sentence", "", "label"),
        ("sentence,class,label", "classification", {"label": "class"}, "sentence", "", "class"),
        ("premise,hypothesis,label", "entailment", {}, "premise,hypothesis", "", "label"),
        ("id,Question1,Question2,y", "similarity", {}, "Question1,Question2", "", "y"),
        ("left,right,score", "similarity", {}, "left,right", "", "score"),
        ("l,r,n,score", "similarity", {"text": "r,l"}, "r,l", "", "score"),
        ("review,rating", "regression", {}, "review", "", "rating"),
        ("comment,toxic,rude", "multi-label", {"label": "toxic,rude"}, "comment", "", "toxic,rude"),
        ("id,premise,question,sol1,sol2,label", "multiple-choice", {}, "premise,question", "sol1,sol2", "label"),
        ("dialogue,choices,question,label", "multiple-choice", {}, "dialogue,question", "choices", "label"),
        ("story,ending_2,ending_10,ending_1,y", "multiple-choice", {}, "story", "ending_1,ending_2,ending_10", "y"),
        ("s,a,b,y", "multiple-choice", {"context": "s", "choices": "b,a"}, "s", "b,a", "y"),
    ],
)  # fmt: skip
def test_columns_are_guessed(
    names: str, task: Task, flags: dict[str, str], texts: str, choices: str, label: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = guess_columns(str(csv_with(tmp_path, names)), task, ColumnNames(**flags))
    assert found == Columns(texts.split(","), label.split(","), choices.split(",") if choices else [])
    said = capsys.readouterr().err
    assert all(name in said for name in label.split(",")), "the guess is said"


@pytest.mark.parametrize(
    ("names", "task", "flags", "answer"),
    [
        ("a,b,c", "classification", {}, "which column is the text? Name it with text; the columns are a, b, c"),
        ("premise,hypothesis,label", "classification", {}, "premise, hypothesis; for pairs say task entailment or sim"),
        ("text,b,c", "classification", {}, "which column is the label? Name it with label; the columns are b, c"),
        ("It was fun to watch,pos", "classification", {}, "; if the first line is a row already, write the names of"),
        ("a,b,2", "classification", {"label": "c"}, "no column c; the columns are a, b, 2; if the first line is a row"),
        ("text,label", "classification", {"label": "class"}, "no column class; the columns are text, label"),
        ("text,label", "classification", {"text": "body"}, "no column body; the columns are text, label"),
        ("text", "classification", {}, "there is no column for the label; a row needs a text and a label"),
        ("label", "classification", {}, "there is no column for the text"),
        ("text:label", "classification", {}, "; if 'text:label' names several columns, say what separates"),
        ("text,label", "classification", {"text": "label", "label": "label"}, "column label is named both as text and"),
        ("a,b,label", "entailment", {"text": "a,a"}, "a,a names a column twice; name each once"),
        ("text,x,y", "classification", {"label": "x,y"}, "has one label column, not columns x, y"),
        ("text,title,label", "classification", {"text": "text,title"}, "reads one column, not columns text, title"),
        ("text,label", "classification", {"choices": "text"}, "choices does not go with task classification; n"),
        ("u,v,w,label", "entailment", {}, "two columns are the pair? Name them with text ONE,OTHER; the columns a"),
        ("a,b,label", "entailment", {"text": "a"}, "task entailment reads two columns, text ONE,OTHER, not column a"),
        ("story,x,y,label", "multiple-choice", {}, "which columns are the answers? Name with choices the column that"),
        ("story,choices,label", "multiple-choice", {"text": "story"}, "text does not go with task multiple-choice; n"),
        ("u,v,choices,label", "multiple-choice", {}, "which column is the context? Name it with context; the"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_guessed(
    names: str, task: Task, flags: dict[str, str], answer: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        guess_columns(str(csv_with(tmp_path, names)), task, ColumnNames(**flags))
    assert answer in str(caught.value)


def test_an_answer_that_the_first_row_lacks_is_not_left_out(tmp_path: Path) -> None:
    """JSON has no header; a row with fewer answers may come first."""
    path, row = tmp_path / "a.json", {"story": "s", "choice0": "x", "choice1": "y", "label": 1}
    path.write_text(json.dumps([row, row | {"choice2": "z"}]))
    with pytest.raises(
        UserError, match=": row 2: the first row, which decides the columns, has no choice2; add it there"
    ):
        guess_columns(str(path), "multiple-choice", ColumnNames())
    assert guess_columns(str(path), "multiple-choice", ColumnNames(choices="choice0,choice1")).choices
    path.write_text(json.dumps([row | {"choice2": None}, row | {"choice2": "z"}, row]))
    found = guess_columns(str(path), "multiple-choice", ColumnNames())
    assert found.choices == ["choice0", "choice1", "choice2"]
    read = read_labelled_rows(str(path), found, "choice")
    assert read.texts == [("s", "x", "y"), ("s", "x", "y", "z"), ("s", "x", "y")]


def test_columns_of_training_are_kept_unless_others_are_requested(tmp_path: Path) -> None:
    file = table(csv_with(tmp_path, "text,body,stars"))
    trained, available = Columns(["text"], ["label"]), columns(file)
    asked = Evaluate(run="", files=[], text="body", label="stars")
    assert select_columns(file, available, "classification", ColumnNames.of(asked), trained) == Columns(
        ["body"], ["stars"]
    )
    asked_less = ColumnNames.of(Predict(run="", input=""))
    assert select_columns(file, available, "classification", asked_less, trained) == trained, "no label is needed"
    with pytest.raises(UserError, match="no column sentence; the columns are text, body, stars; choose with text"):
        select_columns(file, available, "classification", asked_less, Columns(["sentence"], ["label"]))
