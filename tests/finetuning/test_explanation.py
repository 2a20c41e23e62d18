"""Why a prediction is what it is, by slower and simpler definitions: one row at a time, sums by hand, the saved W_y."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from gpt1.config import Columns, Long, Model, Task
from gpt1.finetuning.explanation import MOST_TRIALS, NUMBER, STRONGEST, RowExplanation, explain_row, left_out, numbered
from gpt1.finetuning.predictor import Predictor, RowEncoder
from gpt1.finetuning.words_alone import fit_words
from gpt1.model.gpt import GPT
from gpt1.tasks.labels import ChoiceLabels, ClassLabels, LabelSets, LabelType, ScoreLabels
from gpt1.tasks.rows import LabelledRows, Texts
from gpt1.tasks.words import WordsModel, WordsShare, feature_name, features, items, width
from gpt1.tokenizer.train_bpe import train

TEXTS = [
    "one grey cat adores the sea",
    "my old dog loathes songs, songs",
    "a green bird enjoys rain.",
    "the hare fears figs",
]
TASKS: dict[Task, tuple[LabelType, Texts, list[Any]]] = {
    "classification": (ClassLabels(["a", "b", "c"]), (TEXTS[0],), ["a", "b", "c", "a"]),
    "multi-label": (LabelSets(["x", "y"], [0.5, 0.5]), (TEXTS[1],), [{"x"}, {"y"}, {"x", "y"}, set()]),
    "regression": (ScoreLabels(3.0, 2.0), (TEXTS[2],), [1.0, 2.0, 5.0, 4.0]),
    "entailment": (ClassLabels(["no", "yes"]), (TEXTS[0], TEXTS[3]), ["no", "yes", "no", "yes"]),
    "similarity": (ClassLabels(["no", "yes"]), (TEXTS[1], TEXTS[2]), ["no", "yes", "no", "yes"]),
    "multiple-choice": (ChoiceLabels(), (TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[3]), [0, 1, 2, 0]),
}  # fmt: skip
ALL = pytest.mark.parametrize("task", TASKS)


@cache
def words_of(task: Task) -> WordsModel:
    label_type, row, labels = TASKS[task]
    rows = [tuple(TEXTS[(n + k) % 4] for k in range(len(row))) for n in range(4)]
    labels = [frozenset(one) if isinstance(one, set) else one for one in labels]
    found = LabelledRows(rows, labels, ["row"] * 4, [row[0] for row in rows])
    return fit_words(task, label_type, found, found.select([]), "accuracy")


def predictor(task: Task, with_words: bool = True, share: float = 0.0, long: Long = "head") -> Predictor:
    """A random network, loud enough that every word counts."""
    tokenizer = train([" ".join(TEXTS) * 9], "bytes", 300).with_task_tokens()
    model = Model(context=48, width=32, depth=2, heads=4, inner=64, vocabulary=tokenizer.vocabulary)
    generator = torch.Generator().manual_seed(5)
    body = GPT(model).init_weights(generator)
    with torch.no_grad():
        for weight in body.parameters():
            weight.mul_(4 if weight.ndim == 2 else 1)
    label_type = TASKS[task][0]
    head_CD = torch.randn(label_type.outputs, 32, generator=generator) / 4
    encoder = RowEncoder(task, tokenizer, model.context, long)
    words = words_of(task) if with_words else None
    columns, on = Columns(["text"], ["label"]), (torch.device("cpu"), torch.float32)
    return Predictor.build(
        body, head_CD, encoder, label_type, columns, *on, words, WordsShare(share, 1.5 if share else 1)
    )


def level(prediction_C: np.ndarray, task: Task, about: str, found: RowExplanation) -> float:
    """The number, or the log-odds of a label."""
    if task == "regression":
        return float(prediction_C[0])
    p = float(prediction_C[[one.name for one in found.outputs].index(about)])
    return math.log(p / (1 - p))


@ALL
@pytest.mark.parametrize("share", [0.0, 2.0])
def test_leaving_a_word_out_changes_the_prediction_by_this(task: Task, share: float) -> None:
    model, row = predictor(task, share=share), TASKS[task][1]
    found = explain_row(model, row)
    whole = level(model.predict([row], 1)[0][0], task, found.about, found)
    assert found.words
    for one in found.words:
        text = row[one.text]
        assert text[one.start : one.stop] == one.word
        rest = (text[: one.start].rstrip() + text[one.stop :]).lstrip()
        other = (*row[: one.text], rest, *row[one.text + 1 :])
        without = level(model.predict([other], 1)[0][0], task, found.about, found)
        assert one.change == pytest.approx(whole - without, abs=2e-4)
    assert max(abs(one.change) for one in found.words) > 0.01
    spoken = [[one.word for one in found.words if one.text == n] for n in range(len(row))]
    assert ["".join(words) for words in spoken] == [text.replace(" ", "") for text in row]


@ALL
def test_the_prediction_is_that_of_predict(task: Task) -> None:
    model, row = predictor(task, share=1.0), TASKS[task][1]
    found = explain_row(model, row)
    prediction_C = model.predict([row], 1)[0][0]
    assert dict(model.label_type.to_columns(prediction_C))["predicted_label"] == pytest.approx(found.predicted_label)
    by_words_C = model.predict_by_words([row])[0]
    if task == "regression":
        assert [(one.name, one.probability) for one in found.outputs] == [(NUMBER, None)]
    else:
        assert [one.probability for one in found.outputs] == pytest.approx(prediction_C.tolist())
        assert [one.words_probability for one in found.outputs] == pytest.approx(by_words_C.tolist())
        assert found.about == found.outputs[int(prediction_C.argmax())].name


@ALL
def test_the_scores_are_w_y_times_h(task: Task) -> None:
    """And h is the body's own hidden state at the last token of each sequence."""
    model, row = predictor(task), TASKS[task][1]
    found = explain_row(model, row)
    head_CD = model.model.head.weight.detach().double().numpy()
    each_KC = []
    for sequence in found.sequences:
        ids = torch.tensor([[token.id for token in sequence.tokens]])
        h_D = model.model.body(ids)[0, -1].detach().double().numpy()
        assert sequence.h == pytest.approx(h_D.tolist(), abs=1e-4)
        assert sequence.scores == pytest.approx((head_CD @ h_D).tolist(), abs=1e-4)
        each_KC.append(sequence.scores)
    sums = [score for (score,) in each_KC] if task == "multiple-choice" else np.sum(each_KC, 0).tolist()
    assert [one.score for one in found.outputs] == pytest.approx(sums, abs=1e-5)
    assert [one.score for one in found.outputs] == pytest.approx(
        model.network_scores([row], 1)[1][0].tolist(), abs=1e-4
    )


