"""Words alone: TF-IDF of a row's words and a linear model, which a fine-tuned network must beat to be worth its time.

The features know no order beyond neighbouring words. What two texts have in common is among them:

- a text: its n-grams
- a pair whose order matters: those of each text, those they share, and the cosine between the two texts
- a pair without an order: the sum and the difference of both, those they share, and the cosine
- a choice: for each answer its n-grams, those it shares with the context, and the cosine

`finetuning.words_alone` fits the model, `run_folder.words_file` keeps it.

Axes: N rows, M rows or, for a choice, answers, G n-grams, F features, C classes, labels or answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from gpt1.config import Task
from gpt1.console import say
from gpt1.errors import setting
from gpt1.model.objectives import LabelKind
from gpt1.tasks.labels import LabelSets, LabelType

if TYPE_CHECKING:  # scikit-learn loads slowly, and a run can be used without its words
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    from gpt1.tasks.rows import Texts

GramKind = Literal["words", "characters"]
GRAM_KINDS: tuple[GramKind, ...] = get_args(GramKind)
# Words are runs of letters and digits; every other visible character counts as a word too.
WORD = r"(?u)\w+|[^\w\s]"
# The blocks of features of each kind of n-grams, in order; after several blocks follows the cosine.
BLOCKS: dict[Task, tuple[str, ...]] = {
    "entailment": ("first text", "second text", "both texts"),
    "similarity": ("sum of both texts", "difference of both texts", "both texts"),
    "multiple-choice": ("answer", "answer and context"),
}
ONE_BLOCK = ("text",)
# Rows whose features are in memory at once.
ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Grams:
    """The n-grams of one kind that count, and how much."""

    kind: GramKind
    """`words`: single words and two in a row; `characters`: 2 to 5 characters inside a word"""
    names: list[str]
    idf_G: np.ndarray
    """float32, higher for an n-gram that fewer training texts have"""

    @classmethod
    def learn(cls, kind: GramKind, texts: Sequence[str], most: int) -> "Grams":
        """Return the n-grams of texts; the `most` most frequent ones, if there are more."""
        found = _vectorizer(kind, max_features=most).fit(map(_encodable, texts))
        return cls(kind, found.get_feature_names_out().tolist(), found.idf_.astype(np.float32))

    def tf_idf(self, texts: Sequence[str]) -> "csr_matrix":
        """Return x_MG, float64: TF-IDF with sublinear counts, each row of length 1. A repeated text is read once."""
        vectorizer = _vectorizer(self.kind, vocabulary=self.names)
        vectorizer.idf_ = self.idf_G.astype(np.float64)
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        return vectorizer.transform(map(_encodable, numbers))[[numbers[text] for text in texts]]


@dataclass(frozen=True)
class WordsModel:
    """A linear model of TF-IDF features, fitted."""

    task: Task
    kind: LabelKind
    strength: float
    """the inverse of the L2 penalty: C of logistic regression, 1 / alpha of ridge regression"""
    grams: list[Grams]
    weights_CF: np.ndarray
    """float32, divided by the temperature; two classes have a row each"""
    bias_C: np.ndarray
    """float32"""
    thresholds: list[float] | None = None
    """several labels: the probability from which each label is predicted; 0.5 if None"""

    def scores(self, rows: Sequence["Texts"]) -> np.ndarray:
        """Return scores_NC, float64, as the network's: -inf where a row has fewer answers than another."""
        scored = items(self.task, rows)
        parts = [scored[start : start + ROWS_AT_ONCE] for start in range(0, len(scored), ROWS_AT_ONCE)]
        found = [linear(features(self.task, self.grams, part), self.weights_CF, self.bias_C) for part in parts]
        return by_row(self.kind, np.concatenate(found), rows)

    def label_type(self, of_run: LabelType) -> LabelType:
        """Return the label type of a run with the thresholds of this model."""
        if not isinstance(of_run, LabelSets):
            return of_run
        return replace(of_run, thresholds=self.thresholds or [0.5] * len(of_run.names))


@dataclass(frozen=True)
class WordsShare:
    """What the words add to the network's scores: (network + weight * words) / temperature."""

    weight: float = 0.0
    temperature: float = 1.0

    def add(self, network_NC: np.ndarray, words_NC: np.ndarray) -> np.ndarray:
        """Return the scores of both. With weight 0 they are the network's, bit for bit."""
        # Not a product with 0: answers that a row does not have score -inf.
        return (network_NC + self.weight * words_NC) / self.temperature if self.weight else network_NC


