"""The updates of one fine-tuning, epoch after epoch; a stopped one goes on from its last state, to the same bytes."""

import math
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.config import Finetune, Optim
from gpt1.console import bar, say
from gpt1.data.collate import Epochs
from gpt1.errors import RunFailed
from gpt1.finetuning.data import Data
from gpt1.finetuning.network import build
from gpt1.finetuning.predictor import score
from gpt1.finetuning.selection import keeps_last, rank, selected
from gpt1.model.gpt import GPT
from gpt1.model.objectives import TaskModel, task_loss
from gpt1.training import checkpoint
from gpt1.training.device import machine
from gpt1.training.interrupt import stop_asked
from gpt1.training.log import Log
from gpt1.training.loop import Report, train
from gpt1.training.optimizer import Optimizer

SAVE_SECONDS = 300.0
"""Between states; a killed process loses no more. A state is as large as four models."""
KEPT, SCORES = "kept.", "scores"
"""Tensors of a state that are not the optimizer's: the weights of the best epoch, and their scores_NC."""


@dataclass(frozen=True)
class Validation:
    """What the model makes of the validation rows after an epoch."""

    epoch: int
    scores_NC: np.ndarray
    """of the examples"""
    metrics: dict[str, Any]
    """the goal's, and `loss`, the mean L2 in nats"""


@dataclass(frozen=True)
class Run:
    """A fine-tuning in progress."""

    settings: Finetune
    data: Data
    epochs: Epochs
    model: TaskModel
    optimizer: Optimizer
    device: torch.device

    def validate(self, epoch: int) -> Validation:
        """Raises RunFailed if the loss is no number."""
        data = self.data
        examples = data.valid.examples
        scores_NC = score(self.model, examples, self.epochs.batch, self.epochs.pad_id, self.device)
        targets_N = torch.tensor([example.label for example in examples])
        loss = task_loss(data.goal.kind, torch.from_numpy(scores_NC), targets_N).item() / len(examples)
        if not math.isfinite(loss):
            lr = self.settings.lr
            raise RunFailed(f"after epoch {epoch} the validation loss is no number; lower the learning rate, {lr:g}")
        answers_NC = data.valid.by_row(data.goal.answers(scores_NC))
        return Validation(epoch, scores_NC, data.goal.metrics(data.labels, answers_NC) | {"loss": loss})

    def weights(self) -> dict[str, Tensor]:
        """A copy of the fp32 weights as they are."""
        return {name: master.detach().clone() for name, master in self.optimizer.masters.items()}

    def better(self, found: Validation, best: Validation) -> bool:
        """Whether a later validation takes the place of the best so far."""
        settings, goal = self.settings, self.data.goal
        if keeps_last(settings, len(self.data.labels)):
            return True
        return rank(settings, goal, found.metrics) > rank(settings, goal, best.metrics)


@dataclass
class Progress:
    """How far a fine-tuning has come, and what is kept of it."""

    step: int = 0
    """updates made"""
    losses: dict[str, float] = field(default_factory=dict)
    """sums over the updates of the epoch so far"""
    best: Validation | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    """fp32, those that `best` was measured with"""
    is_over: bool = False

    def save(self, folder: Path, optimizer: Optimizer) -> None:
        """Write all that the rest of the training needs; once it is over, only what is kept."""
        tensors = {} if self.is_over else optimizer.state()
        tensors |= {KEPT + name: weight for name, weight in self.weights.items()}
        facts: dict[str, Any] = {"is_over": self.is_over, "losses": self.losses}
        if self.best is not None:
            tensors[SCORES] = torch.from_numpy(self.best.scores_NC)
            facts |= {"epoch": self.best.epoch, "metrics": self.best.metrics}
        checkpoint.save(folder, self.step, tensors, facts)


def begin(settings: Finetune, data: Data, base: GPT) -> Run:
    """A fine-tuning before its first update."""
    device, dtype = machine(settings)
    model = build(settings, data, base).to(device)
    epochs = Epochs(
        data.train.examples, settings.batch, settings.micro_batch, data.reader.tokenizer.pad_id, settings.seed
    )
    steps = settings.epochs * epochs.per_epoch
    # Decay would shrink the rows of the token matrix that are frozen.
    optim = Optim(
        lr=settings.lr, warmup=max(1, round(settings.warmup * steps)), decay="linear",
        weight_decay=0.0 if settings.freeze else Optim.weight_decay,
    )  # fmt: skip
    # The optimizer copies its fp32 masters before the weights lose precision.
    optimizer = Optimizer(model, optim, steps)
    return Run(settings, data, epochs, model.to(dtype), optimizer, device)


