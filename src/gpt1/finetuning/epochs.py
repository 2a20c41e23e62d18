"""The epochs of one fine-tuning: updates, a validation after each epoch, and states to resume from."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.console import bar, say
from gpt1.data.collate import Epochs
from gpt1.errors import RunFailed, setting
from gpt1.finetuning.defaults import PAPER_LR, FitOptions, keeps_last_epoch, rank, selected_metric
from gpt1.finetuning.examples import TaskExamples
from gpt1.finetuning.predictor import mean_loss, score
from gpt1.model.objectives import TaskModel
from gpt1.training import checkpoint, parallel
from gpt1.training.interrupt import Stopped, StopRequest, stop_requested
from gpt1.training.log import Log
from gpt1.training.loop import LoopState, StepReport, train
from gpt1.training.optimizer import Optimizer
from gpt1.training.trackers import Tracking

# A state is saved once the last one is SAVE_SECONDS old, at the end of an epoch already when it is EPOCH_SECONDS old: a
# killed process loses no more than that. It is not saved more often, since it is as large as four models.
SAVE_SECONDS, EPOCH_SECONDS = 300.0, 30.0
# Tensors of a state besides the optimizer's: the weights of the best epoch (a prefix), and its validation scores_NC.
BEST_WEIGHTS, BEST_SCORES = "kept.", "scores"
# A training has collapsed if its scores differ less than this fraction of what they did before the first update.
COLLAPSE = 0.05


class Collapsed(RunFailed):
    """The network gives every row the same scores: at too high a learning rate it has stopped reading its input."""


@dataclass(frozen=True)
class Validation:
    """The validation after an epoch."""

    epoch: int
    scores_NC: np.ndarray
    """of the examples"""
    metrics: dict[str, Any]
    """the label type's, and `loss`, the mean L2 in nats"""


@dataclass(frozen=True)
class EpochTrainer:
    """A fine-tuning of one model with one seed and learning rate."""

    options: FitOptions
    """resolved"""
    examples: TaskExamples
    batches: Epochs
    model: TaskModel
    optimizer: Optimizer
    device: torch.device

    def validate(self, epoch: int) -> Validation:
        """Measure the validation rows. Raises RunFailed if the loss is not finite."""
        label_type, valid, scores_NC = self.examples.label_type, self.examples.valid, self.score_valid()
        loss = mean_loss(label_type, scores_NC, [self.examples.valid_labels[row] for row in valid.rows_N])
        if not math.isfinite(loss):
            raise RunFailed(
                f"after epoch {epoch} the validation loss is not finite; lower {setting('lr')}, {self.options.lr:g}"
            )
        predictions_NC = valid.mean_by_row(label_type.predictions(scores_NC))
        metrics = label_type.metrics(self.examples.valid_labels, predictions_NC).to_json()
        return Validation(epoch, scores_NC, metrics | {"loss": loss})

    def updates(self, progress: "Progress", stop: StopRequest) -> Iterator[StepReport]:
        """Make the updates that remain, see `loop.train`."""
        options, optimizer = self.options, self.optimizer
        return train(
            self.model, self.batches, optimizer, weights={"task": 1.0, "lm": options.lm_coef}, steps=optimizer.steps,
            start=progress.step, seed=options.seed, device=self.device, state=progress.loop,
            largest=() if self.device.type == "cpu" else self.batches.largest(), give_up=stop.is_urgent,
        )  # fmt: skip

    def score_valid(self) -> np.ndarray:
        """Return scores_NC of the validation examples."""
        examples, batches = self.examples.valid.examples, self.batches
        return score(self.model, examples, batches.batch, batches.pad_id, self.device)

    def spread(self, scores_NC: np.ndarray) -> float:
        """Return by how much scores differ between rows or, where each row has answers of its own, between these."""
        if self.examples.label_type.kind == "choice":
            return float(np.nanstd(np.where(np.isfinite(scores_NC), scores_NC, np.nan), axis=1).mean())
        return float(scores_NC.std(0).max())


@dataclass
class Progress:
    """How far a fine-tuning has come, and the best epoch so far."""

    step: int = 0
    """updates made"""
    losses: dict[str, float] = field(default_factory=dict)
    """sums over the updates of the current epoch, by name"""
    best: Validation | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    """the fp32 weights that `best` was measured with"""
    is_over: bool = False
    spread: float = 0.0
    """by how much scores differed before the first update; 0: unknown"""
    validated: int = 0
    """epochs that were validated"""
    loop: LoopState = field(default_factory=LoopState)

    def add(self, update: StepReport) -> None:
        """Count an update and its losses."""
        self.step = update.step
        for name, loss in update.losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + loss

    def save(self, states: checkpoint.Checkpoints, optimizer: Optimizer, log: Log, *, required: bool = False) -> None:
        """Save everything that the rest of the training needs; once it is over, only the best epoch."""
        log.flush()  # what a state continues from has been logged
        tensors = {} if self.is_over else optimizer.state()
        tensors |= {BEST_WEIGHTS + name: weight for name, weight in self.weights.items()}
        notes: dict[str, Any] = {name: getattr(self, name) for name in ("is_over", "losses", "spread", "validated")}
        notes["loop"] = asdict(self.loop)
        if self.best is not None:
            tensors[BEST_SCORES] = torch.from_numpy(self.best.scores_NC)
            notes |= {"epoch": self.best.epoch, "metrics": self.best.metrics}
        states.save(self.step, tensors, notes, required=required)

    @classmethod
    def resume(cls, folder: Path, optimizer: Optimizer) -> "Progress":
        """Continue from the last state in the folder, or start at the beginning."""
        if not (path := parallel.current().from_main(lambda: checkpoint.latest(folder))):
            return cls()
        notes, tensors = checkpoint.read_notes(path), checkpoint.load(path)
        names = [name for name in tensors if name.startswith(BEST_WEIGHTS)]
        # Copies, since the loaded tensors are views of the file, which will be deleted.
        weights = {name.removeprefix(BEST_WEIGHTS): tensors.pop(name).clone() for name in names}
        best = None
        if "epoch" in notes:
            best = Validation(notes["epoch"], tensors.pop(BEST_SCORES).numpy().copy(), notes["metrics"])
        if not notes["is_over"]:
            optimizer.load(tensors)
            say(f"continuing after update {notes['step']:,} of {optimizer.steps:,}")
        return cls(
            notes["step"], notes["losses"], best, weights, notes["is_over"], notes["spread"],
            notes["validated"], LoopState(**notes["loop"]),
        )  # fmt: skip


