"""Answers by likelihood, against the network by hand: one text at a time, one token at a time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.commands.evaluate import evaluate, show
from gpt1.config import Evaluate, Model
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tasks.zero_shot import Question, Scorer, scoring_windows
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train

CONTEXT = 25
TEXTS = ["the dog ran", "a mat", "the dog sat on mats", "été", "the dog", "it ran on"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["the dog ran and sat on a mat. été, 春 " * 30], "bytes", 280)


@pytest.fixture(scope="module")
def body(tokenizer: Tokenizer) -> GPT:
    shape = Model(context=CONTEXT, width=32, depth=2, heads=4, inner=128, vocabulary=tokenizer.vocabulary)
    model = GPT(shape).init_weights(torch.Generator().manual_seed(1)).eval()
    model.tokens.weight.data *= 20  # far from uniform
    return model


@pytest.fixture(scope="module")
def run(body: GPT, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    save_run(folder, body, tokenizer, RunMetadata(kind="pretrained"))
    return str(folder)


def by_hand(body: GPT, tokenizer: Tokenizer, context: str, answer: str) -> float:
    """log P(answer | context) where all of it fits the context, or its end does."""
    before = [tokenizer.end_id, *tokenizer.encode(context)]
    ids = [*before, *tokenizer.encode(f" {answer}" if context else answer)]
    low = max(0, len(ids) - 1 - CONTEXT)
    total = 0.0
    with torch.no_grad():
        for t in range(len(before), len(ids)):
            h_D = body(torch.tensor([ids[low:t]]))[0, -1]
            total += float((h_D @ body.tokens.weight.T).double().log_softmax(-1)[ids[t]])
    return total


def questions() -> list[Question]:
    contexts = ["", "a dog", "the mat on the mat on the mat on the mat on the mat"]
    return [Question(context, (one, other), 0, None) for context in contexts for one in TEXTS for other in TEXTS]


def test_scores_are_log_likelihoods(body: GPT, tokenizer: Tokenizer) -> None:
    scorer = Scorer(body, tokenizer, "none")
    for question, scores in zip(questions(), scorer(questions()), strict=True):
        expected = [by_hand(body, tokenizer, question.context, answer) for answer in question.answers]
        assert scores == pytest.approx(expected, abs=1e-4)
    assert scorer.cut > 0


def test_a_question_scores_the_same_alone(body: GPT, tokenizer: Tokenizer) -> None:
    together = Scorer(body, tokenizer, "none")(questions())
    alone = [Scorer(body, tokenizer, "none")([question])[0] for question in questions()]
    np.testing.assert_allclose(np.stack(together), np.stack(alone), atol=1e-4)


@pytest.mark.parametrize("normalize", ["tokens", "bytes"])
def test_scores_may_be_divided_by_length(normalize: str, body: GPT, tokenizer: Tokenizer) -> None:
    whole, divided = (Scorer(body, tokenizer, how)(questions()) for how in ("none", normalize))
    for question, a, b in zip(questions(), whole, divided, strict=True):
        spaced = [f" {answer}" if question.context else answer for answer in question.answers]
        lengths = [len(tokenizer.encode(text)) if normalize == "tokens" else len(text.encode()) for text in spaced]
        assert a / lengths == pytest.approx(b)


@given(st.integers(2, 90), st.data())
def test_windows_score_every_token_once(length: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, length - 1))
    context = data.draw(st.integers(2, 40))
    ids = list(range(length))
    scored = []
    for window in scoring_windows(ids, first, context, 0):
        assert 2 <= len(window.ids) <= context + 1
        assert window.first >= 1
        new = window.ids[window.first :]
        assert window.first >= min(context // 2, new[0]) or len(scored) == 0, "each has half a context before it"
        scored += new
    assert scored == ids[first:]


def file_with(folder: Path, found: list[dict[str, Any]], name: str = "a.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return str(folder / name)


def asked(run: str, *files: str, **changes: Any) -> dict[str, Any]:
    result = evaluate(Evaluate(run=run, files=list(files), dtype="fp32", threads=1, **changes))
    assert show(result)
    found = result.to_json()
    assert (found.pop("run"), found.pop("scored_on")) == (run, list(files))
    return found


def test_pairs_are_counted(run: str, body: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Two equal texts are a tie, and a tie is wrong."""
    rows = [{"good": a, "bad": b, "field": "xy"[n % 2]} for n, a in enumerate(TEXTS) for b in TEXTS]
    found = asked(run, file_with(tmp_path, rows))
    likely = {text: by_hand(body, tokenizer, "", text) for text in TEXTS}
    right = [likely[row["good"]] > likely[row["bad"]] for row in rows]
    assert found["n"] == 36
    assert found["accuracy"] == pytest.approx(np.mean(right)) == pytest.approx(15 / 36)
    assert found["chance"] == 0.5
    assert set(found["groups"]) == {"x", "y"}
    for name, group in found["groups"].items():
        of = [wins for wins, row in zip(right, rows, strict=True) if row["field"] == name]
        assert group == {"n": len(of), "accuracy": pytest.approx(np.mean(of))}
    low, high = found["intervals"]["accuracy"]
    assert low < found["accuracy"] < high
    renamed = [{"a": row["good"], "b": row["bad"]} for row in rows]
    again = asked(run, file_with(tmp_path, renamed, "b.jsonl"), as_="pairs", good="a", bad="b")
    assert again["accuracy"] == found["accuracy"]
    assert "groups" not in again


