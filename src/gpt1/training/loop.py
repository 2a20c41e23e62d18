"""The training loop: one generator for pre-training and fine-tuning.

It yields a report after each update; logging, saving and stopping belong to the caller that iterates.
"""

import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from gpt1.batch import IGNORE, Batch
from gpt1.console import say
from gpt1.errors import RunFailed, setting
from gpt1.training import parallel
from gpt1.training.device import is_out_of_memory
from gpt1.training.optimizer import Optimizer

CPU = torch.device("cpu")
# How many updates in a row may be skipped because their loss or gradient is not finite.
MAX_SKIPPED = 10
# A loss is a spike if it is this many standard deviations above the mean of this many previous updates.
SPIKE, SPIKE_WINDOW = 6.0, 128
# Key under which processes that run out of memory leave a limit on the micro-batch to those that torchrun starts next.
ROWS = "rows"


class Diverged(RunFailed):
    """Too many updates in a row were skipped; the weights and the last state are from before them."""


class Objective(Protocol):
    """A model that returns the losses it is trained on; see `model.objectives`."""

    def __call__(self, batch: Batch, terms: Collection[str]) -> dict[str, Tensor]:
        """Return the sum of each loss named in `terms`; no other loss is computed."""

    def counts(self, batch: Batch) -> Mapping[str, float]:
        """Return how many terms each sum has, or the sum of their weights."""

    def train(self, mode: bool = True) -> object:
        """Switch dropout on or off."""


class Timer:
    """A point in time; on a GPU, a point in its queue of work, which it may not have reached yet."""

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
    """summed losses in nats by name, for each micro-batch; with several processes, one sum over all"""
    counts: dict[str, float]
    """terms of each sum, or their weights, over all micro-batches of all processes"""
    norm: Tensor
    started: Timer
    ended: Timer

    @cached_property
    def losses(self) -> dict[str, float]:
        """Mean loss in nats, by name."""
        return {name: sum(s[name].item() for s in self.sums) / (self.counts[name] or 1) for name in self.sums[0]}

    @cached_property
    def grad_norm(self) -> float:
        """Global gradient norm before clipping; not finite if the update was skipped."""
        return self.norm.item()

    @property
    def is_skipped(self) -> bool:
        """Whether the weights were left as they are."""
        return not math.isfinite(self.grad_norm)

    @cached_property
    def seconds(self) -> float:
        """Duration of the update."""
        return self.ended.since(self.started)

    @property
    def measured(self) -> dict[str, float]:
        """What metrics.jsonl says of the update besides its losses: `skipped` only if it was."""
        values = {"grad_norm": self.grad_norm, "tokens": self.tokens, "seconds": self.seconds}
        return values | {"skipped": True} if self.is_skipped else values


