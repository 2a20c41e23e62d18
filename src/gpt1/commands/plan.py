"""`gpt1 plan`: what a pre-training run will cost here, measured on a few updates with random weights."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import RenderableType

from gpt1.config import Model, Plan, Pretrain
from gpt1.console import say, table
from gpt1.data.shards import Manifest, Shard, Split, dtype_for
from gpt1.data.windows import Ids
from gpt1.errors import UserError
from gpt1.pretraining.defaults import Data, open_data, settle, steps_of_epochs
from gpt1.pretraining.memory import available, peak
from gpt1.pretraining.run import Run, build, compiling
from gpt1.pretraining.throughput import MANY, Pace, measure, turn
from gpt1.tokenizer.tokenizer import blank
from gpt1.training.device import setup_device
from gpt1.training.log import Log

SECONDS = 5.0
"""Spent on updates; more where a few of them take longer."""
STEPS_WITHOUT_DATA = 1_000
MIB = 2**20
REMEDY = "lower --micro-batch, --model.context or the size of the model"


def plan(settings: Plan) -> dict[str, Any]:
    """Build the network, make a few updates, validate, sample and save once into a temporary folder, and extrapolate.

    Returns parameters, vocabulary, context, batch, micro_batch, tokens_per_update, seconds_per_update,
    tokens_per_second, steps, tokens, hours, memory_bytes (the peak: of tensors on a GPU, else of this process,
    whatever it did before), memory_parts (bytes), available_bytes (0 where the system does not tell), fits, compile,
    device, dtype and threads. Raises UserError for wrong settings or data, and for a run that cannot fit.
    """
    device, dtype = setup_device(settings.device, settings.dtype, settings.threads, settings.seed)
    there = available(device)
    chosen, data = _with_data(settings) if settings.data else _without_data(settings, dtype, there)
    parts = _parts_that_fit(chosen, dtype, there)
    chosen = replace(chosen, compile=compiling(chosen, data, device))
    pace = _pace(chosen, data, device, dtype, there)
    result = _costs(chosen, data, pace)
    held = peak(device) or sum(parts.values())
    if fits := not there or held <= there:
        say(f"this run fits: {_size(held)}" + (f" of the {_size(there)} there" if there else ""))
    else:
        say(f"this run does not fit: it takes {_size(held)}, and {_size(there)} are there; {REMEDY}")
    return result | {
        "memory_bytes": held, "memory_parts": parts, "available_bytes": there, "fits": fits,
        "compile": chosen.compile,
        "device": str(device), "dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads(),
    }  # fmt: skip


def show(result: dict[str, Any]) -> RenderableType:
    """The costs, as a person reads them."""
    parts, there = result["memory_parts"], result["available_bytes"]
    where = f"{result['device']}, {result['dtype']}, {result['threads']} threads, compile {result['compile']}"
    rows = {
        "parameters": result["parameters"],
        "an update": f"{result['tokens_per_update']:,} tokens, {result['seconds_per_update']:.3g} seconds",
        "tokens per second": round(result["tokens_per_second"]),
        "updates": f"{result['steps']:,}, {result['tokens']:,} tokens",
        "time": _duration(3600 * result["hours"]),
        "most memory": _size(result["memory_bytes"]) + (f" of the {_size(there)} there" if there else ""),
        "of it": ", ".join(f"{name} {_size(size)}" for name, size in parts.items()),
        "measured on": where,
    }
    return table(rows, "plan")


def memory_parts(settings: Pretrain, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of what a run holds at all times: weights, masters, gradients, moments; see `training.optimizer`."""
    count, matrices = parameters(settings.model)
    # Muon keeps one number for each of its weights, Adam two.
    kept = 2 * count - (matrices if settings.optim.method == "muon" else 0)
    return {"weights": dtype.itemsize * count, "masters": 4 * count, "gradients": 4 * count, "moments": 4 * kept}


