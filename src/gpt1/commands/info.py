"""`gpt1 info`: what is in a folder, read from its JSON and from the header of its weights; no torch."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from gpt1.config import Info
from gpt1.console import table
from gpt1.data.shards import UNFINISHED, Split, read_manifest
from gpt1.errors import UserError
from gpt1.run_folder.metadata import STOPPED, read_json, read_metadata

LEFT_TO_JSON = ("sha256", "fingerprint", "tokenizer", "per_class", "confusion", "pretraining", "reliability", "joint")
"""Hashes and details inside a section, which a person does not read in a table."""
LARGEST_HEADER = 100_000_000
"""Bytes; what safetensors itself allows, so a damaged length cannot ask for all memory."""
RUN_FACTS = ("preset", "recipe", "seed", "steps", "of_steps", "tokens_seen", "lm_coef", "columns", "metrics", "data")


def info(settings: Info) -> dict[str, Any]:
    """What `settings.path` holds: `kind` is run, data or tokenizer; the other keys depend on it.

    A run has parameters, task, labels, context, vocabulary and what is known of its training; prepared data has its
    counts. Raises UserError for a folder that is missing, incomplete, foreign or of a newer format.
    """
    folder = Path(settings.path)
    if not folder.is_dir():
        raise UserError(f"{folder}: {'this is a file; give its folder' if folder.exists() else 'no such folder'}")
    if (folder / "gpt1.json").exists():
        return _run(folder)
    if (folder / "manifest.json").exists() or (folder / UNFINISHED).exists():
        return _data(folder)
    if (folder / STOPPED).exists():
        read_metadata(folder)  # which says what it is
    if (folder / "settings.json").exists():
        raise UserError(f"{folder}: training began here, but no model is saved yet")
    if (folder / "tokenizer.json").exists() and not (folder / "model.safetensors").exists():
        return _tokenizer(folder)
    there = sorted(path.name for path in folder.iterdir())
    held = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "") if there else "nothing"
    raise UserError(f"{folder}: neither a run, nor prepared data, nor a tokenizer; it holds {held}")


def show(result: dict[str, Any]) -> RenderableType:
    """The facts as a table, sections flattened, hashes and details left to `--json`."""
    return table({name: value for name, value in _leaves(result) if value not in (None, "")})


def _leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif not prefix or name not in LEFT_TO_JSON:
            yield prefix + name, ", ".join(map(str, value)) if isinstance(value, list) else value


def _run(folder: Path) -> dict[str, Any]:
    facts, shape = read_metadata(folder).to_json(), read_json(folder / "config.json")
    found = {
        "kind": "run",
        "path": str(folder),
        "stage": facts.get("kind"),
        "training": facts.get("of_steps") is not None and facts["steps"] < facts["of_steps"],
        "parameters": _parameters(folder / "model.safetensors"),
        "task": facts.get("task"),
        "labels": facts.get("labels") or [],
        "tokenizer": facts.get("tokenizer_kind"),
        "context": shape["n_positions"],
        "vocabulary": shape["vocab_size"],
        "width": shape["n_embd"],
        "depth": shape["n_layer"],
        "heads": shape["n_head"],
    }
    return found | {name: facts[name] for name in RUN_FACTS if name in facts}


def _data(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    return {
        "kind": "data",
        "path": str(folder),
        "vocabulary": manifest.vocabulary,
        "tokenizer": manifest.kind,
        "lossless": manifest.lossless,
        **{name: _counts(split) for name, split in (("train", manifest.train), ("val", manifest.val))},
        "inputs": [file["path"] for file in manifest.inputs],
    }


def _counts(split: Split) -> dict[str, int]:
    return {"tokens": split.tokens, "documents": split.documents, "bytes": split.bytes}


def _tokenizer(folder: Path) -> dict[str, Any]:
    known = read_json(folder / "tokenizer.json")
    ids = {*known["model"]["vocab"].values(), *(token["id"] for token in known["added_tokens"])}
    return {"kind": "tokenizer", "path": str(folder), "vocabulary": len(ids)}


def _parameters(path: Path) -> int:
    """Numbers in a safetensors file, counted from its header: 8 bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), LARGEST_HEADER)))
    except ValueError as error:
        raise UserError(f"{path}: not readable as safetensors ({error})") from None
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
