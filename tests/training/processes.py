"""What several processes compute together in `test_parallel.py`: run as a program, once for each rank."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from gpt1.batch import Batch
from gpt1.config import RECIPES, Model
from gpt1.data.windows import Ids, Windows
from gpt1.model.fused_cpu import fuse
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LanguageModel
from gpt1.pretraining.run import whole_body
from gpt1.training import muon, parallel
from gpt1.training.likelihood import likelihood
from gpt1.training.loop import train
from gpt1.training.optimizer import Optimizer
from gpt1.training.sharding import shard

Found = tuple[dict[str, Any], dict[str, torch.Tensor]]
STILL = {"embedding_dropout": 0.0, "residual_dropout": 0.0, "attention_dropout": 0.0}
SHAPE = Model(context=8, width=16, depth=2, heads=2, inner=64, vocabulary=30, **STILL)
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


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Wait; return exit code, standard output and standard error of each."""
    out = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, out, strict=True)]


def pretrain(
    recipe: str, steps: int, dropout: float = 0.0, micro_batch: int = 1, sharded: Literal["", "held", "sent"] = "",
    precise: bool = False,
) -> Found:  # fmt: skip
    """Make updates; return numbers of each update, and the weights at the end with the first update's gradients.

    Weights are shared out if `sharded`, and whole gradients held or sent. If `precise`, Muon iterates in fp32.
    """
    world, shape = parallel.current(), replace(SHAPE, **dict.fromkeys(STILL, dropout))
    model = LanguageModel(GPT(shape).init_weights(torch.Generator().manual_seed(0)))
    fuse(model, compiled=False)
    sharding = None
    if sharded and world.size > 1:
        sharding = shard(model, torch.device("cpu"), torch.float32, hold_gradients=sharded == "held")
    settings = replace(RECIPES[recipe], warmup=2, lr=1e-2)  # type: ignore[index]
    optimizer = Optimizer(model, settings, steps, sharding)
    muon.DTYPE = torch.float32 if precise else torch.bfloat16
    tensors: dict[str, torch.Tensor] = {}
    seen: list[list[int]] = []
    apply = optimizer._apply

    def keep_gradients(rate: float, norm: torch.Tensor) -> None:
        if not tensors:
            tensors.update({f"gradient.{name}": gathered(one) for name, one in optimizer.gradients.items()})
        apply(rate, norm)

    optimizer._apply = keep_gradients  # type: ignore[method-assign]
    def gathered(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat(world.gather(rows.detach())) if sharding else rows.detach().clone()

    windows = Windows(STREAM, SHAPE.context, BATCH, micro_batch, seed=5, part=world.part)

    def batches(step: int) -> list[Batch]:
        found = windows(step)
        seen.extend([step, *batch.targets_NKT.flatten().tolist()] for batch in found)
        return found

    reports = list(train(model, batches, optimizer, weights={"lm": 1.0}, steps=steps, seed=5))
    numbers = {
        "losses": [report.losses["lm"] for report in reports],
        "norms": [report.grad_norm for report in reports],
        "tokens": [report.tokens for report in reports],
        "likelihood": likelihood(whole_body(model.body, optimizer), STREAM, 0).nats_per_token,
        "seen": seen,
    }
    return numbers, tensors | {name: gathered(master) for name, master in optimizer.masters.items()}


def main(folder: Path, jobs: dict[str, Callable[[], Found]]) -> None:
    torch.set_num_threads(1)
    with parallel.join("cpu") as world:
        for name, job in jobs.items():
            numbers, tensors = job()
            (folder / f"{name}-{world.rank}.json").write_text(json.dumps(numbers))
            save_file(tensors, folder / f"{name}-{world.rank}.safetensors")


JOBS: dict[str, Callable[[], Found]] = {
    "paper": lambda: pretrain("paper", 6),
    "fast": lambda: pretrain("fast", 6),
    "dropout": lambda: pretrain("paper", 2, dropout=0.5),
    "paper, sharded": lambda: pretrain("paper", 6, sharded="held"),
    "paper, sharded, sent": lambda: pretrain("paper", 6, sharded="sent"),
    "fast, sharded": lambda: pretrain("fast", 6, sharded="held"),
    "fast, precise": lambda: pretrain("fast", 6, precise=True),
    "fast, precise, sharded": lambda: pretrain("fast", 6, precise=True, sharded="sent"),
}
if __name__ == "__main__":
    main(Path(sys.argv[1]), JOBS)
