"""Repeated fits: over seeds and learning rates, keeping the best model, and for the places of an ablation's table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt1.console import quiet, say
from gpt1.errors import UserError, setting
from gpt1.finetuning.defaults import FitOptions, rank, resolve_defaults, scratch_lrs
from gpt1.finetuning.examples import TaskRows, build_examples
from gpt1.finetuning.fit import CPU, FineTuned, fit, fit_words_alone
from gpt1.run_folder.folder import LoadedRun
from gpt1.tasks.labels import ClassLabels, LabelSets, LabelType, ScoreLabels, infer_label_type
from gpt1.tasks.metrics import over_seeds
from gpt1.tasks.rows import LabelledRows
from gpt1.tasks.words import say_if_words_win

# The variants of an ablation, by what they change.
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no_lm": {"lm_coef": 0.0},
    "from_scratch": {"from_scratch": True, "freeze": 0, "transfer_layers": None},
}
# The number of training rows, the variant and the seed of one of an ablation's models.
Place = tuple[int, str, int]


@dataclass(frozen=True)
class Cell:
    """One model of an ablation: its place in the table, and its scores."""

    rows: int
    variant: str
    seed: int
    lr: float
    metrics: dict[str, float]
    words_alone: dict[str, float] | None = None
    """scores of words alone on the same rows; given for the variant `full` only, since they are the same for all"""

    @property
    def place(self) -> Place:
        """Its place in the table."""
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
) -> FineTuned:
    """Fit with `seeds` seeds from `options.seed` on, from scratch also with several learning rates; return the best.

    Validation decides which is best. With a `folder`, each training has a folder in it and can be stopped: the same
    call continues it. Raises what `fit` raises.
    """
    width = base.body.config.width
    options = resolve_defaults(options, len(rows.train), width)
    examples, words = build_examples(base, rows, options), fit_words_alone(rows, options)
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
            found = fit(
                base, rows, replace(options, seed=seed, lr=lr), device=device, dtype=dtype, examples=examples,
                words=words, folder=folder / f"seed-{seed}-lr-{lr:.3g}" if folder else None, keep_end=several,
                title=title,
            )  # fmt: skip
            tried[f"{lr:.3g}"] = found.metrics[found.selected_by]
            best_of_seed = _better(best_of_seed, found)
        assert best_of_seed is not None, "there is at least one learning rate"
        metrics.append(best_of_seed.metrics)
        best = _better(best, replace(best_of_seed, learning_rates=tried if len(tried) > 1 else None))
    assert best is not None, "there is at least one seed"
    say_if_words_win(best.label_type, best.selected_by, best.metrics["words_alone"], best.metrics, options.with_words)
    return replace(best, seeds=over_seeds(metrics) if seeds > 1 else None)


def fit_cell(
    base: LoadedRun,
    rows: TaskRows,
    scored: LabelledRows,
    options: FitOptions,
    place: Place,
    *,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Cell:
    """Fit the model of one place of an ablation's table, and score it on the rows `scored`, `batch` at a time.

    `options.lr` is the learning rate of the place; 0 chooses it, from scratch by trying several.
    """
    size, variant, seed = place
    train = sample(rows.train, rows.label_type, size, seed)
    label_type = infer_label_type(rows.label_type.kind, train.labels, f"a sample of {size} training rows")
    with quiet():
        tuned = fit_best(
            base, replace(rows, label_type=label_type, train=train),
            replace(options, **VARIANTS[variant], seed=seed), device=device, dtype=dtype,
        )  # fmt: skip
    predictions_NC, _ = tuned.predictor(device, dtype).predict(scored.texts, batch)
    metrics = _floats(tuned.label_type.metrics(scored.labels, predictions_NC))
    if variant != "full":
        return Cell(*place, tuned.options.lr, metrics)
    alone = tuned.words.label_type(tuned.label_type)
    words_NC = alone.predictions(tuned.words.scores(scored.texts))
    return Cell(*place, tuned.options.lr, metrics, _floats(alone.metrics(scored.labels, words_NC)))


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


def _floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def _better(best: FineTuned | None, found: FineTuned) -> FineTuned:
    metric = found.selected_by
    return found if best is None or rank(found.metrics, metric) > rank(best.metrics, metric) else best
