"""One fine-tuning: rows in memory and a pre-trained body -> the weights of the best epoch (the paper, section 3.2)."""

import math
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.config import Finetune, Model, Optim, with_vocabulary
from gpt1.data.collate import Epochs
from gpt1.errors import RunFailed, UserError
from gpt1.jobs.bundle import Bundle
from gpt1.jobs.console import bar, say
from gpt1.jobs.finetuning.tuned import Examples, Reader, score
from gpt1.jobs.rows.class_weights import class_weights
from gpt1.jobs.rows.goals import Goal
from gpt1.jobs.rows.labelled import Labelled
from gpt1.nn.model import GPT, INIT_STD
from gpt1.nn.objectives import TaskModel, task_loss
from gpt1.train.log import Log
from gpt1.train.loop import Report, train
from gpt1.train.optim import Optimizer
from gpt1.train.parallel import machine

ENOUGH_TO_VALIDATE = 50
"""Validation rows. Of fewer, chance would choose the epoch, so the last is kept, as in the paper; and if all of
them are right, nothing would keep a temperature from making the model certain of everything."""


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


@dataclass(frozen=True)
class Validation:
    """What the model makes of the validation rows after an epoch."""

    epoch: int
    scores_NC: np.ndarray
    """of the examples"""
    metrics: dict[str, Any]
    """the goal's, and `loss`, the mean L2 in nats"""


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


def made_ready(settings: Finetune, goal: Goal, learnt: Labelled, valid: Labelled, base: Bundle) -> Data:
    """Rows as examples; says how many of them are longer than the context."""
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
    if _keeps_last(settings, few):
        say(f"{few} validation rows are too few to choose an epoch by: the last is kept (or say --select {metric})")
    weights_C = class_weights(settings.class_weights, goal, targets)
    return Data(goal, reader, training, validation, valid.labels, weights_C)


def tune(settings: Finetune, data: Data, base: GPT, folder: Path, title: str = "finetune") -> Best:
    """Make the updates, log them in `folder`, validate after each epoch; the best epoch is calibrated and returned.

    Where few rows validate, the last epoch takes the best one's place. The settings must be settled
    (`jobs.finetuning.settings`). Raises RunFailed if gradient or loss are no numbers.
    """
    run = _begin(settings, data, base)
    best, weights = _train(run, Log(folder, 0), title)
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
    return Best(settings, goal, body, head, run.optimizer.steps, metrics)


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


@dataclass(frozen=True)
class _Run:
    settings: Finetune
    data: Data
    epochs: Epochs
    model: TaskModel
    optimizer: Optimizer
    device: torch.device

    def validate(self, epoch: int) -> Validation:
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


def _begin(settings: Finetune, data: Data, base: GPT) -> _Run:
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
    return _Run(settings, data, epochs, model.to(dtype), optimizer, device)


def build(settings: Finetune, data: Data, base: GPT) -> TaskModel:
    """The pre-trained body with rows for the new tokens, or as much of it as the settings transfer; and a new head."""
    generator = torch.Generator().manual_seed(settings.seed)
    config = _shape(settings, base.config, data.reader.tokenizer.vocabulary)
    body = GPT(config).init_weights(generator)
    if not settings.from_scratch:
        rows = torch.empty(config.vocabulary - base.config.vocabulary, config.width)
        rows.normal_(0.0, INIT_STD, generator=generator)
        blocks = config.depth if settings.transfer_layers is None else settings.transfer_layers
        weights = {name: weight for name, weight in base.state_dict().items() if _layer(name) < blocks}
        weights["tokens.weight"] = torch.cat([weights["tokens.weight"], rows])
        body.load_state_dict(body.state_dict() | weights)
    _freeze(body, settings.freeze, base.config.vocabulary)
    model = TaskModel(body, data.goal.outputs, data.goal.kind, settings.head_dropout, data.weights_C)
    return model.init_head(generator)


