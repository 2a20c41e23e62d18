"""Repeated fits: over seeds and learning rates, keeping the best model, and for the cells of an ablation's table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt1.console import quiet, say, warn
from gpt1.errors import UserError, setting
from gpt1.finetuning.defaults import MIN_VALID_ROWS, FitOptions, rank, resolve_defaults, scratch_lrs, usual_lr
from gpt1.finetuning.examples import TaskRows, build_examples
from gpt1.finetuning.fit import CPU, FineTuned, fit, fit_words_alone
from gpt1.finetuning.words_alone import choose_share
from gpt1.run_folder.folder import LoadedRun
from gpt1.tasks.labels import ClassLabels, LabelSets, LabelType, ScoreLabels, infer_label_type
from gpt1.tasks.metrics import over_seeds, scalars
from gpt1.tasks.rows import LabelledRows
from gpt1.tasks.words import WordsShare, say_if_words_win
from gpt1.training.trackers import Tracking

# Learning rates that are this many times the default are warned of.
HIGH = 10
# The variants of an ablation, by what they change.
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no_lm": {"lm_coef": 0.0},
    "from_scratch": {"from_scratch": True, "freeze": 0, "transfer_layers": None},
}
# Parts in which few training rows are held out by turns, and how many rows are few.
FOLDS, MIN_CROSS_ROWS, MAX_CROSS_ROWS = 3, 20, 1_000
# What identifies a model of an ablation: number of training rows, variant, seed.
CellKey = tuple[int, str, int]


@dataclass(frozen=True)
class Cell:
    """One model of an ablation: what identifies it, and its scores."""

    rows: int
    variant: str
    seed: int
    lr: float
    metrics: dict[str, float]
    words_alone: dict[str, float] | None = None
    """scores of words alone on the same rows; given for the variant `full` only, since they are the same for all"""

    @property
    def key(self) -> CellKey:
        """Number of training rows, variant and seed."""
        return self.rows, self.variant, self.seed


def fit_best(
    base: LoadedRun,
    rows: TaskRows,
    options: FitOptions,
    *,
    seeds: int = 1,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    folder: Path | None = None,
    tracking: Tracking | None = None,
) -> FineTuned:
    """Fit with `seeds` seeds from `options.seed` on, from scratch also with several learning rates; return the best.

    Validation decides which is best. With a `folder`, each training has a folder in it and can be stopped: the same
    call continues it. Raises what `fit` raises.
    """
    width = base.body.config.width
    options = resolve_defaults(options, len(rows.train), width)
    if not options.from_scratch and options.lr >= HIGH * usual_lr(width):
        warn(
            f"{setting('lr')} {options.lr:g} is far above {usual_lr(width):.2g}, the default for this network, and may "
            "destroy what pre-training taught it"
        )
    examples = build_examples(base, rows, options)
    words = fit_words_alone(rows, options, examples)
    share = _cross_fitted_share(base, rows, options, device, dtype) if options.with_words else None
    several = seeds > 1 or options.from_scratch
    lrs = [options.lr] if options.lr else scratch_lrs(width)
    best: FineTuned | None = None
    metrics = []
    for seed in range(options.seed, options.seed + seeds):
        best_of_seed: FineTuned | None = None
        tried = {}
        for lr in lrs:
            title = f"seed {seed}, learning rate {lr:.3g}" if several else "finetune"
            if several:
                say(f"{title}:")
            name = f"seed-{seed}-lr-{lr:.3g}"
            found = fit(
                base, rows, replace(options, seed=seed, lr=lr), device=device, dtype=dtype, examples=examples,
                words=words, share=share, folder=folder / name if folder else None, keep_end=several, title=title,
                tracking=tracking and tracking.of_part(name if several else "", seed=seed, lr=lr),
            )  # fmt: skip
            tried[f"{lr:.3g}"] = found.metrics[found.metric]
            best_of_seed = _better(best_of_seed, found)
        assert best_of_seed is not None, "there is at least one learning rate"
        metrics.append(best_of_seed.metrics)
        best = _better(best, replace(best_of_seed, learning_rates=tried if len(tried) > 1 else None))
    assert best is not None, "there is at least one seed"
    say_if_words_win(best.label_type, best.metric, best.metrics["words_alone"], best.metrics, best.share)
    return replace(best, seeds=over_seeds(metrics) if seeds > 1 else None)


def _cross_fitted_share(
    base: LoadedRun, rows: TaskRows, options: FitOptions, device: torch.device, dtype: torch.dtype
) -> tuple[WordsShare, LabelType] | None:
    """Choose what words add where few rows validate: on the training rows, each scored by models that did not read it.

    Returns None if enough rows validate, or too few or too many train.
    """
    if len(rows.valid) >= MIN_VALID_ROWS or not MIN_CROSS_ROWS <= len(rows.train) <= MAX_CROSS_ROWS:
        return None
    say(f"words: choosing their weight on {len(rows.train)} training rows, held out in {FOLDS} parts")
    train, is_choice = rows.train, rows.label_type.kind == "choice"
    # In a random order: rows are often sorted by class, or alternate between classes.
    groups = np.random.default_rng(options.seed).permutation(list(dict.fromkeys(train.groups))).tolist()
    fold_of = {group: number % FOLDS for number, group in enumerate(groups)}
    folds_N = np.array([fold_of[group] for group in train.groups])
    outputs = max(len(texts) - 1 for texts in train.texts) if is_choice else rows.label_type.outputs
    network_NC, words_NC = np.full((2, len(train), outputs), -np.inf)
    for fold in range(max(folds_N) + 1):
        held, rest = np.flatnonzero(folds_N == fold).tolist(), np.flatnonzero(folds_N != fold).tolist()
        if not rest:
            return None  # every row has the same first text
        with quiet():
            found = fit(
                base, replace(rows, train=train.select(rest)), replace(options, with_words=False),
                device=device, dtype=dtype,
            )  # fmt: skip
        texts = train.select(held).texts
        examples, scores_NC = found.predictor(device, dtype).network_scores(texts, options.batch)
        scores_NC = examples.mean_by_row(scores_NC)
        network_NC[held, : scores_NC.shape[1]] = scores_NC
        scores_NC = found.words.scores(texts)
        words_NC[held, : scores_NC.shape[1]] = scores_NC
    return choose_share(rows.label_type, network_NC, words_NC, np.arange(len(train)), train.labels, "loss")


def fit_cell(
    base: LoadedRun,
    rows: TaskRows,
    scored: LabelledRows,
    options: FitOptions,
    key: CellKey,
    *,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path | None = None,
) -> Cell:
    """Fit the model that `key` identifies, and score it on the rows `scored`, `batch` at a time.

    With a `folder`, a training that was stopped continues from the states in it. `options.lr` is the learning rate; 0
    chooses it, from scratch by trying several.
    """
    size, variant, seed = key
    train = sample(rows.train, rows.label_type, size, seed)
    label_type = infer_label_type(rows.label_type.kind, train.labels, f"a sample of {size} training rows")
    with quiet():
        tuned = fit_best(
            base, replace(rows, label_type=label_type, train=train),
            replace(options, **VARIANTS[variant], seed=seed), device=device, dtype=dtype, folder=folder,
        )  # fmt: skip
    predictor = tuned.predictor(device, dtype)
    predictions_NC, _ = predictor.predict(scored.texts, batch)
    metrics = scalars(tuned.label_type.metrics(scored.labels, predictions_NC))
    if variant != "full":
        return Cell(*key, tuned.options.lr, metrics)
    alone, words_NC = tuned.words.label_type(tuned.label_type), predictor.predict_by_words(scored.texts)
    return Cell(*key, tuned.options.lr, metrics, scalars(alone.metrics(scored.labels, words_NC)))


def sample(rows: LabelledRows, label_type: LabelType, size: int, seed: int) -> LabelledRows:
    """Draw `size` of the rows, in their order, so that every class occurs; a larger sample contains the smaller ones.

    Raises UserError if there are more classes than that.
    """
    order: list[int] = np.random.default_rng(seed).permutation(len(rows)).tolist()
    needed: dict[int, None] = {}
    if isinstance(label_type, ClassLabels | LabelSets):
        met: set[str] = set()
        for i in order:
            if not (names := label_type.names_of(rows.labels[i])) <= met:
                met |= names
                needed[i] = None
    if size < len(needed):
        raise UserError(f"{setting('sizes')} {size}: it takes {len(needed)} rows for every one of the labels to occur")
    rest = [i for i in order if i not in needed]
    return rows.select(sorted([*needed, *rest][:size]))


def guess(label_type: LabelType, labels: Sequence[Any], choices: int) -> np.ndarray:
    """Return prediction_C of a guess that reads no text: the training rows' share of each class, or their mean."""
    targets = np.array([label_type.target(label) for label in labels])
    if isinstance(label_type, ScoreLabels):
        return np.array([label_type.mean])
    if isinstance(label_type, LabelSets):
        return targets.mean(0)
    return np.bincount(targets, minlength=max(label_type.outputs, choices)) / len(targets)


def _better(best: FineTuned | None, found: FineTuned) -> FineTuned:
    return found if best is None or rank(found.metrics, found.metric) > rank(best.metrics, found.metric) else best
