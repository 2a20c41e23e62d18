"""The updates of one fine-tuning, epoch after epoch; a stopped one goes on from its last state, to the same bytes."""

import math
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.config import Finetune, Optim
from gpt1.data.collate import Epochs
from gpt1.errors import RunFailed
from gpt1.jobs.console import bar, say
from gpt1.jobs.finetuning.choice import keeps_last, rank, selected
from gpt1.jobs.finetuning.data import Data
from gpt1.jobs.finetuning.network import build
from gpt1.jobs.finetuning.tuned import score
from gpt1.jobs.interrupt import stop_asked
from gpt1.nn.model import GPT
from gpt1.nn.objectives import TaskModel, task_loss
from gpt1.train import checkpoint, log
from gpt1.train.log import Log
from gpt1.train.loop import Report, train
from gpt1.train.optim import Optimizer
from gpt1.train.parallel import machine

SAVE_SECONDS = 300.0
"""Work that a killed process may lose; Ctrl-C and SIGTERM lose nothing. A state is as large as four models."""
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

    def better(self, one: Validation, other: Validation) -> bool:
        """Whether the later one, of the two, is kept."""
        if keeps_last(self.settings, len(self.data.labels)):
            return True
        ranks = (rank(self.settings, self.data.goal, found.metrics) for found in (one, other))
        return next(ranks) > next(ranks)


@dataclass
class Course:
    """How far a fine-tuning has come, and what is kept of it."""

    step: int = 0
    """updates made"""
    best: Validation | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    """fp32, those that `best` was measured with"""
    is_over: bool = False

    def save(self, folder: Path, optimizer: Optimizer) -> None:
        """Write the state of a training that goes on; or of one that is over, the model and how it came to it."""
        tensors = {} if self.is_over else optimizer.state()
        tensors |= {KEPT + name: weight for name, weight in self.weights.items()}
        facts: dict[str, Any] = {"is_over": self.is_over}
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


def follow(run: Run, folder: Path, title: str) -> Course:
    """Make the updates that are still to be made, with a validation after each epoch.

    `folder` takes metrics.jsonl and the states. Raises KeyboardInterrupt, once the state is saved, if a stop is asked
    for, and RunFailed if the loss of the first epoch is no number.
    """
    course = _resumed(run, folder)
    reports = train(
        run.model, run.epochs, run.optimizer, weights={"task": 1.0, "lm": run.settings.lm_coef},
        steps=0 if course.is_over else run.optimizer.steps, start=course.step, seed=run.settings.seed,
        device=run.device,
    )  # fmt: skip
    saved = time.monotonic()
    with (
        stop_asked() as asked,
        closing((notes := Log(folder, course.step)).file),
        bar("{task.fields[state]}") as progress,
    ):
        task = progress.add_task(title, total=run.optimizer.steps, completed=course.step, state="")
        for report in reports:
            course.step = report.step
            _note(notes, report)
            progress.update(task, completed=report.step, state=_state(report))
            if report.step % run.epochs.per_epoch == 0:
                _judge(run, course, notes, folder)
            if course.is_over:
                break
            if asked() or time.monotonic() - saved > SAVE_SECONDS:
                notes.flush()
                course.save(folder, run.optimizer)
                saved = time.monotonic()
            if asked():
                raise KeyboardInterrupt(f"stopped after update {report.step:,} of {run.optimizer.steps:,}")
    return course


def _resumed(run: Run, folder: Path) -> Course:
    """Where the last state in the folder left off; the beginning if there is none."""
    if not (path := checkpoint.latest(folder)):
        return Course()
    facts, tensors = checkpoint.facts(path), checkpoint.load(path)
    weights = {name.removeprefix(KEPT): tensors.pop(name) for name in list(tensors) if name.startswith(KEPT)}
    best = None
    if "epoch" in facts:
        best = Validation(facts["epoch"], tensors.pop(SCORES).numpy(), facts["metrics"])
    if not facts["is_over"]:
        run.optimizer.load(tensors)
        say(f"going on after update {facts['step']:,} of {run.optimizer.steps:,}")
    return Course(facts["step"], best, weights, facts["is_over"])


def _judge(run: Run, course: Course, notes: Log, folder: Path) -> None:
    """Validate at the end of an epoch; keep the weights if it is the best, and see whether training is over."""
    settings, epoch = run.settings, course.step // run.epochs.per_epoch
    course.is_over = course.step == run.optimizer.steps
    try:
        found = run.validate(epoch)
    except RunFailed as error:
        if course.best is None:
            raise
        say(f"{error}; epoch {course.best.epoch} is kept")
        course.is_over = True
        return
    notes.flush()
    found.metrics.update(_mean_losses(folder, course.step - run.epochs.per_epoch))
    _tell(run, notes, course.step, found)
    if course.best is None or run.better(found, course.best):
        course.best, course.weights = found, run.weights()
    elif settings.patience and epoch - course.best.epoch >= settings.patience and not course.is_over:
        say(f"no better validation in {settings.patience} epochs; stopped after epoch {epoch}")
        course.is_over = True


def _mean_losses(folder: Path, after: int) -> dict[str, float]:
    """Of the training since that update, as it was logged, so that a stop in between changes nothing."""
    rows = [row for row in log.read(folder) if row["step"] > after and "task" in row]
    return {f"{name}_loss": float(np.mean([row[name] for row in rows])) for name in ("task", "lm")}


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
