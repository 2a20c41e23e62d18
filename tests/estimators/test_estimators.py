"""The estimators keep scikit-learn's contract, learn, and agree with the command line on what they learnt."""

import copy
import doctest
import inspect
import itertools
import json
import os
import pickle
import random
import re
import shutil
import signal
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer
from sklearn.utils import Tags, get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

import gpt1
from conftest import save_random_run
from gpt1.commands.evaluate import evaluate
from gpt1.commands.finetune import finetune
from gpt1.commands.predict import predict
from gpt1.config import Columns, Evaluate, Finetune, Model, Predict
from gpt1.console import stderr
from gpt1.errors import DataWarning
from gpt1.estimators.base import TextEstimator
from gpt1.estimators.fitted import isolated
from gpt1.estimators.inputs import choice_values, class_name, class_values, is_scale, pairs_of, texts_of
from gpt1.finetuning.words_alone import USUAL_WEIGHT

SUBJECTS = ("the hare", "my old dog", "a green bird", "one grey cat", "the small fox")
GOOD, BAD = ("loves", "adores", "enjoys"), ("hates", "fears", "loathes")
THINGS = ("figs", "rain", "songs", "bells", "the sea")
TEXTS = [f"{s} {v} {t}" for s in SUBJECTS for v in GOOD + BAD for t in THINGS]
random.Random(0).shuffle(TEXTS)
KIND = [any(verb in text for verb in GOOD) for text in TEXTS]
MOODS = ["glad" if kind else "grim" for kind in KIND]
QUICK: dict[str, Any] = {"epochs": 40, "lr": 5e-3, "batch": 16, "dropout": 0.0, "dtype": "fp32", "threads": 1}
ONCE = QUICK | {"epochs": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    texts = [*TEXTS, "who is kind?", *map(str, range(100))]
    model = Model(context=40, width=32, depth=1, heads=2, inner=128)
    return str(save_random_run(tmp_path_factory.mktemp("base"), texts, 330, model))


@pytest.fixture(scope="module")
def classifier(base: str) -> gpt1.Classifier:
    return gpt1.Classifier(base, **QUICK).fit(TEXTS, MOODS)


# Each of the six


def pairs(draw: random.Random) -> list[tuple[str, str]]:
    return [(draw.choice(TEXTS), draw.choice(TEXTS)) for _ in range(200)]


def choices(draw: random.Random) -> tuple[list[tuple[str, list[str]]], list[int]]:
    by_kind = [[text for text, kind in zip(TEXTS, KIND, strict=True) if kind == wanted] for wanted in (False, True)]
    right = [draw.randrange(draw.choice([2, 3])) for _ in range(200)]
    counts = [max(2, number + 1) for number in right]
    return [
        ("who is kind?", [draw.choice(by_kind[i == number]) for i in range(count)])
        for number, count in zip(right, counts, strict=True)
    ], right


def toy(name: str) -> tuple[list[Any], list[Any]]:
    draw, kind_of = random.Random(1), dict(zip(TEXTS, KIND, strict=True))
    if name == "MultipleChoice":
        return choices(draw)
    if name == "Entailment":
        return (X := pairs(draw)), [kind_of[second] for _, second in X]
    if name == "Similarity":
        return (X := pairs(draw)), [kind_of[one] + kind_of[other] + 0.5 for one, other in X]
    if name == "Regressor":
        return TEXTS, [7.0 if kind else 2.0 for kind in KIND]
    if name == "MultiLabelClassifier":
        return TEXTS, [{"kind"} if kind else {"unkind", "bad"} for kind in KIND]
    return TEXTS, MOODS


LEAST = {
    "Classifier": 0.9, "Entailment": 0.9, "Similarity": 0.6, "Regressor": 0.6, "MultipleChoice": 0.7,
    "MultiLabelClassifier": 0.9,
}  # fmt: skip
"""Accuracy or R^2 on rows that were not trained on; chance is at most a half, or 0."""


@pytest.fixture(scope="module", params=LEAST)
def learnt(request: pytest.FixtureRequest, base: str) -> tuple[TextEstimator, list[Any], list[Any]]:
    """Fitted on all rows but the last 40, which are given."""
    X, y = toy(request.param)
    found = getattr(gpt1, request.param)(base, **QUICK).fit(X[:-40], y[:-40])
    return found, X[-40:], y[-40:]


def test_it_learns(learnt: tuple[TextEstimator, list[Any], list[Any]]) -> None:
    model, X, y = learnt
    assert model.score(X, y) > LEAST[type(model).__name__]
    assert model.metrics_["n"] >= 11
    assert model.n_features_in_ == (1 if isinstance(X[0], str) else 2)


def test_score_is_sklearns(learnt: tuple[TextEstimator, list[Any], list[Any]]) -> None:
    model, X, y = learnt
    predicted = model.predict(X)
    if isinstance(model, gpt1.MultiLabelClassifier):
        y = MultiLabelBinarizer(classes=model.classes_).fit_transform(y)
    measure = r2_score if isinstance(model, gpt1.Regressor | gpt1.Similarity) else accuracy_score
    assert model.score(X, y) == pytest.approx(measure(y, predicted))
    weight = np.arange(len(y)) + 1.0
    assert model.score(X, y, sample_weight=weight) == pytest.approx(measure(y, predicted, sample_weight=weight))


def test_probabilities_go_with_predictions(learnt: tuple[TextEstimator, list[Any], list[Any]]) -> None:
    model, X, _ = learnt
    if not hasattr(model, "predict_proba"):
        assert isinstance(model, gpt1.Regressor | gpt1.Similarity)
        assert model.predict(X).dtype == np.float64
        return
    p_NC, predicted = model.predict_proba(X), model.predict(X)
    if isinstance(model, gpt1.MultiLabelClassifier):
        assert set(np.unique(predicted)) == {0, 1}
        assert p_NC.shape == predicted.shape == (40, 3)
        return
    assert p_NC.sum(-1) == pytest.approx(1)
    if isinstance(model, gpt1.MultipleChoice):
        assert np.array_equal(predicted, p_NC.argmax(-1))
        assert all((p_C[len(answers) :] == 0).all() for p_C, (_, answers) in zip(p_NC, X, strict=True))
    else:
        assert np.array_equal(predicted, model.classes_[p_NC.argmax(-1)])


@pytest.mark.parametrize("travel", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "copy"])
def test_it_travels(learnt: tuple[TextEstimator, list[Any], list[Any]], travel: Any) -> None:
    model, X, _ = learnt
    assert np.array_equal(travel(model)._predictions(X), model._predictions(X))


