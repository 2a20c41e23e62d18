"""Labelled rows on their way into a fine-tuning: examples, targets, and what is to be said of them."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gpt1.config import Finetune
from gpt1.console import say
from gpt1.finetuning.predictor import Examples, Reader
from gpt1.finetuning.selection import keeps_last, selected
from gpt1.run_folder.folder import LoadedRun
from gpt1.tasks.class_weights import class_weights
from gpt1.tasks.labels import Goal
from gpt1.tasks.rows import Labelled


@dataclass(frozen=True)
class Data:
    """Training and validation rows, ready for the model."""

    goal: Goal
    reader: Reader
    train: Examples
    valid: Examples
    labels: list[Any]
    """of the validation rows"""
    weights_C: Tensor | None
    """what each class counts; None if all count the same"""


def made_ready(settings: Finetune, goal: Goal, learnt: Labelled, valid: Labelled, base: LoadedRun) -> Data:
    """Rows as examples; says how many of them are longer than the context, and if they are too few to choose by."""
    reader = Reader(settings.task, base.tokenizer.with_task_tokens(), base.body.config.context, settings.long)
    targets = [goal.target(label) for label in learnt.labels]
    training = reader.examples(learnt.texts, targets)
    validation = reader.examples(valid.texts, [goal.target(label) for label in valid.labels])
    for role, found, rows in (("training", training, learnt), ("validation", validation, valid)):
        if found.cut:
            fate = "they are read in windows" if settings.long == "windows" else f"their {settings.long} is kept"
            share = f"{found.cut:,} of {len(rows.texts):,} rows ({found.cut / len(rows.texts):.1%})"
            say(f"{role}: {share} are longer than the context of {reader.context} tokens; {fate} (--long)")
    metric, few = selected(settings, goal), len(valid.rows)
    if keeps_last(settings, few):
        say(f"too few rows validate, {few}, to choose an epoch by: the last is kept (or say --select {metric})")
    weights_C = class_weights(settings.class_weights, goal, targets)
    return Data(goal, reader, training, validation, valid.labels, weights_C)