def parameters(model: Model) -> tuple[int, int]:
    """Number of parameters, and of those in the matrices of the blocks; by arithmetic, since the size may be absurd."""
    in_matrices = model.depth * (4 * model.width**2 + 2 * model.width * model.inner)
    in_vectors = model.depth * (9 * model.width + model.inner)
    return (model.vocabulary + model.context) * model.width + in_matrices + in_vectors, in_matrices


def _with_data(settings: Pretrain) -> tuple[Pretrain, Data]:
    data = open_data(Path(settings.data))
    return settle(settings, data), data


def _without_data(settings: Pretrain, dtype: torch.dtype, there: int) -> tuple[Pretrain, Data]:
    """Settings and random tokens of the vocabulary that was asked for."""
    if settings.epochs is not None:
        raise UserError("--epochs needs the prepared data it counts; name its folder, or give --steps")
    if settings.model.vocabulary < 2:
        raise UserError(f"--model.vocabulary {settings.model.vocabulary} must be at least 2")
    _parts_that_fit(settings, dtype, there)
    if settings.steps is None and settings.minutes is None:
        settings = replace(settings, steps=STEPS_WITHOUT_DATA)
    data = _made_up(settings)
    return settle(settings, data), data


def _made_up(settings: Pretrain) -> Data:
    """Random tokens, as many as one large pass reads."""
    vocabulary = settings.model.vocabulary
    tokenizer = blank("bytes", {str(i): i for i in range(vocabulary - 2)}, [])  # end and pad are added
    count = max(2**14, 2 * settings.model.context)
    ids = Ids(np.random.default_rng(settings.seed).integers(0, vocabulary, count))
    split = Split([Shard("", count, 1, count, "")])
    manifest = Manifest(
        tokenizer=tokenizer.hash, kind="bytes", lossless=True, vocabulary=vocabulary, dtype=dtype_for(vocabulary),
        train=split, val=split, empty_documents=0, unknown_tokens=0, inputs=[], settings={}, fingerprint="",
        seconds={},
    )  # fmt: skip
    return Data(manifest, tokenizer, ids, ids)  # type: ignore[arg-type]  # any stream will do


def _parts_that_fit(settings: Pretrain, dtype: torch.dtype, there: int) -> dict[str, int]:
    """`memory_parts`; UserError if they alone are more than there is."""
    parts = memory_parts(settings, dtype)
    if 0 < there < sum(parts.values()):
        raise UserError(
            f"this run cannot fit: weights and optimizer alone take {_size(sum(parts.values()))}, and "
            f"{_size(there)} are there; choose a smaller --preset, --model.width, --model.depth or --model.vocabulary"
        )
    return parts


def _pace(settings: Pretrain, data: Data, device: torch.device, dtype: torch.dtype, there: int) -> Pace:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        model, optimizer = build(settings, MANY, device, dtype)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run = Run(folder, settings, MANY, data, model, optimizer, Log(folder, 0), device)
            pace = measure(run, SECONDS)
            turn(run)  # so that the most memory this process held is what a run holds
            return pace
    except torch.OutOfMemoryError:
        raise UserError(f"this run does not fit into the {_size(there)} there; {REMEDY}") from None


def _costs(settings: Pretrain, data: Data, pace: Pace) -> dict[str, Any]:
    """Time and size of the whole run."""
    if settings.minutes:
        steps = pace.steps(60 * settings.minutes, settings)
    else:
        steps = settings.steps or steps_of_epochs(settings, data)
    tokens = settings.batch * settings.model.context
    return {
        "parameters": parameters(settings.model)[0],
        "vocabulary": settings.model.vocabulary,
        "context": settings.model.context,
        "batch": settings.batch,
        "micro_batch": settings.micro_batch,
        "tokens_per_update": tokens,
        "seconds_per_update": pace.update,
        "tokens_per_second": tokens / pace.update,
        "steps": steps,
        "tokens": steps * tokens,
        "hours": pace.seconds(steps, settings) / 3600,
    }


def _size(size: float) -> str:
    return f"{size / MIB:,.0f} MiB" if size < 1000 * MIB else f"{size / 1024 / MIB:,.1f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:,.1f} hours"