def test_saved_and_read_back(learnt: tuple[TextEstimator, list[Any], list[Any]], tmp_path: Path) -> None:
    """The same predictions, by the class itself and by `gpt1 predict`; as a set of files without a pickle."""
    model, X, y = learnt
    model.save(tmp_path / "run")
    again = type(model).load(tmp_path / "run")
    assert np.array_equal(again._predictions(X), model._predictions(X))
    assert np.array_equal(again.predict(X), model.predict(X))
    assert again.get_params() == model.get_params() | {"threads": 0}
    again.save(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "settings.json", "metrics.jsonl", "gpt1.json"} <= names
    assert not any(path.suffix in (".pkl", ".pt", ".bin") for path in (tmp_path / "run").iterdir())
    table = as_table(model, X, y, tmp_path / "in.jsonl")
    predict(Predict(run=str(tmp_path / "run"), input=table, out=str(tmp_path / "out.jsonl"), dtype="fp32"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["predicted_label"] for row in rows] == [in_a_table(model, predicted) for predicted in model.predict(X)]
    found = evaluate(Evaluate(run=str(tmp_path / "run"), files=[table], dtype="fp32"))
    if "accuracy" in found:
        assert found["accuracy"] == pytest.approx(model.score(X, y))
    else:
        assert found["rmse"] == pytest.approx(np.sqrt(np.mean((model.predict(X) - np.array(y)) ** 2)))


def as_table(model: TextEstimator, X: list[Any], y: list[Any], path: Path) -> str:
    columns = type(model).columns
    names = [*columns.texts, *columns.choices]
    rows = [
        dict(zip(names, [x] if isinstance(x, str) else x, strict=True)) | {"label": plain_label(label)}
        for x, label in zip(X, y, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def plain_label(label: Any) -> Any:
    return sorted(label) if isinstance(label, set) else str(label) if isinstance(label, bool) else label


def in_a_table(model: TextEstimator, predicted: Any) -> Any:
    if isinstance(model, gpt1.MultiLabelClassifier):
        return model.classes_[predicted == 1].tolist()
    return (
        str(predicted)
        if isinstance(predicted, np.bool_)
        else predicted
        if isinstance(predicted, str)
        else pytest.approx(predicted)
    )


def test_the_command_line_makes_the_same(base: str, tmp_path: Path) -> None:
    """From the same rows and settings; and what it made is read by the estimator."""
    rows = as_table(gpt1.Classifier(base), TEXTS, MOODS, tmp_path / "train.jsonl")
    asked = {name: value for name, value in QUICK.items() if name != "epochs"}
    finetune(Finetune(run=base, train=rows, out=str(tmp_path / "run"), epochs=3, **asked))
    read = gpt1.Classifier.load(tmp_path / "run")
    ours = gpt1.Classifier(base, **asked, epochs=3).fit(TEXTS, MOODS)
    assert np.array_equal(read.predict_proba(TEXTS), ours.predict_proba(TEXTS))
    seconds = {"seconds": 0}
    assert read.metrics_ | seconds == ours.metrics_ | seconds


# Words alone


@pytest.fixture(scope="module", params=LEAST)
def with_words(request: pytest.FixtureRequest, base: str) -> tuple[TextEstimator, list[Any], list[Any]]:
    """A network that has learnt nothing, with words; fitted on all rows but the last 80, which validate."""
    X, y = toy(request.param)
    model = getattr(gpt1, request.param)(base, **ONCE | {"lr": 1e-9}, with_words=True)
    return model.fit(X[:-80], y[:-80], X[-80:], y[-80:]), X[-80:], y[-80:]


def test_words_stand_beside_the_network(learnt: tuple[TextEstimator, list[Any], list[Any]]) -> None:
    model, _, _ = learnt
    alone = model.metrics_["words_alone"]
    assert alone["n"] == model.metrics_["n"]
    assert alone.keys() <= model.metrics_.keys()


def test_words_are_added(with_words: tuple[TextEstimator, list[Any], list[Any]], base: str, tmp_path: Path) -> None:
    """In every task they win where the network knows nothing; copies and folders give the same to the last bit."""
    model, X, y = with_words
    found = model._predictions(X)
    without = type(model)(base, **ONCE | {"lr": 1e-9}).fit(*(toy(type(model).__name__)[i][:-80] for i in (0, 1)), X, y)
    assert model.score(X, y) > without.score(X, y) + 0.1
    assert not np.array_equal(found, without._predictions(X))
    metric = model.model_.metadata.selected_by
    assert model.metrics_[metric] > model.metrics_["words_alone"][metric] - 0.05
    assert model.metrics_["words_weight"] == model.model_.metadata.words.weight > 0
    assert without.metrics_["words_weight"] == 0
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(again._predictions(X), found)
    model.save(tmp_path / "run")
    read = type(model).load(tmp_path / "run")
    assert np.array_equal(read._predictions(X), found)
    assert read.metrics_ == model.metrics_
    assert read.with_words is True
    assert clone(read).get_params() == read.get_params()


def test_words_weigh_nothing_unless_asked_for(classifier: gpt1.Classifier, base: str) -> None:
    assert classifier.model_.metadata.words.weight == 0
    assert classifier.get_params()["with_words"] is False
    with pytest.raises(TypeError, match="with_words"):
        gpt1.Classifier(base, with_words="both").fit(TEXTS, MOODS)


# scikit-learn's tools


def test_cross_validation(base: str) -> None:
    model = gpt1.Classifier(base, **QUICK)
    assert cross_val_score(model, TEXTS, MOODS, cv=2, error_score="raise").mean() > 0.9
    X, y = toy("MultipleChoice")
    assert len(cross_val_score(gpt1.MultipleChoice(base, **ONCE), X, y, cv=2, error_score="raise")) == 2


def test_grid_search_in_a_pipeline(base: str) -> None:
    """The rate that cannot learn loses; the texts are cleaned before they are read."""
    clean = FunctionTransformer(lambda texts: [text.lower().replace("<br>", " ") for text in texts])
    pipeline = Pipeline([("clean", clean), ("tell", gpt1.Classifier(base, **QUICK))])
    search = GridSearchCV(pipeline, {"tell__lr": [1e-9, 5e-3]}, cv=2, error_score="raise", scoring="neg_log_loss")
    search.fit([text.replace(" ", "<br>").upper() for text in TEXTS], MOODS)
    assert search.best_params_ == {"tell__lr": 5e-3}
    assert search.score(TEXTS, MOODS) > -0.5
    assert np.array_equal(search.best_estimator_.predict(["MY<br>DOG"]), search.predict(["my dog"]))


def test_two_processes_make_the_same(base: str) -> None:
    model = gpt1.Classifier(base, **ONCE)
    one, two = (cross_val_score(model, TEXTS, MOODS, cv=2, n_jobs=jobs, error_score="raise") for jobs in (1, 2))
    assert np.array_equal(one, two)


def test_parameters(base: str) -> None:
    model = gpt1.Similarity(base, lr=0.5, epochs=3)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(lr=0.25).lr == 0.25
    with pytest.raises(ValueError, match="Invalid parameter 'rate'"):
        model.set_params(rate=1)
    settings = set(Finetune.__dataclass_fields__)
    assert set(model.get_params()) - settings == {"random_state", "verbose"}
    for name, value in gpt1.Classifier(base).get_params().items():
        if name in settings - {"run", "read"}:  # no text to read is None here, an empty list there
            assert value == Finetune.__dataclass_fields__[name].default, f"{name} of gpt1 finetune"


def test_kinds_of_estimator(base: str, classifier: gpt1.Classifier) -> None:
    assert is_classifier(classifier)
    assert is_regressor(gpt1.Regressor(base))
    tags = get_tags(classifier).input_tags
    assert (tags.string, tags.one_d_array, tags.two_d_array) == (True, True, False)
    assert not is_classifier(gpt1.Similarity(base)), "until it has seen labels"
    X = [(one, other) for one, other in itertools.pairwise(TEXTS)]
    same = gpt1.Similarity(base, **ONCE).fit(X, [int(a == b) for a, b in itertools.pairwise(KIND)])
    assert is_classifier(same)
    assert same.classes_.tolist() == [0, 1]
    assert same.predict_proba(list(pairwise(TEXTS))[:3]).shape == (3, 2)


def test_not_fitted(base: str, tmp_path: Path) -> None:
    model = gpt1.Classifier(base)
    for use in (model.predict, model.predict_proba, lambda texts: model.score(texts, texts)):
        with pytest.raises(NotFittedError):
            use(TEXTS)
    with pytest.raises(NotFittedError):
        model.save(tmp_path / "run")
    with pytest.raises(NotFittedError):
        check_is_fitted(model)


def test_random_state(base: str) -> None:
    def p_of(seed: Any) -> bytes:
        return gpt1.Classifier(base, **ONCE, random_state=seed).fit(TEXTS, MOODS).predict_proba(TEXTS[:5]).tobytes()

    assert p_of(3) == p_of(3)
    assert p_of(3) != p_of(4)
    assert p_of(np.random.RandomState(3)) == p_of(np.random.RandomState(3))


def test_it_leaves_no_trace(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Random numbers of the program around it go on, and nothing is said unless asked for."""
    state = torch.random.get_rng_state()
    gpt1.Classifier(base, **ONCE).fit(TEXTS, MOODS).predict(TEXTS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")
    gpt1.Classifier(base, **ONCE, verbose=True).fit(TEXTS, MOODS)
    said = capsys.readouterr()
    assert "epoch 1: training task" in said.err
    assert not said.out
    assert not stderr.quiet


@pytest.mark.parametrize("verbose", [False, True])
def test_what_makes_scores_misleading_is_a_warning(
    base: str, verbose: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, labels = ["a b", "c d", "e f"], ["x", "y", "z"]
    with pytest.warns(DataWarning) as caught:
        gpt1.Classifier(base, **ONCE, verbose=verbose).fit(rows, labels)
        gpt1.Classifier(base, **ONCE, verbose=verbose).fit(rows[:2], labels[:2], rows[:2], labels[:2])
        gpt1.Classifier(base, **ONCE, verbose=verbose).fit([*rows, *map(str, range(20))], [*"xyy", *"x" * 20])
    told = [str(one.message) for one in caught]
    assert "occurs only in validation rows" in told[0]
    assert told[1].startswith("2 texts are in both training and validation rows")
    assert told[2].startswith("label 'x' is on 20 of 21 rows")
    assert {one.filename for one in caught} == {__file__}
    assert "warning" not in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_while_another_thread_fits(classifier: gpt1.Classifier) -> None:
    fits, is_over = threading.Event(), threading.Event()

    def fit() -> None:
        with isolated():
            fits.set()
            is_over.wait()

    thread = threading.Thread(target=fit)
    thread.start()
    fits.wait()
    if not (child := os.fork()):
        signal.alarm(60)  # in place of waiting for ever
        os._exit(len(copy.deepcopy(classifier).predict(TEXTS[:3])))
    found = os.waitpid(child, 0)[1]
    is_over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(found) == 3


def test_validation_rows_may_be_given(base: str) -> None:
    model = gpt1.Classifier(base, **ONCE).fit(TEXTS, MOODS, X_valid=TEXTS[:70], y_valid=MOODS[:70])
    assert model.metrics_["n"] == 70
    assert model.metrics_["accuracy"] == pytest.approx(model.score(TEXTS[:70], MOODS[:70]))


def test_messages_name_what_holds_the_row(base: str, tmp_path: Path) -> None:
    model = gpt1.Classifier(base, **ONCE)
    with pytest.raises(ValueError, match=r"^row 1 of X_valid is empty"):
        model.fit(TEXTS, MOODS, [TEXTS[0], " "], MOODS[:2])
    with pytest.raises(ValueError, match=r"^row 1 of texts is empty"):
        model.continue_pretraining([TEXTS[0], " "], tmp_path / "more")
    with pytest.raises(ValueError, match=r"^row 1 of read is empty"):
        model.set_params(read=[TEXTS[0], " "]).fit(TEXTS, MOODS)


@torch.no_grad()
def nats_a_token(run: str) -> float:
    loaded, nats = gpt1.load(run), []
    for ids_T in map(torch.tensor, loaded.tokenizer.encode_batch(TEXTS[:20])):
        logits_TV = loaded.body.logits(loaded.body(ids_T[None]))[0]
        nats.append(torch.nn.functional.cross_entropy(logits_TV[:-1], ids_T[1:]).item())
    return float(np.mean(nats))


def test_pretraining_goes_on(base: str, tmp_path: Path) -> None:
    """On texts without labels; the new run is another model, which knows them better."""
    before = gpt1.Classifier(base, **ONCE)
    after = before.continue_pretraining(polars.Series(TEXTS), tmp_path / "more", epochs=10)
    assert after.get_params() == before.get_params() | {"run": str(tmp_path / "more")}
    assert nats_a_token(after.run) < 0.5 * nats_a_token(base)
    assert after.fit(TEXTS, MOODS).predict(TEXTS[:3]).shape == (3,)
    assert gpt1.load(after.run).metadata.steps > 1


# Weights of rows and classes


def test_equal_weights_are_none_to_the_last_bit(base: str) -> None:
    expected = gpt1.Classifier(base, **ONCE).fit(TEXTS, MOODS).predict_proba(TEXTS[:9])
    for weight in (1, np.ones(150), [2.5] * 150, tuple([3] * 150), polars.Series([1] * 150)):
        found = gpt1.Classifier(base, **ONCE).fit(TEXTS, MOODS, sample_weight=weight)
        assert np.array_equal(found.predict_proba(TEXTS[:9]), expected)


@pytest.mark.parametrize("name", LEAST)
def test_rows_without_weight_teach_nothing(base: str, name: str) -> None:
    """Every other row is labelled as the next one: of weight 0, they do not mislead the network."""
    X, y = toy(name)
    wrong = [y[i] if i % 2 else y[i + 1] for i in range(len(y))]
    if name == "MultipleChoice":
        wrong = [min(label, len(answers) - 1) for label, (_, answers) in zip(wrong, X, strict=True)]
    valid = slice(len(X) - 60, None)
    taught = [i % 2 * 3.0 for i in range(len(X))][: len(X) - 60]
    model = getattr(gpt1, name)(base, **QUICK)
    model.fit(X[:-60], wrong[:-60], X[valid], y[valid], sample_weight=taught)
    assert model.score(X[valid], y[valid]) > LEAST[name] - 0.1


def test_the_number_of_a_row_without_weight_sets_no_scale(base: str) -> None:
    _, y = toy("Regressor")
    known = [i % 3 > 0 for i in range(len(y))]
    given = [label if is_known else -999.0 for label, is_known in zip(y, known, strict=True)]
    found = gpt1.Regressor(base, **ONCE).fit(TEXTS, given, sample_weight=known).model_.metadata
    weighed = [label for label, is_known in zip(y, known, strict=True) if is_known]
    assert (found.mean, found.scale) == (np.mean(weighed), np.std(weighed))


@pytest.mark.parametrize("name", ["Classifier", "Regressor"])
def test_words_may_be_weighed_by_the_only_row_of_weight(base: str, name: str) -> None:
    """The models that choose their weight train on two thirds of the rows each, one of them without that row."""
    X, y = toy(name)
    model = getattr(gpt1, name)(base, **ONCE, with_words=True)
    model.fit(X[:30], y[:30], X[30:40], y[30:40], sample_weight=[1.0] + [0.0] * 29)
    assert model.metrics_["words_weight"] == USUAL_WEIGHT


def test_weights_go_through_a_search(base: str) -> None:
    weights = np.arange(150.0)
    search = GridSearchCV(gpt1.Classifier(base, **ONCE), {"lr": [1e-9, 5e-3]}, cv=2, error_score="raise")
    found = search.fit(TEXTS, MOODS, sample_weight=weights).best_estimator_
    again = clone(found).fit(TEXTS, MOODS, sample_weight=weights[::-1][::-1])
    assert np.array_equal(found.predict_proba(TEXTS[:5]), again.predict_proba(TEXTS[:5]))
    without = clone(found).fit(TEXTS, MOODS)
    assert not np.array_equal(found.predict_proba(TEXTS[:5]), without.predict_proba(TEXTS[:5]))


@pytest.mark.parametrize(
    ("weights", "error", "answer"),
    [
        ([1.0, 2.0], ValueError, r"sample_weight.shape == \(2,\), expected \(3,\)"),
        ([1.0, -1.0, 2.0], ValueError, "row 1 of sample_weight is -1; a weight must be 0 or more"),
        ([0, 0, 0], ValueError, "every sample_weight is zero"),
        ([1.0, float("nan"), 2.0], ValueError, "sample_weight contains NaN"),
        ((each for each in [1, 1, 1]), TypeError, "sample_weight is <generator"),
        ("111", TypeError, "sample_weight is '111'"),
    ],
)
def test_wrong_weights(base: str, weights: Any, error: type[Exception], answer: str) -> None:
    with pytest.raises(error, match=answer):
        gpt1.Classifier(base, **ONCE).fit(["a", "b", "c"], ["x", "y", "x"], sample_weight=weights)


def test_class_weights_by_name_and_by_scikit_learns_word(base: str, tmp_path: Path) -> None:
    def p_of(weights: Any, y: Any = MOODS) -> np.ndarray:
        model = gpt1.Classifier(base, **ONCE, class_weights=weights).fit(TEXTS[:60], y[:60])
        model.save(tmp_path / "run")
        read = gpt1.Classifier.load(tmp_path / "run").fit(TEXTS[:60], y[:60])
        p_NC = model.predict_proba(TEXTS[:5])
        assert np.array_equal(read.predict_proba(TEXTS[:5]), p_NC), "the saved settings make the same model"
        assert np.array_equal(clone(model).fit(TEXTS[:60], y[:60]).predict_proba(TEXTS[:5]), p_NC)
        return p_NC

    assert np.array_equal(p_of("balanced"), p_of("auto"))
    assert np.array_equal(p_of({"glad": np.int64(5)}), p_of("glad=5"))  # as of counted classes
    assert not np.array_equal(p_of({"glad": 5.0}), p_of("none"))
    assert np.array_equal(p_of({0: 5, 1: 1}, [int(mood == "grim") for mood in MOODS]), p_of({"glad": 5}))


@pytest.mark.parametrize(
    ("weights", "error", "answer"),
    [
        ({"glum": 2.0}, ValueError, "^class_weights 'glum': there is no such class; the classes are glad, grim"),
        ({"glad": 0}, ValueError, "^class_weights 'glad': the weight must be a number above 0, not 0"),
        ({"glad": "2"}, ValueError, "^class_weights 'glad': the weight must be a number above 0, not '2'"),
        (2.0, TypeError, "^class_weights is 2.0; give 'none', 'balanced', or a dict"),
    ],
)
def test_wrong_class_weights(base: str, weights: Any, error: type[Exception], answer: str) -> None:
    with pytest.raises(error, match=answer):
        gpt1.Classifier(base, **ONCE, class_weights=weights).fit(TEXTS, MOODS)


@pytest.mark.parametrize(
    ("estimator", "name", "hint"),
    [
        (gpt1.Classifier, "class_weight", "; did you mean class_weights?"),
        (gpt1.Regressor, "batch_size", "; it is batch here"),
        (gpt1.Embedder, "model", "; it is run here"),
        (gpt1.MultipleChoice, "seed", "; it is random_state here"),
        (gpt1.Similarity, "oops", ""),
    ],
)
def test_an_unknown_parameter_names_the_nearest(estimator: Any, name: str, hint: str) -> None:
    with pytest.raises(TypeError, match=rf"^{estimator.__name__}\(\) has no argument '{name}'{re.escape(hint)}$"):
        estimator("starter", **{name: 8})


# What `help` shows


def test_everything_is_documented(learnt: tuple[TextEstimator, list[Any], list[Any]]) -> None:
    """Every parameter of the constructor, every attribute that `fit` sets, and every argument of every method."""
    cls = type(learnt[0])
    parameters, attributes = (inspect.getdoc(cls) or "").split("Parameters\n----------\n")[1].split("\nAttributes\n")
    documented = re.findall(r"^(\w+) : .+\n    \S", parameters, re.MULTILINE)
    assert documented == list(inspect.signature(cls).parameters)
    learned = {name for name in vars(learnt[0]) if name.endswith("_")}
    assert learned <= set(re.findall(r"^(\w+) : ", attributes, re.MULTILINE))
    for name in ("fit", "predict", "predict_proba", "score", "save", "load", "continue_pretraining"):
        if method := getattr(learnt[0], name, None):
            told = inspect.getdoc(method) or ""
            for argument in inspect.signature(method).parameters:
                assert re.search(rf"^\W*(\w+, )*{argument}\b", told, re.MULTILINE), f"{name} {argument}"


def test_the_examples_run(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the test's small run in place of `runs/books`."""
    (tmp_path / "runs").mkdir()
    shutil.copytree(base, tmp_path / "runs" / "books")
    monkeypatch.chdir(tmp_path)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for name in LEAST:
        (found,) = finder.find(getattr(gpt1, name), name)
        assert len(found.examples) >= 4
        assert runner.run(found).failed == 0


# What X and y may be


def test_parts_of_arrays_are_read_by_position(base: str) -> None:
    """Slices, strides and steps backwards are rows in the order in which they stand."""
    expected = gpt1.Classifier(base, **ONCE).fit(TEXTS[::-3], MOODS[::-3]).predict_proba(TEXTS[:5])
    X, y, names = np.array([TEXTS, TEXTS]).T, np.array(MOODS), polars.Series(TEXTS)
    for texts, labels in ((X[::-3, 1], y[::-3]), (X[::-3, :1], polars.Series(MOODS)[::-3]), (names[::-3], y[::-3])):
        model = gpt1.Classifier(base, **ONCE).fit(texts, labels)
        assert np.array_equal(model.predict_proba(X[:5, 0]), expected)


class Shuffled:
    """A Series of pandas as far as it goes: an index in another order than the rows, which plays no part."""

    def __init__(self, values: list[Any]) -> None:
        self.values, self.index = values, list(range(len(values)))[::-1]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: int) -> Any:
        return self.values[self.index.index(key)]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype)

    def to_list(self) -> list[Any]:
        return self.values


def test_a_class_has_one_name() -> None:
    assert {class_name(value) for value in (1, 1.0, np.float32(1), "1")} == {"1"}


def test_a_column_may_be_named_as_a_method_of_polars() -> None:
    """In pandas it is an attribute then."""

    class Frame:
        columns, rows = ("rows",), ("a text",)

        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            return np.array([self.rows], dtype=object)

    assert texts_of(Frame()) == [("a text",)]


def test_the_index_of_a_series_plays_no_part(base: str) -> None:
    expected = gpt1.Classifier(base, **ONCE).fit(TEXTS, MOODS, sample_weight=[1, 2] * 75).predict_proba(TEXTS[:5])
    model = gpt1.Classifier(base, **ONCE).fit(Shuffled(TEXTS), Shuffled(MOODS), sample_weight=Shuffled([1, 2] * 75))
    assert np.array_equal(model.predict_proba(Shuffled(TEXTS[:5])), expected)


@pytest.mark.parametrize("name", LEAST)
def test_what_holds_no_rows_is_named(base: str, name: str) -> None:
    X, y = toy(name)
    model = getattr(gpt1, name)(base, **ONCE)
    for wrong in (iter(X), {"text": X}, 5):
        with pytest.raises(TypeError, match=r"^X is "):
            model.fit(wrong, y)
    for wrong in (iter(y), 5):
        with pytest.raises(TypeError, match=r"^y is "):
            model.fit(X, wrong)


def test_every_container_of_texts(classifier: gpt1.Classifier) -> None:
    pandas = pytest.importorskip("pandas")
    expected = classifier.predict_proba(TEXTS[:9])
    some = TEXTS[:9]
    for X in (
        tuple(some), np.array(some), np.array(some, dtype=object), np.array(some)[:, None], [[text] for text in some],
        pandas.Series(some), pandas.DataFrame({"t": some}), pandas.Series(some, dtype="string", index=range(5, 14)),
        polars.Series(some), polars.DataFrame({"t": some}),
    ):  # fmt: skip
        assert np.array_equal(classifier.predict_proba(X), expected), type(X)


def test_a_saved_dataset_goes_in_as_it_is() -> None:
    """What matters is the values of its rows, not the names of its columns."""
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"a": ["x y", "z"], "b": ["u", "v"]})
    assert pairs_of(data) == [("x y", "u"), ("z", "v")]
    assert texts_of(data["a"]) == texts_of(data.select_columns("a")) == [("x y",), ("z",)]


