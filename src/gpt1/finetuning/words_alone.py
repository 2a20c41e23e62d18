"""Fit words alone on the rows of a fine-tuning, and choose how much they add to the network's scores.

Axes: N rows or examples, M rows or, for a choice, answers, D differences, F features, C classes, labels or answers.
"""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gpt1.config import Task
from gpt1.console import say
from gpt1.finetuning.defaults import MIN_VALID_ROWS, rank
from gpt1.finetuning.predictor import losses, mean_by_row, mean_loss
from gpt1.tasks.labels import LabelSets, LabelType
from gpt1.tasks.rows import LabelledRows
from gpt1.tasks.words import GRAM_KINDS, Grams, WordsModel, WordsShare, by_row, features, items, linear

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# Strengths to try, and those to use, with all kinds of n-grams, where too few rows validate to choose.
STRENGTHS = (0.1, 1.0, 10.0)
USUAL_STRENGTH, USUAL_RIDGE_STRENGTH = 10.0, 1.0
# Weights of the words in their sum with the network to try, and the one to use where too few rows validate to choose.
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
USUAL_WEIGHT = 1.0
# Maximum number of n-grams of each kind, and of weights (n-grams times classes), which lowers it for many classes.
MOST_GRAMS, MOST_WEIGHTS = 50_000, 2**20
# Maximum characters of text for n-grams of words and for those of characters, which take about 200 bytes of memory per
# character of text, five times as much as words.
MOST_TEXT, MOST_TEXT_BY_CHARACTER = 2**25, 2**22
# The score, in nats, of a class or label that no training row has; that of a label on every row is -NEVER.
NEVER = -10.0


def fit_words(
    task: Task,
    label_type: LabelType,
    train: LabelledRows,
    valid: LabelledRows,
    metric: str,
    class_weights_C: Tensor | None = None,
) -> WordsModel:
    """Fit words alone on the training rows: logistic regression, or for scores ridge regression.

    The validation rows choose, by `metric` and then by the loss, the n-grams and the strength of the penalty, and
    calibrate the scores; if there are fewer than MIN_VALID_ROWS, the usual settings are used as they are. Prints a
    message if the texts are so long that only a part of the rows is used.
    """
    train = _thinned(train)
    best: WordsModel | None = None
    best_rank, best_scores_NC = (-np.inf, -np.inf), np.empty(0)
    enough = len(valid) >= MIN_VALID_ROWS
    for grams in _vocabularies(label_type, train, several=enough):
        x_MF = features(task, grams, items(task, train.texts))
        if not enough:
            usual = USUAL_RIDGE_STRENGTH if label_type.kind == "score" else USUAL_STRENGTH
            weights_CF, bias_C = _linear(label_type, x_MF, train, usual, class_weights_C)
            return WordsModel(task, label_type.kind, usual, grams, weights_CF, bias_C)
        valid_MF = features(task, grams, items(task, valid.texts))
        for strength in STRENGTHS:
            weights_CF, bias_C = _linear(label_type, x_MF, train, strength, class_weights_C)
            scores_NC = by_row(label_type.kind, linear(valid_MF, weights_CF, bias_C), valid.texts)
            metrics = label_type.metrics(valid.labels, label_type.predictions(scores_NC))
            found = rank({**metrics, "loss": mean_loss(label_type, scores_NC, valid.labels)}, metric)
            if best is None or found > best_rank:
                best = WordsModel(task, label_type.kind, strength, grams, weights_CF, bias_C)
                best_rank, best_scores_NC = found, scores_NC
    assert best is not None, "there is at least one setting"
    calibrated, temperature = label_type.calibrated(best_scores_NC, valid.labels)
    divisor, thresholds = np.float32(temperature), calibrated.thresholds if isinstance(calibrated, LabelSets) else None
    return replace(best, weights_CF=best.weights_CF / divisor, bias_C=best.bias_C / divisor, thresholds=thresholds)