def test_choices_are_counted(run: str, body: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [
        {"context": "a dog", "question": "and", "choices": TEXTS[n : n + 2 + n % 2], "label": n % 2} for n in range(4)
    ]  # fmt: skip
    found = asked(run, file_with(tmp_path, rows))
    right = []
    for row in rows:
        scores = [by_hand(body, tokenizer, "a dog\nand", answer) for answer in row["choices"]]
        right.append(int(np.argmax(scores)) == row["label"])
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["chance"] == pytest.approx((2 / 2 + 2 / 3) / 4)
    assert (found["n"], found["majority"]) == (4, 0.5)
    table = tmp_path / "a.csv"
    table.write_text("story,c0,c1,y\n" + "\n".join(f"a dog,{r['choices'][0]},{r['choices'][1]},0" for r in rows) + "\n")
    again = asked(run, str(table), as_="choices", context="story", choices="c0,c1", label="y", normalize="bytes")
    assert again["normalize"] == "bytes"


def test_several_files_count_together(run: str, tmp_path: Path) -> None:
    rows = [{"good": a, "bad": b} for a in TEXTS for b in TEXTS]
    one, other = file_with(tmp_path, rows[:10]), file_with(tmp_path, rows[10:], "b.jsonl")
    whole = file_with(tmp_path, rows, "c.jsonl")
    assert asked(run, one, other) == asked(run, whole)


@pytest.mark.parametrize(
    ("row", "changes", "answer"),
    [
        (
            {"good": "a", "worse": "b"},
            {"as_": "pairs"},
            "the pair? Name them with good and bad; the columns are good, worse",
        ),
        ({"good": "a", "bad": " "}, {}, "a.jsonl:1: column bad is empty; give it a text"),
        ({"good": "a", "bad": "b"}, {"group": "kind"}, "no column kind; the columns are good, bad"),
        ({"context": "a", "choices": ["b"], "label": 0}, {}, "1 answer in choices; a choice needs two or more"),
        (
            {"context": "a", "choices": ["b", "c"], "label": 2},
            {},
            "a.jsonl:1: column label holds 2, but the 2 answers are numbered from 0",
        ),
        ({"context": "a", "choices": ["b", "c"]}, {}, "there is no column for the label"),
    ],
)
def test_wrong_rows(row: dict[str, Any], changes: dict[str, Any], answer: str, run: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        asked(run, file_with(tmp_path, [row]), **changes)
    assert answer in str(caught.value)