def test_rows_with_named_columns() -> None:
    assert pairs_of([{"a": "x y", "b": "u"}]) == [("x y", "u")]
    assert texts_of(({"a": "x y"},)) == [("x y",)]
    assert pairs_of([{"a": "x", "b": "u"}, {"b": "v", "a": "y"}]) == [("x", "u"), ("y", "v")], "by name, not by place"
    for other, said in (
        ({"b": "v", "c": "y"}, "has the names b, c; row 0 has a, b"),
        ({"a": "v"}, "has the names a; row 0 has a, b"),
        (["v", "y"], "has no names; row 0 has a, b"),
    ):
        with pytest.raises(ValueError, match=f"^row 1 of X {said}$"):
            pairs_of([{"a": "x", "b": "u"}, other])
    with pytest.raises(ValueError, match=r"^row 1 of X has the names a, b; row 0 has none$"):
        pairs_of([["x", "u"], {"a": "x", "b": "u"}])


def test_rows_with_other_names_than_those_of_the_fit_are_refused(base: str) -> None:
    X, y = toy("Entailment")
    named = [{"premise": one, "hypothesis": other} for one, other in X]
    model = gpt1.Entailment(base, **ONCE).fit(named, y)
    assert model.feature_names_in_.tolist() == model.model_.metadata.columns.texts == ["premise", "hypothesis"]
    assert np.array_equal(model.predict_proba(named[:3]), model.predict_proba(X[:3]))
    with pytest.raises(ValueError, match="they were premise, hypothesis, not hypothesis, premise"):
        model.predict([{"hypothesis": "a", "premise": "b"}])