def choose_share(
    label_type: LabelType, network_NC: np.ndarray, words_NC: np.ndarray, rows_N: np.ndarray, labels: list[Any]
) -> tuple[WordsShare, LabelType]:
    """Return what the words add to the network's scores, and the label type calibrated on the sum.

    Both scores are of examples that neither was trained on; `rows_N` is the row of each, and `labels` those of the
    rows. The weight is the largest whose loss is within one standard error of the least (Breiman et al. 1984): few rows
    cannot tell a weak network from a useful one, and words are the safer bet.
    """
    of_examples = [labels[row] for row in rows_N]
    found: list[tuple[WordsShare, LabelType, np.ndarray]] = []
    for weight in WEIGHTS:
        share, judged = WordsShare(weight), label_type
        if weight:
            # Of the mean, since only temperatures within a range are tried.
            mean = WordsShare(weight, 1 + weight)
            judged, temperature = _calibrated(label_type, mean.add(network_NC, words_NC), of_examples)
            share = WordsShare(weight, mean.temperature * temperature)
        losses_NC = losses(judged, share.add(network_NC, words_NC), of_examples)[:, None]
        found.append((share, judged, mean_by_row(losses_NC, rows_N)[:, 0]))
    *_, least_N = min(found, key=lambda one: float(one[2].mean()))

    def is_as_good(losses_N: np.ndarray) -> bool:
        excess_N = losses_N - least_N
        return bool(excess_N.mean() <= excess_N.std() / np.sqrt(len(excess_N)))

    return next((share, judged) for share, judged, losses_N in reversed(found) if is_as_good(losses_N))


def usual_share(label_type: LabelType) -> WordsShare:
    """Return what the words add where too few rows are held out to choose it."""
    # Evidence for a class adds up, but two estimates of one number are averaged.
    return WordsShare(USUAL_WEIGHT, 1.0 + USUAL_WEIGHT if label_type.kind == "score" else 1.0)


def _calibrated(label_type: LabelType, sum_NC: np.ndarray, labels: list[Any]) -> tuple[LabelType, float]:
    """Return the label type calibrated on a sum, and its temperature; for scores, the one with the least error."""
    if label_type.kind != "score":
        return label_type.calibrated(sum_NC, labels)
    agreement = float(sum_NC[:, 0] @ [label_type.target(label) for label in labels])
    return label_type, float((sum_NC**2).sum()) / agreement if agreement > 0 else 1.0