def items(task: Task, rows: Sequence["Texts"]) -> list["Texts"]:
    """Return what gets a score: each row, or in multiple choice each answer with its context."""
    if task != "multiple-choice":
        return list(rows)
    return [(context, answer) for context, *answers in rows for answer in answers]


def features(task: Task, grams: Sequence[Grams], scored: Sequence["Texts"]) -> "csr_matrix":
    """Return x_MF, float64, of what `items` returns."""
    from scipy.sparse import hstack

    sides = list(zip(*scored, strict=True))
    return hstack([part for one in grams for part in _compared(task, [one.tf_idf(side) for side in sides])]).tocsr()


def width(task: Task, grams: Sequence[Grams]) -> int:
    """Return F, the number of features."""
    blocks = len(BLOCKS.get(task, ONE_BLOCK))
    return sum(blocks * len(one.names) + (blocks > 1) for one in grams)


def feature_name(task: Task, grams: Sequence[Grams], feature: int) -> tuple[GramKind, str, str]:
    """Return the kind of n-grams of a feature, the block it stands in, and its n-gram or `cosine`."""
    blocks = BLOCKS.get(task, ONE_BLOCK)
    for one in grams:
        block, number = divmod(feature, len(one.names))
        if block < len(blocks):
            return one.kind, blocks[block], one.names[number]
        feature -= len(blocks) * len(one.names)
        if len(blocks) > 1:
            if feature == 0:
                return one.kind, blocks[-1], "cosine"
            feature -= 1
    raise IndexError("there are fewer features")


def linear(x_MF: "csr_matrix", weights_CF: np.ndarray, bias_C: np.ndarray) -> np.ndarray:
    """Return scores_MC, float64."""
    return np.asarray(x_MF @ weights_CF.T.astype(np.float64)) + bias_C


def by_row(kind: LabelKind, scores_MC: np.ndarray, rows: Sequence["Texts"]) -> np.ndarray:
    """Return scores_NC: the scores as they are, or in multiple choice a column for each number of an answer."""
    if kind != "choice":
        return scores_MC
    answers_N = np.array([len(texts) - 1 for texts in rows])
    scores_NC = np.full((len(rows), answers_N.max()), -np.inf)
    scores_NC[np.arange(answers_N.max()) < answers_N[:, None]] = scores_MC[:, 0]
    return scores_NC


def say_if_words_win(
    label_type: LabelType,
    selected_by: str | None,
    words: Mapping[str, Any],
    model: Mapping[str, Any],
    share: WordsShare,
) -> None:
    """Print a sentence if words alone are better by the metric that selected the model, or the usual one."""
    metric = selected_by if selected_by in label_type.selection_metrics else label_type.selection_metrics[0]
    if words[metric] <= model[metric]:
        return
    regression = "ridge" if label_type.kind == "score" else "logistic"
    numbers = f"{metric} {words[metric]:.4g} against {model[metric]:.4g}"
    end = " of both together" if share.weight else f"; {setting('with_words')} in fine-tuning uses both"
    say(f"words alone (TF-IDF + {regression} regression) do better: {numbers}{end}")


def _compared(task: Task, sides: Sequence["csr_matrix"]) -> list["csr_matrix"]:
    """Return the blocks of features of one kind of n-grams, see the top of this file."""
    if len(sides) == 1:
        return list(sides)
    from scipy.sparse import csr_matrix

    one, other = sides
    shared = one.multiply(other)
    cosine = csr_matrix(shared.sum(1))
    if task == "similarity":
        return [one + other, abs(one - other), shared, cosine]
    return [other, shared, cosine] if task == "multiple-choice" else [one, other, shared, cosine]


def _vectorizer(kind: GramKind, **more: Any) -> "TfidfVectorizer":
    from sklearn.feature_extraction.text import TfidfVectorizer

    if kind == "words":
        return TfidfVectorizer(ngram_range=(1, 2), token_pattern=WORD, sublinear_tf=True, **more)
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, **more)


def _encodable(text: str) -> str:
    """Return the text with `?` for each lone surrogate, which no file can hold."""
    return text.encode(errors="replace").decode()
