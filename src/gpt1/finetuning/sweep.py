"""Fit several models, one for each seed and learning rate, and keep the best."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gpt1.console import quiet, say, warn
from gpt1.errors import RunFailed, setting
from gpt1.finetuning.defaults import MIN_VALID_ROWS, FitOptions, rank, resolve_defaults, scratch_lrs, usual_lr
from gpt1.finetuning.examples import TaskRows, build_examples
from gpt1.finetuning.fit import CPU, FineTuned, fit, fit_words_alone
from gpt1.finetuning.words_alone import choose_share
from gpt1.run_folder.folder import LoadedRun
from gpt1.tasks.labels import LabelType
from gpt1.tasks.metrics import over_seeds
from gpt1.tasks.words import WordsShare, say_if_words_win
from gpt1.training.parallel import ProcessLost
from gpt1.training.trackers import Tracking

# Learning rates that are this many times the default are warned of.
HIGH = 10
# Folds of the cross-validation that chooses the weight of words, and the numbers of training rows for which it is done.
FOLDS, MIN_CROSS_ROWS, MAX_CROSS_ROWS = 3, 20, 1_000


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

    Validation decides which is best. Of several learning rates, those at which a training diverges are left out. With a
    `folder`, each training has a folder in it and can be stopped: the same call continues it. Raises what `fit` raises.
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
            try:
                found = fit(
                    base, rows, replace(options, seed=seed, lr=lr), device=device, dtype=dtype, examples=examples,
                    words=words, share=share, folder=folder / name if folder else None, keep_end=several, title=title,
                    tracking=tracking and tracking.of_part(name if several else "", seed=seed, lr=lr),
                )  # fmt: skip
            except RunFailed as error:
                others_failed = best_of_seed is None and lr == lrs[-1]
                if isinstance(error, ProcessLost) or others_failed:
                    raise
                say(f"{error.args[0]}; learning rate {lr:.3g} is left out")
                continue
            tried[f"{lr:.3g}"] = found.metrics[found.metric]
            best_of_seed = _better(best_of_seed, found)
        assert best_of_seed is not None, "the last learning rate raises if all have failed"
        metrics.append(best_of_seed.metrics)
        best = _better(best, replace(best_of_seed, learning_rates=tried if len(lrs) > 1 else None))
    assert best is not None, "there is at least one seed"
    say_if_words_win(best.label_type, best.metric, best.metrics["words_alone"], best.metrics, best.share)
    return replace(best, seeds=over_seeds(metrics) if seeds > 1 else None)


def _cross_fitted_share(
    base: LoadedRun, rows: TaskRows, options: FitOptions, device: torch.device, dtype: torch.dtype
) -> tuple[WordsShare, LabelType] | None:
    """Choose what words add by cross-validation on the training rows, since too few rows validate.

    Returns None if enough rows validate, or too few or too many train.
    """
    if len(rows.valid) >= MIN_VALID_ROWS or not MIN_CROSS_ROWS <= len(rows.train) <= MAX_CROSS_ROWS:
        return None
    say(f"words alone: choosing their weight by {FOLDS}-fold cross-validation on {len(rows.train)} training rows")
    train, is_choice = rows.train, rows.label_type.kind == "choice"
    # In a random order: rows are often sorted by class, or alternate between classes.
    groups = np.random.default_rng(options.seed).permutation(list(dict.fromkeys(train.groups))).tolist()
    fold_of = {group: number % FOLDS for number, group in enumerate(groups)}
    folds_N = np.array([fold_of[group] for group in train.groups])
    outputs = max(len(texts) - 1 for texts in train.texts) if is_choice else rows.label_type.outputs
    network_NC, words_NC = np.full((2, len(train), outputs), -np.inf)
    for fold in range(max(folds_N) + 1):
        held, rest = np.flatnonzero(folds_N == fold).tolist(), np.flatnonzero(folds_N != fold).tolist()
        if not rest or (train.weights and not any(train.weights[i] for i in rest)):
            return None  # every row has the same first text, or no row of weight is left
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
    return choose_share(rows.label_type, network_NC, words_NC, np.arange(len(train)), train.labels)


def _better(best: FineTuned | None, found: FineTuned) -> FineTuned:
    return found if best is None or rank(found.metrics, found.metric) > rank(best.metrics, found.metric) else best
