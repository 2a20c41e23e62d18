"""Zero-shot scoring (the paper, section 5): predict the text that the language model finds most likely.

A minimal pair is a good text and a bad one; a choice is a context with several answers, only one of them right. Nothing
is trained. A text is read after an end token, as documents are in pre-training; it need not be a whole document, so no
end token is predicted after it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch

from gpt1.batch import IGNORE
from gpt1.console import bar, say
from gpt1.data.collate import rounded
from gpt1.data.tables import Row, TableOptions, columns, listed_columns, rows, table
from gpt1.errors import UserError, setting
from gpt1.model.cross_entropy import token_nats
from gpt1.model.gpt import GPT
from gpt1.results import Result
from gpt1.tasks.columns import ColumnNames, guess_columns, named_columns
from gpt1.tasks.metrics import Intervals, choice_intervals, choice_metrics
from gpt1.tasks.rows import read_label, read_texts, valid_rows
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import parallel
from gpt1.training.likelihood import TOKENS_AT_ONCE

QuestionKind = Literal["pairs", "choices"]
Normalize = Literal["none", "tokens", "bytes"]
Ids = list[int]

# Usual names of the columns of the good and the bad text, and of a column to report accuracy by.
PAIR_NAMES = (("good", "bad"), ("sentence_good", "sentence_bad"))
GROUP_NAMES = ("group", "phenomenon", "linguistics_term", "field", "UID")
# Questions held in memory; among them, texts of similar length share a batch.
QUESTIONS_AT_ONCE = 1024


@dataclass(frozen=True)
class Question:
    """A context, its possible answers and the number of the right one; the context of a minimal pair is empty."""

    context: str
    answers: tuple[str, ...]
    label: int
    group: str | None


@dataclass(frozen=True)
class QuestionFile:
    """A table of questions, read one at a time."""

    path: str
    count: int
    questions: Iterable[Question]


@dataclass(frozen=True)
class Window:
    """Part of a text that fits the context, whose last tokens are scored."""

    ids: Ids
    first: int
    """index of the first scored token in `ids`, from 1"""
    text: int
    """number of the text"""


@dataclass(frozen=True)
class GroupAccuracy(Result):
    """Accuracy on the questions of one group."""

    n: int
    """questions"""
    accuracy: float
    """fraction that is right"""


@dataclass(frozen=True)
class ZeroShotMetrics(Result):
    """Zero-shot accuracy on minimal pairs or choices."""

    n: int
    """questions"""
    accuracy: float
    """fraction that is right; equally likely answers count as wrong"""
    majority: float | None
    """choices: accuracy of always predicting the most common number of an answer"""
    chance: float
    """expected accuracy of guessing"""
    intervals: Intervals
    """`[low, high]` of the accuracy: the middle 95 % over resamples of the questions"""
    groups: dict[str, GroupAccuracy] | None
    """by the value of the group column, if there is one"""
    normalize: Normalize
    """the length by which log-likelihoods are divided"""


def question_kind(path: str, options: TableOptions) -> QuestionKind | None:
    """Return whether a table holds pairs or choices, by its column names; None if neither."""
    available = columns(table(path), options)
    if any(good in available and bad in available for good, bad in PAIR_NAMES):
        return "pairs"
    return "choices" if "choices" in available or {"choice0", "choice1"} <= set(available) else None


def read_pairs(path: str, good: str | None, bad: str | None, group: str | None, options: TableOptions) -> QuestionFile:
    """Return the minimal pairs of a table; a column that is not named is guessed.

    Raises UserError, at once, for columns that do not exist or cannot be guessed.
    """
    file = table(path)
    available = columns(file, options)
    usual = next((pair for pair in PAIR_NAMES if set(pair) <= set(available)), ("", ""))
    names = [
        "".join(named_columns(name, available, file)) or default
        for name, default in zip((good, bad), usual, strict=True)
    ]
    if not all(names):
        raise UserError(
            f"{file.path}: which columns are the pair? Name them with {setting('good')} and {setting('bad')}; "
            f"{listed_columns(file, available)}"
        )
    say(f"{file.path}: the good text is column {names[0]}, the bad one is column {names[1]}")
    return _questions(path, group, options, lambda row: ("", (row.text(names[0]), row.text(names[1])), 0))


def read_choices(path: str, requested: ColumnNames, group: str | None, options: TableOptions) -> QuestionFile:
    """Return the choices of a table; a column that is not named is guessed.

    Raises UserError, at once, for columns that do not exist or cannot be guessed.
    """
    wanted = guess_columns(path, "multiple-choice", requested, options)

    def read(row: Row) -> tuple[str, tuple[str, ...], int]:
        context, *answers = read_texts(row, wanted)
        return context, tuple(answers), read_label(row, wanted, "choice", len(answers))

    return _questions(path, group, options, read)


def score_zero_shot(
    network: GPT,
    tokenizer: Tokenizer,
    files: Sequence[QuestionFile],
    kind: QuestionKind,
    normalize: Normalize = "none",
) -> ZeroShotMetrics:
    """Score the questions of all files together."""
    scorer = Scorer(network, tokenizer, normalize)
    right: list[bool] = []
    labels: list[int] = []
    counts: list[int] = []
    groups: list[str] = []
    for file in files:
        source = iter(file.questions)
        with bar() as progress:
            task = progress.add_task(f"{file.path}, rows", total=file.count)
            while block := list(islice(source, QUESTIONS_AT_ONCE)):
                for question, scores_K in zip(block, scorer(block), strict=True):
                    right.append(bool((np.delete(scores_K, question.label) < scores_K[question.label]).all()))
                    labels.append(question.label)
                    counts.append(len(question.answers))
                    groups.append(question.group or "")
                progress.update(task, advance=len(block))
    if scorer.cut:
        say(f"{scorer.cut:,} of {len(right):,} contexts are longer than the model reads; their ends were read")
    right_N, label_N, group_N = np.array(right), np.array(labels), np.array(groups)
    predicted_N = np.where(right_N, label_N, -1)
    found = choice_metrics(label_N, predicted_N)
    by_group = {
        name: GroupAccuracy(int((group_N == name).sum()), float(right_N[group_N == name].mean()))
        for name in sorted(set(groups) - {""})
    }
    return ZeroShotMetrics(
        n=found.n,
        accuracy=found.accuracy,
        majority=found.majority if kind == "choices" else None,  # of a pair, the first text is always the good one
        chance=float(np.mean([1 / count for count in counts])),
        intervals=choice_intervals(label_N, predicted_N),
        groups=by_group or None,
        normalize=normalize,
    )


class Scorer:
    """Computes log-likelihoods of the answers to questions, optionally divided by their length."""

    def __init__(self, network: GPT, tokenizer: Tokenizer, normalize: Normalize = "none") -> None:
        self.network, self.tokenizer, self.normalize = network.eval(), tokenizer, normalize
        self.cut = 0  # contexts so far that did not fit beside their longest answer

    def __call__(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Return scores_K of each question, float64. Raises UserError for an answer without tokens."""
        contexts = self.tokenizer.encode_batch([q.context for q in questions])
        texts = [f" {answer}" if q.context else answer for q in questions for answer in q.answers]
        answers = self.tokenizer.encode_batch(texts)
        owners = [n for n, q in enumerate(questions) for _ in q.answers]
        longest = [0] * len(questions)
        windows: list[Window] = []
        for k, (n, ids) in enumerate(zip(owners, answers, strict=True)):
            if not ids:
                raise UserError(f"the answer {texts[k]!r} has no tokens; an answer must be a text")
            whole = [self.tokenizer.end_id, *contexts[n], *ids]
            longest[n] = max(longest[n], len(whole) - 1 if questions[n].context else 0)
            windows += scoring_windows(whole, len(contexts[n]) + 1, self.network.config.context, k)
        self.cut += sum(length > self.network.config.context for length in longest)
        nats_K = self._nats(windows, len(answers))
        lengths = {
            "none": [1] * len(answers),
            "tokens": [len(ids) for ids in answers],
            "bytes": [len(text.encode()) for text in texts],
        }
        scores_K = -nats_K / np.array(lengths[self.normalize])
        return np.split(scores_K, np.cumsum([len(q.answers) for q in questions])[:-1])

    @torch.inference_mode()
    def _nats(self, windows: Sequence[Window], texts: int) -> np.ndarray:
        """Return -log P of the scored tokens of each text; windows of similar length share a forward pass.

        Several processes share the passes out.
        """
        nats_K, world = np.zeros(texts), parallel.current()
        matrix_VD = self.network.tokens.weight
        ordered = sorted(windows, key=lambda window: -len(window.ids))
        batches = []
        while ordered:
            T = rounded(len(ordered[0].ids) - 1, self.network.config.context)
            count = max(1, TOKENS_AT_ONCE // T)
            batches.append((T, ordered[:count]))
            ordered = ordered[count:]
        for T, batch in batches[world.part]:
            tokens_NT = torch.full((len(batch), T), self.tokenizer.pad_id)
            targets_NT = torch.full((len(batch), T), IGNORE)
            for n, window in enumerate(batch):
                ids = torch.tensor(window.ids)
                tokens_NT[n, : len(ids) - 1] = ids[:-1]
                targets_NT[n, window.first - 1 : len(ids) - 1] = ids[window.first :]
            h_NTD = self.network(tokens_NT.to(matrix_VD.device))
            nats_NT = token_nats(h_NTD, matrix_VD, targets_NT.to(matrix_VD.device))
            np.add.at(nats_K, [window.text for window in batch], nats_NT.cpu().double().sum(-1).numpy())
        world.sum_tensors([torch.from_numpy(nats_K)])
        return nats_K


def scoring_windows(ids: Ids, first: int, context: int, text: int) -> Iterator[Window]:
    """Yield windows in which every token from number `first` on is scored once, after as much as fits before it.

    If one window does not hold all scored tokens, others follow, each with half a context before its scored tokens.
    """
    while first < len(ids):
        is_last = len(ids) - first <= context - context // 2
        low = max(0, len(ids) - 1 - context if is_last else first - 1 - context // 2)
        window = ids[low : low + context + 1]
        yield Window(window, first - low, text)
        first = low + len(window)


def _questions(
    path: str, group: str | None, options: TableOptions, read: Callable[[Row], tuple[str, tuple[str, ...], int]]
) -> QuestionFile:
    file = table(path)
    available = columns(file, options)
    usual = [name for name in GROUP_NAMES if name in available]
    group_column = next(iter(named_columns(group, available, file) or usual), None)
    count = sum(1 for _ in valid_rows(rows(file, options), read, options, path))
    questions = (
        Question(*found, None if group_column is None else str(row.values.get(group_column)))
        for row, found in valid_rows(rows(file, options), read, options)
    )
    return QuestionFile(path, count, questions)