def train_epochs(run: Run, folder: Path, title: str, resumable: bool, keep_end: bool) -> Progress:
    """Make the updates that are still to be made, with a validation after each epoch.

    `folder` takes metrics.jsonl. If the training is `resumable`, also a state every few minutes, and another before it
    raises KeyboardInterrupt because a stop is asked for; with `keep_end` one of what is kept at the end. Raises
    RunFailed if the gradient or the loss of the first epoch is no number.
    """
    progress = _resumed(run, folder) if resumable else Progress()
    if progress.is_over:
        return progress
    saved = time.monotonic()
    with (
        stop_asked() if resumable else nullcontext(lambda: False) as asked,
        closing((notes := Log(folder, progress.step)).file),
        bar("{task.fields[state]}") as shown,
    ):
        task = shown.add_task(title, total=run.optimizer.steps, completed=progress.step, state="")
        for report in _reports(run, progress):
            _note(notes, report)
            shown.update(task, completed=report.step, state=_state(report))
            if report.step % run.epochs.per_epoch == 0:
                _judge(run, progress, notes)
            stopping = asked() and (keep_end or not progress.is_over)  # else what is left is to write the model
            is_due = keep_end if progress.is_over else resumable and time.monotonic() - saved > SAVE_SECONDS
            if stopping or is_due:
                notes.flush()
                _save(run, progress, folder, must=stopping)
                saved = time.monotonic()
            if stopping:
                raise KeyboardInterrupt(f"stopped after update {report.step:,} of {run.optimizer.steps:,}")
            if progress.is_over:
                break
    return progress


def _resumed(run: Run, folder: Path) -> Progress:
    """Where the last state in the folder left off; the beginning if there is none."""
    if not (path := checkpoint.latest(folder)):
        return Progress()
    facts, tensors = checkpoint.facts(path), checkpoint.load(path)
    # Copies, since what is loaded is the file itself, which will be deleted.
    weights = {name.removeprefix(KEPT): tensors.pop(name).clone() for name in list(tensors) if name.startswith(KEPT)}
    best = None
    if "epoch" in facts:
        best = Validation(facts["epoch"], tensors.pop(SCORES).numpy().copy(), facts["metrics"])
    if not facts["is_over"]:
        run.optimizer.load(tensors)
        say(f"going on after update {facts['step']:,} of {run.optimizer.steps:,}")
    return Progress(facts["step"], facts["losses"], best, weights, facts["is_over"])


def _reports(run: Run, progress: Progress) -> Iterator[Report]:
    """The updates from here on, as they are made and added up in `progress`."""
    for report in train(
        run.model, run.epochs, run.optimizer, weights={"task": 1.0, "lm": run.settings.lm_coef},
        steps=run.optimizer.steps, start=progress.step, seed=run.settings.seed, device=run.device,
    ):  # fmt: skip
        progress.step = report.step
        for name, loss in report.losses.items():
            progress.losses[name] = progress.losses.get(name, 0.0) + loss
        yield report


def _save(run: Run, progress: Progress, folder: Path, must: bool) -> None:
    """A disk that is full ends no training, which may need none of it; only one that `must` be saved now."""
    try:
        progress.save(folder, run.optimizer)
    except OSError as error:
        if must:
            raise
        say(f"{folder}: no state could be saved ({error.strerror or error}); training goes on")


def _judge(run: Run, progress: Progress, notes: Log) -> None:
    """Validate at the end of an epoch; keep the weights if it is the best, and see whether training is over."""
    settings, epoch = run.settings, progress.step // run.epochs.per_epoch
    progress.is_over = progress.step == run.optimizer.steps
    try:
        found = run.validate(epoch)
    except RunFailed as error:
        if progress.best is None:
            raise
        say(f"{error}; epoch {progress.best.epoch} is kept")
        progress.is_over = True
        return
    found.metrics.update({f"{name}_loss": total / run.epochs.per_epoch for name, total in progress.losses.items()})
    progress.losses.clear()
    _tell(run, notes, progress.step, found)
    if progress.best is None or run.better(found, progress.best):
        progress.best, progress.weights = found, run.weights()
    elif settings.patience and epoch - progress.best.epoch >= settings.patience and not progress.is_over:
        say(f"no better validation since epoch {progress.best.epoch}; stopped after epoch {epoch}")
        progress.is_over = True


def _note(notes: Log, report: Report) -> None:
    notes.add(report.step, **report.losses, grad_norm=report.grad_norm, tokens=report.tokens, seconds=report.seconds)


def _tell(run: Run, notes: Log, step: int, found: Validation) -> None:
    """Both losses apart: L2, and the auxiliary L1 that is trained beside it."""
    name, metrics = selected(run.settings, run.data.goal), found.metrics
    told = {key: metrics[key] for key in dict.fromkeys((name, "loss"))}
    words = ", ".join(f"{key} {value:.4f}" for key, value in told.items())
    training = f"training task {metrics['task_loss']:.4f}, lm {metrics['lm_loss']:.4f}"
    say(f"epoch {found.epoch}: {training}; validation {words}")
    notes.add(step, **{f"val_{key}": value for key, value in told.items()})
    notes.flush()


def _state(report: Report) -> str:
    losses = report.losses
    return f"task {losses['task']:.3f}  lm {losses['lm']:.3f}  {report.tokens / report.seconds:,.0f} tokens/s"
