"""The training loop: the only one. It yields a report after each update; whoever iterates logs, saves and stops."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from gpt1.batch import IGNORE, Batch
from gpt1.errors import RunFailed
from gpt1.training.optimizer import Optimizer

CPU = torch.device("cpu")
PATIENCE = 10
"""Updates in a row that may be skipped because their gradient is not finite."""


class Objective(Protocol):
    """What the loop trains: see `model.objectives`."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Named sums of losses."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many terms each sum has."""

    def train(self, mode: bool = True) -> object:
        """Switch dropout on or off."""


class Moment:
    """A moment of the program; on a GPU one of the work handed to it, which comes later."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = time.perf_counter()
        self.event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self.event is not None:
            self.event.record(torch.cuda.current_stream(device))

    def since(self, other: "Moment") -> float:
        """Seconds from the other moment to this one, once both have come."""
        if self.event is None or other.event is None:
            return self.seconds - other.seconds
        self.event.synchronize()
        return other.event.elapsed_time(self.event) / 1000


@dataclass(frozen=True)
class Report:
    """One update. A GPU may still be at it: whoever reads a loss, the norm or the seconds waits for it."""

    step: int
    """updates made so far, this one included"""
    tokens: int
    """targets in this update"""
    sums: list[dict[str, Tensor]]
    """losses in nats by name, summed, of each micro-batch"""
    counts: Counter[str]
    """terms of the sums, over all micro-batches"""
    norm: Tensor
    began: Moment
    ended: Moment

    @cached_property
    def losses(self) -> dict[str, float]:
        """Mean loss in nats, by name."""
        return {name: sum(s[name].item() for s in self.sums) / self.counts[name] for name in self.sums[0]}

    @cached_property
    def grad_norm(self) -> float:
        """Global norm before clipping; not finite where the update was skipped."""
        return self.norm.item()

    @cached_property
    def seconds(self) -> float:
        """Time it took."""
        return self.ended.since(self.began)


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
) -> Iterator[Report]:
    """Make updates `start` .. `steps` - 1, each on the micro-batches `batches(step)`.

    The loss is the sum over names of weight * (sum of losses) / (count over the whole update). Randomness (dropout)
    is a function of (seed, step), so a run that stops and continues is the run that did not stop. Raises RunFailed
    after ten updates in a row whose gradient was not finite; weights stay as they were before the first of them.
    On a GPU that is seen an update later, since nothing here waits for the update that was launched last.
    """
    before: Report | None = None
    skipped, micro_batches = 0, batches(start) if start < steps else []
    for step in range(start, steps):
        began = Moment(device)
        torch.manual_seed(hash((seed, step)))
        model.train()
        counts: Counter[str] = Counter()
        for batch in micro_batches:
            counts.update(model.counts(batch))
        sums = [_backward(model, batch.to(device), weights, counts) for batch in micro_batches]
        upcoming = batches(step + 1) if step + 1 < steps else []  # while a GPU is still at the backward
        norm = optimizer.update(step)
        tokens = sum(int((batch.targets_NKT != IGNORE).sum()) for batch in micro_batches)
        micro_batches = upcoming
        yield (report := Report(step + 1, tokens, sums, counts, norm, began, Moment(device)))
        over, before = report if device.type == "cpu" else before, report
        skipped = 0 if over is None or math.isfinite(over.grad_norm) else skipped + 1
        if skipped == PATIENCE:
            raise RunFailed(
                f"the gradient was not finite in {PATIENCE} updates in a row (the last is {step + 1}); the weights are "
                "those before them. Lower --optim.lr, or use --dtype fp32."
            )


def _backward(model: Objective, batch: Batch, weights: dict[str, float], counts: Counter[str]) -> dict[str, Tensor]:
    sums = model(batch)
    terms = [weights[name] * value / max(1, counts[name]) for name, value in sums.items() if weights.get(name)]
    torch.stack(terms).sum().backward()
    return {name: value.detach() for name, value in sums.items()}
