"""One fine-tuning: rows in memory and a pre-trained body -> the weights of the best epoch (the paper, section 3.2)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt1.config import Finetune
from gpt1.finetuning.data import Data
from gpt1.finetuning.epochs import Progress, Run, begin, train_epochs
from gpt1.finetuning.selection import ENOUGH_TO_VALIDATE
from gpt1.model.gpt import GPT
from gpt1.tasks.labels import Goal


@dataclass(frozen=True)
class Best:
    """The model after the epoch that is kept."""

    settings: Finetune
    """those in effect"""
    goal: Goal
    body: GPT
    head: Tensor
    """W_y, divided by the temperature"""
    steps: int
    """updates made in all"""
    metrics: dict[str, Any]
    """on the validation rows"""


def tune(
    settings: Finetune,
    data: Data,
    base: GPT,
    folder: Path,
    title: str = "finetune",
    resumable: bool = False,
    keep_end: bool = False,
) -> Best:
    """Make the updates, validate after each epoch; the best epoch is calibrated and returned.

    Where few rows validate, the last epoch takes the best one's place. `folder` takes metrics.jsonl and, if the
    training is `resumable`, the states from which a later call goes on; with `keep_end` also one from which it returns
    the same model without training. The settings must be settled (`finetuning.defaults`). Raises RunFailed if
    gradient or loss are no numbers.
    """
    run = begin(settings, data, base)
    return _calibrated(run, train_epochs(run, folder, title, resumable, keep_end))


def _calibrated(run: Run, progress: Progress) -> Best:
    data, best = run.data, progress.best
    weights = {name: weight.cpu() for name, weight in progress.weights.items()}
    assert best is not None, "there is at least one epoch"
    labels = [data.labels[row] for row in data.valid.owners_N]
    enough = len(data.labels) >= ENOUGH_TO_VALIDATE
    goal, temperature = data.goal.calibrated(best.scores_NC, labels) if enough else (data.goal, 1.0)
    answers_NC = data.valid.by_row(goal.answers(best.scores_NC / temperature))
    metrics = best.metrics | goal.metrics(data.labels, answers_NC) | {"epoch": best.epoch, "temperature": temperature}
    # The head is divided here, so that every program that loads the run gives calibrated probabilities.
    head = weights.pop("head.weight") / temperature
    with torch.device("meta"):
        body = GPT(run.model.body.config)
    body.load_state_dict({name.removeprefix("body."): weight for name, weight in weights.items()}, assign=True)
    return Best(run.settings, goal, body, head, progress.step, metrics)
