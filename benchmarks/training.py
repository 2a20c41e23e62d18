"""Training speed beside nanoGPT's model and transformers' openai-gpt: tokens per second and peak memory.

    python benchmarks/training.py --nanogpt CHECKOUT [--preset gpt1] [--repeats 3] [--device cuda --batch 64]

Every measurement is a process of its own, so that no allocator setting leaks into a peer; the processes take turns.
All train the same shape with the same dropout on random ids, the optimizer's step included, in bfloat16 where the
hardware has it, else in fp32 (`--dtype` chooses). Peers run twice: as they come, and with the page-keeping allocator
that gpt1 sets for itself. First updates, in which a compiler works, are not counted; they cost `first_seconds`.
Medians; results go to results/training-PRESET-DEVICE.json, those in fp32 to training-PRESET-DEVICE-fp32.json.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpt1.batch import Batch
from gpt1.config import PRESETS, RECIPES, Command, Model
from gpt1.model import gpt as network
from gpt1.model.objectives import LanguageModel
from gpt1.run_folder.hugging_face import to_hf_config
from gpt1.training.device import choose_device, keep_freed_memory, prepare_for_training, setup_device
from gpt1.training.loop import train
from gpt1.training.optimizer import Optimizer
from record import record

PEERS = ("transformers", "nanogpt", "nanogpt-compiled")
OURS = ("gpt1", "gpt1-uncompiled")
VOCABULARY = {"gpt1": 40_478, "small": 8_192, "tiny": 1_024}
WARM_UP = 2
# Updates in one timing, elsewhere 1: waiting for a GPU after each update would slow down a program that does not.
IN_A_ROW = {"cuda": 10}
# Makes one update on ids (batch, context + 1).
Update = Callable[[torch.Tensor], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--preset", default="gpt1", choices=list(PRESETS))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--attention-dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--only", nargs="+", default=[*OURS, *PEERS])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--keep-pages", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked)))
        return
    rows: dict[str, list[dict[str, float]]] = {}
    for _ in range(asked.repeats):
        for name, words in children(asked):
            rows.setdefault(name, []).append(child(words))
            print(name, rows[name][-1], file=sys.stderr)
    found = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in rows.items()}
    result = {"preset": asked.preset, "batch": asked.batch, "repeats": asked.repeats, "rows": found}
    is_fp32 = choose_device(asked.device, asked.dtype)[1] == torch.float32
    name = f"training-{asked.preset}-{asked.device}" + ("-fp32" if is_fp32 else "")
    record(name, f"python benchmarks/training.py --preset {asked.preset} --batch {asked.batch}", result)
    print(json.dumps(result, indent=2))


def children(asked: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield the measurements of one round: their names and command lines."""
    for dropout in asked.attention_dropout:
        for who in asked.only:
            if who.startswith("nanogpt") and not asked.nanogpt:
                continue
            for keep in (False, True) if who in PEERS and asked.device == "cpu" else (False,):
                line = [sys.executable, __file__, "--measure", who, "--attention-dropout", str(dropout)]
                line += ["--preset", asked.preset, "--batch", str(asked.batch), "--updates", str(asked.updates)]
                line += ["--device", asked.device, "--dtype", asked.dtype]
                line += ["--nanogpt", str(asked.nanogpt)] if asked.nanogpt else []
                pages = ", pages kept" if keep else ""
                yield f"{who}, attention dropout {dropout:g}{pages}", [*line, *(["--keep-pages"] if keep else [])]


def child(line: list[str]) -> dict[str, float]:
    """Run one measuring process and return what it prints."""
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(asked: argparse.Namespace) -> dict[str, float]:
    """Measure the tokens per second of `--measure WHO` in this process."""
    dropout = asked.attention_dropout[0]
    shape = replace(
        PRESETS[asked.preset], vocabulary=VOCABULARY[asked.preset],
        embedding_dropout=0.1, residual_dropout=0.1, attention_dropout=dropout,
    )  # fmt: skip
    if asked.keep_pages:
        keep_freed_memory()
    device, dtype = choose_device(asked.device, asked.dtype)
    torch.manual_seed(1)
    began = time.perf_counter()
    update = builders(asked)[asked.measure](shape, device, dtype)
    times = [timed(update, asked.batch, shape, device) for _ in range(WARM_UP + asked.updates)]
    seconds = statistics.median(times[WARM_UP:])
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 1024 * peak_kilobytes()
    return {
        "tokens_per_second": asked.batch * shape.context / seconds,
        "first_seconds": time.perf_counter() - began - IN_A_ROW.get(device.type, 1) * sum(times[WARM_UP:]),
        "peak_gigabytes": memory / 1e9,
    }