class SavedDataset:
    """A `datasets.Dataset` as far as it goes."""

    column_names = ("said",)

    def to_list(self) -> list[Any]:
        return [{"said": text} for text in TEXTS[:20]]


def test_the_columns_of_a_dataset_have_names(base: str) -> None:
    model = gpt1.Classifier(base, **ONCE).fit(SavedDataset(), MOODS[:20])
    assert model.feature_names_in_.tolist() == model.model_.metadata.columns.texts == ["said"]


def test_a_fit_that_fails_leaves_the_earlier_one(base: str) -> None:
    named = [{"said": text} for text in TEXTS[:20]]
    model = gpt1.Classifier(base, **ONCE).fit(named, MOODS[:20])
    before = {name: value for name, value in vars(model).items() if name.endswith("_")}
    with pytest.raises(ValueError, match="two classes or more"):
        model.fit(TEXTS[:20], ["one"] * 20)
    assert {name: value for name, value in vars(model).items() if name.endswith("_")} == before
    with pytest.raises(ValueError, match="they were said, not text"):
        model.predict([{"text": "a"}])


def test_every_container_of_pairs_and_choices(base: str) -> None:
    pandas = pytest.importorskip("pandas")
    X, y = toy("Entailment")
    model = gpt1.Entailment(base, **ONCE).fit(np.array(X), np.array(y))
    expected, one, other = model.predict_proba(X[:9]), *zip(*X[:9], strict=True)
    for some in (
        [list(pair) for pair in X[:9]], np.array(X[:9]), np.array(X[:9], dtype=object),
        pandas.DataFrame({"a": one, "b": other}), polars.DataFrame({"a": one, "b": other}),
    ):  # fmt: skip
        assert np.array_equal(model.predict_proba(some), expected), type(some)
    X, y = toy("MultipleChoice")
    chooser = gpt1.MultipleChoice(base, **ONCE).fit(X, polars.Series(y))
    expected, context, answers = chooser.predict_proba(X[:9]), *zip(*X[:9], strict=True)
    array = np.empty((9, 2), dtype=object)
    array[:, 0] = context
    array[:, 1] = [np.array(each) for each in answers]
    for some in (
        array, [[c, tuple(a)] for c, a in X[:9]], pandas.DataFrame({"c": context, "a": answers}),
        polars.DataFrame({"c": context, "a": list(map(list, answers))}),
    ):  # fmt: skip
        assert np.array_equal(chooser.predict_proba(some), expected), type(some)


