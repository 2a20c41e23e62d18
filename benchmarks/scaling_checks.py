"""What the formulas of `scaling.py` say, beside what small models do here, alone and in 2 and 4 processes over Gloo.

`python benchmarks/scaling_checks.py --exchange` is one of those processes, which torchrun starts.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gpt1.batch import Batch
from gpt1.config import RECIPES, Model, Recipe
from gpt1.model.fused_cpu import fuse
from gpt1.model.gpt import GPT, count_parameters, flops_per_token
from gpt1.model.objectives import LanguageModel
from gpt1.training import parallel
from gpt1.training.loop import train
from gpt1.training.optimizer import Optimizer
from gpt1.training.sharding import shard
from scaling import ddp_sent, fsdp_bytes, fsdp_sent, holds_gradients, peak_bytes

CHECKED = Model(context=256, width=256, depth=4, heads=4, inner=1024, vocabulary=4096, attention_dropout=0.0)


def batches(shape: Model, rows: int) -> Callable[[int], list[Batch]]:
    """Return a source of random micro-batches, one an update."""

    def batch(_step: int) -> list[Batch]:
        ids_NT = torch.randint(0, shape.vocabulary, (rows, shape.context + 1))
        return [Batch(tokens_NKT=ids_NT[:, None, :-1], targets_NKT=ids_NT[:, None, 1:])]

    return batch


def counted_flops(shape: Model) -> float:
    """Return PyTorch's count of a token's arithmetic, forward and backward, with attention as products."""
    model = LanguageModel(GPT(shape).init_weights())
    fuse(model, compiled=False)
    (batch,) = batches(shape, 2)(0)
    with FlopCounterMode(display=False) as counter:
        model(batch)["lm"].backward()
    return counter.get_total_flops() / batch.tokens_NKT.numel()


def measured_peak(shape: Model, rows: int, recipe: Recipe) -> int:
    """Return the most bytes in tensors while a model is made and makes two updates."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = LanguageModel(GPT(shape).init_weights())
        optimizer = Optimizer(model, RECIPES[recipe], 10)
        model = model.to(torch.bfloat16)
        for _ in train(model, batches(shape, rows), optimizer, weights={"lm": 1.0}, steps=2):
            pass
    return peak_of(profiler)


def peak_of(profiler: profile) -> int:
    """Return the most bytes that tensors took."""
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    held = peak = 0
    event: Any  # its type annotations lack `nbytes`
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@contextmanager
def one_of(processes: int) -> Iterator[None]:
    """Be the first of several processes whose messages nobody receives."""
    torch.distributed.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        with parallel.within(parallel.World(0, processes)):
            yield
    finally:
        torch.distributed.destroy_process_group()


class Messages(TorchDispatchMode):
    """Adds up what gathering and scattering in rings would send."""

    sent = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "allgather" in str(func) or "reduce_scatter" in str(func):
            processes = parallel.current().size
            self.sent += (processes - 1) / processes * max(one.nbytes for one in args[:2])
        return func(*args, **(kwargs or {}))


def sharded(shape: Model, rows: int, times: int, gpus: int) -> dict[str, float]:
    """Return the peak of one of many GPUs under FSDP, and the bytes it sends in an update of some micro-batches."""
    batch = batches(shape, rows)
    with one_of(gpus), Messages() as messages, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        model = LanguageModel(GPT(shape).init_weights())
        sharding = shard(model, torch.device("cpu"), torch.bfloat16, holds_gradients(shape, gpus))
        optimizer = Optimizer(model, RECIPES["paper"], 10, sharding)
        for _ in train(model, lambda step: times * batch(step), optimizer, weights={"lm": 1.0}, steps=2):
            pass
    return {"peak": peak_of(found), "sent": messages.sent / 2}


def exchanged(processes: int) -> dict[str, float]:
    """Return bytes an update: given to all-reduce by each process, and carried by the loopback interface for all."""
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), __file__, "--exchange"]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def exchange(updates: int = 10) -> None:
    """Make updates as one of several processes; rank 0 prints what they sent."""
    given = 0
    all_reduce = torch.distributed.all_reduce

    def count(tensor: torch.Tensor, *how: Any, **where: Any) -> None:
        nonlocal given
        given += tensor.nbytes
        all_reduce(tensor, *how, **where)

    with parallel.join("cpu") as world:
        model = LanguageModel(GPT(CHECKED).init_weights(torch.Generator().manual_seed(0)))
        optimizer = Optimizer(model, RECIPES["paper"], updates)
        torch.distributed.all_reduce = count
        before = loopback_bytes()
        for _ in train(model, batches(CHECKED, 1), optimizer, weights={"lm": 1.0}, steps=updates):
            pass
        world.barrier()
        sent = loopback_bytes() - before
        if world.rank == 0:
            print(json.dumps({"given": given / updates, "loopback": sent / updates}))


def loopback_bytes() -> int:
    """Return the bytes that the loopback interface has sent since it is up (Linux)."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("lo:"))


def checks() -> Iterator[dict[str, Any]]:
    """Yield what a formula says, beside what was measured here."""
    yield {"what": "parameters", "formula": count_parameters(CHECKED)[0],
           "measured": sum(weight.numel() for weight in GPT(CHECKED).parameters())}  # fmt: skip
    yield {"what": "FLOP a token", "formula": flops_per_token(CHECKED), "measured": counted_flops(CHECKED)}
    deep = replace(CHECKED, depth=8, vocabulary=1024)
    for shape, rows, recipe in ((CHECKED, 8, "paper"), (CHECKED, 2, "paper"), (deep, 1, "fast")):
        tokens = rows * shape.context
        yield {"what": f"peak bytes, {recipe}, depth {shape.depth}, {tokens} tokens",
               "formula": peak_bytes(shape, tokens, recipe, mask=2),  # type: ignore[arg-type]
               "measured": measured_peak(shape, rows, recipe)}  # type: ignore[arg-type]  # fmt: skip
    found = sharded(CHECKED, 8, 3, 8)
    tokens = 8 * CHECKED.context
    yield {"what": f"peak bytes, FSDP, one of 8 GPUs, {tokens} tokens", "formula": fsdp_bytes(CHECKED, tokens, 8, 2),
           "measured": found["peak"]}  # fmt: skip
    yield {"what": "bytes sent, FSDP, one of 8 GPUs, 3 micro-batches", "formula": fsdp_sent(CHECKED, 3, 8),
           "measured": found["sent"]}  # fmt: skip
    for processes in (2, 4):
        found = exchanged(processes)
        yield {"what": f"bytes given to all-reduce, {processes} processes",
               "formula": 4 * count_parameters(CHECKED)[0], "measured": found["given"]}  # fmt: skip
        yield {"what": f"bytes on the loopback, {processes} processes",
               "formula": processes * ddp_sent(CHECKED, processes), "measured": found["loopback"]}  # fmt: skip


if __name__ == "__main__":
    assert sys.argv[1:] == ["--exchange"], __doc__
    torch.set_num_threads(1)
    exchange()
