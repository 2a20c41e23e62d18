"""`gpt1 finetune`: a pre-trained run and labelled rows -> a model for a task (the paper, section 3.2)."""

import dataclasses
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from gpt1.config import Finetune
from gpt1.jobs import bundle
from gpt1.jobs.console import say, table
from gpt1.jobs.finetuning.choice import rank, selected
from gpt1.jobs.finetuning.data import Data, made_ready
from gpt1.jobs.finetuning.settings import check, is_done, settle, sources, usual_lr, with_splits
from gpt1.jobs.finetuning.tuning import Best, tune
from gpt1.jobs.finetuning.unfinished import is_unfinished, states
from gpt1.jobs.rows.columns import Columns, guess_columns
from gpt1.jobs.rows.goals import Goal, goal_for, to_facts
from gpt1.jobs.rows.labelled import Labelled, check_labels, kind_of, read_labelled, split, warn
from gpt1.jobs.rows.seeds import over_seeds
from gpt1.nn.model import GPT
from gpt1.storage import write_json
from gpt1.train import log

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


def finetune(settings: Finetune) -> dict[str, Any]:
    """Train a model for the task on L3 = L2 + lambda L1, keep its best epoch, and write the run folder at one stroke.

    Where few rows validate, the last epoch takes the best one's place. Returns the validation metrics of the epoch
    that is kept (see `jobs.rows.metrics`), its number, and seconds; of several seeds `seeds`, the mean, deviation
    and values of each metric. Raises UserError for wrong settings or rows.
    """
    began = time.perf_counter()
    settings = with_splits(settings)
    check(settings)
    made_from = sources(settings)
    if not is_unfinished(Path(settings.out)) and is_done(settings, made_from):
        say(f"{settings.out} is fine-tuned with these settings already (--fresh starts over)")
        return _result(bundle.read_info(Path(settings.out)))
    base = bundle.load(settings.run)
    rows = read_rows(settings)
    settings = settle(settings, len(rows.train.rows), base.body.config.width)
    data = made_ready(settings, rows.goal, rows.train, rows.valid, base)
    with states(settings, made_from) as stopped:
        trial, told = run_trials(settings, data, base.body, stopped)
        made_from["train"]["rows"] = len(rows.train.rows)
        facts = facts_of(trial.best, rows.columns, base.info, made_from) | told
        facts["metrics"]["seconds"] = time.perf_counter() - began
        with bundle.replacing(Path(settings.out)) as folder:
            (folder / log.NAME).write_bytes(trial.curves)
            write_json(folder / "settings.json", dataclasses.asdict(settings))
            bundle.save(folder, trial.best.body, data.reader.tokenizer, facts, trial.best.head)
    return _result(bundle.read_info(Path(settings.out)))


def show(result: dict[str, Any]) -> RenderableType:
    """The closing table: what was measured, then mean and deviation over seeds."""
    plain = {name: value for name, value in result.items() if not isinstance(value, dict | list)}
    for name, found in result.get("seeds", {}).items():
        plain[f"{name}, {len(found['values'])} seeds"] = f"{found['mean']:.4f} ± {found['deviation']:.4f}"
    for rate, value in result.get("learning_rates", {}).items():
        plain[f"{result['selected_by']} at learning rate {rate}"] = value
    return table(plain, "finetune")


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


def run_trials(settings: Finetune, data: Data, base: GPT, folder: Path) -> tuple[Trial, dict[str, Any]]:
    """The best run of all, and what is to be told of the others: `seeds` and `learning_rates`, if there are several.

    Where a stopped call left the states of some in the folder, they are gone on from.
    """
    best, rates, metrics = None, {}, []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        found, tried = _best_rate(replace(settings, seed=seed), data, base, folder)
        metrics.append(found.best.metrics)
        if best is None or _rank(found) > _rank(best):
            best, rates = found, tried
    assert best is not None, "there is at least one seed"
    told: dict[str, Any] = {"learning_rates": rates} if len(rates) > 1 else {}
    return best, told | ({"seeds": over_seeds(metrics)} if len(metrics) > 1 else {})


def _best_rate(settings: Finetune, data: Data, base: GPT, folder: Path) -> tuple[Trial, dict[str, float]]:
    """The best run of one seed, and what each learning rate came to; from scratch there are several to try."""
    best, tried = None, {}
    usual = max(SCRATCH_LR, usual_lr(base.config.width))
    for lr in [settings.lr] if settings.lr else [usual * rate for rate in SCRATCH_RATES]:
        found = _trial(replace(settings, lr=lr), data, base, folder)
        tried[f"{lr:.3g}"] = found.best.metrics[selected(settings, data.goal)]
        if best is None or _rank(found) > _rank(best):
            best = found
    assert best is not None, "there is at least one rate"
    return best, tried


def _trial(settings: Finetune, data: Data, base: GPT, folder: Path) -> Trial:
    several = settings.seeds > 1 or settings.from_scratch
    title = f"seed {settings.seed}, learning rate {settings.lr:.3g}" if several else "finetune"
    place = folder / f"seed-{settings.seed}-lr-{settings.lr:.3g}"
    best = tune(settings, data, base, place, title, again=several)
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


def _result(facts: dict[str, Any]) -> dict[str, Any]:
    names = ("task", "labels", "parameters", "selected_by", "lr", "seeds", "learning_rates")
    return {name: facts[name] for name in names if name in facts} | facts["metrics"]