@pytest.mark.parametrize(
    "classes", [("glad", "grim"), (1, 0), (True, False), (10, 9), (2.0, -1.0)], ids=lambda classes: str(classes[0])
)
def test_classes_keep_their_type(base: str, tmp_path: Path, classes: tuple[Any, Any]) -> None:
    y = [classes[0] if kind else classes[1] for kind in KIND]
    model = gpt1.Classifier(base, **QUICK | {"epochs": 3}).fit(TEXTS, y)
    assert np.array_equal(model.classes_, np.unique(y))
    assert model.predict(TEXTS).dtype == np.unique(y).dtype
    model.save(tmp_path / "run")
    again = gpt1.Classifier.load(tmp_path / "run")
    assert np.array_equal(again.predict(TEXTS), model.predict(TEXTS))
    assert again.classes_.dtype == np.unique(y).dtype


def test_every_container_of_classes(base: str) -> None:
    pandas = pytest.importorskip("pandas")
    expected = gpt1.Classifier(base, **ONCE).fit(TEXTS, MOODS).predict_proba(TEXTS[:5])
    for y in (
        np.array(MOODS), np.array(MOODS, dtype=object), pandas.Series(MOODS), pandas.Series(MOODS, dtype="category"),
        polars.Series(MOODS), tuple(MOODS),
    ):  # fmt: skip
        model = gpt1.Classifier(base, **ONCE).fit(TEXTS, y)
        assert model.classes_.tolist() == ["glad", "grim"]
        assert np.array_equal(model.predict_proba(TEXTS[:5]), expected), type(y)


