"""`gpt1 info`: what is in a folder, read from its JSON and from the header of its weights. Imports no torch."""

import json
import math
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gpt1.config import Info
from gpt1.console import formatted, say
from gpt1.conversion.source import is_release
from gpt1.data.files import File, content, identify_binary
from gpt1.data.shards import UNFINISHED, read_manifest
from gpt1.data.tables import header, table
from gpt1.errors import UserError
from gpt1.keywords import command
from gpt1.results import Result
from gpt1.run_folder.metadata import STOPPED, other_program, read_json, read_metadata
from gpt1.run_folder.shape import CHOICE_BIAS, read_shape
from gpt1.run_folder.starter import find_run

# Keys inside a section that the table leaves out: hashes and details, which `--json` has.
LEFT_TO_JSON = ("sha256", "fingerprint", "tokenizer", "per_class", "confusion", "pretraining", "reliability", "joint")
# Largest header to read, in bytes: the limit of safetensors, so that a damaged length does not take all memory.
LARGEST_HEADER = 100_000_000
# The network's shape by its names in config.json.
SHAPE = {
    "context": "n_positions", "vocabulary": "vocab_size", "width": "n_embd", "depth": "n_layer", "heads": "n_head",
}  # fmt: skip
# Keys of gpt1.json that are copied to the result.
FROM_METADATA = (
    "preset", "recipe", "seed", "steps", "of_steps", "tokens_seen", "init", "lm_coef", "columns", "metrics", "data",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class InfoResult(Result):
    """What a folder holds: a run, prepared data or a tokenizer. Keys that do not apply are left out."""

    kind: Literal["run", "data", "tokenizer", "huggingface", "openai", "file"]
    """`run`, `data`, `tokenizer`, `file`, or what `gpt1 convert` reads: `huggingface`, `openai`"""
    path: str
    """the folder or file"""
    format: str | None = None
    """file: `csv`, `jsonl` and so on, `text`, `safetensors`, or what it is instead"""
    bytes: int | None = None
    """file: its size"""
    header: list[str] | None = None
    """file: the columns of a table"""
    stage: str | None = None
    """run: `pretrained` or `finetuned`"""
    training: bool | None = None
    """run: whether pre-training has updates left to make"""
    parameters: int | None = None
    """run: number of parameters, the head of a fine-tuned run included"""
    task: str | None = None
    """fine-tuned: the [task](tasks.md)"""
    labels: list[str] | None = None
    """run: the label names; empty if it has none"""
    tokenizer: str | None = None
    """run, data: `bytes`, `gpt1`, `openai2018` or `custom`, see [tokenizers](#tokenizers)"""
    context: int | None = None
    """run: context length in tokens"""
    vocabulary: int | None = None
    """number of token ids"""
    width: int | None = None
    """run: width of the network"""
    depth: int | None = None
    """run: number of blocks"""
    heads: int | None = None
    """run: attention heads in each block"""
    preset: str | None = None
    """run: the size preset of pre-training"""
    recipe: str | None = None
    """run: the recipe of pre-training"""
    seed: int | None = None
    """run: the seed"""
    steps: int | None = None
    """run: updates made"""
    of_steps: int | None = None
    """pre-trained: updates planned"""
    tokens_seen: int | None = None
    """pre-trained: tokens read"""
    init: str | None = None
    """pre-trained: the run whose weights it started from"""
    lm_coef: float | None = None
    """fine-tuned: lambda"""
    columns: dict[str, Any] | None = None
    """fine-tuned: the columns it was trained on"""
    metrics: dict[str, Any] | None = None
    """run: the last validation"""
    data: dict[str, Any] | None = None
    """run: what it was trained on"""
    lossless: bool | None = None
    """data: whether decoding gives the text back"""
    train: dict[str, int] | None = None
    """data: `tokens`, `documents` and `bytes` to train on"""
    val: dict[str, int] | None = None
    """data: the same to validate on"""
    inputs: list[str] | None = None
    """data: the files it was prepared from"""


@command(Info, "path")
def info(settings: Info) -> InfoResult:
    """Return what the folder `settings.path` holds.

    Raises UserError for a folder that is missing, incomplete, of a newer format, or holds nothing that gpt1 knows.
    """
    folder = find_run(settings.path)
    if folder.is_file():
        return _file(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder or file")
    if (folder / "gpt1.json").exists() or (folder / STOPPED).exists():
        return _run(folder)
    if (folder / "manifest.json").exists() or (folder / UNFINISHED).exists():
        return _data(folder)
    if (folder / "settings.json").exists():
        raise UserError(f"{folder}: training began here, but no model is saved yet")
    if advice := other_program(folder):
        raise UserError(advice)
    if (folder / "tokenizer.json").exists() and not (folder / "model.safetensors").exists():
        return _tokenizer(folder)
    if (folder / "config.json").exists():
        shape, weights = read_shape(folder), folder / "model.safetensors"
        return InfoResult(
            kind="huggingface",
            path=str(folder),
            parameters=_parameters(weights) if weights.exists() else None,
            **{name: getattr(shape, name) for name in SHAPE},
        )
    if is_release(folder):
        return InfoResult(kind="openai", path=str(folder))
    names = sorted(path.name for path in folder.iterdir())
    held = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
    raise UserError(f"{folder}: neither a run, nor prepared data, nor a tokenizer; it holds {held}")


def show(result: InfoResult) -> RenderableType:
    """Return a line for each key, cut where it is too long for the screen; `--json` has everything."""
    lines: dict[str, str] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {formatted(one)}" for key, one in _leaves(value) if one not in (None, ""))
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) + (f" ({len(value)})" if len(value) > 8 else "")
        if name == "width":
            lines["network"] = f"{result.depth} blocks of width {value}, {result.heads} heads"
        elif name not in ("depth", "heads") and value != "":
            lines[name] = formatted(value)
    out = Table("", "", show_header=False)
    out.columns[0].no_wrap = True
    for name, line in lines.items():
        out.add_row(name, Text(line, no_wrap=True, overflow="ellipsis"))
    if result.kind in ("huggingface", "openai"):
        say(f"`gpt1 convert {result.path} --out RUN` makes a run of it")
    return out


def _leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if name in LEFT_TO_JSON:
            continue
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, "|".join(map(str, value)) if isinstance(value, list) else value


def _file(path: Path) -> InfoResult:
    file, size = File(path, named=True), path.stat().st_size
    if path.suffix == ".safetensors":
        return InfoResult(kind="file", path=str(path), format="safetensors", bytes=size, parameters=_parameters(path))
    if file.kind == "text":
        other = identify_binary(next(content(path), b""))
        return InfoResult(kind="file", path=str(path), format=other or file.kind, bytes=size)
    columns = None
    with suppress(UserError) if file.kind == "json" else nullcontext():  # JSON may hold anything
        columns = header(table(path))
    return InfoResult(kind="file", path=str(path), format=file.kind, bytes=size, header=columns)


def _run(folder: Path) -> InfoResult:
    metadata, shape = read_metadata(folder), read_json(folder / "config.json")
    known = metadata.to_json()
    if missing := [name for name in SHAPE.values() if name not in shape]:
        raise UserError(f"{folder / 'config.json'} is damaged: {missing[0]} is missing")
    return InfoResult(
        kind="run",
        path=str(folder),
        stage=metadata.kind,
        training=metadata.of_steps is not None and (metadata.steps or 0) < metadata.of_steps,
        parameters=_parameters(folder / "model.safetensors"),
        task=metadata.task,
        labels=metadata.labels or [],
        tokenizer=metadata.tokenizer_kind,
        **{name: shape[key] for name, key in SHAPE.items()},
        **{name: known.get(name) for name in FROM_METADATA},
    )


def _data(folder: Path) -> InfoResult:
    manifest = read_manifest(folder)
    return InfoResult(
        kind="data",
        path=str(folder),
        tokenizer=manifest.kind,
        vocabulary=manifest.vocabulary,
        lossless=manifest.lossless,
        train=manifest.train.totals,
        val=manifest.val.totals,
        inputs=[file["path"] for file in manifest.inputs],
    )


def _tokenizer(folder: Path) -> InfoResult:
    known, path = read_json(folder / "tokenizer.json"), folder / "tokenizer.json"
    try:
        vocabulary = known["model"]["vocab"]
        # A Unigram model lists its tokens; others map them to ids.
        ids = range(len(vocabulary)) if isinstance(vocabulary, list) else vocabulary.values()
        every = {*ids, *(token["id"] for token in known.get("added_tokens") or [])}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a tokenizer that can be read ({type(error).__name__}: {error})") from None
    return InfoResult(kind="tokenizer", path=str(folder), vocabulary=len(every))


def _parameters(path: Path) -> int:
    """Count the parameters in a safetensors file from its header: 8 bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            tensors = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), LARGEST_HEADER)))
        others = ("__metadata__", CHOICE_BIAS)
        return sum(math.prod(tensor["shape"]) for name, tensor in tensors.items() if name not in others)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not readable as safetensors ({error})") from None
