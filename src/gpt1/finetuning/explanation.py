"""Explain a prediction: what the model reads, how its last state becomes a probability, and which words decide.

Which words decide is found by occlusion: every word is left out in turn, and the row predicted again (Zeiler and Fergus
2014). Words alone need no such trial, since their score is a sum over n-grams.

Axes: N rows or examples, K sequences of an example, D width, C classes, labels or answers, F features.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import log_expit, logsumexp

from gpt1.data.collate import collate
from gpt1.finetuning.predictor import Examples, Predictor
from gpt1.results import Result
from gpt1.tasks.labels import LabelType, ScoreLabels
from gpt1.tasks.rows import Texts
from gpt1.tasks.words import WORD, feature_name, features, items

# Maximum number of trials, approximately: in a longer row, neighbouring words are left out together.
MOST_TRIALS = 256
# Features of words alone that are listed.
STRONGEST = 12
# Rows per forward pass.
BATCH = 64
NUMBER = "number"  # the name of the only output of a regression


@dataclass(frozen=True)
class ReadToken:
    """A token that the model reads."""

    id: int
    """its id"""
    token: str
    """as text"""
    role: Literal["start", "text", "delimiter", "extract"]
    """what it is in the sequence"""


@dataclass(frozen=True)
class ReadSequence:
    """A sequence that the model reads: one, or both orders of a pair, or one for each answer; for each window."""

    tokens: list[ReadToken]
    """its tokens"""
    h: list[float]
    """hidden state at the extract token"""
    scores: list[float]
    """W_y h"""


@dataclass(frozen=True)
class Output(Result):
    """A class, a label, an answer or the number that is predicted."""

    name: str
    """the class or label; of an answer its number, from 0"""
    score: float
    """W_y h of the network, summed over both orders of a pair; the mean over windows"""
    probability: float | None
    """as predicted; left out for a number"""
    words_probability: float | None
    """by words alone"""


@dataclass(frozen=True)
class Occlusion:
    """A word that was left out, or neighbouring words."""

    text: int
    """the text it stands in, from 0"""
    start: int
    """first character in that text"""
    stop: int
    """character after the last"""
    word: str
    """what was left out"""
    change: float
    """log-odds of `about` (or the number) with the word, less those without it: positive if the word speaks for it"""


@dataclass(frozen=True)
class Evidence:
    """A feature of words alone."""

    feature: str
    """the n-gram, or `cosine`"""
    kind: Literal["words", "characters"]
    """what the n-gram is made of"""
    of: str
    """the texts that it was found in"""
    contribution: float
    """TF-IDF weight times coefficient: what it adds to the score (or the number)"""


@dataclass(frozen=True)
class WordsOpinion:
    """What words alone, TF-IDF and a linear model, predict of the row, and why."""

    predicted_label: Any
    """as in predictions"""
    about: str
    """the output that the evidence speaks for"""
    score: float
    """its score (or the number): the constant and the contributions of all features"""
    constant: float
    """the part of the score that no feature contributes"""
    evidence: list[Evidence]
    """the strongest features, for and against"""


@dataclass(frozen=True)
class RowExplanation(Result):
    """What a fine-tuned model predicts of a row, and why."""

    task: str
    """the [task](tasks.md)"""
    texts: list[str]
    """the row: a text, the texts of a pair, or a context and its answers"""
    predicted_label: Any
    """as in predictions"""
    about: str
    """the output that `words` are about: the predicted one, or of several labels the most probable"""
    outputs: list[Output]
    """the classes, labels or answers, or the number"""
    context: int
    """tokens the model reads at once"""
    windows: int
    """number of windows in which the row was read"""
    is_cut: bool
    """whether the row is longer than what was read of it"""
    sequences: list[ReadSequence]
    """what the model reads"""
    words: list[Occlusion]
    """every word in order, and what leaving it out changes"""
    together: int
    """number of neighbouring words left out at a time: 1, or more for a long row"""
    words_weight: float
    """weight of words alone in the prediction; 0: the network's alone"""
    temperature: float
    """divides the sum of both scores"""
    words_alone: WordsOpinion | None
    """what words alone say, if the run has them"""


def explain_row(predictor: Predictor, row: Texts) -> RowExplanation:
    """Explain the prediction of one row."""
    together, trials = left_out(row)
    examples, scores_NC = predictor.scores([row, *(texts for *_, texts in trials)], BATCH)
    prediction_C = examples.mean_by_row(predictor.label_type.predictions(scores_NC))[0]
    column = int(prediction_C.argmax())
    names = _output_names(predictor.label_type, row)
    levels_N = log_odds(predictor.label_type, scores_NC, examples, column)
    occlusions = [
        Occlusion(text, start, stop, row[text][start:stop], float(levels_N[0] - level))
        for (text, start, stop, _), level in zip(trials, levels_N[1:], strict=True)
    ]
    windows = int((examples.rows_N == 0).sum())
    sequences, network_C = _read(predictor, Examples(examples.examples[:windows], examples.rows_N[:windows], 0))
    words_C = predictor.predict_by_words([row])[0] if predictor.words else None
    is_number = predictor.label_type.kind == "score"
    return RowExplanation(
        task=predictor.encoder.task,
        texts=list(row),
        predicted_label=predictor.label_type.to_columns(prediction_C)["predicted_label"],
        about=names[column],
        outputs=[
            Output(
                name,
                float(network_C[c]),
                None if is_number else float(prediction_C[c]),
                None if words_C is None or is_number else float(words_C[c]),
            )
            for c, name in enumerate(names)
        ],
        context=predictor.encoder.context,
        windows=windows,
        is_cut=predictor.encoder.long != "windows" and predictor.encoder.encode([row]).too_long > 0,
        sequences=sequences,
        words=occlusions,
        together=together,
        words_weight=predictor.share.weight,
        temperature=predictor.share.temperature,
        words_alone=None if words_C is None else _opinion(predictor, row, words_C, names),
    )