def test_labels_of_an_array_that_holds_texts_too() -> None:
    """As in `frame.to_numpy()`, whose numbers are Python's."""
    for values, kind in (([1, 0, 1], "i"), ([True, False, True], "b"), ([1.0, 0.0, 1.0], "f"), ([1, 0.0, 1], "f")):
        y = np.array([["a text", value] for value in values], dtype=object)[:, 1]
        for found in (class_values(y), choice_values(y, [2, 2, 2]) if kind != "b" else class_values(y)):
            assert found.tolist() == values
        assert class_values(y).dtype.kind == kind
    assert is_scale(np.array([["a", 0.5], ["b", 1]], dtype=object)[:, 1])
    assert not is_scale(np.array([["a", 0], ["b", 1]], dtype=object)[:, 1])


def test_columns_without_names_are_one_for_each_label(base: str) -> None:
    flags = np.array([[kind, not kind] for kind in KIND[:20]])
    model = gpt1.MultiLabelClassifier(base, **ONCE).fit(TEXTS[:20], [{"a"} if kind else {"b"} for kind in KIND[:20]])
    for y in (flags[:, :1], np.hstack([flags, flags])):
        said = f"y has {y.shape[1]} columns; it must have one for each of the 2 labels"
        with pytest.raises(ValueError, match=said):
            model.score(TEXTS[:20], y)
        with pytest.raises(ValueError, match=said):
            gpt1.MultiLabelClassifier(base, **ONCE).fit(TEXTS[:20], flags, TEXTS[:20], y)