def _shape(settings: Finetune, base: Model, vocabulary: int) -> Model:
    shape, rate = with_vocabulary(base, vocabulary), settings.dropout
    if rate is None:
        return shape
    return replace(shape, embedding_dropout=rate, residual_dropout=rate, attention_dropout=rate)


def _layer(name: str) -> int:
    """The number of a weight's block; the embeddings lie beneath block 0."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else -1


def _freeze(body: GPT, blocks: int, known: int) -> None:
    """Keep the embeddings and the first blocks as they are; of the tokens the `known` ones, the new must be learnt."""
    if not blocks:
        return
    for name, weight in body.named_parameters():
        if name != "tokens.weight" and _layer(name) < blocks:
            weight.requires_grad_(False)
    body.tokens.weight.register_hook(lambda g_VD: torch.cat([torch.zeros_like(g_VD[:known]), g_VD[known:]]))


def _train(run: _Run, log: Log, title: str) -> tuple[Validation, dict[str, Tensor]]:
    """The best validation, and the weights it was made with."""
    settings, per_epoch, best = run.settings, run.epochs.per_epoch, None
    reports = train(
        run.model, run.epochs, run.optimizer,
        weights={"task": 1.0, "lm": settings.lm_coef}, steps=run.optimizer.steps, seed=settings.seed, device=run.device,
    )  # fmt: skip
    weights: dict[str, Tensor] = {}
    with closing(log.file), bar("{task.fields[state]}") as progress:
        task = progress.add_task(title, total=run.optimizer.steps, state="")
        losses: list[dict[str, float]] = []
        for report in reports:
            _log(log, report)
            losses.append(report.losses)
            progress.update(task, completed=report.step, state=_state(report))
            if report.step % per_epoch:
                continue
            try:
                found = run.validate(report.step // per_epoch)
            except RunFailed as error:
                if best is None:
                    raise
                say(f"{error}; epoch {best.epoch} is kept")
                break
            found.metrics.update(
                {f"{name}_loss": float(np.mean([each[name] for each in losses])) for name in losses[0]}
            )
            losses.clear()
            _tell(run, log, report.step, found)
            if best is None or _better(run, found, best):
                best, weights = found, run.weights()
            elif settings.patience and found.epoch - best.epoch >= settings.patience:
                say(f"no better validation in {settings.patience} epochs; stopped after epoch {found.epoch}")
                break
    assert best is not None, "there is at least one epoch"
    return best, weights


def _keeps_last(settings: Finetune, rows: int) -> bool:
    """Whether validation rows are too few to choose an epoch by, and nobody asked that they do."""
    return rows < ENOUGH_TO_VALIDATE and settings.select == "auto" and not settings.patience


def _better(run: _Run, one: Validation, other: Validation) -> bool:
    settings, goal = run.settings, run.data.goal
    if _keeps_last(settings, len(run.data.labels)):
        return True
    return rank(settings, goal, one.metrics) > rank(settings, goal, other.metrics)


def _log(log: Log, report: Report) -> None:
    log.add(report.step, **report.losses, grad_norm=report.grad_norm, tokens=report.tokens, seconds=report.seconds)


def _tell(run: _Run, log: Log, step: int, found: Validation) -> None:
    """Both losses apart: L2, and the auxiliary L1 that is trained beside it."""
    name, metrics = selected(run.settings, run.data.goal), found.metrics
    told = {key: metrics[key] for key in dict.fromkeys((name, "loss"))}
    words = ", ".join(f"{key} {value:.4f}" for key, value in told.items())
    training = f"training task {metrics['task_loss']:.4f}, lm {metrics['lm_loss']:.4f}"
    say(f"epoch {found.epoch}: {training}; validation {words}")
    log.add(step, **{f"val_{key}": value for key, value in told.items()})
    log.flush()


def _state(report: Report) -> str:
    losses = report.losses
    return f"task {losses['task']:.3f}  lm {losses['lm']:.3f}  {report.tokens / report.seconds:,.0f} tokens/s"