@dataclass
class LoopState:
    """What the loop carries between updates besides weights and moments; training states keep it as JSON."""

    losses: list[float] = field(default_factory=list)
    """the weighted loss of the last `SPIKE_WINDOW` updates"""
    skipped: int = 0
    """updates skipped in a row"""
    rows: int = 0
    """maximum number of examples in a micro-batch, set when memory runs out; 0: no limit"""

    def spike(self) -> float:
        """Return the loss above which an update is a spike; infinite until there are enough updates."""
        if len(self.losses) < SPIKE_WINDOW:
            return math.inf
        mean = statistics.fmean(self.losses)
        return mean + SPIKE * math.sqrt(statistics.fmean((loss - mean) ** 2 for loss in self.losses))


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
    state: LoopState | None = None,
    largest: Sequence[Batch] = (),
    give_up: Callable[[], bool] = lambda: False,
) -> Iterator[StepReport]:
    """Run updates `start` .. `steps` - 1, each on the micro-batches `batches(step)`, and yield a report after each.

    The loss is the sum over names of weight * (sum of losses) / (count over the whole update). A loss of weight 0 is
    not computed; a loss with count 0 adds 0. Random numbers (dropout) depend only on (seed, step), so a run that stops
    and resumes equals one that did not stop, if `state` is saved with weights and moments.

    With several processes, `batches` returns the micro-batches of this process. Losses and counts are those of the
    whole batch; random numbers also depend on the rank.

    If memory runs out, the micro-batches are halved from then on; `largest` are tried before the first update, so that
    this happens early. An update whose loss or gradient is not finite is skipped. Raises Diverged after more than
    `MAX_SKIPPED` of them in a row, with the weights from before the first. A GPU's results are read one update late, to
    avoid waiting. If `give_up()` is true between two micro-batches, the update is dropped and the iteration ends.
    """
    weights, world = {name: weight for name, weight in weights.items() if weight}, parallel.current()
    state, skip_spikes = state or LoopState(), optimizer.settings.skip_spikes
    previous: StepReport | None = None
    _fit_memory(model, optimizer, largest, weights, device, state)
    micro_batches = batches(start) if start < steps else []
    for step in range(start, steps):
        started = Timer(device)
        model.train()
        counts, tokens = _counts(model, micro_batches, weights)
        sums = None
        while sums is None:
            torch.manual_seed(world.seed(seed, step))
            sums = _backward(model, optimizer, micro_batches, weights, counts, device, state, give_up)
            if give_up():
                optimizer.drop_gradients()
                return
        upcoming = batches(step + 1) if step + 1 < steps else []  # while a GPU still works on the backward pass
        sums = _summed(sums, weights, device)
        loss = torch.stack([_weighted(one, weights, counts).detach() for one in sums]).sum()
        limit = state.spike()
        norm = optimizer.update(step, loss, limit if skip_spikes else math.inf)
        micro_batches = upcoming
        report = StepReport(step + 1, tokens, sums, counts, norm, started, Timer(device))
        finished, previous = report if device.type == "cpu" or skip_spikes else previous, report
        if finished is not None:
            _note(finished, weights, limit, state)
        yield report
        if state.skipped > MAX_SKIPPED:
            raise Diverged(
                f"the loss or the gradient was not finite in {state.skipped} updates in a row, up to update "
                f"{step + 1}; the weights are those before them. Lower the learning rate, or use {setting('dtype')} "
                "fp32."
            )


def _backward(
    model: Objective, optimizer: Optimizer, micro_batches: Sequence[Batch], weights: dict[str, float],
    counts: dict[str, float], device: torch.device, state: LoopState, give_up: Callable[[], bool] = lambda: False,
) -> list[dict[str, Tensor]] | None:  # fmt: skip
    """Add the gradients of an update to the optimizer's and return the summed losses of each micro-batch.

    If memory runs out in any process, drop the gradients, halve the number of examples in a micro-batch and return
    None. Raises the allocator's error if a single example does not fit. With sharding it is always raised, since the
    other processes are waiting for this one's weights; the processes that `torchrun` starts next halve the examples.
    """
    parts = [part for batch in micro_batches for part in batch.split(state.rows or len(batch.tokens_NKT))]
    largest, rows = max((len(part.tokens_NKT) for part in parts), default=0), math.inf
    losses: list[dict[str, Tensor]] = []
    try:
        losses = _passes(model, optimizer, parts, weights, counts, device, give_up)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or largest == 1:
            raise
        rows = largest // 2
        if optimizer.sharding:
            parallel.remember(ROWS, rows)
            raise
    rows = rows if optimizer.sharding else parallel.current().least(rows)
    if rows == math.inf:
        return losses
    optimizer.drop_gradients()  # here, where nothing refers to the failed pass any more
    if device.type == "cuda":
        torch.cuda.empty_cache()
    state.rows = int(rows)
    say(f"out of memory: continuing with micro-batches of {state.rows}; the batch of an update stays the same")
    return None