def test_special_tokens_are_marked() -> None:
    row = TASKS["similarity"][1]
    found = explain_row(predictor("similarity"), row)
    shown = [[one.token if one.role == "text" else one.role for one in sequence.tokens] for sequence in found.sequences]
    for tokens, texts in zip(shown, (row, row[::-1]), strict=True):
        assert "".join(tokens) == f"start{texts[0]}delimiter{texts[1]}extract"


@ALL
def test_what_words_alone_say_is_a_sum(task: Task) -> None:
    model, row = predictor(task), TASKS[task][1]
    words = model.words
    assert words is not None
    found = explain_row(model, row).words_alone
    assert found is not None and 0 < len(found.evidence) <= STRONGEST
    scores_C = words.scores([row])[0]
    best = int(scores_C.argmax())
    assert found.score == pytest.approx(3 + 2 * scores_C[0] if task == "regression" else scores_C[best])
    if task == "regression":
        assert found.predicted_label == pytest.approx(found.score)
    x_MF = features(task, words.grams, items(task, [row]))
    x_F = x_MF[best if task == "multiple-choice" else 0].toarray()[0]
    weights_F = words.weights_CF[0 if task == "multiple-choice" else best].astype(float)
    parts = {feature_name(task, words.grams, f): x_F[f] * weights_F[f] for f in np.flatnonzero(x_F)}
    scale = 2 if task == "regression" else 1
    assert found.constant + scale * sum(parts.values()) == pytest.approx(found.score)
    for one in found.evidence:
        assert one.contribution == pytest.approx(scale * parts[one.kind, one.of, one.feature])
    strongest = sorted((abs(scale * part) for part in parts.values()), reverse=True)[: len(found.evidence)]
    assert [abs(one.contribution) for one in found.evidence] == pytest.approx(strongest)


@ALL
def test_every_feature_has_its_own_name(task: Task) -> None:
    grams = words_of(task).grams
    names = [feature_name(task, grams, number) for number in range(width(task, grams))]
    assert len(set(names)) == len(names) == words_of(task).weights_CF.shape[1]
    with pytest.raises(IndexError):
        feature_name(task, grams, len(names))


def test_the_log_odds_of_a_certain_prediction_are_finite() -> None:
    model = predictor("classification", with_words=False)
    with torch.no_grad():
        model.model.head.weight.mul_(1e3)
    found = explain_row(model, TASKS["classification"][1])
    assert max(one.probability or 0 for one in found.outputs) == 1.0
    assert all(math.isfinite(one.change) for one in found.words)
    assert found.words_alone is None and found.outputs[0].words_probability is None


@pytest.mark.parametrize("task", ["classification", "multi-label", "regression"])
def test_a_row_in_windows(task: Task) -> None:
    model, row = predictor(task, long="windows"), (" ".join(TEXTS[:3]) + " " + TEXTS[3] * 3,)
    found = explain_row(model, row)
    assert found.windows == len(found.sequences) > 1
    assert not found.is_cut
    whole = level(model.predict([row], 1)[0][0], task, found.about, found)
    one = found.words[2]
    other = (row[0][: one.start].rstrip() + row[0][one.stop :],)
    assert one.change == pytest.approx(
        whole - level(model.predict([other], 1)[0][0], task, found.about, found), abs=2e-4
    )
    assert explain_row(replace(model, encoder=replace(model.encoder, long="head")), row).is_cut


def test_words_of_a_long_row_are_left_out_together() -> None:
    row = (" ".join(f"w{n}" for n in range(2 * MOST_TRIALS + 1)), "one two")
    together, trials = left_out(row)
    assert (together, len(trials)) == (3, 172)
    assert trials[0][3] == (row[0].removeprefix("w0 w1 w2 "), "one two")
    assert trials[-1] == (1, 0, 7, (row[0], ""))
    assert "".join(row[text][start:stop] for text, start, stop, _ in trials).replace(" ", "") == "".join(row).replace(
        " ", ""
    )


@pytest.mark.parametrize(
    ("text", "rests"),
    [
        ("  a b", ["b", "  a"]),
        ("it's.", ["'s.", "its.", "it'.", "it's"]),
        ("x", [""]),
        (" ", []),
        ("春 🤗", ["🤗", "春"]),
    ],
)
def test_a_word_goes_with_the_space_before_it(text: str, rests: list[str]) -> None:
    assert [rest for *_, (rest,) in left_out((text,))[1]] == rests


def test_repeated_words_are_numbered() -> None:
    assert numbered(["a", "b", "a"]) == ["a (1)", "b", "a (2)"]
