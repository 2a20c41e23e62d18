"""The arrangement of a prediction's page, from an explanation written by hand."""

import re
from typing import Any

import pytest

from gpt1.pages.charts import strip
from gpt1.pages.explain_row import SEQUENCES_SHOWN, WORDS_SHOWN, label, row_page

NASTY = "</title></style><script>\"&'"


def token(text: str, role: str = "text") -> dict[str, Any]:
    return {"id": 1, "token": text, "role": role}


def word(text: int, start: int, stop: int, spelt: str, change: float) -> dict[str, Any]:
    return {"text": text, "start": start, "stop": stop, "word": spelt, "change": change}


SEQUENCE = {"tokens": [token("", "start"), token("no"), token("", "extract")], "h": [1.0, -2.0], "scores": [0.5, 0.25]}


def explanation(**more: Any) -> dict[str, Any]:
    return {
        "task": "classification", "texts": ["no cat."], "predicted_label": "x", "about": "x", "context": 16,
        "windows": 1,
        "outputs": [
            {"name": "y", "score": 0.25, "probability": 0.25, "words_probability": 0.875},
            {"name": "x", "score": 0.5, "probability": 0.75, "words_probability": 0.125},
        ],
        "is_cut": False, "sequences": [SEQUENCE], "together": 1, "words_weight": 0.0, "temperature": 1.0,
        "words": [word(0, 0, 2, "no", -1.0), word(0, 3, 6, "cat", 2.0), word(0, 6, 7, ".", 0.5)],
        "words_alone": {
            "predicted_label": "y", "about": "y", "score": 1.5, "constant": 0.5,
            "evidence": [{"feature": "cat", "kind": "words", "of": "text", "contribution": 1.25}],
        },
    } | more  # fmt: skip


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page[page.index("<main>") :]).split())


def test_words_are_shaded_by_their_change() -> None:
    page = row_page(explanation(), "run")
    marks = re.findall(r'<mark class="(\w+)" style="--s:(\d+%)" title="(.*?)">(.*?)</mark>', page)
    assert marks == [
        ("against", "50%", "-1.000", "no"),
        ("for", "100%", "+2.000", "cat"),
        ("for", "25%", "+0.500", "."),
    ]
    text = re.search(r'<blockquote class="texts">(.*?)</blockquote>', page)
    assert text and re.sub(r"<[^>]+>", "", text[1]) == "no cat."
    rows = re.findall(r'<div class="row (\w+)"><span class="chip">(.*?)</span><i style="--w:(.*?)"', page)
    assert rows[:3] == [("for", "cat", "100.0%"), ("against", "no", "50.0%"), ("for", ".", "25.0%")]


def test_the_most_probable_comes_first_beside_words_alone() -> None:
    said = words(row_page(explanation(), "run"))
    assert "Why run predicts x" in said
    assert "x W_y h = 0.500 the model 75.0% words alone 12.5% y W_y h = 0.250 the model 25.0% words alone 87.5%" in said
    assert "start no extract" in said
    assert "the constant 0.500 add up to 1.500" in said
    assert "y predicted by words alone" in said


def test_without_words_alone_nothing_is_said_of_them() -> None:
    found = explanation(outputs=[{"name": "x", "score": 0.5, "probability": 1.0}])
    del found["words_alone"]
    assert "words alone" not in words(row_page(found, "run"))


def test_what_words_add_is_said() -> None:
    said = words(row_page(explanation(words_weight=2.0, temperature=1.5), "run"))
    assert "and 2 times that of words alone are added and divided by the temperature 1.500" in said
    assert "both together 75.0%" in said


def test_a_number_has_no_probability() -> None:
    said = words(
        row_page(explanation(predicted_label=3.25, about="number", outputs=[{"name": "number", "score": 0.5}]), "r")
    )
    assert "Why r predicts 3.250" in said
    assert "speak for a higher number" in said and "probabil" not in said


def test_answers_are_named_by_their_texts() -> None:
    outputs = [{"name": str(n), "score": 0.5, "probability": 0.5} for n in range(2)]
    found = explanation(
        task="multiple-choice", texts=["who?", "a dog", "a hare"], predicted_label=1, about="1", outputs=outputs,
        sequences=[SEQUENCE, SEQUENCE], words=[word(2, 2, 6, "hare", 1.0)], words_alone=None,
    )  # fmt: skip
    said = words(row_page(found, "r"))
    assert "Why r predicts answer 1" in said
    assert "predicted: a hare" in said
    assert "context who? answer 0 a dog answer 1 a hare" in said


@pytest.mark.parametrize(
    ("task", "names"), [("similarity", ["one order", "the other order"]), ("classification", ["", ""])]
)
def test_sequences_and_windows_are_named(task: str, names: list[str]) -> None:
    texts = ["a", "b"] if task == "similarity" else ["a"]
    found = explanation(
        task=task, texts=texts, words=[], sequences=[SEQUENCE] * 2, windows=1 if task == "similarity" else 2
    )
    said = words(row_page(found, "r"))
    assert all(name in said for name in names)
    assert ("window 2 of 2" in said) == (task == "classification")


def test_of_much_the_first_is_shown() -> None:
    changes = [word(0, 0, 2, "no", float(n)) for n in range(WORDS_SHOWN + 5)]
    page = row_page(
        explanation(words=changes, sequences=[SEQUENCE] * (SEQUENCES_SHOWN + 7), windows=SEQUENCES_SHOWN + 7), "r"
    )
    assert "and 7 more" in page
    assert page.count('class="row for"') == WORDS_SHOWN + 1, "and one feature of words alone"


def test_everything_is_escaped() -> None:
    sequence = SEQUENCE | {"tokens": [token(NASTY)]}
    outputs = [{"name": NASTY, "score": 0.5, "probability": 0.5}]
    found = explanation(
        task=NASTY, texts=[NASTY], predicted_label=NASTY, about=NASTY, outputs=outputs, sequences=[sequence],
        words=[word(0, 0, 3, NASTY, 1.0)],
    )  # fmt: skip
    found["words_alone"] |= {"predicted_label": NASTY, "about": NASTY}
    found["words_alone"]["evidence"][0] |= {"feature": NASTY, "of": NASTY}
    assert "<script" not in row_page(found, NASTY)


def test_labels() -> None:
    assert [label(one) for one in ("a", 1, 0.5, ["a", "b"], [])] == ["a", "1", "0.500", "a, b", "none of the labels"]


def test_a_strip_is_drawn_to_scale() -> None:
    drawn = strip([1.0, -2.0, 0.0], "three numbers")
    assert 'd="M0 0h1v-0.500h-1zM1 0h1v1.000h-1z' in drawn
    assert 'aria-label="three numbers"' in drawn
    assert strip([], "none") and strip([0.0], "zero")