def _thinned(rows: LabelledRows) -> LabelledRows:
    """Return a random sample of the rows whose texts are not longer than MOST_TEXT in all; every row if they fit."""
    step = -(-_characters(rows) // MOST_TEXT)
    if step <= 1:
        return rows
    kept = rows.select(sorted(np.random.default_rng(0).permutation(len(rows))[: len(rows) // step].tolist()))
    say(f"words alone are fitted on {len(kept):,} of {len(rows):,} training rows, because the texts are long")
    return kept


def _characters(rows: LabelledRows) -> int:
    return sum(map(len, {text for texts in rows.texts for text in texts}))


def _vocabularies(label_type: LabelType, train: LabelledRows, several: bool) -> Iterator[list[Grams]]:
    """Yield the n-grams of the training texts: words, then words and characters; if not `several`, only the last."""
    texts = list(dict.fromkeys(text for row in train.texts for text in row))
    most = max(1, min(MOST_GRAMS, MOST_WEIGHTS // label_type.outputs))
    grams: list[Grams] = []
    kinds = GRAM_KINDS if _characters(train) <= MOST_TEXT_BY_CHARACTER else GRAM_KINDS[:1]
    for kind in kinds:
        grams = [*grams, Grams.learn(kind, texts, most)]
        if several or kind == kinds[-1]:
            yield grams


def _linear(
    label_type: LabelType, x_MF: "csr_matrix", rows: LabelledRows, strength: float, class_weights_C: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights_CF and bias_C, float32, of the linear model that fits the labels of rows."""
    targets = np.array([label_type.target(label) for label in rows.labels])
    weights = dict(enumerate(class_weights_C.tolist())) if class_weights_C is not None else {}
    by_row_N = None if rows.weights is None else np.array(rows.weights)
    if label_type.kind == "score":
        from sklearn.linear_model import Ridge

        with _one_thread():
            model = Ridge(alpha=1 / strength).fit(x_MF, targets, sample_weight=by_row_N)
        found = model.coef_[None], np.array([model.intercept_])
    elif label_type.kind == "choice":
        found = _choices(x_MF, [len(texts) - 1 for texts in rows.texts], targets, strength, by_row_N)
    elif label_type.kind == "labels":
        each = [
            _logistic(x_MF, y_N, strength, {1: weights[i]} if weights else None, by_row_N)
            for i, y_N in enumerate(targets.T)
        ]
        found = np.stack([w_F for w_F, _ in each]), np.array([bias for _, bias in each])
    else:
        found = _classes(x_MF, targets, label_type.outputs, strength, weights or None, by_row_N)
    return found[0].astype(np.float32), found[1].astype(np.float32)


def _classes(
    x_NF: "csr_matrix",
    targets_N: np.ndarray,
    classes: int,
    strength: float,
    weights: dict[int, float] | None,
    by_row_N: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights_CF and bias_C of multinomial logistic regression over the classes that occur."""
    weights_CF, bias_C = np.zeros((classes, x_NF.shape[1])), np.full(classes, NEVER)
    present = np.unique(targets_N)
    bias_C[present] = 0.0
    if len(present) > 1:
        model = _logistic_regression(x_NF, targets_N, strength, weights, by_row_N)
        # For two classes scikit-learn returns one score: the difference of the two that we return.
        halves = np.array([[-0.5], [0.5]])
        weights_CF[present] = halves * model.coef_ if len(present) == 2 else model.coef_
        bias_C[present] = halves[:, 0] * model.intercept_ if len(present) == 2 else model.intercept_
    return weights_CF, bias_C


def _logistic(
    x_NF: "csr_matrix",
    y_N: np.ndarray,
    strength: float,
    weights: dict[int, float] | None,
    by_row_N: np.ndarray | None,
) -> tuple[np.ndarray, float]:
    """Return w_F and the bias of logistic regression for one label; y_N is 1 where it applies, else 0."""
    if len(np.unique(y_N)) == 1:
        return np.zeros(x_NF.shape[1]), -NEVER if y_N[0] else NEVER
    model = _logistic_regression(x_NF, y_N, strength, weights, by_row_N)
    return model.coef_[0], float(model.intercept_[0])


def _choices(
    x_MF: "csr_matrix", answers: list[int], right_N: np.ndarray, strength: float, by_row_N: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights_1F and bias_1 of a score that is higher for the right answer than for each other answer of a row.

    This is logistic regression on differences of features, right minus wrong, each with both signs.
    """
    from scipy.sparse import vstack

    counts_N = np.array(answers)
    right_M = np.repeat(np.cumsum(counts_N) - counts_N + right_N, counts_N)
    wrong_M = np.arange(len(right_M)) != right_M
    x_DF = x_MF[right_M[wrong_M]] - x_MF[wrong_M]
    y_D = np.repeat([1, 0], x_DF.shape[0])
    by_row_D = None if by_row_N is None else np.tile(np.repeat(by_row_N, counts_N - 1), 2)
    model = _logistic_regression(vstack([x_DF, -x_DF]).tocsr(), y_D, strength, None, by_row_D, fit_intercept=False)
    return model.coef_, np.zeros(1)


def _logistic_regression(
    x_NF: "csr_matrix",
    y_N: np.ndarray,
    strength: float,
    weights: dict[int, float] | None,
    by_row_N: np.ndarray | None,
    **more: Any,
) -> Any:
    from sklearn.linear_model import LogisticRegression

    with _one_thread(), warnings.catch_warnings():
        # 1,000 iterations are close enough to the optimum, and of many classes the user has been warned already.
        warnings.simplefilter("ignore", UserWarning)
        model = LogisticRegression(C=strength, class_weight=weights, max_iter=1000, **more)
        return model.fit(x_NF, y_N, sample_weight=by_row_N)


def _one_thread() -> AbstractContextManager[Any]:
    """Keep BLAS to one thread: on several it sums in another order, and the model would depend on their number."""
    from threadpoolctl import threadpool_limits  # scikit-learn needs it too

    return threadpool_limits(1, user_api="blas")
