"""What the rows of a class count in L2, where classes are of unlike size."""

import math

import numpy as np
import torch
from torch import Tensor

from gpt1.data.collate import Label
from gpt1.errors import UserError
from gpt1.tasks.labels import Classes, Goal, LabelSets

LARGEST = 100.0
"""A label that hardly ever occurs must not drown the rest."""


def class_weights(asked: str, goal: Goal, targets: list[Label]) -> Tensor | None:
    """weights_C for `--class-weights`, or None where each row counts the same.

    `auto`: every class counts the same in sum, and the mean weight of a row is 1; of a label, the rows that have it
    count as much as those that have it not. `NAME=WEIGHT,...` gives some, the rest count 1. Raises UserError for an
    unknown name, for what is no positive number, and for a task that has no classes.
    """
    if asked == "none":
        return None
    if not isinstance(goal, Classes | LabelSets):
        raise UserError(f"--class-weights {asked}: this task has no classes; leave it out")
    return _balanced(goal, targets) if asked == "auto" else _given(asked, goal.names)


def _balanced(goal: Classes | LabelSets, targets: list[Label]) -> Tensor:
    if isinstance(goal, Classes):
        counts_C = np.bincount(np.array(targets), minlength=len(goal.names))
        return torch.tensor(len(targets) / (len(goal.names) * counts_C.clip(1)), dtype=torch.float32).clamp(max=LARGEST)
    has_C = np.array(targets).sum(0)
    return torch.tensor((len(targets) - has_C) / has_C.clip(1), dtype=torch.float32).clamp(1 / LARGEST, LARGEST)


def _given(asked: str, names: list[str]) -> Tensor:
    weights, given = dict.fromkeys(names, 1.0), set[str]()
    for word in asked.split(","):
        name, _, value = word.rpartition("=")
        if (name := name.strip()) not in weights:
            raise UserError(f"--class-weights {word}: write NAME=WEIGHT with one of {', '.join(names)}, or auto")
        if name in given:
            raise UserError(f"--class-weights {asked}: {name} is named twice")
        given.add(name)
        weights[name] = _positive(value, word)
    return torch.tensor(list(weights.values()))


def _positive(value: str, word: str) -> float:
    try:
        if 0 < (number := float(value)) < math.inf:
            return number
    except ValueError:
        pass
    raise UserError(f"--class-weights {word}: the weight must be a number above 0")
