"""The training loop: the only one. It yields a report after each update; whoever iterates logs, saves and stops."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gpt1.batch import IGNORE, Batch
from gpt1.errors import RunFailed
from gpt1.train.optim import Optimizer

CPU = torch.device("cpu")
PATIENCE = 10
"""Updates in a row that may be skipped because their gradient is not finite."""


class Objective(Protocol):
    """What the loop trains: see `nn.objectives`."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Named sums of losses."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many terms each sum has."""

    def train(self, mode: bool = True) -> object:
        """Switch dropout on or off."""


@dataclass(frozen=True)
class Report:
    """One update."""

    step: int
    """updates made so far, this one included"""
    losses: dict[str, float]
    """mean loss in nats, by name"""
    grad_norm: float
    """global norm before clipping; not finite where the update was skipped"""
    tokens: int
    """targets in this update"""
    seconds: float
    """time it took"""


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
    """
    skipped, micro_batches = 0, batches(start) if start < steps else []
    for step in range(start, steps):
        began = time.perf_counter()
        torch.manual_seed(hash((seed, step)))
        model.train()
        counts: Counter[str] = Counter()
        for batch in micro_batches:
            counts.update(model.counts(batch))
        sums = [_backward(model, batch.to(device), weights, counts) for batch in micro_batches]
        upcoming = batches(step + 1) if step + 1 < steps else []  # while a GPU is still at the backward
        grad_norm = optimizer.update(step)
        losses = {name: sum(s[name].item() for s in sums) / counts[name] for name in sums[0]}
        tokens = sum(int((batch.targets_NKT != IGNORE).sum()) for batch in micro_batches)
        micro_batches = upcoming
        yield Report(step + 1, losses, grad_norm, tokens, time.perf_counter() - began)
        skipped = 0 if torch.isfinite(torch.tensor(grad_norm)) else skipped + 1
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
