"""Features of words alone: what they know of a row, and what they do not."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from gpt1.config import Task
from gpt1.tasks.labels import LabelSets, ScoreLabels
from gpt1.tasks.rows import Texts
from gpt1.tasks.words import Grams, WordsModel, WordsShare, features, items, say_if_words_win, width

TEXTS = ["the cat sat.", "the dog sat on the mat!", "Été 春 a cat", "\ud800 lone", "x"]


@pytest.fixture(scope="module")
def grams() -> list[Grams]:
    return [Grams.learn("words", TEXTS, 50), Grams.learn("characters", TEXTS, 50)]


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_tf_idf_is_scikit_learns(kind: str) -> None:
    usual = {"token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2)}
    whole = TfidfVectorizer(
        sublinear_tf=True, **(usual if kind == "words" else {"analyzer": "char_wb", "ngram_range": (2, 5)})
    )
    texts = [text.replace("\ud800", "?") for text in TEXTS]
    expected = whole.fit_transform(texts)
    found = Grams.learn(kind, TEXTS, 10**6)  # type: ignore[arg-type]
    assert found.names == whole.get_feature_names_out().tolist()
    assert found.tf_idf(TEXTS).toarray() == pytest.approx(expected.toarray(), abs=1e-6)
    again = [1, 0, 1, 1]
    assert np.array_equal(found.tf_idf([TEXTS[i] for i in again]).toarray(), found.tf_idf(TEXTS).toarray()[again])


def test_the_most_frequent_count(grams: list[Grams]) -> None:
    few = Grams.learn("words", TEXTS, 3)
    assert set(few.names) == {"the", "cat", "sat"}
    assert few.tf_idf(["春 x"]).nnz == 0


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("classification", ("the cat",)),
        ("entailment", ("the cat", "cat sat")),
        ("similarity", ("the cat", "cat sat")),
        ("multiple-choice", ("the cat", "cat sat", "a dog", "x")),
    ],
)
def test_as_many_features_as_said(task: Task, row: Texts, grams: list[Grams]) -> None:
    x_MF = features(task, grams, items(task, [row, row]))
    assert x_MF.shape == (6 if task == "multiple-choice" else 2, width(task, grams))
    assert np.array_equal(x_MF[: x_MF.shape[0] // 2].toarray(), x_MF[x_MF.shape[0] // 2 :].toarray())


def test_similarity_has_no_order_and_entailment_has(grams: list[Grams]) -> None:
    for task, same in (("similarity", True), ("entailment", False)):
        one, other = features(task, grams, [(TEXTS[0], TEXTS[1]), (TEXTS[1], TEXTS[0])])  # type: ignore[arg-type]
        assert ((one != other).nnz == 0) == same


def test_the_cosine_is_a_feature(grams: list[Grams]) -> None:
    words = normalize(grams[0].tf_idf(TEXTS))
    expected = (words[0] @ words[1].T).toarray().item()
    assert features("entailment", grams[:1], [(TEXTS[0], TEXTS[1])])[0, -1] == pytest.approx(expected)


def test_answers_that_a_row_does_not_have(grams: list[Grams]) -> None:
    weights_CF = np.ones((1, width("multiple-choice", grams)), dtype=np.float32)
    model = WordsModel("multiple-choice", "choice", 1.0, grams, weights_CF, np.zeros(1, dtype=np.float32))
    scores_NC = model.scores([("the cat", "cat", "dog"), ("the cat", "x", "dog", "cat")])
    assert np.isfinite(scores_NC).tolist() == [[True, True, False], [True, True, True]]
    assert scores_NC[0, 0] == scores_NC[1, 2]
    assert scores_NC[0, 1] == scores_NC[1, 1]


def test_the_sum() -> None:
    network_NC, words_NC = np.array([[1.0, -np.inf]]), np.array([[3.0, -np.inf]])
    assert WordsShare().add(network_NC, words_NC) is network_NC, "bit for bit, and no 0 * infinity"
    assert WordsShare(0.5, 2.0).add(network_NC, words_NC).tolist() == [[1.25, -np.inf]]


def test_thresholds_are_its_own(grams: list[Grams]) -> None:
    run = LabelSets(["a", "b"], [0.25, 0.75])
    model = WordsModel("multi-label", "labels", 1.0, grams, np.zeros((2, 1)), np.zeros(2), [0.1, 0.2])
    assert model.label_type(run).thresholds == [0.1, 0.2]  # type: ignore[union-attr]
    score = ScoreLabels(1.0, 2.0)
    assert model.label_type(score) is score


def test_it_is_said_if_words_win(capsys: pytest.CaptureFixture[str]) -> None:
    label_type = ScoreLabels(0.0, 1.0)
    better, worse = {"pearson": 0.78125}, {"pearson": 0.5}
    say_if_words_win(label_type, "pearson", worse, better, WordsShare())
    say_if_words_win(label_type, "pearson", better, better, WordsShare())
    assert capsys.readouterr().err == ""
    say_if_words_win(label_type, "loss", better, worse, WordsShare())
    sentence = "words alone (TF-IDF + ridge regression) do better: pearson 0.7812 against 0.5"
    assert capsys.readouterr().err == f"{sentence}; with_words in fine-tuning uses both\n"
    say_if_words_win(label_type, None, better, worse, WordsShare(1.0))
    assert capsys.readouterr().err == f"{sentence} of both together\n"
