"""The training loop: one generator for pre-training and fine-tuning.

It yields a report after each update; logging, saving and stopping belong to the caller that iterates.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from gpt1.batch import IGNORE, Batch
from gpt1.errors import RunFailed, setting
from gpt1.training.optimizer import Optimizer

CPU = torch.device("cpu")
# Updates in a row that may be skipped because their gradient is not finite.
MAX_SKIPPED = 10


class Objective(Protocol):
    """A model that returns the losses it is trained on; see `model.objectives`."""

    def __call__(self, batch: Batch, terms: Collection[str]) -> dict[str, Tensor]:
        """Return the sum of each loss named in `terms`; no other loss is computed."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return how many terms each sum has."""

    def train(self, mode: bool = True) -> object:
        """Switch dropout on or off."""


class Timer:
    """A point in time; on a GPU, a point in its queue of work, which may still lie ahead."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = time.perf_counter()
        self.event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self.event is not None:
            self.event.record(torch.cuda.current_stream(device))

    def since(self, other: "Timer") -> float:
        """Return the seconds from `other` to this point; on a GPU, wait until both are reached."""
        if self.event is None or other.event is None:
            return self.seconds - other.seconds
        self.event.synchronize()
        return other.event.elapsed_time(self.event) / 1000


@dataclass(frozen=True)
class StepReport:
    """One update. A GPU may still be working on it: reading a loss, the norm or the seconds waits for it."""

    step: int
    """updates made so far, this one included"""
    tokens: int
    """targets in this update"""
    sums: list[dict[str, Tensor]]
    """summed losses in nats by name, for each micro-batch"""
    counts: Counter[str]
    """terms of each sum, over all micro-batches"""
    norm: Tensor
    started: Timer
    ended: Timer

    @cached_property
    def losses(self) -> dict[str, float]:
        """Mean loss in nats, by name."""
        return {name: sum(s[name].item() for s in self.sums) / self.counts[name] for name in self.sums[0]}

    @cached_property
    def grad_norm(self) -> float:
        """Global gradient norm before clipping; not finite if the update was skipped."""
        return self.norm.item()

    @cached_property
    def seconds(self) -> float:
        """Duration of the update."""
        return self.ended.since(self.started)


def train(
    model: Objective,
    batches: Callable[[int], list[Batch]],
    optimizer: Optimizer,
    *,
    weights: dict[str, float],
    steps: int,
    start: int = 0,
    seed: int = 1,
    device: torch.device = CPU,
) -> Iterator[StepReport]:
    """Make updates `start` .. `steps` - 1, each on the micro-batches `batches(step)`.

    The loss is the sum over names of weight * (sum of losses) / (count over the whole update); a loss of weight 0 is
    not computed. Random numbers (dropout) depend on (seed, step) alone, so a run that stops and resumes equals one
    that did not stop. Raises RunFailed after `MAX_SKIPPED` updates in a row with a gradient that is not finite; the
    weights are those before the first of them. A GPU's norm is read one update late, so as not to wait for it.
    """
    weights = {name: weight for name, weight in weights.items() if weight}
    previous: StepReport | None = None
    skipped, micro_batches = 0, batches(start) if start < steps else []
    for step in range(start, steps):
        started = Timer(device)
        torch.manual_seed(hash((seed, step)))
        model.train()
        counts: Counter[str] = Counter()
        for batch in micro_batches:
            counts.update(model.counts(batch))
        sums = [_backward(model, batch.to(device), weights, counts) for batch in micro_batches]
        upcoming = batches(step + 1) if step + 1 < steps else []  # while a GPU still works on the backward pass
        norm = optimizer.update(step)
        tokens = sum(int((batch.targets_NKT != IGNORE).sum()) for batch in micro_batches)
        micro_batches = upcoming
        yield (report := StepReport(step + 1, tokens, sums, counts, norm, started, Timer(device)))
        finished, previous = report if device.type == "cpu" else previous, report
        skipped = 0 if finished is None or math.isfinite(finished.grad_norm) else skipped + 1
        if skipped == MAX_SKIPPED:
            raise RunFailed(
                f"the gradient was not finite in {MAX_SKIPPED} updates in a row, up to update {step + 1}; the weights "
                f"are those before them. Lower the learning rate, or use {setting('dtype')} fp32."
            )


def _backward(model: Objective, batch: Batch, weights: dict[str, float], counts: Counter[str]) -> dict[str, Tensor]:
    """Add a micro-batch's gradient to the optimizer's and return its summed losses."""
    sums = model(batch, weights.keys())
    torch.stack([weights[name] * value / max(1, counts[name]) for name, value in sums.items()]).sum().backward()
    return {name: value.detach() for name, value in sums.items()}