def builders(asked: argparse.Namespace) -> dict[str, Callable[[Model, torch.device, torch.dtype], Update]]:
    """Return how each contestant is set up."""
    return {
        "gpt1": partial(ours, compiled=True),
        "gpt1-uncompiled": ours,
        "transformers": transformers,
        "nanogpt": partial(nanogpt, asked.nanogpt),
        "nanogpt-compiled": partial(nanogpt, asked.nanogpt, compiled=True),
    }


def ours(shape: Model, device: torch.device, dtype: torch.dtype, compiled: bool = False) -> Update:
    """gpt1's own loop, as `gpt1 pretrain` runs it."""
    setup_device(Command(device=str(device)))
    model = LanguageModel(network.GPT(shape).init_weights()).to(device)
    optimizer = Optimizer(model, RECIPES["paper"], 10_000)
    model = model.to(dtype)
    prepare_for_training(model, device, compile=compiled)
    ids: list[torch.Tensor] = []

    def batches(_step: int) -> list[Batch]:
        return [Batch(tokens_NKT=ids[0][:, None, :-1], targets_NKT=ids[0][:, None, 1:])]

    reports = train(model, batches, optimizer, weights={"lm": 1.0}, steps=10_000, device=device)

    def update(ids_NT: torch.Tensor) -> object:
        ids[:] = [ids_NT]
        return next(reports)

    return update


def transformers(shape: Model, device: torch.device, dtype: torch.dtype) -> Update:
    """OpenAIGPTLMHeadModel with fused AdamW, as Trainer runs it."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    config = OpenAIGPTConfig(**to_hf_config(shape, {"first": 0, "end": 0, "pad": 0}))
    model: Any = OpenAIGPTLMHeadModel(config)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2.5e-4, fused=True)

    def loss(ids_NT: torch.Tensor) -> torch.Tensor:
        ids_NT = ids_NT[:, :-1]
        return model(ids_NT, labels=ids_NT).loss

    return usual_update(model, loss, optimizer, device, dtype)


def nanogpt(checkout: Path, shape: Model, device: torch.device, dtype: torch.dtype, compiled: bool = False) -> Update:
    """nanoGPT's model at the same sizes, its own optimizer, autocast and clipping, as in its train.py."""
    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig

    config = GPTConfig(
        block_size=shape.context, vocab_size=shape.vocabulary, n_layer=shape.depth, n_head=shape.heads,
        n_embd=shape.width, dropout=shape.residual_dropout, bias=True,
    )  # fmt: skip
    model = GPT(config).to(device).train()
    for block in model.transformer.h:
        block.attn.dropout = block.attn.attn_dropout.p = shape.attention_dropout
    optimizer = model.configure_optimizers(0.01, 2.5e-4, (0.9, 0.999), device.type)
    run: Any = torch.compile(model) if compiled else model

    def loss(ids_NT: torch.Tensor) -> torch.Tensor:
        return run(ids_NT[:, :-1].contiguous(), ids_NT[:, 1:].contiguous())[1]

    return usual_update(model, loss, optimizer, device, dtype)


def usual_update(
    model: torch.nn.Module,
    loss: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    dtype: torch.dtype,
) -> Update:
    """The usual update, under bfloat16 autocast if `dtype` says so."""

    def update(ids_NT: torch.Tensor) -> object:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss(ids_NT.to(device))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value

    return update


def timed(update: Update, batch: int, shape: Model, device: torch.device) -> float:
    """Return the seconds of one update on random ids, which are on the CPU."""
    count = IN_A_ROW.get(device.type, 1)
    ids_NT = [torch.randint(0, shape.vocabulary, (batch, shape.context + 1)) for _ in range(count)]
    began = time.perf_counter()
    for ids in ids_NT:
        update(ids)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def peak_kilobytes() -> float:
    """Return the peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform == "darwin" else peak


if __name__ == "__main__":
    main()
