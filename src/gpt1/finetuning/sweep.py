"""The models of one fine-tuning: of several seeds and learning rates the best on validation, and what is told of it."""

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt1.config import Finetune
from gpt1.console import say
from gpt1.finetuning.data import Data
from gpt1.finetuning.defaults import usual_lr
from gpt1.finetuning.selection import rank, selected
from gpt1.finetuning.tuning import Best, tune
from gpt1.model.gpt import GPT
from gpt1.tasks.columns import Columns, guess_columns
from gpt1.tasks.labels import Goal, goal_for, to_facts
from gpt1.tasks.rows import Labelled, check_labels, kind_of, read_labelled, split, warn
from gpt1.tasks.seeds import over_seeds
from gpt1.training import log

SCRATCH_LR, SCRATCH_RATES = 2.5e-4, (0.25, 1.0, 4.0)
"""Random weights start from pre-training's learning rate, or fine-tuning's if that is higher; multiples are tried."""


@dataclass(frozen=True)
class Rows:
    """The labelled rows of a fine-tuning."""

    columns: Columns
    goal: Goal
    train: Labelled
    valid: Labelled


@dataclass(frozen=True)
class Trial:
    """One run, and its curves."""

    best: Best
    curves: bytes
    """metrics.jsonl"""


def read_rows(settings: Finetune) -> Rows:
    """The rows of the settings' files, and what is to be told of them; says what makes scores lie."""
    columns = guess_columns(settings)
    kind = kind_of(settings, columns)
    learnt = read_labelled(settings.train, columns, kind, settings.encoding)
    where = f"{settings.train}: column {', '.join(columns.label)}"
    goal = goal_for(kind, learnt.labels, where)
    if settings.valid:
        valid = read_labelled(settings.valid, columns, kind, settings.encoding)
        if kind in ("classes", "labels"):
            check_labels(valid, to_facts(goal)["labels"], ", ".join(columns.label))
    else:
        learnt, valid = split(learnt, settings.seed)
    warn(learnt, valid, kind)
    return Rows(columns, goal, learnt, valid)


def run_trials(
    settings: Finetune, data: Data, base: GPT, folder: Path, resumable: bool = False
) -> tuple[Trial, dict[str, Any]]:
    """The best run of all, and what is to be told of the others: `seeds` and `learning_rates`, if there are several.

    `folder` takes a folder for each; if they are `resumable`, this goes on from the states that a stopped call left.
    """
    best, rates, metrics = None, {}, []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        found, tried = _best_rate(replace(settings, seed=seed), data, base, folder, resumable)
        metrics.append(found.best.metrics)
        if best is None or _rank(found) > _rank(best):
            best, rates = found, tried
    assert best is not None, "there is at least one seed"
    told: dict[str, Any] = {"learning_rates": rates} if len(rates) > 1 else {}
    return best, told | ({"seeds": over_seeds(metrics)} if len(metrics) > 1 else {})


def _best_rate(
    settings: Finetune, data: Data, base: GPT, folder: Path, resumable: bool
) -> tuple[Trial, dict[str, float]]:
    """The best run of one seed, and what each learning rate came to; from scratch there are several to try."""
    best, tried = None, {}
    usual = max(SCRATCH_LR, usual_lr(base.config.width))
    for lr in [settings.lr] if settings.lr else [usual * rate for rate in SCRATCH_RATES]:
        found = _trial(replace(settings, lr=lr), data, base, folder, resumable)
        tried[f"{lr:.3g}"] = found.best.metrics[selected(settings, data.goal)]
        if best is None or _rank(found) > _rank(best):
            best = found
    assert best is not None, "there is at least one rate"
    return best, tried


def _trial(settings: Finetune, data: Data, base: GPT, folder: Path, resumable: bool) -> Trial:
    several = settings.seeds > 1 or settings.from_scratch
    title = f"seed {settings.seed}, learning rate {settings.lr:.3g}" if several else "finetune"
    if several:
        say(f"{title}:")
    place = folder / f"seed-{settings.seed}-lr-{settings.lr:.3g}"
    best = tune(settings, data, base, place, title, resumable, keep_end=resumable and several)
    return Trial(best, (place / log.NAME).read_bytes())


def _rank(trial: Trial) -> tuple[float, float]:
    return rank(trial.best.settings, trial.best.goal, trial.best.metrics)


def facts_of(
    best: Best, columns: Columns, base: dict[str, Any], made_from: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What gpt1.json is to remember of a fine-tuning; `base` is that of the run it started from."""
    settings = best.settings
    return {
        "kind": "finetuned",
        "task": settings.task,
        **to_facts(best.goal),
        "columns": dataclasses.asdict(columns),
        "long": settings.long,
        "lm_coef": settings.lm_coef,
        "lr": settings.lr,
        "from_scratch": settings.from_scratch,
        "seed": settings.seed,
        "preset": base.get("preset"),
        "recipe": base.get("recipe"),
        "steps": best.steps,
        "data": made_from | {"pretraining": base.get("data")},
        "selected_by": selected(settings, best.goal),
        "metrics": best.metrics,
    }
