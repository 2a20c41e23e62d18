"""`gpt1 convert`: an external GPT-1 -> a run, or a run -> OpenAI's layout. Kept only if it agrees with its source."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from gpt1.config import Convert, Model
from gpt1.console import say, table
from gpt1.conversion import hugging_face, openai_release
from gpt1.conversion.external import checked
from gpt1.conversion.hugging_face import download, read_folder
from gpt1.conversion.openai_release import MERGES, VOCABULARY, read_release, write_release
from gpt1.conversion.source import is_hub_id, kind_of
from gpt1.conversion.verify import (
    check_logits,
    check_tokens,
    check_weights,
    logits_by_transformers,
    logits_of,
    network_of,
    probe,
)  # fmt: skip
from gpt1.errors import RunFailed, UserError, setting
from gpt1.keywords import command
from gpt1.model.gpt import count_parameters
from gpt1.results import Result
from gpt1.run_folder.folder import LoadedRun, load_run, replacing_run, save_tensors
from gpt1.run_folder.hugging_face import HEAD, TensorFile
from gpt1.run_folder.metadata import RunMetadata, read_metadata
from gpt1.run_folder.places import check_new_folder
from gpt1.run_folder.shape import read_shape
from gpt1.run_folder.starter import find_run
from gpt1.run_folder.words_file import load_words
from gpt1.tokenizer.openai import vocabulary_files, with_words
from gpt1.tokenizer.tokenizer import END, PAD, Tokenizer


@dataclass(frozen=True)
class ConvertResult(Result):
    """What was converted, and how it was compared with its source."""

    source: str
    """the kind of SRC: `openai`, `huggingface` or `run`"""
    to: str
    """the layout written: `run` or `openai`"""
    parameters: int
    """number of parameters, the head of a fine-tuned run included"""
    context: int
    """context length in tokens"""
    vocabulary: int
    """number of token ids"""
    heads: int
    """attention heads in each block"""
    new_tokens: list[str]
    """special tokens that were added"""
    left_out: list[str]
    """names of tensors that were not converted: heads for other tasks"""
    compared_with: str
    """what computed the source's logits: `transformers` with its version, or the source's own arrays"""
    logits: int
    """number of logits compared"""
    largest_difference: float
    """largest difference between two logits"""
    tokens: int
    """number of token ids compared"""
    seconds: float
    """time taken"""


@command(Convert, "src")
def convert(settings: Convert) -> ConvertResult:
    """Write the folder `settings.out`, which must be new or empty, from `settings.src`.

    Raises UserError for a source that is wrong, and RunFailed if what was written differs from its source; then nothing
    of it is kept.
    """
    began, out = time.perf_counter(), Path(settings.out)
    check_new_folder(out)
    folder = download(settings.src) if is_hub_id(settings.src) else find_run(settings.src)
    kind = kind_of(folder)
    if settings.heads and kind != "openai":
        raise UserError(
            f"{setting('heads')} is for OpenAI's release, which does not record them; {folder / 'config.json'} does"
        )
    if settings.words and (settings.to == "openai" or kind == "run"):
        raise UserError(
            f"{setting('words')} is for what is converted to a run; a run keeps its own way, OpenAI's files record none"
        )
    if settings.to == "openai":
        found = _to_release(folder, kind, out)
    elif kind == "run":
        found = _copy(folder, out)
    else:
        found = _to_run(settings, folder, kind, out)
    found = {"new_tokens": [], "left_out": []} | found
    return ConvertResult(source=kind, to=settings.to, **found, seconds=time.perf_counter() - began)


def show(result: ConvertResult) -> RenderableType:
    """Return the result as a table."""
    shown = {name: ", ".join(value) if isinstance(value, list) else value for name, value in result.items()}
    return table({name: value for name, value in shown.items() if value != ""}, "convert")


def _to_run(settings: Convert, folder: Path, kind: str, out: Path) -> dict[str, Any]:
    found = read_release(folder, settings.heads) if kind == "openai" else read_folder(folder)
    model, tokenizer, new_tokens = found.model, found.tokenizer, found.new_tokens
    if settings.words:
        tokenizer = with_words(tokenizer, settings.words, folder)
    if found.left_out:
        say(f"{folder}: {', '.join(found.left_out)} left out; the language model under that head is converted")
    metadata = replace(found.metadata or RunMetadata(kind="pretrained"), converted_from=f"{kind}: {settings.src}")
    with replacing_run(out) as staged:
        whole, tensors = found.take_tensors()
        save_tensors(staged, whole, tensors | ({} if found.head is None else {HEAD: found.head}), tokenizer, metadata)
        tensors.clear()  # memory for the comparison
        loaded, compared = _compare(folder, kind, model, staged, out)
        if found.head is not None and (loaded.head is None or not torch.equal(found.head, loaded.head)):
            raise RunFailed(f"{out} is not written: {HEAD} would differ from the source's")
        pair = (folder / VOCABULARY, folder / MERGES) if kind == "openai" else vocabulary_files(folder)
        compared["tokens"] = check_tokens(loaded.tokenizer, folder, pair, out)
    new = {"new_tokens": new_tokens, "left_out": list(found.left_out)}
    return _size(loaded.body.config, loaded.head) | new | compared


def _copy(folder: Path, out: Path) -> dict[str, Any]:
    """Copy the model of a run as it is, head and metadata included."""
    metadata, model = read_metadata(folder), read_shape(folder)
    file = TensorFile(folder / "model.safetensors")
    with replacing_run(out) as staged:
        tensors = {name: checked(name, tensor, tuple(tensor.shape), file.path) for name, tensor in file.items()}
        save_tensors(staged, model, tensors, Tokenizer.load(folder), metadata, load_words(folder, metadata))
        tensors.clear()  # memory for the comparison
        loaded, compared = _compare(folder, "run", model, staged, out)
        compared["tokens"] = check_tokens(loaded.tokenizer, folder, None, out)
    return _size(model, loaded.head) | compared


def _to_release(folder: Path, kind: str, out: Path) -> dict[str, Any]:
    if kind != "run":
        raise UserError(
            f"{setting('to')} openai takes a run folder; convert {folder} to one first, then that to openai"
        )
    if read_metadata(folder).kind != "pretrained":
        raise UserError(
            f"{folder}: W_y of a fine-tuned run has no place in OpenAI's layout; convert the run it was tuned from"
        )
    model, tokenizer = read_shape(folder), Tokenizer.load(folder)
    with replacing_run(out) as staged:
        written = write_release(staged, model, TensorFile(folder / "model.safetensors"), tokenizer)
        if written.vocabulary == model.vocabulary:
            say(f"{folder}: {END} and {PAD} were trained, so they are written as tokens of their own")
        _, compared = _compare(staged, "openai", written, folder, out)
        compared["compared_with"] = "the arrays written"
        compared["tokens"] = check_tokens(tokenizer, folder, (staged / VOCABULARY, staged / MERGES), out)
    return _size(written) | compared


def _compare(folder: Path, kind: str, model: Model, run: Path, out: Path) -> tuple[LoadedRun, dict[str, Any]]:
    """Load a run and compare it with the external model in `folder`, whose shape is `model`.

    Only one of the two networks is in memory at a time. Raises RunFailed if they differ.
    """
    layout, ids_T = openai_release if kind == "openai" else hugging_face, probe(model)
    theirs = logits_by_transformers(folder, ids_T) if kind != "openai" else None
    if theirs is None:
        theirs = "its arrays", logits_of(network_of(model, layout.read_arrays(folder, model)), ids_T)
    loaded = load_run(run)
    check_weights(model, layout.read_arrays(folder, model), loaded.body, out)
    return loaded, {"compared_with": theirs[0], **check_logits(theirs[1], logits_of(loaded.body, ids_T), out)}


def _size(model: Model, head: torch.Tensor | None = None) -> dict[str, Any]:
    parameters = count_parameters(model)[0] + (0 if head is None else head.numel())
    size = {"parameters": parameters, "context": model.context, "vocabulary": model.vocabulary}
    return size | {"heads": model.heads}