def train_epochs(
    trainer: EpochTrainer, folder: Path, title: str, *, resumable: bool, keep_end: bool, tracking: Tracking | None
) -> Progress:
    """Make the updates that remain, validate after each epoch, and return the best epoch.

    `folder` receives metrics.jsonl, whose rows `tracking` sends to trackers too. If the training is `resumable`, the
    folder also receives a state every few minutes, before a validation, and when a stop is requested, which raises
    KeyboardInterrupt; with `keep_end` also the best epoch at the end. Raises RunFailed if the gradient or the loss of
    the first epoch is not finite, and Collapsed if the scores collapse in that epoch, at a learning rate above the
    paper's. Random weights do not count as collapsed, since several learning rates are tried for them.
    """
    optimizer, per_epoch = trainer.optimizer, trainer.batches.per_epoch
    progress = Progress.resume(folder, optimizer) if resumable else Progress()
    if progress.is_over:
        return progress
    if progress.step == 0 and trainer.options.lr > PAPER_LR and not trainer.options.from_scratch:
        progress.spread = trainer.spread(trainer.score_valid())
    # False if an earlier process ended between an epoch and its validation.
    is_validated = progress.step // per_epoch <= progress.validated
    with ExitStack() as stack:
        stop = stack.enter_context(stop_requested()) if resumable else StopRequest()
        states = stack.enter_context(checkpoint.Checkpoints(folder))
        log = stack.enter_context(Log(folder, progress.step, is_validated, tracking))
        shown = stack.enter_context(bar("{task.fields[state]}"))
        done = progress.step
        task = shown.add_task(title, total=optimizer.steps, completed=done, done_before=done, state="")
        try:
            if not is_validated:
                _end_epoch(trainer, progress, log, stop)
            for update in () if progress.is_over else trainer.updates(progress, stop):
                stop.agree()
                progress.add(update)
                log.add(update.step, **update.losses, **update.measured)
                losses = "  ".join(f"{name} {loss:.3f}" for name, loss in update.losses.items())
                speed = f"{update.tokens / update.seconds:,.0f} tokens/s"
                shown.update(task, completed=update.step, state=f"{losses}  {speed}")
                is_epoch = update.step % per_epoch == 0
                if resumable and states.age > (EPOCH_SECONDS if is_epoch else SAVE_SECONDS):
                    progress.save(states, optimizer, log)
                if is_epoch:
                    _end_epoch(trainer, progress, log, stop)
                if progress.is_over:
                    break
                if stop():
                    raise Stopped
            # When the training is over and its end is not kept, writing the model is all that remains: do not stop.
            if stop() and (keep_end or not progress.is_over):
                raise Stopped
            if keep_end:
                progress.save(states, optimizer, log)
        except Stopped:
            progress.save(states, optimizer, log, required=True)
            parallel.current().barrier()  # for the one that saves: it says what can be continued
            raise KeyboardInterrupt(f"stopped after update {progress.step:,} of {optimizer.steps:,}") from None
    return progress


def _end_epoch(trainer: EpochTrainer, progress: Progress, log: Log, stop: StopRequest) -> None:
    """Validate, keep the weights if they are the best so far, and decide whether the training is over.

    If a stop is requested before the validation is done, raises Stopped and leaves the progress as it was.
    """
    options, epoch = trainer.options, progress.step // trainer.batches.per_epoch
    try:
        with stop.at_once():
            found = trainer.validate(epoch)
        if trainer.spread(found.scores_NC) < COLLAPSE * progress.spread:
            lower = f"lower {setting('lr')}, {options.lr:g}"
            raise Collapsed(f"after epoch {epoch} every row gets the same scores; {lower}")
    except RunFailed as error:
        if progress.best is None:
            raise
        say(f"{error.args[0]}; epoch {progress.best.epoch} is kept")
        progress.is_over = True
        return
    progress.is_over, progress.validated = progress.step == trainer.optimizer.steps, epoch
    losses = {name: total / trainer.batches.per_epoch for name, total in progress.losses.items()}
    progress.losses.clear()
    found.metrics.update({f"{name}_loss": loss for name, loss in losses.items()})
    metric = selected_metric(options, trainer.examples.label_type)
    shown = {name: found.metrics[name] for name in dict.fromkeys((metric, "loss"))}
    say(f"epoch {epoch}: training {_listed(losses)}; validation {_listed(shown)}")
    log.add(progress.step, **{f"val_{name}": value for name, value in shown.items()})
    log.flush()
    keeps_last = keeps_last_epoch(options, len(trainer.examples.valid_labels))
    if progress.best is None or keeps_last or rank(found.metrics, metric) > rank(progress.best.metrics, metric):
        progress.best = found
        progress.weights = {name: master.detach().clone() for name, master in trainer.optimizer.masters.items()}
    elif options.patience and epoch - progress.best.epoch >= options.patience and not progress.is_over:
        say(f"no better validation since epoch {progress.best.epoch}; stopped after epoch {epoch}")
        progress.is_over = True


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
