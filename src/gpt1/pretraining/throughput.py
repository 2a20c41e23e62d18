"""Speed and memory of a pre-training run on this machine, measured on a few updates before it begins."""

import bisect
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from gpt1.config import Pretrain
from gpt1.console import say
from gpt1.data.windows import Stream, Windows, strided_count
from gpt1.model.objectives import LanguageModel
from gpt1.pretraining.defaults import PreparedData
from gpt1.pretraining.run import (
    VALIDATION_WINDOWS,
    build,
    copy_body,
    intervals,
    sample,
    validation_likelihood,
    whole_body,
)
from gpt1.run_folder.folder import save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import checkpoint, parallel
from gpt1.training.likelihood import TOKENS_AT_ONCE
from gpt1.training.loop import StepReport, train
from gpt1.training.optimizer import Optimizer

# Length of the learning-rate schedule while measuring, which stops long before its end.
SCHEDULE_STEPS = 10_000
# Updates of one micro-batch and of two alternate. The first pair warms up; at least `MIN_PAIRS` more are measured.
PAIR, MIN_PAIRS = 2, 3
MIN_UPDATES, MAX_UPDATES = 10, 10**9


@dataclass(frozen=True)
class Throughput:
    """Seconds that each part of a run takes."""

    update: float
    """one update of the whole batch"""
    validation: float
    """a validation between updates"""
    final_validation: float
    """the last validation, on all of the validation text"""
    sample: float
    """a sample"""
    save: float
    """a checkpoint and the model"""

    def seconds(self, steps: int, eval_every: int = 0, save_every: int = 0) -> float:
        """Return the time that `steps` updates take, with all validations, samples and checkpoints."""
        eval_every, save_every = intervals(steps, eval_every, save_every)
        validations, saves = (steps - 1) // eval_every, (steps - 1) // min(eval_every, save_every)
        pauses = validations * (self.validation + self.sample) + saves * self.save
        return steps * self.update + pauses + self.final_validation + self.sample + self.save

    def steps(self, seconds: float, eval_every: int = 0, save_every: int = 0) -> int:
        """Return how many updates fit into `seconds`, at least a few."""
        fit = bisect.bisect_right(
            range(1, MAX_UPDATES), seconds, key=lambda steps: self.seconds(steps, eval_every, save_every)
        )
        if fit < MIN_UPDATES:
            least = self.seconds(MIN_UPDATES, eval_every, save_every)
            say(f"the time is too short: {MIN_UPDATES} updates take about {least / 60:.2g} minutes")
        return max(MIN_UPDATES, fit)


def steps_in_time(
    settings: Pretrain, data: PreparedData, device: torch.device, dtype: torch.dtype, started: float
) -> int:
    """Return how many updates fit into `minutes` from `started`, measured on a model that is then discarded."""
    seconds = 60 * (settings.minutes or 0)
    model, optimizer = build(settings, SCHEDULE_STEPS, device, dtype)
    speed = measure(model, optimizer, settings, data.train, data.val, data.tokenizer, device, min(5.0, 0.05 * seconds))
    left = max(0.0, seconds - (time.perf_counter() - started))
    steps = speed.steps(left, settings.eval_every, settings.save_every)
    steps = parallel.current().from_main(lambda: steps)
    say(f"{speed.update:.3f} seconds per update: training for {steps:,} updates")
    return steps


def measure(
    model: LanguageModel, optimizer: Optimizer, settings: Pretrain, train_stream: Stream, val_stream: Stream,
    tokenizer: Tokenizer, device: torch.device, seconds: float,
) -> Throughput:  # fmt: skip
    """Measure about `seconds` of updates, then a validation, a sample and a save into a temporary folder.

    This trains the model, so pass one that is discarded afterwards.
    """
    context = settings.model.context
    update = seconds_per_update(update_pairs(model, optimizer, settings, train_stream, device), settings, seconds)
    windows = strided_count(len(val_stream), context)
    tried = min(windows, VALIDATION_WINDOWS, max(1, TOKENS_AT_ONCE // context))
    body, end_id = whole_body(model.body, optimizer), tokenizer.end_id
    validation_likelihood(body, val_stream, end_id, 1, tried)  # the first pass of a run prepares kernels
    window = _timed(lambda: validation_likelihood(body, val_stream, end_id, 1, tried)) / tried
    sampled = _timed(lambda: sample(body, tokenizer, settings.sample, settings.seed))
    with tempfile.TemporaryDirectory() as folder:

        def save() -> None:
            checkpoint.save(Path(folder), 1, optimizer.state(), {})
            if (copied := copy_body(body, optimizer)) is not None:
                save_run(folder, copied, tokenizer, RunMetadata(kind="pretrained"))

        saved = _timed(save)
    return Throughput(update, window * min(windows, VALIDATION_WINDOWS), window * windows, sampled, saved)


def update_pairs(
    model: LanguageModel, optimizer: Optimizer, settings: Pretrain, stream: Stream, device: torch.device
) -> Iterator[StepReport]:
    """Make updates of one micro-batch and of two, alternately."""
    one, two = (
        Windows(stream, settings.model.context, rows, settings.micro_batch, settings.seed) for rows in _rows(settings)
    )
    return train(
        model, lambda step: (one, two)[step % PAIR](step), optimizer,
        weights={"lm": 1.0}, steps=SCHEDULE_STEPS, seed=settings.seed, device=device,
    )  # fmt: skip


def _rows(settings: Pretrain) -> tuple[int, int]:
    """Return the windows in one and in two micro-batches."""
    return min(settings.micro_batch, _share(settings)), min(2 * settings.micro_batch, _share(settings))


def _share(settings: Pretrain) -> int:
    """Return the most windows of a batch that one process takes."""
    return -(-settings.batch // parallel.current().size)


def seconds_per_update(reports: Iterator[StepReport], settings: Pretrain, seconds: float) -> float:
    """Return the seconds of an update of the whole batch, from about `seconds` of `update_pairs`.

    Every further micro-batch costs as much as the second; the rest of the first is the optimizer's step.
    """
    times: tuple[list[float], list[float]] = [], []
    until = 0.0
    for report in reports:
        if report.step <= PAIR:  # memory and kernels are ready after the first pair
            until = time.perf_counter() + seconds
            continue
        times[(report.step - 1) % PAIR].append(report.seconds)
        if parallel.current().any(len(times[1]) >= MIN_PAIRS and time.perf_counter() > until):
            break
    (small, large), (first, both) = _rows(settings), map(statistics.median, times)
    if small == large:
        return statistics.median(times[0] + times[1])
    return first + (_share(settings) - small) / (large - small) * max(0.0, both - first)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
