"""gpt1.json, and whether a folder is a whole run: all that can be said without loading the model, so without torch."""

import json
from pathlib import Path
from typing import Any

from gpt1.errors import UserError

FORMAT = 1
"""Version of gpt1.json; a newer one is refused."""
FILES = ("config.json", "tokenizer.json", "model.safetensors", "gpt1.json")
"""What a run must hold."""
STOPPED = "stopped"
"""Folder inside a run folder for the states of a fine-tuning that is not finished."""


def read_facts(folder: Path) -> dict[str, Any]:
    """gpt1.json of a run. Raises UserError if the folder is missing, no run, incomplete or of a newer format."""
    if folder.is_file():
        raise UserError(f"{folder} is a file, not a run; give the folder that `gpt1 pretrain` or `gpt1 finetune` wrote")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    if (folder / "manifest.json").exists() and not (folder / "config.json").exists():
        raise UserError(f"{folder} is prepared data, not a run; `gpt1 pretrain {folder} --out RUN` makes a run")
    if (folder / STOPPED).exists() and not (folder / "gpt1.json").exists():
        raise UserError(f"{folder}: a fine-tuning was stopped here; repeat its command to go on")
    for name in FILES:
        if not (folder / name).exists():
            raise UserError(f"{folder} is not a complete run: {name} is missing; the job that writes it must finish")
    facts = read_json(folder / "gpt1.json")
    if facts.get("format", 0) > FORMAT:
        raise UserError(f"{folder / 'gpt1.json'}: format {facts['format']} is newer than {FORMAT}; update gpt1")
    if "kind" not in facts:
        raise UserError(f"{folder / 'gpt1.json'} is damaged: it does not say what kind of run this is")
    return facts


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder. Raises UserError if it is missing or damaged."""
    try:
        value = parsed(path)
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a complete run: {path.name} is missing") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return value


def parsed(path: Path) -> Any:
    """What a JSON file holds. Raises UserError if it is damaged, FileNotFoundError if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