def test_every_way_to_say_labels(base: str) -> None:
    pandas = pytest.importorskip("pandas")
    names, sets = ["grim", "kind", "mad"], [["kind"] if kind else ["mad", "grim"] for kind in KIND]
    flags = np.array([[name in labels for name in names] for labels in sets])
    for y, classes in (
        (sets, names), ([set(labels) for labels in sets], names), (pandas.Series(sets), names),
        (polars.Series(sets), names), (flags, [0, 1, 2]), (flags.astype(float), [0, 1, 2]), (flags.tolist(), [0, 1, 2]),
        (pandas.DataFrame(flags, columns=names), names), (polars.DataFrame(flags, schema=names), names),
    ):  # fmt: skip
        model = gpt1.MultiLabelClassifier(base, **ONCE).fit(TEXTS, y)
        assert model.classes_.tolist() == classes, type(y)
        predicted = model.predict(TEXTS)
        assert predicted.shape == (150, 3)
        assert model.score(TEXTS, y) == model.score(TEXTS, flags) == pytest.approx(accuracy_score(flags, predicted))


def test_names_of_columns(base: str, tmp_path: Path) -> None:
    """Those of a DataFrame are remembered, so that `gpt1 predict` finds them in the table it was."""
    pandas = pytest.importorskip("pandas")
    X, y = toy("Entailment")
    frame = pandas.DataFrame(X, columns=["fact", "claim"])
    model = gpt1.Entailment(base, **ONCE).fit(frame, pandas.Series(y, name="follows"))
    assert model.feature_names_in_.tolist() == ["fact", "claim"]
    with pytest.raises(ValueError, match="feature names should match those that were passed during fit"):
        model.predict(frame[["claim", "fact"]])
    model.save(tmp_path / "run")
    assert gpt1.load(tmp_path / "run").metadata.columns == Columns(["fact", "claim"], ["follows"])


# What is refused


@pytest.mark.parametrize(
    ("X", "error", "answer"),
    [
        ([], ValueError, "X has no rows"),
        ("a text", TypeError, "X is 'a text'; pass a list"),
        (None, TypeError, "X is None; pass a list"),
        (np.array("a text"), TypeError, "pass a list"),
        (["a", None], ValueError, "row 1 of X is missing"),
        (["a", float("nan")], ValueError, "row 1 of X is missing"),
        (["a", ""], ValueError, "row 1 of X is empty"),
        (["a", 3], TypeError, "row 1 of X is 3, a int; a text must be a string"),
        (["a", b"c"], TypeError, "row 1 of X is b'c', a bytes; a text must be a string"),
        (np.array([[1.0], [2.0]]), TypeError, "row 0 of X is 1.0, a float"),
        ([("a", "b"), ("c", "d")], ValueError, "row 0 of X has 2 columns; it must be one text"),
    ],
)
def test_wrong_texts(classifier: gpt1.Classifier, X: Any, error: type[Exception], answer: str) -> None:
    for use in (classifier.predict, lambda X: clone(classifier).fit(X, ["x", "y"])):
        with pytest.raises(error, match=answer):
            use(X)


