"""The options of a fine-tuning: checks, defaults for those left open, and the metric that selects.

`FitOptions` is what `finetuning.fit` needs to know, whatever the task and wherever the rows come from.
"""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gpt1.config import Finetune, Long, Select
from gpt1.errors import UserError, setting
from gpt1.run_folder.places import check_pretrained
from gpt1.run_folder.shape import read_shape
from gpt1.tasks.labels import LabelType

# The paper, section 4.1: what it fine-tunes with, and the width of its network.
PAPER_LR, PAPER_WIDTH, PAPER_BATCH, PAPER_EPOCHS = 6.25e-5, 768, 32, 3
MAX_LR = 1e-3
# Fraction of the updates in which the learning rate rises: the paper's, and what a higher learning rate needs.
PAPER_WARMUP, LONG_WARMUP = 0.002, 0.1
# With fewer rows than FEW_ROWS, batches have SMALL_BATCH rows and there are at least MIN_UPDATES updates.
FEW_ROWS, SMALL_BATCH, MIN_UPDATES = 1_000, 8, 120
# Random weights start from pre-training's learning rate, or from fine-tuning's if that is higher; multiples are tried.
SCRATCH_LR, SCRATCH_MULTIPLES = 2.5e-4, (0.25, 1.0, 4.0)
# With fewer validation rows than this, chance would choose the epoch, so the last one is kept, as in the paper. Nor is
# a temperature fitted: if every row happens to be right, the best one would make the model certain of everything.
MIN_VALID_ROWS = 50
# What `selected_by` says where the last epoch was kept and no other model was trained.
LAST_EPOCH = "last epoch"
# What to advise when memory runs out. A smaller micro-batch does not change the result.
MEMORY_REMEDY = f"lower {setting('micro_batch')}, or {setting('batch')}"


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How to fine-tune one model. Names, meanings and defaults are those of `config.Finetune`."""

    long: Long = Finetune.long
    class_weights: str | dict[str, float] = Finetune.class_weights
    lm_coef: float = Finetune.lm_coef
    epochs: int = Finetune.epochs
    patience: int = Finetune.patience
    select: Select = Finetune.select
    batch: int = Finetune.batch
    micro_batch: int = Finetune.micro_batch
    lr: float = Finetune.lr
    warmup: float | None = Finetune.warmup
    dropout: float | None = Finetune.dropout
    head_dropout: float = Finetune.head_dropout
    transfer_layers: int | None = Finetune.transfer_layers
    freeze: int = Finetune.freeze
    from_scratch: bool = Finetune.from_scratch
    with_words: bool = Finetune.with_words
    seed: int = Finetune.seed

    @classmethod
    def of(cls, settings: Finetune) -> "FitOptions":
        """Return the options among the settings of a command."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


def check_options(options: FitOptions) -> None:
    """Raise UserError for a value that is out of range."""
    for name in ("epochs", "batch", "micro_batch", "lr", "lm_coef", "patience", "freeze"):
        _check_range(options, name, math.inf, "0 or more")
    for name in ("dropout", "head_dropout", "warmup"):
        _check_range(options, name, 1, "at least 0 and less than 1")
    if options.batch and options.micro_batch > options.batch:
        more = f"{setting('micro_batch')} {options.micro_batch} is more than {setting('batch')} {options.batch}"
        raise UserError(f"{more}, the rows of one update; lower it")


def check_base(run: str | Path, options: FitOptions) -> None:
    """Raise UserError if `run` is not a pre-trained run, or has fewer blocks than the options name."""
    check_pretrained(run)
    depth = read_shape(Path(run)).depth
    layers = depth if options.transfer_layers is None else options.transfer_layers
    if not 0 <= layers <= depth:
        raise UserError(f"{setting('transfer_layers')} {layers} must be from 0 to {depth}, the blocks of {run}")
    pretrained = 0 if options.from_scratch else layers
    if options.freeze > pretrained:
        raise UserError(
            f"{setting('freeze')} {options.freeze}: only {pretrained} blocks start from pre-trained weights"
        )


def resolve_defaults(options: FitOptions, rows: int, width: int) -> FitOptions:
    """Return the options with every 0 that means "choose" filled in, for `rows` training rows and a network's width.

    These are the paper's values. But where rows are few, its three epochs would be too few updates to learn anything,
    so batches are smaller and epochs more. A learning rate above the paper's needs a longer warm-up. The learning rate
    stays 0 with `from_scratch`: a sweep tries several.
    """
    batch = options.batch or (PAPER_BATCH if rows >= FEW_ROWS else SMALL_BATCH)
    epochs = options.epochs or max(PAPER_EPOCHS, -(-MIN_UPDATES // -(-rows // batch)))
    lr = options.lr or (0.0 if options.from_scratch else usual_lr(width))
    warmup = options.warmup
    if warmup is None:
        warmup = PAPER_WARMUP if 0 < lr <= PAPER_LR else LONG_WARMUP
    micro_batch = min(options.micro_batch, batch)
    return replace(options, batch=batch, epochs=epochs, micro_batch=micro_batch, lr=lr, warmup=warmup)


def usual_lr(width: int) -> float:
    """Return the paper's learning rate, raised for a narrower network: measured best at width 384 on SST-2 and SNLI."""
    return min(MAX_LR, PAPER_LR * (PAPER_WIDTH / width) ** 4)


def scratch_lrs(width: int) -> list[float]:
    """Return the learning rates to try from random weights."""
    return [max(SCRATCH_LR, usual_lr(width)) * multiple for multiple in SCRATCH_MULTIPLES]


def selected_metric(options: FitOptions, label_type: LabelType) -> str:
    """Return the metric that selects epochs and models. Raises UserError for one that the task does not have."""
    if options.select == "auto":
        return label_type.selection_metrics[0]
    if options.select not in (known := sorted([*label_type.selection_metrics, "loss"])):
        raise UserError(f"{setting('select')} {options.select}: this task has {', '.join(known)}")
    return options.select


def keeps_last_epoch(options: FitOptions, valid_rows: int) -> bool:
    """Return whether the last epoch is kept: too few rows validate, and no option asks to select one."""
    return valid_rows < MIN_VALID_ROWS and options.select == "auto" and not options.patience


def rank(metrics: dict[str, Any], metric: str) -> tuple[float, float]:
    """Return a sort key that is larger for the better validation: the metric, then the loss."""
    return (0.0 if metric == "loss" else metrics[metric]), -metrics["loss"]


def _check_range(options: FitOptions, name: str, end: float, words: str) -> None:
    value = getattr(options, name)
    if value is not None and not 0 <= value < end:
        raise UserError(f"{setting(name)} {value} must be {words}")
