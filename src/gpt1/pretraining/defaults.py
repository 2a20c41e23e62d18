"""The settings of a pre-training: defaults that depend on the data, checks, and what may change when a run resumes."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from gpt1.config import GPT1_VOCABULARY, SHAPE, Model, Pretrain, preset_shape
from gpt1.console import say, warn
from gpt1.data.shards import Manifest, TokenStream, check_content, read_manifest
from gpt1.errors import UserError, setting
from gpt1.model.gpt import flops_per_token
from gpt1.options import flat
from gpt1.resume import RUNTIME_SETTINGS, Record
from gpt1.run_folder.metadata import read_metadata
from gpt1.run_folder.shape import read_shape
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training.device import compiler_error

# Tokens in one forward pass, unless `micro_batch` is given.
MICRO_BATCH_TOKENS = 4096
DEFAULT_EPOCHS = 1.0
# What to advise when memory runs out.
MEMORY_REMEDY = f"lower {setting('micro_batch')}, {setting('model.context')} or the size of the model"
# Minutes, or floating-point operations, from which a run is long enough to repay half a minute of compiling.
LONG_MINUTES, LONG_WORK = 5.0, 3e14
# Mutually exclusive settings.
LENGTHS = ("steps", "epochs", "minutes")
MINIMUM = {
    "model.context": 2, "model.width": 1, "model.depth": 1, "model.heads": 1, "model.vocabulary": 2, "batch": 1,
    "keep": 1,
}  # fmt: skip
# Settings that are at least 0 and less than 1.
FRACTIONS = {
    "model.embedding_dropout", "model.residual_dropout", "model.attention_dropout",
    "optim.beta1", "optim.beta2", "optim.momentum",
}  # fmt: skip
# File beside the training state: the settings as requested, with the resulting number of updates.
BEGUN = "begun.json"
# Settings that may change when a run resumes: they do not affect its weights (`micro_batch`, `parallel` and `compile`
# only by rounding and the draw of dropout), except its length, which `resume_settings` compares.
MAY_CHANGE = RUNTIME_SETTINGS | {
    "data", "eval_every", "save_every", "keep", "sample", "micro_batch", "parallel", "compile", *LENGTHS,
}  # fmt: skip


@dataclass(frozen=True)
class PreparedData:
    """The folder that `gpt1 prepare` wrote, opened."""

    manifest: Manifest
    tokenizer: Tokenizer
    train: TokenStream
    val: TokenStream


@contextmanager
def open_data(folder: Path, check: slice | None = None) -> Iterator[PreparedData]:
    """Open prepared data and close its files at the end, since Windows cannot remove a file that is mapped.

    Raises UserError if the folder is missing, incomplete, of a newer format, or holds another tokenizer; with `check`,
    also if the content of a shard in that part of them has changed.
    """
    manifest, tokenizer = read_manifest(folder), Tokenizer.load(folder)
    if tokenizer.hash != manifest.tokenizer:
        raise UserError(
            f"{folder}: tokenizer.json is not the one that the shards were encoded with; copy the whole folder again, "
            "or repeat `gpt1 prepare`"
        )
    if check is not None:
        check_content(folder, manifest, check)
    with closing(TokenStream(folder, "train")) as train, closing(TokenStream(folder, "val")) as val:
        yield PreparedData(manifest, tokenizer, train, val)


def resolve_defaults(settings: Pretrain, data: PreparedData | None) -> Pretrain:
    """Fill in the settings that follow from the prepared data or from a starting model (`init`), and check them all.

    Without data the vocabulary is the one asked for, else GPT-1's. Raises UserError if the settings cannot work.
    """
    asked = settings.model.vocabulary
    vocabulary = data.tokenizer.vocabulary if data is not None else asked or GPT1_VOCABULARY
    if asked not in (0, vocabulary):
        raise UserError(
            f"{setting('model.vocabulary')} {asked} is not that of {settings.data}, {vocabulary}, which its tokenizer "
            "decides; leave it out"
        )
    model = _shape_of_init(settings, data) if settings.init else replace(settings.model, vocabulary=vocabulary)
    _check_ranges(replace(settings, model=model))
    micro_batch = settings.micro_batch or min(settings.batch, max(1, MICRO_BATCH_TOKENS // model.context))
    if micro_batch > settings.batch:
        raise UserError(
            f"{setting('micro_batch')} {micro_batch} is more than {setting('batch')} {settings.batch}, "
            "the windows of one update; lower it"
        )
    if model.width % model.heads:
        raise UserError(
            f"{setting('model.width')} {model.width} is not a multiple of {setting('model.heads')} {model.heads}"
        )
    if model.inner != 4 * model.width:
        raise UserError(
            f"{setting('model.inner')} {model.inner} must be 4 x {setting('model.width')} ({4 * model.width}), "
            "as in the paper"
        )
    if data is not None and len(data.train) <= model.context:
        raise UserError(
            f"{settings.data} has {len(data.train):,} training tokens, not enough for a window of {model.context}; "
            f"prepare more text, or lower {setting('model.context')}"
        )
    return replace(settings, model=model, micro_batch=micro_batch)


def _check_ranges(settings: Pretrain) -> None:
    for name, value in flat(settings).items():
        if name in MINIMUM and value < MINIMUM[name]:
            raise UserError(f"{setting(name)} {value} must be at least {MINIMUM[name]}")
        if name in FRACTIONS and not 0 <= value < 1:
            raise UserError(f"{setting(name)} {value} must be at least 0 and less than 1")
        if name == "optim.cooldown" and not 0 <= value <= 1:
            raise UserError(f"{setting(name)} {value} must be from 0 to 1")
    given = [name for name in LENGTHS if getattr(settings, name) is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(map(setting, given))} contradict each other; give one of them")
    for name in given:
        if not getattr(settings, name) > 0:
            raise UserError(f"{setting(name)} {getattr(settings, name):g} must be more than 0")


def _shape_of_init(settings: Pretrain, data: PreparedData | None) -> Model:
    """Return the shape of the run `init`, with the dropout rates of the settings.

    Raises UserError if the data was prepared with another tokenizer, or another shape was asked for.
    """
    init, model = Path(settings.init or ""), settings.model
    if data is not None and read_metadata(init).tokenizer != data.tokenizer.hash:
        raise UserError(
            f"{setting('init')} {init}: {settings.data} was prepared with another tokenizer than this run's; "
            f"prepare the text with {setting('tokenizer')} {init}"
        )
    shape, of_preset = read_shape(init), preset_shape(settings.preset)
    asked = {name: getattr(model, name) for name in SHAPE}
    if asked == {name: getattr(of_preset, name) for name in SHAPE}:
        asked = {}  # the defaults of a dataclass; those of a call are 0
    for name, wanted in asked.items():
        if wanted not in (0, there := getattr(shape, name)):
            raise UserError(
                f"{setting('init')} {init} has {setting(f'model.{name}')} {there}, which further training keeps; "
                f"it cannot become {wanted}"
            )
    width, depth = (asked.get(name) or getattr(of_preset, name) for name in ("width", "depth"))
    if settings.preset != "auto" and (width, depth) != (shape.width, shape.depth):
        say(
            f"{setting('init')} {init} keeps its size, {shape.depth} blocks of width {shape.width}; of "
            f"{setting('preset')} {settings.preset} only the recipe and the batch are used"
        )
    return replace(
        shape,
        embedding_dropout=model.embedding_dropout,
        residual_dropout=model.residual_dropout,
        attention_dropout=model.attention_dropout,
    )


def epoch_steps(settings: Pretrain, tokens: int) -> int:
    """Return the number of updates in the requested epochs (one by default) over `tokens` training tokens."""
    return max(1, round((settings.epochs or DEFAULT_EPOCHS) * tokens / (settings.batch * settings.model.context)))


def is_long(settings: Pretrain, steps: int) -> bool:
    """Return whether a run of `steps` updates is long enough for compiled kernels to repay their compilation."""
    if settings.minutes:
        return settings.minutes >= LONG_MINUTES
    return flops_per_token(settings.model) * steps * settings.batch * settings.model.context >= LONG_WORK


def resolve_compile(requested: Literal["auto", "on", "off"], auto: bool, device: torch.device) -> Literal["on", "off"]:
    """Return whether to compile, which `auto` decides where the request is "auto" and the compiler works.

    Raises UserError if "on" is requested and the compiler does not work.
    """
    if requested == "off" or (requested == "auto" and not auto):
        return "off"
    if not (error := compiler_error(device)):
        return "on"
    if requested == "on":
        raise UserError(
            f"{setting('compile')} on: the compiler does not work here ({error}); use {setting('compile')} off"
        )
    say(f"training without compiled kernels: the compiler does not work here ({error})")
    return "off"


def warn_of_warmup(settings: Pretrain, steps: int) -> None:
    """Warn of a warm-up that is longer than the run of `steps` updates."""
    if (warmup := settings.optim.warmup) > steps:
        warn(
            f"the learning rate rises during {warmup:,} updates, but only {steps:,} will be made, so it never reaches "
            f"its peak; lower {setting('optim.warmup')}, or train longer"
        )


def begun_record(settings: Pretrain, data: PreparedData) -> Record:
    """Return the record of a run with resolved settings."""
    return Record.of(settings, {"data": data.manifest.fingerprint})


def resume_settings(settings: Pretrain, record: Record, tokens: int, is_finished: bool) -> Pretrain:
    """Return the settings with which to continue the run that `record` describes.

    Its length is fixed. `eval_every`, `save_every`, `sample`, `micro_batch` and `compile` take effect if they are given
    again and otherwise stay as they were. Raises UserError for another length; for a finished run, only for other
    `steps`.
    """
    begun = record.settings
    steps: int = begun["steps"]
    is_other = settings.steps not in (None, steps)
    if not is_finished:
        is_other |= settings.epochs is not None and epoch_steps(settings, tokens) != steps
        is_other |= settings.minutes not in (None, begun.get("minutes"))
    if is_other:
        raise UserError(
            f"{settings.out} was begun with {setting('steps')} {steps}, and its learning rate falls to 0 there; to "
            f"train further, give {setting('init')} {settings.out} and another {setting('out')}"
        )
    kept = {name: begun.get(name) for name in ("eval_every", "save_every", "sample") if not getattr(settings, name)}
    kept = {name: value for name, value in kept.items() if value}
    return replace(settings, steps=steps, epochs=None, minutes=None, **kept)  # type: ignore[arg-type]
