"""`gpt1 plan`: the cost of a pre-training run on this machine, measured on a few updates with random weights."""

import itertools
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import RenderableType

from gpt1.config import Plan, Pretrain
from gpt1.console import say, table
from gpt1.data.windows import Ids, Stream
from gpt1.errors import UserError, setting
from gpt1.keywords import command
from gpt1.model.gpt import count_parameters, flops_per_token
from gpt1.pretraining.budget import fit_to_minutes, is_open
from gpt1.pretraining.defaults import (
    MEMORY_REMEDY,
    PreparedData,
    epoch_steps,
    is_long,
    open_data,
    resolve_compile,
    resolve_defaults,
    warn_of_warmup,
)
from gpt1.pretraining.memory import available_memory, memory_parts, peak_memory
from gpt1.pretraining.run import build
from gpt1.pretraining.throughput import PAIR, SCHEDULE_STEPS, Throughput, measure, update_pairs
from gpt1.results import Result
from gpt1.tokenizer.tokenizer import Tokenizer, bpe_tokenizer
from gpt1.training.checkpoint import copy_to_host
from gpt1.training.device import out_of_memory, setup_device

# Measure updates for this many seconds; longer if a few of them take more.
SECONDS = 5.0
STEPS_WITHOUT_DATA = 1_000
# Runs that take longer, two months, are not said to fit.
LONGEST_HOURS = 60 * 24.0
MIB = 2**20


@dataclass(frozen=True)
class PlanResult(Result):
    """What `gpt1 plan` prints: the expected time and memory of the run, and what they were computed from."""

    parameters: int
    """number of weights"""
    vocabulary: int
    """vocabulary size"""
    context: int
    """tokens in a window"""
    batch: int
    """windows in an update"""
    micro_batch: int
    """windows in a forward pass"""
    tokens_per_update: int
    """tokens in an update"""
    flops_per_token: int
    """additions and multiplications of a token, forward and backward"""
    seconds_per_update: float
    """time of an update"""
    tokens_per_second: float
    """without validations and saves"""
    steps: int
    """updates of the whole run"""
    tokens: int
    """tokens of the whole run"""
    hours: float
    """time of the whole run, with validations, samples and saves"""
    memory_bytes: int
    """peak memory: of tensors on a GPU, else of this process, whatever it did before"""
    memory_parts: dict[str, int]
    """bytes held at all times: `weights`, `masters`, `gradients`, `moments`"""
    available_bytes: int
    """memory available to the run; 0 if unknown"""
    fits: bool
    """whether the peak is within the available memory"""
    compile: Literal["on", "off"]
    """whether kernels are compiled"""
    device: str
    """where it was measured"""
    dtype: str
    """number format for matrix products"""
    threads: int
    """CPU threads"""


