"""What several processes compute together in `test_parallel.py`: run as a program, once for each rank."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from gpt1.batch import Batch
from gpt1.config import RECIPES, Model, Recipe
from gpt1.data.windows import Ids, Windows
from gpt1.model.fused_cpu import fuse
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LanguageModel
from gpt1.pretraining.run import whole_body
from gpt1.training import checkpoint, parallel
from gpt1.training.likelihood import likelihood
from gpt1.training.loop import LoopState, train
from gpt1.training.optimizer import Optimizer
from gpt1.training.sharding import shard

Found = tuple[dict[str, Any], dict[str, torch.Tensor]]
STILL = {"embedding_dropout": 0.0, "residual_dropout": 0.0, "attention_dropout": 0.0}
# An odd context: of its positions, the last of four processes keeps none.
SHAPE = Model(context=9, width=16, depth=2, heads=2, inner=64, vocabulary=30, **STILL)
BATCH = 8
# Not a multiple of the context: the last window of an epoch is short, so ranks have different counts.
STREAM = Ids(torch.randint(30, (203,), generator=torch.Generator().manual_seed(0)).numpy())


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables that `torchrun` sets for a process."""
    ours = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    return plain | {name: str(value) for name, value in ours.items()} | {"MASTER_ADDR": "127.0.0.1"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(command: Sequence[str], size: int) -> list[subprocess.Popen[str]]:
    """Start a command in several processes, as `torchrun` does, which takes as long to start as all of them."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *command], env=environment(rank, size, port), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]  # fmt: skip


def finish(processes: Sequence[subprocess.Popen[str]], seconds: float = 300) -> list[tuple[int, str, str]]:
    """Wait; return exit code, standard output and standard error of each."""
    out = [process.communicate(timeout=seconds) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, out, strict=True)]


def torchrun(command: Sequence[str], restarts: int) -> subprocess.Popen[str]:
    """Start a command in two processes by `torchrun`, which starts both again if one fails."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    return subprocess.Popen(
        [sys.executable, *launcher, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def kill_rank(rank: int, agent: subprocess.Popen[str]) -> None:
    """Kill one of the processes that `torchrun` has started."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    os.kill(int(children[rank]), signal.SIGKILL)


def await_state(folder: Path) -> None:
    """Wait until a training has saved a state."""
    until = time.monotonic() + 200
    while not checkpoint.any_within(folder):
        assert time.monotonic() < until
        time.sleep(0.02)


@dataclass(frozen=True)
class Job:
    """A short pre-training, by one process or several."""

    recipe: Recipe
    steps: int = 6
    dropout: float = 0.0
    batch: int = BATCH
    micro_batch: int = 1
    gradients: Literal["", "held", "sent"] = ""
    """with FSDP: whether processes hold whole gradients until the last micro-batch, or send them after each"""
    dtype: torch.dtype = torch.float32
    """number format of products, those of Muon too"""
    fault: Literal["", "loss", "memory"] = ""
    """what happens in the last process only: its loss is once not finite, or only one row fits into its memory"""

    def run(self) -> Found:
        """Make the updates; return numbers of each, and the weights at the end with the gradients of two updates."""
        world, device = parallel.current(), torch.device("cpu")
        shape = replace(SHAPE, **dict.fromkeys(STILL, self.dropout))
        model = LanguageModel(GPT(shape).init_weights(torch.Generator().manual_seed(0)))
        fuse(model, compiled=False)
        if self.fault and world.rank == world.size - 1:
            break_down(model, self.fault)
        is_sharded = world.size > 1 and self.gradients
        sharding = shard(model, device, self.dtype, self.gradients == "held") if is_sharded else None
        optimizer = Optimizer(model, replace(RECIPES[self.recipe], warmup=2, lr=1e-2), self.steps, sharding)
        if not sharding:
            model.to(self.dtype)
        tensors: dict[str, torch.Tensor] = {}
        seen: list[list[int]] = []
        apply, loop = optimizer._apply, LoopState()

        def gathered(rows: torch.Tensor) -> torch.Tensor:
            return torch.cat(world.gather(rows.detach())) if sharding else rows.detach().clone()

        def keep_gradients(rate: float, norm: torch.Tensor) -> None:
            which = "last" if tensors else "first"
            tensors.update({f"{which}.{name}": gathered(one) for name, one in optimizer.gradients.items()})
            apply(rate, norm)

        optimizer._apply = keep_gradients  # type: ignore[method-assign]
        windows = Windows(STREAM, SHAPE.context, self.batch, self.micro_batch, seed=5, part=world.part)

        def batches(step: int) -> list[Batch]:
            found = windows(step)
            seen.extend([step, *row] for batch in found for row in batch.targets_NKT.flatten(1).tolist())
            return found

        reports = list(train(model, batches, optimizer, weights={"lm": 1.0}, steps=self.steps, seed=5, state=loop))
        numbers = {
            "losses": [report.losses["lm"] for report in reports],
            "norms": [report.grad_norm for report in reports],
            "tokens": [report.tokens for report in reports],
            "likelihood": likelihood(whole_body(model.body, optimizer), STREAM, 0).nats_per_token,
            "seen": seen,
            "skipped": [report.is_skipped for report in reports],
            "rows": loop.rows,
            "kept": sum(tensor.numel() for tensor in optimizer.state().values() if tensor.dim()),
        }
        return numbers, tensors | {name: gathered(master) for name, master in optimizer.masters.items()}


def break_down(model: LanguageModel, fault: str) -> None:
    """Make the third loss infinite, or let memory run out in the backward pass of more than one row."""
    calls, real = itertools.count(1), model.cross_entropy

    def cross_entropy(*inputs: torch.Tensor) -> torch.Tensor:
        loss = real(*inputs)
        if fault == "loss":
            return loss * torch.inf if next(calls) == 3 else loss
        if len(inputs[0]) > 1:
            loss.register_hook(run_out)
        return loss

    def run_out(_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.cross_entropy = cross_entropy


def main(folder: Path, jobs: dict[str, Job]) -> None:
    torch.set_num_threads(1)
    with parallel.join("cpu") as world:
        for name, job in jobs.items():
            numbers, tensors = job.run()
            (folder / f"{name}-{world.rank}.json").write_text(json.dumps(numbers))
            save_file(tensors, folder / f"{name}-{world.rank}.safetensors")


JOBS = {
    "paper": Job("paper"),
    "paper-fsdp": Job("paper", micro_batch=2, gradients="held"),
    "paper-fsdp-sent": Job("paper", gradients="sent"),
    "uneven-fsdp": Job("paper", batch=5, gradients="held"),
    "fast": Job("fast"),
    "fast-fsdp": Job("fast", gradients="sent"),
    "fast-bf16": Job("fast", dtype=torch.bfloat16),
    "loss": Job("paper", steps=4, fault="loss"),
    "loss-fsdp": Job("paper", steps=4, fault="loss", gradients="held"),
    "memory": Job("paper", steps=3, micro_batch=2, fault="memory"),
    "dropout": Job("paper", steps=2, dropout=0.5),
}
EQUAL = [name for name, job in JOBS.items() if not job.dropout and job.fault != "loss"]
LONG_JOBS = {name: replace(JOBS[name], steps=50) for name in EQUAL if name != "memory"}
LONG_JOBS["fast-bf16-fsdp"] = Job("fast", steps=50, dtype=torch.bfloat16, gradients="held")
if __name__ == "__main__":
    main(Path(sys.argv[1]), LONG_JOBS if sys.argv[2:] == ["long"] else JOBS)
