"""`gpt1 generate`: a run and prompts -> generated text. The run may still be training: its last checkpoint is used."""

import os
import sys
import time
from dataclasses import dataclass, fields

from gpt1.config import Generate
from gpt1.console import say
from gpt1.errors import UserError, setting
from gpt1.keywords import command
from gpt1.model.gpt import GPT
from gpt1.model.kv_cache import slide
from gpt1.results import Result
from gpt1.run_folder.folder import load_run
from gpt1.run_folder.generation import (
    Generation,
    GenerationOptions,
    Sample,
    check_quantize,
    generate_texts,
    prepare_for_inference,
    stream_text,
)
from gpt1.training.device import out_of_memory, setup_device


@dataclass(frozen=True)
class GenerateResult(Result):
    """What `gpt1 generate` returns."""

    samples: list[Sample]
    """`num` of the first prompt, then those of the next"""
    tokens_per_second: float
    """over all samples"""
    streamed: bool
    """whether the texts went to standard output as they were generated"""


@command(Generate, "run", "prompts")
def generate(settings: Generate) -> GenerateResult:
    """Generate a text for every prompt; with `stream`, print each as it is generated, one after the other.

    Raises UserError for wrong settings or a folder that is not a run, RunFailed if the memory does not suffice.
    """
    options = GenerationOptions(**{one.name: getattr(settings, one.name) for one in fields(GenerationOptions)})
    if settings.num < 1:
        raise UserError(f"{setting('num')} must be at least 1")
    _say_of_stops(settings)
    device, dtype = setup_device(settings)
    check_quantize(settings.quantize, device)
    run = load_run(settings.run)
    with out_of_memory(f"lower {setting('num')} or {setting('max_new_tokens')}"):
        body = prepare_for_inference(run.body, device, dtype, settings.quantize)
        texts = [
            Generation(run.tokenizer, prompt, number, options, body.config.context)
            for prompt in settings.prompts
            for number in range(settings.num)
        ]
        _say_what_is_read(texts, settings, body.config.context)
        began = time.perf_counter()
        if settings.stream:
            _print_streamed(body, texts)
        else:
            generate_texts(body, texts)
    seconds = time.perf_counter() - began
    samples = [text.sample() for text in texts]
    return GenerateResult(samples, sum(sample.tokens for sample in samples) / seconds, settings.stream)


def _say_of_stops(settings: Generate) -> None:
    """Say what is probably a mistake: prompts that count as stop strings, and a literal `\\n` in a stop string."""
    if len(settings.stop) > 1 and settings.prompts == [""]:
        stops = ", ".join(map(repr, settings.stop))
        say(f"no prompt, so a new document begins: {stops} are all stop strings; put prompts before {setting('stop')}")
    if any("\\n" in stop for stop in settings.stop):
        say(f"{setting('stop')} holds a backslash and an n; in bash, a line end is written $'\\n'")


def _say_what_is_read(texts: list[Generation], settings: Generate, context: int) -> None:
    """Say which prompts are read in part or seem to be a mistake, and what a window that slides reads."""
    for number, text in enumerate(texts[:: settings.num], 1):
        if text.cut:
            say(
                f"prompt {number} has {text.cut + len(text.ids):,} tokens, more than the context of {context:,}: "
                f"only its last {len(text.ids):,} are read"
            )
        # Path.is_file raises for a prompt that is too long for a path.
        if os.path.isfile(text.prompt):  # noqa: PTH113
            say(
                f"prompt {number} is the name of a file, and the name is continued; for the text in it, give the "
                "file on standard input, with `-` as the prompt"
            )
    if settings.beyond_context and any(text.room < settings.max_new_tokens for text in texts):
        say(
            f"past the context of {context:,} tokens the window slides: each further token is predicted from the "
            f"last {context + 1 - slide(context):,} to {context:,} tokens"
        )


def _print_streamed(body: GPT, texts: list[Generation]) -> None:
    for text in texts:
        sys.stdout.write(text.prompt)
        for piece in stream_text(body, text):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n\n")


def show(result: GenerateResult) -> str | None:
    """Return the texts, each after its prompt, or None if they were streamed; say on standard error why each ended."""
    why = {
        "end": "the model ended the text",
        "stop": "a stop string was reached",
        "length": f"{setting('max_new_tokens')} reached",
        "context": f"the model's context is full; {setting('beyond_context')} goes on",
    }
    for sample in result.samples:
        say(f"[{sample.tokens:,} tokens; {why[sample.finish_reason]}]")
    say(f"{result.tokens_per_second:,.0f} tokens/s")
    if result.streamed:
        return None
    return "\n\n".join(sample.prompt + sample.text for sample in result.samples)
