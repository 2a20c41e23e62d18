"""What is known of an unfinished preparation: enough to go on after the last pair of shards that was closed."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gpt1.data.datasets import INFO, parts
from gpt1.data.shards import Shard
from gpt1.storage import write_json

NAME = "prepare.json"


@dataclass
class Journal:
    """Written each time a pair of shards is closed; blocks and shards depend on nothing but inputs and settings."""

    fingerprint: str
    blocks: int = 0
    """blocks of the corpus that are in the shards"""
    unknown: int = 0
    train: list[Shard] = field(default_factory=list)
    val: list[Shard] = field(default_factory=list)
    seconds_tokenizer: float = 0.0
    seconds_encoding: float = 0.0

    def save(self, folder: Path) -> None:
        write_json(folder / NAME, asdict(self))


def load(folder: Path, fingerprint: str) -> Journal | None:
    """The journal in `folder`, if it is of these inputs and settings and its shards are as they were written."""
    try:
        value = json.loads((folder / NAME).read_text(encoding="utf-8"))
        train, val = ([Shard(**shard) for shard in value.pop(side)] for side in ("train", "val"))
        journal = Journal(train=train, val=val, **value)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = all(_intact(folder, shard) for shard in journal.train + journal.val)
    return journal if whole and journal.fingerprint == fingerprint else None


def _intact(folder: Path, shard: Shard) -> bool:
    return (folder / shard.file).exists() and sha256_of(folder / shard.file) == shard.sha256


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, as hex digits; of a saved dataset, of its rows and of what names its classes."""
    if path.is_dir():
        files = [*parts(path), *(file for file in [path / INFO] if file.exists())]
        return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
