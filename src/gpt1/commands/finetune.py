"""`gpt1 finetune`: a pre-trained run and labelled rows -> a model for a task (the paper, section 3.2)."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from gpt1.config import Finetune
from gpt1.console import say, table
from gpt1.errors import UserError
from gpt1.finetuning.data import made_ready
from gpt1.finetuning.defaults import check, is_done, settle, sources, with_splits
from gpt1.finetuning.sweep import facts_of, read_rows, run_trials
from gpt1.finetuning.unfinished import is_unfinished, unfinished
from gpt1.run_folder.folder import load_run, read_metadata, replacing_run, save_run
from gpt1.storage import write_json
from gpt1.training import log


def finetune(settings: Finetune) -> dict[str, Any]:
    """Train a model for the task on L3 = L2 + lambda L1, keep its best epoch, and write the run folder at one stroke.

    Where few rows validate, the last epoch takes the best one's place. Returns the validation metrics of the epoch
    that is kept (see `tasks.metrics`), its number, and seconds; of several seeds `seeds`, the mean, deviation
    and values of each metric. Raises UserError for wrong settings or rows.
    """
    began = time.perf_counter()
    settings = with_splits(settings)
    check(settings)
    made_from = sources(settings)
    if _is_done(settings, made_from):
        say(f"{settings.out} is fine-tuned with these settings already (--fresh starts over)")
        return _result(read_metadata(Path(settings.out)))
    base = load_run(settings.run)
    rows = read_rows(settings)
    settings = settle(settings, len(rows.train.rows), base.body.config.width)
    data = made_ready(settings, rows.goal, rows.train, rows.valid, base)
    with unfinished(settings, made_from) as folder:
        trial, told = run_trials(settings, data, base.body, folder, resumable=True)
        made_from["train"]["rows"] = len(rows.train.rows)
        facts = facts_of(trial.best, rows.columns, base.info, made_from) | told
        facts["metrics"]["seconds"] = time.perf_counter() - began
        with replacing_run(Path(settings.out)) as staged:
            (staged / log.NAME).write_bytes(trial.curves)
            write_json(staged / "settings.json", dataclasses.asdict(settings))
            save_run(staged, trial.best.body, data.reader.tokenizer, facts, trial.best.head)
    return _result(read_metadata(Path(settings.out)))


def _is_done(settings: Finetune, made_from: dict[str, dict[str, Any]]) -> bool:
    """`is_done`, but a finished run of other settings may be one that a stopped fine-tuning was about to replace."""
    try:
        return is_done(settings, made_from)
    except UserError:
        if is_unfinished(Path(settings.out)):
            return False
        raise


def show(result: dict[str, Any]) -> RenderableType:
    """The closing table: what was measured, then mean and deviation over seeds."""
    plain = {name: value for name, value in result.items() if not isinstance(value, dict | list)}
    for name, found in result.get("seeds", {}).items():
        plain[f"{name}, {len(found['values'])} seeds"] = f"{found['mean']:.4f} ± {found['deviation']:.4f}"
    for rate, value in result.get("learning_rates", {}).items():
        plain[f"{result['selected_by']} at learning rate {rate}"] = value
    return table(plain, "finetune")


def _result(facts: dict[str, Any]) -> dict[str, Any]:
    names = ("task", "labels", "parameters", "selected_by", "lr", "seeds", "learning_rates")
    return {name: facts[name] for name in names if name in facts} | facts["metrics"]
