"""Zero-shot answers (the paper, section 5): of several texts the one that the language model finds likeliest.

A minimal pair is two texts of which one is good; a choice is a context with answers, of which one is right. Nothing is
trained. A text begins after an end token, as a document does; it need not end where the document would, so no end token
is predicted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.batch import IGNORE
from gpt1.config import Evaluate, Finetune
from gpt1.console import bar, say
from gpt1.data.collate import rounded
from gpt1.data.files import File
from gpt1.data.tables import Row, columns, rows, table
from gpt1.errors import UserError
from gpt1.model.cross_entropy import token_nats
from gpt1.model.gpt import GPT
from gpt1.model.packed import packed
from gpt1.run_folder.folder import load_run
from gpt1.tasks.choices import index_of
from gpt1.tasks.columns import Columns, guess_columns, named
from gpt1.tasks.metrics import choice_intervals, choice_metrics
from gpt1.tasks.rows import texts_of
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training.device import setup_device
from gpt1.training.likelihood import TOKENS_AT_ONCE

PAIR_NAMES = (("good", "bad"), ("sentence_good", "sentence_bad"))
GROUP_NAMES = ("group", "phenomenon", "linguistics_term", "field", "UID")
ROWS_AT_ONCE = 1024
Ids = list[int]


@dataclass(frozen=True)
class Question:
    """A row: what all answers come after, the answers, and which of them is right."""

    context: str
    answers: tuple[str, ...]
    label: int
    group: str | None


@dataclass(frozen=True)
class Piece:
    """A window of a text that is to be continued, and from which place on what follows is scored."""

    ids: Ids
    first: int
    """number of the first scored token within `ids`, from 1"""
    owner: int


def zero_shot(settings: Evaluate, kind: str) -> dict[str, Any]:
    """n, accuracy, intervals, chance, majority (of choices) and, where rows have groups, groups {name: {n, accuracy}}.

    `kind` is `pairs` or `choices`. Equally likely answers count as wrong. Raises UserError for wrong rows.
    """
    device, dtype = setup_device(settings.device, settings.dtype, settings.threads, settings.seed)
    loaded = load_run(settings.run)
    scorer = Scorer(packed(loaded.body.to(device, dtype)), loaded.tokenizer, settings.normalize)
    right: list[bool] = []
    questions: list[Question] = []
    for path in settings.files:
        source = _questions(path, settings, kind)
        total = sum(1 for _ in rows(table(path), settings.encoding))
        with bar() as progress:
            task = progress.add_task(f"{path}, rows", total=total)
            while block := list(islice(source, ROWS_AT_ONCE)):
                right += [_wins(scores, q.label) for scores, q in zip(scorer(block), block, strict=True)]
                questions += [Question("", ("",) * len(q.answers), q.label, q.group) for q in block]
                progress.update(task, advance=len(block))
    if scorer.cut:
        say(f"{scorer.cut:,} of {len(right):,} contexts are longer than the model reads; their ends were read")
    return _measured(questions, np.array(right), kind) | {"normalize": settings.normalize}


def kind_of(path: str, encoding: str) -> str | None:
    """What a table asks of a language model, by the names of its columns: `pairs`, `choices` or neither."""
    there = columns(table(path), encoding)
    if any(good in there and bad in there for good, bad in PAIR_NAMES):
        return "pairs"
    return "choices" if "choices" in there or {"choice0", "choice1"} <= set(there) else None


class Scorer:
    """Questions -> for each the log-likelihood of its answers, which may be divided by their length."""

    def __init__(self, body: GPT, tokenizer: Tokenizer, normalize: str) -> None:
        self.body, self.tokenizer, self.normalize = body.eval(), tokenizer, normalize
        self.cut = 0
        """contexts that did not fit beside their longest answer"""

    def __call__(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """scores_K of each question, float64."""
        contexts = self.tokenizer.encode_batch([q.context for q in questions])
        spaced = [f" {answer}" if q.context else answer for q in questions for answer in q.answers]
        answers = self.tokenizer.encode_batch(spaced)
        owners = [n for n, q in enumerate(questions) for _ in q.answers]
        room, sizes = self.body.config.context, [len(ids) for ids in answers]
        longest = [0] * len(questions)
        pieces: list[Piece] = []
        for k, (n, ids) in enumerate(zip(owners, answers, strict=True)):
            if not ids:
                raise UserError(f"the answer {spaced[k]!r} has no token; give it a text")
            whole = [self.tokenizer.end_id, *contexts[n], *ids]
            longest[n] = max(longest[n], len(whole) - 1 if questions[n].context else 0)
            pieces += pieces_of(whole, len(contexts[n]) + 1, room, k)
        self.cut += sum(length > room for length in longest)
        nats_K = self._nats(pieces, len(answers))
        lengths = {"none": [1] * len(answers), "tokens": sizes, "bytes": [len(text.encode()) for text in spaced]}
        scores_K = -nats_K / np.array(lengths[self.normalize])
        return np.split(scores_K, np.cumsum([len(q.answers) for q in questions])[:-1])

    def _nats(self, pieces: Sequence[Piece], count: int) -> np.ndarray:
        """The surprise of the scored tokens, summed by owner; pieces of like length share a forward pass."""
        nats_K = np.zeros(count)
        order = sorted(pieces, key=lambda piece: -len(piece.ids))
        at = 0
        while at < len(order):
            T = len(order[at].ids) - 1
            batch = order[at : at + max(1, TOKENS_AT_ONCE // rounded(T, self.body.config.context))]
            np.add.at(nats_K, [piece.owner for piece in batch], self._scored(batch, T))
            at += len(batch)
        return nats_K

    @torch.inference_mode()
    def _scored(self, batch: Sequence[Piece], longest: int) -> np.ndarray:
        T = rounded(longest, self.body.config.context)
        tokens_NT = torch.full((len(batch), T), self.tokenizer.pad_id)
        targets_NT = torch.full((len(batch), T), IGNORE)
        for n, piece in enumerate(batch):
            ids = torch.tensor(piece.ids)
            tokens_NT[n, : len(ids) - 1] = ids[:-1]
            targets_NT[n, piece.first - 1 : len(ids) - 1] = ids[piece.first :]
        matrix_VD = self.body.tokens.weight
        targets_NT = targets_NT.to(matrix_VD.device)
        nats_NT: Tensor = token_nats(self.body(tokens_NT.to(matrix_VD.device)), matrix_VD, targets_NT)
        return nats_NT.double().sum(-1).cpu().numpy()


def pieces_of(ids: Ids, first: int, context: int, owner: int) -> Iterator[Piece]:
    """Windows in which every token from number `first` on is scored once, with as much before it as there is room for.

    What does not fit one window goes on in others, each with half a context before it.
    """
    while first < len(ids):
        last = len(ids) - first <= context - context // 2
        low = max(0, len(ids) - 1 - context if last else first - 1 - context // 2)
        window = ids[low : low + context + 1]
        yield Piece(window, first - low, owner)
        first = low + len(window)


def _questions(path: str, settings: Evaluate, kind: str) -> Iterator[Question]:
    """The rows of a table; the columns are checked at once."""
    file = table(path)
    there = columns(file, settings.encoding)
    group = _group(settings, file, there)
    read = _pairs(settings, file, there) if kind == "pairs" else _choices(settings, path)
    return (read(row, None if group is None else str(row.values.get(group))) for row in rows(file, settings.encoding))


def _pairs(settings: Evaluate, file: File, there: Sequence[str]) -> Callable[[Row, str | None], Question]:
    usual = next((pair for pair in PAIR_NAMES if set(pair) <= set(there)), None)
    good, bad = (named(name, there, file) for name in (settings.good, settings.bad))
    if not (good and bad) and usual is None:
        raise UserError(f"{file.path}: which columns are the pair? Say --good and --bad with two of {', '.join(there)}")
    good, bad = good or [usual[0]], bad or [usual[1]]  # type: ignore[index]
    say(f"{file.path}: the good text is column {good[0]}, the bad one is column {bad[0]}")
    return lambda row, group: Question("", (row.text(good[0]), row.text(bad[0])), 0, group)


def _choices(settings: Evaluate, path: str) -> Callable[[Row, str | None], Question]:
    wanted: Columns = guess_columns(
        Finetune(
            run="", train=path, out="", task="multiple-choice", context=settings.context, choices=settings.choices,
            label=settings.label, encoding=settings.encoding,
        )
    )  # fmt: skip

    def read(row: Row, group: str | None) -> Question:
        context, *answers = texts_of(row, wanted)
        return Question(context, tuple(answers), index_of(row, wanted.label[0], len(answers)), group)

    return read


def _group(settings: Evaluate, file: File, there: Sequence[str]) -> str | None:
    if settings.group:
        return named(settings.group, there, file)[0]
    return next((name for name in GROUP_NAMES if name in there), None)


def _wins(scores_K: np.ndarray, label: int) -> bool:
    return bool((np.delete(scores_K, label) < scores_K[label]).all())


def _measured(questions: Sequence[Question], right_N: np.ndarray, kind: str) -> dict[str, Any]:
    gold_N = np.array([q.label for q in questions])
    told_N = np.where(right_N, gold_N, -1)
    found = choice_metrics(gold_N, told_N) | {"chance": float(np.mean([1 / len(q.answers) for q in questions]))}
    if kind == "pairs":
        del found["majority"]  # the good text stands first by definition
    of = np.array([q.group or "" for q in questions])
    groups = {
        name: {"n": int((of == name).sum()), "accuracy": float(right_N[of == name].mean())}
        for name in sorted(set(of) - {""})
    }
    return found | {"intervals": choice_intervals(gold_N, told_N)} | ({"groups": groups} if groups else {})
