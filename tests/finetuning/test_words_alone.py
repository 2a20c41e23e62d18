"""Words alone against scikit-learn's own pipelines, for every kind of label; and what they add to a network."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, hstack, vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union

from gpt1.config import Task
from gpt1.finetuning import words_alone
from gpt1.finetuning.predictor import mean_loss
from gpt1.finetuning.words_alone import WEIGHTS, choose_share, fit_words, usual_share
from gpt1.tasks.labels import ChoiceLabels, ClassLabels, LabelSets, LabelType, ScoreLabels, infer_label_type
from gpt1.tasks.rows import LabelledRows
from gpt1.tasks.words import WordsModel

WORDS = "cat dog sat ran mat hat loves hates rain sun figs bells songs old new grey".split()


def rows_of(texts: Sequence[tuple[str, ...]], labels: Sequence[Any]) -> LabelledRows:
    return LabelledRows(list(texts), list(labels), ["a:1"] * len(texts), [row[0] for row in texts])


def sentences(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(count)]


def grams() -> Any:
    """The features of one text, all kinds, as anybody would write them with scikit-learn."""
    return make_union(
        TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )


TEXTS, NEW = sentences(60), sentences(20, 1)
FEW = rows_of([(text,) for text in NEW], [0] * 20)


def fitted(task: Task, label_type: LabelType, train: LabelledRows, **more: Any) -> WordsModel:
    """Too few rows validate, so the settings are the usual ones."""
    return fit_words(task, label_type, train, train.select([0, 1]), label_type.selection_metrics[0], **more)


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_are_those_of_logistic_regression(classes: int) -> None:
    labels = [str(len(text) % classes) for text in TEXTS]
    expected = make_pipeline(grams(), LogisticRegression(C=10.0, max_iter=1000)).fit(TEXTS, labels)
    label_type = ClassLabels(sorted(set(labels)))
    found = fitted("classification", label_type, rows_of([(text,) for text in TEXTS], labels))
    p_NC = label_type.predictions(found.scores([(text,) for text in NEW]))
    assert p_NC == pytest.approx(expected.predict_proba(NEW), abs=1e-3)
    assert found.weights_CF.dtype == np.float32


def test_class_weights_count() -> None:
    labels = ["rare" if number % 9 == 0 else "usual" for number in range(len(TEXTS))]
    label_type = ClassLabels(["rare", "usual"])
    model = LogisticRegression(C=10.0, max_iter=1000, class_weight={"rare": 8.0, "usual": 1.0})
    expected = make_pipeline(grams(), model).fit(TEXTS, labels)
    rows, weights_C = rows_of([(text,) for text in TEXTS], labels), torch.tensor([8.0, 1.0])
    found = fitted("classification", label_type, rows, class_weights_C=weights_C)
    p_NC = label_type.predictions(found.scores([(text,) for text in NEW]))
    assert p_NC == pytest.approx(expected.predict_proba(NEW), abs=1e-3)


ROW_WEIGHTS = [0.0, 0.5, 3.0] * 20


def test_weights_of_rows_are_scikit_learns() -> None:
    labels = [str(len(text) % 3) for text in TEXTS]
    label_type = ClassLabels(["0", "1", "2"])
    model = make_pipeline(grams(), LogisticRegression(C=10.0, max_iter=1000))
    expected = model.fit(TEXTS, labels, logisticregression__sample_weight=ROW_WEIGHTS)
    rows = replace(rows_of([(text,) for text in TEXTS], labels), weights=ROW_WEIGHTS)
    p_NC = label_type.predictions(fitted("classification", label_type, rows).scores([(text,) for text in NEW]))
    assert p_NC == pytest.approx(expected.predict_proba(NEW), abs=1e-3)

    numbers = [float(len(text)) for text in TEXTS]
    ridge = make_pipeline(grams(), Ridge(alpha=1.0)).fit(TEXTS, numbers, ridge__sample_weight=ROW_WEIGHTS)
    scored = replace(rows_of([(text,) for text in TEXTS], numbers), weights=ROW_WEIGHTS)
    found = fitted("regression", ScoreLabels(0.0, 1.0), scored).scores([(text,) for text in NEW])
    assert found[:, 0] == pytest.approx(ridge.predict(NEW), abs=1e-3)

    sets = [frozenset(["long"] if len(text) > 25 else []) for text in TEXTS]
    each = make_pipeline(grams(), LogisticRegression(C=10.0, max_iter=1000))
    each.fit(TEXTS, ["long" in one for one in sets], logisticregression__sample_weight=ROW_WEIGHTS)
    marked = replace(rows_of([(text,) for text in TEXTS], sets), weights=ROW_WEIGHTS)
    by_label = fitted("multi-label", LabelSets(["long"], [0.5]), marked).scores([(text,) for text in NEW])
    assert LabelSets(["long"], [0.5]).predictions(by_label) == pytest.approx(each.predict_proba(NEW)[:, 1:], abs=1e-3)


def test_a_choice_of_weight_two_is_two_choices() -> None:
    answers, right_N = [2, 3, 2, 4], np.array([0, 2, 1, 3])
    x_MF = csr_matrix(np.random.default_rng(0).normal(size=(11, 5)))
    once = words_alone._choices(x_MF, answers, right_N, 1.0, np.array([2.0, 0.0, 1.0, 1.0]))
    twice_MF = vstack([x_MF[:2], x_MF[:2], x_MF[5:]]).tocsr()
    twice = words_alone._choices(twice_MF, [2, 2, 2, 4], np.array([0, 0, 1, 3]), 1.0, None)
    assert once[0] == pytest.approx(twice[0], abs=1e-4)


def test_label_sets_are_those_of_one_against_the_rest() -> None:
    names = ["cat", "long", "always", "never"]
    sets = [frozenset([*(["cat"] if "cat" in text else []), *(["long"] if len(text) > 25 else []), "always"])
            for text in TEXTS]  # fmt: skip
    y_NC = np.array([[name in each for name in names[:2]] for each in sets]).astype(int)
    expected = make_pipeline(grams(), OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=1000))).fit(TEXTS, y_NC)
    label_type = LabelSets(names, [0.5] * 4)
    found = fitted("multi-label", label_type, rows_of([(text,) for text in TEXTS], sets))
    p_NC = label_type.predictions(found.scores([(text,) for text in NEW]))
    assert p_NC[:, :2] == pytest.approx(expected.predict_proba(NEW), abs=1e-3)
    assert (p_NC[:, 2] > 0.99).all()
    assert (p_NC[:, 3] < 0.01).all()


def test_scores_are_those_of_ridge_regression() -> None:
    labels = [float(len(text)) for text in TEXTS]
    label_type = infer_label_type("score", labels, "here")
    assert isinstance(label_type, ScoreLabels)
    targets = (np.array(labels) - label_type.mean) / label_type.scale
    expected = make_pipeline(grams(), Ridge(alpha=1.0)).fit(TEXTS, targets).predict(NEW)
    found = fitted("regression", label_type, rows_of([(text,) for text in TEXTS], labels))
    assert found.scores([(text,) for text in NEW])[:, 0] == pytest.approx(expected, abs=1e-3)


def test_pairs_know_what_they_share() -> None:
    """Every word occurs in both classes as often; what decides is whether the second text repeats the first."""
    pairs = [(one, one if i % 2 else other) for i, (one, other) in enumerate(pairwise(TEXTS))]
    labels = ["same" if one == other else "other" for one, other in pairs]
    for task in ("entailment", "similarity"):
        found = fitted(task, ClassLabels(["other", "same"]), rows_of(pairs, labels))  # type: ignore[arg-type]
        unseen = [(NEW[0], NEW[0]), (NEW[0], NEW[1])]
        assert found.scores(unseen).argmax(-1).tolist() == [1, 0]


def test_choices_are_those_of_a_regression_over_differences() -> None:
    draw = random.Random(2)
    rows, labels = [], []
    for text in TEXTS:
        label, count = draw.randrange(2), draw.choice([2, 3])
        answers = [" ".join(draw.choices(WORDS, k=4)) for _ in range(count)]
        answers[label] = f"{answers[label]} {text.split()[0]}"
        rows.append((text, *answers))
        labels.append(label)
    texts = [text for row in rows for text in row]
    sides = [union.fit(texts).transform for _, union in grams().transformer_list]

    def read(context: str, answer: str) -> csr_matrix:
        parts = []
        for transform in sides:
            one, other = transform([context]), transform([answer])
            parts += [other, one.multiply(other), csr_matrix([[one.multiply(other).sum()]])]
        return hstack(parts).tocsr()

    differences = vstack(
        [read(row[0], row[1 + label]) - read(row[0], answer) for row, label in zip(rows, labels, strict=True)
         for i, answer in enumerate(row[1:]) if i != label]
    ).tocsr()  # fmt: skip
    y_D = [1] * differences.shape[0] + [0] * differences.shape[0]
    model = LogisticRegression(C=10.0, max_iter=1000, fit_intercept=False)
    model.fit(vstack([differences, -differences]).tocsr(), y_D)
    found = fitted("multiple-choice", ChoiceLabels(), rows_of(rows, labels)).scores(rows[:9])
    for row, scores_C in zip(rows, found, strict=False):
        expected = [(read(row[0], answer) @ model.coef_[0]).item() for answer in row[1:]]
        assert scores_C[: len(expected)] == pytest.approx(expected, abs=2e-3)
    assert (found.argmax(-1) == labels[:9]).all()


def test_a_class_that_only_validates_and_a_single_row() -> None:
    label_type = ClassLabels(["a", "b", "c"])
    both = fitted("classification", label_type, rows_of([("x",), ("y",), ("z",)], ["a", "c", "a"]))
    assert label_type.predictions(both.scores([("x",), ("y",)]))[:, 1].max() < 1e-3
    one = fitted("classification", label_type, rows_of([("x",), ("y",)], ["b", "b"]))
    assert label_type.predictions(one.scores([("q",)])).argmax() == 1


def test_validation_rows_choose_and_calibrate() -> None:
    """A class that only a part of a word tells apart: words alone cannot, their characters can."""
    draw = random.Random(4)
    nonsense = ["".join(draw.choices("bdfgklmnprst", k=5)) for _ in range(300)]
    texts = [(f"{word}{'ish' if i % 2 else 'oid'}",) for i, word in enumerate(nonsense)]
    labels = ["ish" if i % 2 else "oid" for i in range(300)]
    train, valid = rows_of(texts[:200], labels[:200]), rows_of(texts[200:], labels[200:])
    label_type = ClassLabels(["ish", "oid"])
    found = fit_words("classification", label_type, train, valid, "accuracy")
    assert [one.kind for one in found.grams] == ["words", "characters"]
    scores_NC = found.scores(valid.texts)
    assert (scores_NC.argmax(-1) == [label_type.target(label) for label in valid.labels]).all()
    _, temperature = label_type.calibrated(scores_NC, valid.labels)
    assert temperature == pytest.approx(1.0, rel=0.02) or mean_loss(label_type, scores_NC, valid.labels) < 0.05
    again = fit_words("classification", label_type, train, valid, "accuracy")
    assert np.array_equal(again.weights_CF, found.weights_CF), "the same rows give the same numbers"


def test_what_is_too_long_is_thinned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of([(text,) for text in TEXTS], [str(len(text) % 2) for text in TEXTS])
    monkeypatch.setattr(words_alone, "MOST_TEXT", sum(map(len, TEXTS)) // 2)
    monkeypatch.setattr(words_alone, "MOST_TEXT_BY_CHARACTER", 1)
    found = fitted("classification", ClassLabels(["0", "1"]), rows)
    assert [one.kind for one in found.grams] == ["words"]
    assert "words alone are fitted on 20 of 60 training rows, because the texts are long" in capsys.readouterr().err


# The sum with a network


def of_rows(count: int) -> np.ndarray:
    return np.arange(count)


def noisy(labels: list[str], noise: float, seed: int) -> np.ndarray:
    right_N = np.array([int(label) for label in labels])
    return np.random.default_rng(seed).normal(0, noise, (len(labels), 2)) + 2.0 * np.eye(2)[right_N]


def test_what_helps_is_added_and_what_does_not_is_left_out() -> None:
    labels = [str(i % 2) for i in range(400)]
    label_type = ClassLabels(["0", "1"])

    def accuracy(scores_NC: np.ndarray) -> float:
        return label_type.metrics(labels, label_type.predictions(scores_NC)).accuracy

    network_NC, words_NC = noisy(labels, 2.0, 1), noisy(labels, 2.0, 2)
    share, _ = choose_share(label_type, network_NC, words_NC, of_rows(400), labels)
    both_NC = share.add(network_NC, words_NC)
    assert share.weight > 0
    assert accuracy(both_NC) > max(accuracy(network_NC), accuracy(words_NC)) + 0.03
    _, temperature = label_type.calibrated(both_NC, labels)
    assert temperature == pytest.approx(1.0, rel=1e-3), "the sum is calibrated"
    against_NC = 4 * noisy([str(1 - int(label)) for label in labels], 1.0, 3)
    share, _ = choose_share(label_type, network_NC, against_NC, of_rows(400), labels)
    assert (share.weight, share.temperature) == (0.0, 1.0)
    assert share.add(network_NC, against_NC) is network_NC


def test_a_network_is_used_only_if_rows_show_that_it_helps() -> None:
    """With few rows the same gain could be chance."""
    label_type, weights = ClassLabels(["0", "1"]), {}
    for count in (20, 2000):
        labels = [str(i % 2) for i in range(count)]
        scores = noisy(labels, 4.0, 1), noisy(labels, 2.0, 2)
        share, _ = choose_share(label_type, *scores, of_rows(count), labels)
        _, temperature = label_type.calibrated(share.add(*scores), labels)
        assert temperature == pytest.approx(1.0, rel=1e-3), "the sum is calibrated, whatever the weight"
        weights[count] = share.weight
    assert weights[20] == max(WEIGHTS)
    assert 0 < weights[2000] <= 8


def test_numbers_fit_best() -> None:
    label_type = ScoreLabels(0.0, 1.0)
    labels = np.random.default_rng(1).normal(size=200).tolist()
    near = [np.array(labels)[:, None] + np.random.default_rng(seed).normal(0, 0.5, (200, 1)) for seed in (2, 3)]
    share, _ = choose_share(label_type, *near, of_rows(200), labels)
    sum_N, targets_N = near[0][:, 0] + share.weight * near[1][:, 0], np.array(labels)
    slope = np.linalg.lstsq(sum_N[:, None], targets_N, rcond=None)[0].item()
    assert share.temperature == pytest.approx(1 / slope)
    assert np.std(share.add(*near)[:, 0] - targets_N) < 0.4
    assert usual_share(label_type).add(np.array([[1.0]]), np.array([[3.0]])) == [[2.0]], "estimates are averaged"
    assert usual_share(ClassLabels(["0", "1"])).add(np.array([[1.0]]), np.array([[3.0]])) == [[4.0]], "evidence adds up"


def test_label_sets_get_thresholds_of_the_sum() -> None:
    labels = [frozenset("a" if i % 4 == 0 else "") for i in range(200)]
    label_type = LabelSets(["a"], [0.5])
    true_NC = np.array([[i % 4 == 0] for i in range(200)])
    near = [np.where(true_NC, 0.5, -1.5) + np.random.default_rng(seed).normal(0, 1.0, (200, 1)) for seed in (1, 2)]
    share, judged = choose_share(label_type, *near, of_rows(200), labels)
    expected, _ = label_type.calibrated(share.add(*near), labels)
    assert share.weight > 0
    assert judged.thresholds == pytest.approx(expected.thresholds, abs=1e-3)  # type: ignore[union-attr]
