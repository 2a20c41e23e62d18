"""The estimators keep scikit-learn's contract, learn, and agree with the command line on what they learnt."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

import gpt1
from gpt1.config import Model, Predict
from gpt1.jobs import bundle
from gpt1.jobs.predict import predict
from gpt1.nn.model import GPT
from gpt1.text.train import train as train_tokenizer

SUBJECTS = ("the hare", "my old dog", "a green bird", "one grey cat", "the small fox")
GOOD, BAD = ("loves", "adores", "enjoys"), ("hates", "fears", "loathes")
THINGS = ("figs", "rain", "songs", "bells", "the sea")
TEXTS = [f"{s} {v} {t}" for s in SUBJECTS for v in GOOD + BAD for t in THINGS]
random.Random(0).shuffle(TEXTS)
KIND = [any(verb in text for verb in GOOD) for text in TEXTS]
MOODS = ["glad" if kind else "grim" for kind in KIND]
QUICK: dict[str, Any] = {"epochs": 6, "lr": 1e-2, "batch": 16, "dropout": 0.0, "dtype": "fp32", "threads": 1}
ONCE = QUICK | {"epochs": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = train_tokenizer([*TEXTS, "who is kind?", *map(str, range(100))], "bytes", 330)
    model = Model(context=40, width=32, depth=1, heads=2, inner=128, vocabulary=tokenizer.vocabulary)
    folder = tmp_path_factory.mktemp("base")
    body = GPT(model).init_weights(torch.Generator().manual_seed(7))
    bundle.save(folder, body, tokenizer, {"kind": "pretrained", "preset": "tiny", "metrics": {}})
    return str(folder)


@pytest.fixture(scope="module")
def classifier(base: str) -> gpt1.Classifier:
    return gpt1.Classifier(base, **QUICK).fit(TEXTS, MOODS)


# Each learns


def pairs(draw: random.Random) -> tuple[list[tuple[str, str]], list[tuple[bool, bool]]]:
    numbers = [(draw.randrange(len(TEXTS)), draw.randrange(len(TEXTS))) for _ in range(200)]
    return [(TEXTS[i], TEXTS[j]) for i, j in numbers], [(KIND[i], KIND[j]) for i, j in numbers]


def choices(draw: random.Random) -> tuple[list[tuple[str, list[str]]], list[int]]:
    good, bad = [t for t in TEXTS if KIND[TEXTS.index(t)]], [t for t in TEXTS if not KIND[TEXTS.index(t)]]
    found = []
    for _ in range(160):
        count = draw.choice([2, 3])
        right = draw.randrange(count)
        found.append((["who is kind?", [draw.choice(good if i == right else bad) for i in range(count)]], right))
    return [(context, answers) for (context, answers), _ in found], [right for _, right in found]


def case(name: str) -> tuple[Any, Any]:
    draw = random.Random(1)
    if name == "MultipleChoice":
        return choices(draw)
    if name in ("Entailment", "Similarity"):
        X, kinds = pairs(draw)
        return X, [second if name == "Entailment" else first + second + 0.5 for first, second in kinds]
    y: dict[str, list[Any]] = {
        "Classifier": MOODS,
        "Regressor": [7.0 if kind else 2.0 for kind in KIND],
        "MultiLabelClassifier": [
            {name for name, applies in (("kind", kind), ("hare", "hare" in text)) if applies}
            for text, kind in zip(TEXTS, KIND, strict=True)
        ],
    }
    return TEXTS, y[name]


NAMES = ["Classifier", "Entailment", "Similarity", "Regressor", "MultipleChoice", "MultiLabelClassifier"]
LEAST = {"Similarity": 0.5, "Regressor": 0.6, "MultipleChoice": 0.6, "MultiLabelClassifier": 0.4}


@pytest.mark.parametrize("name", NAMES)
def test_each_learns_and_comes_back_from_a_run_folder(name: str, base: str, tmp_path: Path) -> None:
    X, y = case(name)
    made = getattr(gpt1, name)(base, **(QUICK | {"epochs": 20, "lr": 3e-3, "batch": 8}))
    assert made.fit(X, y) is made
    assert made.score(X, y) > LEAST.get(name, 0.8)
    made.save(tmp_path / "run")
    again = getattr(gpt1, name).load(tmp_path / "run", dtype="fp32", threads=1)
    np.testing.assert_array_equal(again.predict(X), made.predict(X))
    assert bundle.load(tmp_path / "run").info["kind"] == "finetuned"
    copied = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(copied.predict(X[:9]), made.predict(X[:9]))


def test_the_command_line_says_the_same(classifier: gpt1.Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "run")
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    predict(Predict(run=str(tmp_path / "run"), input=str(source), out=str(out), text="text", dtype="fp32", threads=1))
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["predicted_label"] for row in rows] == classifier.predict(TEXTS).tolist()
    theirs = np.array([list(row["probabilities"].values()) for row in rows])
    np.testing.assert_allclose(theirs, classifier.predict_proba(TEXTS), atol=1e-6)


def test_the_type_of_a_class_is_kept(base: str) -> None:
    for y in (KIND, [int(kind) for kind in KIND], MOODS):
        made = gpt1.Classifier(base, **ONCE).fit(TEXTS, y)
        assert made.classes_.tolist() == sorted(set(y))
        assert set(made.predict(TEXTS).tolist()) <= set(y)


def test_rows_may_come_in_any_container(classifier: gpt1.Classifier) -> None:
    expected = classifier.predict_proba(TEXTS[:20])
    for X in (
        tuple(TEXTS[:20]),
        np.array(TEXTS[:20]),
        np.array(TEXTS[:20], object)[:, None],
        polars.Series(TEXTS[:20]),
    ):
        np.testing.assert_array_equal(classifier.predict_proba(X), expected)


def test_model_selection(base: str) -> None:
    made = gpt1.Classifier(base, **ONCE)
    assert clone(made).get_params() == made.get_params()
    assert is_classifier(made)
    assert is_regressor(gpt1.Regressor(base))
    assert len(cross_val_score(made, TEXTS, MOODS, cv=2, error_score="raise")) == 2
    found = GridSearchCV(made, {"lr": [1e-3, 1e-2]}, cv=2, error_score="raise").fit(TEXTS, MOODS)
    assert found.best_params_["lr"] in (1e-3, 1e-2)
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    piped = Pipeline([("lower", lower), ("classify", made)]).fit(TEXTS, MOODS)
    assert len(piped.predict(TEXTS[:3])) == 3


def test_the_same_seed_predicts_the_same(base: str) -> None:
    one, same, other = (gpt1.Classifier(base, **ONCE, random_state=seed).fit(TEXTS, MOODS) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.predict_proba(TEXTS), same.predict_proba(TEXTS))
    assert (one.predict_proba(TEXTS) != other.predict_proba(TEXTS)).any()


def test_nothing_is_told_before_fit(base: str) -> None:
    made = gpt1.Classifier(base)
    with pytest.raises(NotFittedError):
        made.predict(TEXTS)
    with pytest.raises(NotFittedError):
        check_is_fitted(made)


@pytest.mark.parametrize(
    ("X", "y"),
    [
        ([], []), (TEXTS[:2], ["a"]), (["a", None], ["x", "y"]), (["a", ""], ["x", "y"]),
        (["a", float("nan")], ["x", "y"]),
        ([1, 2], ["x", "y"]), (TEXTS[:4], ["x"] * 4), (TEXTS[:2], [None, "x"]), ("one text", ["x"]),
    ],
)  # fmt: skip
def test_wrong_rows(X: Any, y: Any, base: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        gpt1.Classifier(base, **ONCE).fit(X, y)
    assert "\n" not in str(caught.value)
