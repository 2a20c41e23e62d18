"""`gpt1 generate`: a run and prompts -> more text. The run may still be training: its last checkpoint is read."""

import sys
import time
from typing import Any

import torch

from gpt1.config import Generate
from gpt1.console import say
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.model.int8 import has_int8, quantize_int8
from gpt1.model.packed import pack
from gpt1.run_folder.folder import load_run
from gpt1.run_folder.generation import Continuation, advance, check, continuations, rows_at_once
from gpt1.training.device import setup_device


def generate(settings: Generate) -> dict[str, Any]:
    """Continue every prompt; with `stream`, print each text as it grows, one after the other.

    Returns `samples`, a list of {prompt, text, tokens, finish_reason} (`num` of the first prompt, then of the next),
    tokens_per_second and streamed. Raises UserError for wrong settings or a folder that is no run.
    """
    check(settings)
    device, dtype = setup_device(settings.device, settings.dtype, settings.threads, settings.seed)
    _check_kernel(settings, device)
    model = load_run(settings.run)
    body = _made_over(model.body, settings, device, dtype)
    rows = continuations(body, model.tokenizer, settings)
    _say_what_was_cut(rows[:: settings.num], body.config.context)
    began = time.perf_counter()
    for low in range(0, len(rows), at_once := 1 if settings.stream else rows_at_once(body)):
        _write(body, rows[low : low + at_once], settings)
    seconds = time.perf_counter() - began
    samples = [row.sample() for row in rows]
    speed = sum(sample["tokens"] for sample in samples) / seconds
    return {"samples": samples, "tokens_per_second": speed, "streamed": settings.stream}


def show(result: dict[str, Any]) -> str | None:
    """The texts, each behind its prompt, unless they were streamed; why each ended goes to standard error."""
    for sample in result["samples"]:
        say(ending(sample["finish_reason"], sample["tokens"]))
    say(f"{result['tokens_per_second']:,.0f} tokens/s")
    if result["streamed"]:
        return None
    return "\n\n".join(sample["prompt"] + sample["text"] for sample in result["samples"])


def ending(reason: str, tokens: int) -> str:
    """A finish reason as a line."""
    why = {
        "end": "the text ended",
        "stop": "a stop string came",
        "length": "--max-new-tokens reached",
        "context": "the model's context is full",
    }
    return f"[{tokens:,} tokens; {why[reason]}]"


def _check_kernel(settings: Generate, device: torch.device) -> None:
    if settings.quantize == "int8" and not (device.type == "cpu" and has_int8()):
        raise UserError(
            f"--quantize int8: {device} has no 8-bit product here; it needs a CPU with AVX-512 VNNI. Leave it out"
        )


def _made_over(body: GPT, settings: Generate, device: torch.device, dtype: torch.dtype) -> GPT:
    if settings.quantize == "int8":
        return quantize_int8(body).to(dtype)  # rounded once, from float32
    return pack(body.to(device, dtype))


def _write(body: GPT, rows: list[Continuation], settings: Generate) -> None:
    if settings.stream:
        sys.stdout.write(rows[0].prompt)
    for _ in advance(body, rows, settings):
        if settings.stream:
            sys.stdout.write(rows[0].fresh())
            sys.stdout.flush()
    if settings.stream:
        sys.stdout.write("\n\n")


def _say_what_was_cut(rows: list[Continuation], context: int) -> None:
    for number, row in enumerate(rows, 1):
        if row.cut:
            say(
                f"prompt {number} has {row.cut + len(row.ids):,} tokens, more than the context of {context:,}: "
                f"only its last {len(row.ids):,} are read"
            )