def _passes(
    model: Objective, optimizer: Optimizer, parts: Sequence[Batch], weights: dict[str, float],
    counts: dict[str, float], device: torch.device, give_up: Callable[[], bool],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """Run each part forward and backward, and return its summed losses.

    With sharding all processes must run the same number of passes, since they gather weights from each other: one with
    fewer parts repeats its last one, whose loss then counts as 0.
    """
    sharding, losses = optimizer.sharding, []
    passes = int(-parallel.current().least(-len(parts))) if sharding else len(parts)
    for number in range(passes):
        if give_up():
            break
        if sharding:
            sharding.before_pass(is_last=number == passes - 1)
        is_extra, part = number >= len(parts), parts[min(number, len(parts) - 1)]
        with parallel.report_lost():
            sums = model(part.to(device), weights.keys())
            loss = _weighted(sums, weights, counts)
            (0 * loss if is_extra else loss).backward()
        if not is_extra:
            losses.append({name: value.detach() for name, value in sums.items()})
    return losses


def _fit_memory(
    model: Objective, optimizer: Optimizer, largest: Sequence[Batch], weights: dict[str, float], device: torch.device,
    state: LoopState,
) -> None:  # fmt: skip
    """Limit the examples of a micro-batch to what fits into memory.

    Start from the limit left by the processes before a restart. Then run the largest micro-batches forward and
    backward, with as much memory reserved as the moments will take that the first update creates.
    """
    if optimizer.sharding and (rows := parallel.remembered(ROWS)):
        state.rows = min(state.rows or rows, rows)
        say(f"out of memory before the restart: micro-batches of {rows}; the batch of an update stays the same")
    if not largest:
        return
    counts = dict.fromkeys(weights, 1.0)
    model.train()
    moments = optimizer.reserve_moments()
    while _backward(model, optimizer, largest, weights, counts, device, state) is None:
        pass
    optimizer.drop_gradients()
    del moments


def _counts(model: Objective, batches: Sequence[Batch], weights: dict[str, float]) -> tuple[dict[str, float], int]:
    """Return how many terms each sum of an update has, or the sum of their weights, and the number of targets."""
    found = [model.counts(batch) for batch in batches]
    counts = [sum(one[name] for one in found) for name in weights]
    tokens = sum(int((batch.targets_NKT != IGNORE).sum()) for batch in batches)
    *sums, targets = parallel.current().sum_numbers([*counts, tokens])
    return dict(zip(weights, sums, strict=True)), int(targets)


def _summed(sums: list[dict[str, Tensor]], weights: dict[str, float], device: torch.device) -> list[dict[str, Tensor]]:
    """Return the losses of an update; with several processes, one sum over all micro-batches of all processes."""
    world = parallel.current()
    if world.size == 1:
        return sums
    totals = torch.zeros(len(weights), device=device, dtype=torch.float64)
    for one in sums:
        totals += torch.stack([one[name] for name in weights])
    world.sum_tensors([totals])
    return [dict(zip(weights, totals, strict=True))]


def _weighted(sums: dict[str, Tensor], weights: dict[str, float], counts: dict[str, float]) -> Tensor:
    """Return a micro-batch's share of the update's loss."""
    return torch.stack([weights[name] * value / (counts[name] or 1) for name, value in sums.items()]).sum()


def _note(report: StepReport, weights: dict[str, float], limit: float, state: LoopState) -> None:
    """Count skipped updates, report a loss above `limit` or not finite, and remember the loss."""
    loss = sum(weight * report.losses[name] for name, weight in weights.items())
    state.skipped = state.skipped + 1 if report.is_skipped else 0
    skipped = f"; this update is skipped ({state.skipped} in a row)" if state.skipped else ""
    if loss > limit:
        mean = statistics.fmean(state.losses)
        say(
            f"update {report.step:,}: the loss, {loss:.4g}, is more than {SPIKE:g} standard deviations above the mean "
            f"of the {SPIKE_WINDOW} updates before, {mean:.4g}{skipped}"
        )
    elif skipped:
        say(f"update {report.step:,}: the loss or the gradient is not finite{skipped}")
    if math.isfinite(loss):
        state.losses = [*state.losses, loss][-SPIKE_WINDOW:]