def left_out(row: Texts, most: int = MOST_TRIALS) -> tuple[int, list[tuple[int, int, int, Texts]]]:
    """Return how many neighbouring words are left out at a time, and the trials (text, start, stop, row without them).

    `text[start:stop]` is left out with the space before it, or after it at the beginning of a text.
    """
    words = [[found.span() for found in re.finditer(WORD, text)] for text in row]
    together = max(1, -(-sum(map(len, words)) // most))
    trials = []
    for number, (text, spans) in enumerate(zip(row, words, strict=True)):
        for low in range(0, len(spans), together):
            start, stop = spans[low][0], spans[min(low + together, len(spans)) - 1][1]
            before, after = text[:start].rstrip(), text[stop:]
            rest = before + after if before else after.lstrip()
            trials.append((number, start, stop, (*row[:number], rest, *row[number + 1 :])))
    return together, trials


def numbered(words: Sequence[str]) -> list[str]:
    """Return the words; the n-th occurrence of a repeated word is numbered, `the (2)`."""
    totals, seen, names = Counter(words), Counter[str](), []
    for word in words:
        seen[word] += 1
        names.append(f"{word} ({seen[word]})" if totals[word] > 1 else word)
    return names


def log_odds(label_type: LabelType, scores_NC: np.ndarray, examples: Examples, column: int) -> np.ndarray:
    """Return log(p / (1 - p)) of an output for each row, from the scores of its examples; for a number, the number.

    Computed in logarithms, since a p close to 1 rounds to 1 in float64. For a row in windows, p is their mean.
    """
    if isinstance(label_type, ScoreLabels):
        return examples.mean_by_row(label_type.predictions(scores_NC))[:, 0]
    score_N = scores_NC[:, column]
    if label_type.kind == "labels":
        for_N, against_N = log_expit(score_N), log_expit(-score_N)
    else:
        total_N = logsumexp(scores_NC, axis=1)
        for_N, against_N = score_N - total_N, logsumexp(np.delete(scores_NC, column, 1), axis=1) - total_N
    rows = (examples.rows_N == number for number in range(int(examples.rows_N.max()) + 1))
    return np.array([logsumexp(for_N[own]) - logsumexp(against_N[own]) for own in rows])


@torch.inference_mode()
def _read(predictor: Predictor, examples: Examples) -> tuple[list[ReadSequence], np.ndarray]:
    """Return what the model reads of one row, and the network's scores_C, the mean over its windows."""
    model, tokenizer = predictor.model, predictor.encoder.tokenizer
    batch = collate(examples.examples, tokenizer.pad_id, predictor.encoder.context).to(predictor.device)
    h_NKD = model.states(batch)
    scores_NKC = (h_NKD @ model.head.weight.to(h_NKD.dtype).T).cpu().double().numpy()
    roles: dict[int | None, Literal["start", "delimiter", "extract"]] = {
        tokenizer.start_id: "start", tokenizer.delimiter_id: "delimiter", tokenizer.extract_id: "extract",
    }  # fmt: skip
    found = []
    for n, example in enumerate(examples.examples):
        for k, ids in enumerate(example.sequences):
            pieces = zip(ids, tokenizer.pieces(ids), strict=True)
            tokens = [ReadToken(i, piece, roles.get(i, "text")) for i, piece in pieces]
            found.append(ReadSequence(tokens, h_NKD[n, k].tolist(), scores_NKC[n, k].tolist()))
    # In multiple choice each sequence is one answer; in a pair, the scores of both orders are added.
    by_example_NC = scores_NKC[..., 0] if predictor.label_type.kind == "choice" else scores_NKC.sum(1)
    return found, by_example_NC.mean(0)


def _opinion(predictor: Predictor, row: Texts, words_C: np.ndarray, names: Sequence[str]) -> WordsOpinion:
    """Return the prediction of words alone, and the features for and against it."""
    words, label_type = predictor.words, predictor.label_type
    assert words is not None
    column = int(words_C.argmax())
    is_choice = label_type.kind == "choice"
    x_F = features(words.task, words.grams, items(words.task, [row]))[column if is_choice else 0].tocoo()
    output = 0 if is_choice else column
    scale, shift = (label_type.scale, label_type.mean) if isinstance(label_type, ScoreLabels) else (1.0, 0.0)
    parts_F = scale * x_F.data * words.weights_CF[output, x_F.col].astype(np.float64)
    constant = shift + scale * float(words.bias_C[output])
    strongest = np.argsort(-np.abs(parts_F), kind="stable")[:STRONGEST]
    evidence = []
    for part in strongest:
        kind, of, gram = feature_name(words.task, words.grams, int(x_F.col[part]))
        evidence.append(Evidence(gram, kind, of, float(parts_F[part])))
    predicted = words.label_type(label_type).to_columns(words_C)["predicted_label"]
    return WordsOpinion(predicted, names[column], constant + float(parts_F.sum()), constant, evidence)


def _output_names(label_type: LabelType, row: Texts) -> list[str]:
    if label_type.kind == "choice":
        return [str(number) for number in range(len(row) - 1)]
    return list(getattr(label_type, "names", [NUMBER]))