@command(Plan, "data")
def plan(settings: Plan) -> PlanResult:
    """Build the network, make a few updates, validate, sample and save once into a temporary folder, and extrapolate.

    Raises UserError for wrong settings or data and for a run that cannot fit, RunFailed if memory runs out.
    """
    if not settings.data and settings.epochs is not None:
        raise UserError(
            f"{setting('epochs')} needs the prepared data that it counts; name its folder, or give {setting('steps')}"
        )
    device, dtype = setup_device(settings)
    available = available_memory(device)
    with open_data(Path(settings.data)) if settings.data else nullcontext() as data, out_of_memory(MEMORY_REMEDY):
        chosen = resolve_defaults(settings, data)
        if is_open(chosen):
            chosen, why = fit_to_minutes(chosen, _streams(data, chosen)[0], device, dtype)
            say(why)
        parts = memory_parts(chosen, dtype)
        _check_memory(sum(parts.values()), available)
        steps = settings.steps or (epoch_steps(chosen, len(data.train)) if data else STEPS_WITHOUT_DATA)
        chosen = replace(chosen, compile=resolve_compile(chosen.compile, is_long(chosen, steps), device))
        speed = _measured(chosen, data, device, dtype)
    intervals = {"eval_every": settings.eval_every, "save_every": settings.save_every}
    if settings.minutes:
        steps = speed.steps(60 * settings.minutes, **intervals)
    tokens = chosen.batch * chosen.model.context
    peak = peak_memory(device) or sum(parts.values())
    result = PlanResult(
        parameters=count_parameters(chosen.model)[0],
        vocabulary=chosen.model.vocabulary,
        context=chosen.model.context,
        batch=chosen.batch,
        micro_batch=chosen.micro_batch,
        tokens_per_update=tokens,
        flops_per_token=flops_per_token(chosen.model),
        seconds_per_update=speed.update,
        tokens_per_second=tokens / speed.update,
        steps=steps,
        tokens=steps * tokens,
        hours=speed.seconds(steps, **intervals) / 3600,
        memory_bytes=peak,
        memory_parts=parts,
        available_bytes=available,
        fits=not available or peak <= available,
        compile="on" if chosen.compile == "on" else "off",
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
    say(_verdict(result))
    if result.fits:
        warn_of_warmup(chosen, steps)
    return result


def show(result: PlanResult) -> RenderableType:
    """Return the costs as a table."""
    work = result.flops_per_token
    rows = {
        "parameters": result.parameters,
        "an update": f"{result.tokens_per_update:,} tokens, {result.seconds_per_update:.3g} seconds",
        "tokens per second": round(result.tokens_per_second),
        "arithmetic": f"{work / 1e9:,.3g} GFLOP per token, {work * result.tokens_per_second / 1e9:,.0f} GFLOP/s",
        "updates": f"{result.steps:,}, {result.tokens:,} tokens",
        "time": _duration(3600 * result.hours),
        "peak memory": _of_available(result),
        "at all times": ", ".join(f"{name} {_size(size)}" for name, size in result.memory_parts.items()),
        "measured on": f"{result.device}, {result.dtype}, {result.threads} threads, compile {result.compile}",
    }
    return table(rows, "plan")


def _measured(settings: Pretrain, data: PreparedData | None, device: torch.device, dtype: torch.dtype) -> Throughput:
    """Return the speed of a run, and let this process reach the peak of its memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    train, val, tokenizer = _streams(data, settings)
    model, optimizer = build(settings, SCHEDULE_STEPS, device, dtype)
    speed = measure(model, optimizer, settings, train, val, tokenizer, device, SECONDS)
    # Updates after a pause need more memory than those before it, as the heap has become fragmented; and in a run they
    # go on while a copy of the state is being written.
    copies = copy_to_host(optimizer.state()) if device.type == "cpu" else {}
    for _ in itertools.islice(update_pairs(model, optimizer, settings, train, device), PAIR):
        pass
    copies.clear()
    return speed


def _streams(data: PreparedData | None, settings: Pretrain) -> tuple[Stream, Stream, Tokenizer]:
    """Return the training and validation tokens and the tokenizer; random tokens if there is no data."""
    if data is not None:
        return data.train, data.val, data.tokenizer
    vocabulary, count = settings.model.vocabulary, max(2**14, 2 * settings.model.context)
    ids = Ids(np.random.default_rng(settings.seed).integers(0, vocabulary, count))
    return ids, ids, bpe_tokenizer("bytes", {str(i): i for i in range(vocabulary - 2)}, [])  # end and pad are added


def _check_memory(held: int, available: int) -> None:
    """Raise UserError if the bytes held at all times exceed the available ones; 0 available: unknown."""
    if 0 < available < held:
        sizes = ", ".join(map(setting, ("preset", "model.width", "model.depth", "model.vocabulary")))
        raise UserError(
            f"this run cannot fit: weights and optimizer alone take {_size(held)} of the {_size(available)} available; "
            f"choose a smaller one of {sizes}"
        )


def _verdict(result: PlanResult) -> str:
    """Return a sentence that says whether the run fits into memory and ends in reasonable time."""
    if result.hours > LONGEST_HOURS:
        memory = "this run fits into memory" if result.fits else "this run does not fit into memory"
        shorter = ", ".join(map(setting, ("steps", "batch", "preset")))
        return f"{memory}, but it would take {_duration(3600 * result.hours)}; choose a smaller one of {shorter}"
    if result.fits:
        return f"this run fits: {_of_available(result)}"
    return f"this run does not fit: it takes {_of_available(result)}; {MEMORY_REMEDY}"


def _of_available(result: PlanResult) -> str:
    available = result.available_bytes
    return _size(result.memory_bytes) + (f" of the {_size(available)} available" if available else "")


def _size(size: float) -> str:
    return f"{size / MIB:,.0f} MiB" if size < 1000 * MIB else f"{size / 1024 / MIB:,.1f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 100 * 3600:
        return f"{seconds / 3600:,.1f} hours"
    days = seconds / 86400
    return f"{days:,.0f} days" if days < 730 else f"{days / 365.25:,.0f} years"
