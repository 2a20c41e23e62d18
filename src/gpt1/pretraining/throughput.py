"""How long a pre-training run takes on this machine, measured on the run's own parts before it begins."""

import bisect
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpt1.config import Pretrain
from gpt1.console import say
from gpt1.data.windows import Windows
from gpt1.pretraining.run import Run
from gpt1.training.likelihood import TOKENS_AT_ONCE
from gpt1.training.loop import StepReport, train

EVALUATIONS = 10
"""Validations in a run, unless told otherwise."""
EVALUATION_WINDOWS = 64
"""Windows an interim validation looks at; the last validation looks at everything."""
MANY = 10_000
"""Updates of the run that is measured, which is stopped long before."""
TURN = 2
"""Updates of a turn: one of one micro-batch, one of two."""
ROUNDS = 3
"""Least number of turns that are measured, besides one that warms up."""
FEWEST_UPDATES, MOST_UPDATES = 10, 10**9


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a run take."""

    update: float
    """one update of the whole batch"""
    validation: float
    """a validation between updates"""
    closing: float
    """the last validation, of everything"""
    sample: float
    save: float

    def seconds(self, steps: int, settings: Pretrain) -> float:
        """What `steps` updates take, with all validations, samples and saves."""
        eval_every = settings.eval_every or max(1, math.ceil(steps / EVALUATIONS))
        looks, saves = (steps - 1) // eval_every, (steps - 1) // (settings.save_every or eval_every)
        pauses = looks * (self.validation + self.sample) + saves * self.save
        return steps * self.update + pauses + self.closing + self.sample + self.save

    def steps(self, seconds: float, settings: Pretrain) -> int:
        """Updates that fit into `seconds`; a few are made all the same, however short the time."""
        fit = bisect.bisect_right(range(1, MOST_UPDATES), seconds, key=lambda steps: self.seconds(steps, settings))
        if fit < FEWEST_UPDATES:
            say(f"{seconds / 60:.2g} minutes are too short; {FEWEST_UPDATES} updates will be made")
        return max(FEWEST_UPDATES, fit)


def measure(run: Run, seconds: float) -> Pace:
    """The pace of a run, on which about `seconds` of updates are spent, and then a validation, a sample and a save.

    The run's weights, log and folder are changed: it must be one that is thrown away.
    """
    context, tokens = run.settings.model.context, len(run.data.val)
    update = _update(run, seconds)
    windows = 1 + -(-max(0, tokens - context) // (context // 2))
    tried = min(windows, EVALUATION_WINDOWS, max(1, TOKENS_AT_ONCE // context))
    run.validate(1, tried)  # the first pass prepares kernels, which the run does once
    window = _timed(lambda: run.validate(1, tried)) / tried
    sample, save = _timed(lambda: run.sample(1)), _timed(lambda: run.save(1))
    return Pace(update, window * min(windows, EVALUATION_WINDOWS), window * windows, sample, save)


def turn(run: Run) -> None:
    """A turn of updates after a pause, which leaves the heap so that they take more memory than those before it."""
    for _ in itertools.islice(_updates(run), TURN):
        pass


def _updates(run: Run) -> Iterator[StepReport]:
    """Updates of one and of two micro-batches, by turns."""
    settings = run.settings
    one, two = (
        Windows(run.data.train, settings.model.context, rows, settings.micro_batch, settings.seed)
        for rows in _rows(settings)
    )
    return train(
        run.model, lambda step: (one, two)[step % TURN](step), run.optimizer,
        weights={"lm": 1.0}, steps=MANY, seed=settings.seed, device=run.device,
    )  # fmt: skip


def _rows(settings: Pretrain) -> tuple[int, int]:
    """Windows in one and in two micro-batches."""
    return settings.micro_batch, min(2 * settings.micro_batch, settings.batch)


def _update(run: Run, seconds: float) -> float:
    """Seconds of one update, from about so many seconds of turns.

    Each micro-batch more costs the same; what is left is the optimizer's step.
    """
    reports, times = _updates(run), ([], [])  # type: Iterator[StepReport], tuple[list[float], list[float]]
    for report in itertools.islice(reports, TURN):
        until = time.perf_counter() + seconds  # memory and kernels are there from the second update on
        del report
    for report in reports:
        times[(report.step - 1) % TURN].append(report.seconds)
        if len(times[1]) >= ROUNDS and time.perf_counter() > until:
            break
    first, both = map(statistics.median, times)
    small, large = _rows(run.settings)
    if small == large:
        return statistics.median(times[0] + times[1])
    return first + (run.settings.batch - small) / (large - small) * max(0.0, both - first)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
