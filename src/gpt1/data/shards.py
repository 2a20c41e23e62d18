"""Token shards: token ids on the disk, written as a stream and read at random; no torch.

A prepared folder holds `manifest.json`, the tokenizer, and for each split `train-00000.bin`, `train-00001.bin`, ...:
bare little-endian ids, one document after another, an end token closing each. `docs/formats.md` has the details.
"""

import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from gpt1.errors import UserError
from gpt1.storage import atomic, write_json

FORMAT = 1
"""Version of the folder's format; a reader refuses a newer one."""
UNFINISHED = "unfinished"
"""Folder inside a prepared folder where the next result grows until it is whole."""

SplitName = Literal["train", "val"]


@dataclass(frozen=True)
class Shard:
    """One file of a split."""

    file: str
    tokens: int
    documents: int
    """documents that end in this file"""
    bytes: int
    """UTF-8 bytes of the text that was given, before repair"""
    sha256: str


@dataclass(frozen=True)
class Split:
    """The shards of the training or the validation text, in order."""

    shards: list[Shard] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        return sum(shard.documents for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says of a prepared folder."""

    tokenizer: str
    """sha256 of the tokenizer's `tokenizer.json`"""
    kind: str
    """bytes, gpt1 or custom"""
    lossless: bool
    vocabulary: int
    dtype: str
    """uint16 or uint32, little-endian"""
    train: Split
    val: Split
    empty_documents: int
    """documents without text, which were left out"""
    unknown_tokens: int
    inputs: list[dict[str, Any]]
    """path, split, bytes and sha256 of each file that was read"""
    settings: dict[str, Any]
    fingerprint: str
    """sha256 of the inputs and settings: the same one again means there is nothing to do"""
    seconds: dict[str, float]
    """what training the tokenizer and encoding took"""

    def summary(self) -> dict[str, Any]:
        """What a run remembers of its data."""
        return {
            "fingerprint": self.fingerprint,
            "tokenizer": self.tokenizer,
            **{
                name: {
                    "tokens": split.tokens, "documents": split.documents, "bytes": split.bytes,
                    "sha256": [shard.sha256 for shard in split.shards],
                }
                for name, split in (("train", self.train), ("val", self.val))
            },
        }  # fmt: skip


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`: the last file of a folder, so that a folder that has it is whole."""
    value = {"format": FORMAT, **asdict(manifest)}
    for name, split in (("train", manifest.train), ("val", manifest.val)):
        totals = {"tokens": split.tokens, "documents": split.documents, "bytes": split.bytes}
        value[name] = totals | value[name]
    write_json(folder / "manifest.json", value)


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a prepared folder. Raises UserError if it is missing, damaged or of a newer format."""
    path = Path(folder) / "manifest.json"
    if Path(folder).is_file():
        raise UserError(f"{folder} is a file; prepare it first: `gpt1 prepare {folder} --out DATA`, and give DATA")
    if not path.exists():
        if (path.parent / "gpt1.json").exists():
            raise UserError(f"{folder} is a run; give the folder that `gpt1 prepare` wrote")
        if (path.parent / UNFINISHED).exists():
            raise UserError(f"{folder}: its preparation was interrupted; repeat `gpt1 prepare` to finish it")
        raise UserError(f"{folder}: no manifest.json; make the folder with `gpt1 prepare INPUT... --out {folder}`")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        version = value.pop("format")
        if version > FORMAT:
            raise UserError(
                f"{path}: written by a newer gpt1 (format {version}; this one reads {FORMAT}); upgrade to read it"
            )
        train, val = (Split([Shard(**shard) for shard in value.pop(name)["shards"]]) for name in ("train", "val"))
        return Manifest(train=train, val=val, **value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); repeat `gpt1 prepare` with --fresh") from None


def dtype_for(vocabulary: int) -> str:
    """The smallest of the two formats that holds every id."""
    return "uint16" if vocabulary <= 1 << 16 else "uint32"


class ShardWriter:
    """Writes the shards of one split; a shard appears under its name when it is closed, whole.

    Use as a context manager: an error, a full disk included, leaves the closed shards and nothing else.
    """

    def __init__(self, folder: Path, split: SplitName, dtype: str, shards: Iterable[Shard] = ()) -> None:
        self.folder, self.split, self.dtype = folder, split, np.dtype(dtype).newbyteorder("<")
        self.shards = list(shards)
        """closed so far; given ones are those of an interrupted run"""
        self.tokens = self._documents = self._bytes = 0
        self._file: BinaryIO | None = None
        self._stack, self._sha256 = ExitStack(), hashlib.sha256()

    def write(self, ids: np.ndarray, documents: int, size: int) -> None:
        """Append `ids`, in which `documents` documents end and which come from `size` bytes of text."""
        if len(ids):
            self._file = self._file or self._open()
            raw = np.ascontiguousarray(ids, self.dtype).view(np.uint8).data
            self._file.write(raw)
            self._sha256.update(raw)
        self.tokens += len(ids)
        self._documents += documents
        self._bytes += size

    def close_shard(self) -> None:
        """Give the shard its name; the next `write` begins another. Nothing happens if nothing was written."""
        if self._file is None:
            return
        self._stack.close()
        sha256 = self._sha256.hexdigest()
        self.shards.append(Shard(self._name(), self.tokens, self._documents, self._bytes, sha256))
        self.tokens = self._documents = self._bytes = 0
        self._file, self._sha256 = None, hashlib.sha256()

    def _name(self) -> str:
        return f"{self.split}-{len(self.shards):05d}.bin"

    def _open(self) -> BinaryIO:
        temporary = self._stack.enter_context(atomic(self.folder / self._name()))
        return self._stack.enter_context(temporary.open("wb"))

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self.close_shard()
        else:
            self._stack.__exit__(kind, error, trace)


class TokenStream:
    """The tokens of a split as one long sequence, memory-mapped: only what is read comes from the disk.

    Raises UserError, naming the file, if a shard is missing or has another size than the manifest says.
    """

    def __init__(self, folder: str | Path, split: SplitName) -> None:
        manifest = read_manifest(folder)
        shards: list[Shard] = getattr(manifest, split).shards
        dtype = np.dtype(manifest.dtype).newbyteorder("<")
        for shard in shards:
            check_size(Path(folder) / shard.file, shard.tokens * dtype.itemsize)
        self.arrays = [np.memmap(Path(folder) / shard.file, dtype, "r") for shard in shards]
        self.ends = np.cumsum([len(array) for array in self.arrays], dtype=np.int64)

    def close(self) -> None:
        """Unmap the shards, which Windows cannot remove before; nothing can be read afterwards."""
        self.arrays.clear()
        self.ends = self.ends[:0]

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """ids[start:stop] as int64 (stop - start,), across shards where need be; needs 0 <= start <= stop <= len."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of {len(self)}")
        out = np.empty(stop - start, np.int64)
        number, done = int(np.searchsorted(self.ends, start, side="right")), 0
        while done < len(out):
            low = start + done - int(self.ends[number]) + len(self.arrays[number])
            part = self.arrays[number][low : low + len(out) - done]
            out[done : done + len(part)] = part
            number, done = number + 1, done + len(part)
        return out


def check_size(path: Path, size: int) -> None:
    """Raise UserError if the shard at `path` is not there or has not `size` bytes."""
    if not path.exists():
        raise UserError(f"{path}: missing; copy the whole folder, or repeat `gpt1 prepare`")
    if (there := path.stat().st_size) != size:
        raise UserError(
            f"{path}: {there:,} bytes where the manifest says {size:,}; copy it again, or repeat `gpt1 prepare`"
        )
