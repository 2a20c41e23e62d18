"""Which epoch is kept, of which learning rate and seed: what makes one validation better than another."""

from typing import Any

from gpt1.config import Finetune
from gpt1.errors import UserError
from gpt1.tasks.labels import Goal

ENOUGH_TO_VALIDATE = 50
"""Validation rows. Of fewer, chance would choose the epoch, so the last is kept, as in the paper; and if all of
them are right, nothing would keep a temperature from making the model certain of everything."""


def rank(settings: Finetune, goal: Goal, metrics: dict[str, Any]) -> tuple[float, float]:
    """What makes one validation better than another: the metric asked for or the goal's own, then the loss."""
    name = selected(settings, goal)
    return (0.0 if name == "loss" else metrics[name]), -metrics["loss"]


def selected(settings: Finetune, goal: Goal) -> str:
    """The metric that epochs and runs are chosen by. Raises UserError for one that the task does not have."""
    if settings.select == "auto":
        return goal.ranks[0]
    if settings.select not in (known := sorted([*goal.ranks, "loss"])):
        raise UserError(f"--select {settings.select}: this task has {', '.join(known)}")
    return settings.select


def keeps_last(settings: Finetune, rows: int) -> bool:
    """Whether validation rows are too few to choose an epoch by, and nobody asked that they do."""
    return rows < ENOUGH_TO_VALIDATE and settings.select == "auto" and not settings.patience