@pytest.mark.parametrize(
    ("name", "X", "answer"),
    [
        ("Entailment", ["a", "b"], "row 0 of X is 'a'; it must hold two texts"),
        ("Similarity", [("a", "b"), ("a", "b", "c")], "row 1 of X has 3 columns; it must hold two texts"),
        ("Similarity", [("a", "b"), ("a", " ")], "row 1 of X is empty"),
        (
            "MultipleChoice",
            [("a", "b"), ("c", "d")],
            "row 0 of X has 'b' as its second part; this must be a list of answers",
        ),
        ("MultipleChoice", [("a", ["b"]), ("c", ["d"])], "row 0 of X has 1 answers; a choice needs two or more"),
        ("MultipleChoice", [("a", ["b", None]), ("c", ["d", "e"])], "row 0 of X is missing"),
    ],
)
def test_wrong_rows(base: str, name: str, X: Any, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        getattr(gpt1, name)(base, **ONCE).fit(X, [0, 1])


@pytest.mark.parametrize(
    ("name", "y", "error", "answer"),
    [
        ("Classifier", ["x", "x", "x"], ValueError, "y holds only the class 'x'; two classes or more"),
        ("Classifier", ["x", "y"], ValueError, "inconsistent numbers of samples"),
        ("Classifier", None, ValueError, "y to be passed"),
        ("Classifier", ["x", None, "y"], ValueError, "contains NaN .or None.: row 1 of y has no value"),
        ("Classifier", np.array(["x", 1, "y"], dtype=object), TypeError, "y mixes int and str"),
        ("Classifier", ["x", 1, "y"], TypeError, "y mixes strings with other values"),
        ("Classifier", np.array(["2020-01-01"] * 3, dtype="datetime64[D]"), TypeError, "y holds dates or times"),
        ("Regressor", [1.0, 1e300, 2.0], ValueError, "y holds a number as large as 1e.300; 1e.30 is the most"),
        ("Regressor", [1, 10**400, 2], ValueError, "row 1 of y is too large a number"),
        ("MultiLabelClassifier", [[0, 1], [1, None], [1, 1]], ValueError, "row 1 of y has a missing value; it must be"),
        ("MultiLabelClassifier", [[0, 1], [1], [1, 1]], ValueError, "row 1 of y has 1 columns, row 0 has 2"),
        ("Classifier", ["x", "", "y"], ValueError, "y holds an empty string"),
        ("Classifier", [0.5, 1.5, 1.0], ValueError, "Unknown label type"),
        ("Classifier", [["x", "y"], ["x", "y"], ["y", "x"]], ValueError, "1d array"),
        ("Regressor", [1.0, float("nan"), 2.0], ValueError, "contains NaN"),
        ("Regressor", [1.0, float("inf"), 2.0], ValueError, "infinity"),
        ("Regressor", ["1", "two", "3"], ValueError, "^row 1 of y is 'two', not a number; classes are for Classifier"),
        ("Regressor", [2, 2, 2], ValueError, "y holds only the number 2; there is nothing to learn"),
        ("MultiLabelClassifier", ["x", "y", "z"], ValueError, "y must hold a set of names a row"),
        ("MultiLabelClassifier", [[], [], []], ValueError, "y holds no label at all"),
        ("MultiLabelClassifier", np.zeros((3, 2)), ValueError, "y holds no label at all"),
        ("MultiLabelClassifier", [[0, 2], [1, 0], [1, 1]], ValueError, "y must hold 1 where a label applies"),
        (
            "MultiLabelClassifier",
            [{"x"}, {""}, {"y"}],
            ValueError,
            "row 1 of y holds ''; it must be the name of a label",
        ),
    ],
)
def test_wrong_labels(base: str, name: str, y: Any, error: Any, answer: str) -> None:
    with pytest.raises(error, match=answer):
        getattr(gpt1, name)(base, **ONCE).fit(TEXTS[:3], y)


@pytest.mark.parametrize(("y", "answer"), [([0, 2], "row 1 of y is 2; the answers of"), ([0, 0.5], "whole number")])
def test_wrong_choices(base: str, y: Any, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        gpt1.MultipleChoice(base, **ONCE).fit([("a", ["b", "c"])] * 2, y)


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        ({"lr": -1.0}, "lr: expected a number, 0 or more, not -1"),
        ({"epochs": 1.5}, "epochs: expected a whole number, 0 or more, not 1.5"),
        ({"long": "heads"}, "long: unknown value 'heads'; did you mean head"),
        ({"dropout": 1.0}, "^dropout 1.0 must be at least 0 and less than 1"),
        ({"select": "pearson"}, "^select pearson: this task has"),
        ({"class_weights": "glad=x"}, "^class_weights glad=x: the weight must be a number"),
        ({"transfer_layers": 7}, "^transfer_layers 7 must be from 0 to 1"),
        ({"device": "cuda:77"}, "^device cuda:77: this machine has no such device"),
        ({"threads": 10**6}, "^threads 1000000 must be from 0"),
        ({"random_state": 2**70}, "^seed 1180591620717411303424 must be from 0"),
        ({"run": "nowhere"}, "nowhere: no such run folder"),
    ],
)
def test_wrong_parameters(base: str, parameters: dict[str, Any], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        gpt1.Classifier(**{"run": base} | ONCE | parameters).fit(TEXTS, MOODS)


def test_a_search_may_draw_parameters_from_an_array(base: str) -> None:
    drawn = {"with_words": np.array([True])[0], "epochs": np.array([1])[0], "lr": np.array([1e-3])[0]}
    model = gpt1.Classifier(base, **ONCE | drawn).fit(TEXTS[:20], MOODS[:20])
    assert model.model_.settings["with_words"] is True


@pytest.mark.parametrize(("name", "value"), [("run", 3), ("epochs", "3"), ("dropout", "0.1"), ("with_words", "yes")])
def test_parameters_of_a_wrong_type(base: str, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be .*, not {value!r} \({type(value).__name__}\)"):
        gpt1.Classifier(**{"run": base} | ONCE | {name: value}).fit(TEXTS, MOODS)


def test_wrong_folders(base: str, classifier: gpt1.Classifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is pre-trained, not fine-tuned: give it to the constructor"):
        gpt1.Classifier.load(base)
    with pytest.raises(ValueError, match="holds a pre-trained run; choose another folder"):
        classifier.save(base)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text("{}")
    for place, answer in (("theirs", "holds config.json, which"), ("theirs/config.json", "is a file; name a folder")):
        with pytest.raises(ValueError, match=answer):
            classifier.save(tmp_path / place)
    assert (tmp_path / "theirs" / "config.json").read_text() == "{}"
    classifier.save(tmp_path / "run")
    with pytest.raises(ValueError, match="is fine-tuned for classification, not for regression"):
        gpt1.Regressor.load(tmp_path / "run")
    with pytest.raises(ValueError, match="is already fine-tuned; start from the pre-trained run"):
        gpt1.Classifier(tmp_path / "run").fit(TEXTS, MOODS)
    with pytest.raises(ValueError, match="y_valid holds the class 'odd', which y does not"):
        gpt1.Classifier(base, **ONCE).fit(TEXTS, MOODS, X_valid=["a"], y_valid=["odd"])


# scikit-learn's own checks


class Spelt(TextEstimator):
    """scikit-learn's checks feed rows of numbers, and pass over every estimator that says it reads something else.

    So here the numbers are spelt out, and all else is as it is. No check is left out, and one is expected to fail, see
    BY_UPDATES; scikit-learn itself skips that of the array API, unless a variable of the environment switches it on.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:  # type: ignore[override]
        X, y = validate_data(self, X, y, y_numeric=is_regressor(self))
        columns, names = self.n_features_in_, getattr(self, "feature_names_in_", None)
        super().fit(spelt(X), y, sample_weight=sample_weight)
        self.n_features_in_ = columns
        if names is not None:
            self.feature_names_in_ = names
        return self

    def _predictions(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super()._predictions(spelt(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.one_d_array = False, True, False
        for kind in (tags.classifier_tags, tags.regressor_tags):
            if kind is not None:
                kind.poor_score = True
        return tags


def spelt(X: np.ndarray) -> list[str]:
    return [" ".join(f"{value:.1f}" for value in row) for row in X]


class SpeltClassifier(Spelt, gpt1.Classifier):
    pass


class SpeltRegressor(Spelt, gpt1.Regressor):
    pass


# Rows that are repeated make other updates than rows that weigh more.
BY_UPDATES = {"check_sample_weight_equivalence_on_dense_data": "a fit by updates of a few rows, as SGDClassifier"}
# Checks that scikit-learn skips where pandas is not installed.
NEED_PANDAS = (
    "check_classifier_data_not_an_array", "check_regressor_data_not_an_array", "check_sample_weights_pandas_series",
)  # fmt: skip


@pytest.mark.parametrize("kind", [SpeltClassifier, SpeltRegressor])
def test_sklearns_own_checks(base: str, kind: type[TextEstimator]) -> None:
    found = check_estimator(kind(base, **ONCE), on_fail=None, on_skip=None, expected_failed_checks=BY_UPDATES)
    assert not {each["check_name"]: each["exception"] for each in found if each["status"] == "failed"}
    assert sum(each["status"] == "passed" for each in found) > 40
    skipped = {each["check_name"] for each in found if each["status"] == "skipped"}
    assert skipped <= {"check_array_api_input", *NEED_PANDAS}
