"""Token shards: files of token ids, written as a stream and read with random access; no torch.

A prepared folder holds `manifest.json`, the tokenizer, and for each split `train-00000.bin`, `train-00001.bin`, ...:
little-endian ids without a header, each document followed by an end token. `docs/formats.md` has the details.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from gpt1.config import Prepare
from gpt1.console import bar
from gpt1.errors import UserError, setting
from gpt1.options import options
from gpt1.storage import atomic, write_json

FORMAT = 1  # version of the folder's format; a newer one is refused
UNFINISHED = "unfinished"  # folder inside a prepared folder in which the next result is made
# Shards that are mapped at once. Each takes a file descriptor, and many systems allow a process 1,024.
MAPPED = 256

SplitName = Literal["train", "val"]


@dataclass(frozen=True)
class Shard:
    """One file of a split."""

    file: str
    tokens: int
    documents: int
    """documents that end in this file"""
    bytes: int
    """UTF-8 bytes of the input text, before cleaning"""
    sha256: str


@dataclass(frozen=True)
class Split:
    """The shards of the training or the validation split, in order."""

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

    @property
    def totals(self) -> dict[str, int]:
        """The three sums by name."""
        return {"tokens": self.tokens, "documents": self.documents, "bytes": self.bytes}


@dataclass(frozen=True)
class Manifest:
    """The description of a prepared folder, `manifest.json`."""

    tokenizer: str
    """sha256 of the tokenizer's `tokenizer.json`"""
    kind: str
    """bytes, gpt1, openai2018 or custom"""
    lossless: bool
    vocabulary: int
    dtype: str
    """uint16 or uint32, stored little-endian"""
    train: Split
    val: Split
    empty_documents: int
    """documents without text, which are left out"""
    unknown_tokens: int
    inputs: list[dict[str, Any]]
    """path, split, bytes and sha256 of each file that was read"""
    settings: dict[str, Any]
    fingerprint: str
    """sha256 of the inputs and settings: the same again means that there is nothing to do"""
    seconds: dict[str, float]
    """how long training the tokenizer and encoding took"""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`. It is written last, so a folder that has it is complete."""
    value = {"format": FORMAT, **asdict(manifest)}
    for name, split in (("train", manifest.train), ("val", manifest.val)):
        value[name] = split.totals | value[name]
    write_json(folder / "manifest.json", value)


def read_manifest(folder: str | Path) -> Manifest:
    """Return the manifest of a prepared folder. Raises UserError if it is missing, damaged or of a newer format."""
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
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); repeat `gpt1 prepare` with {setting('fresh')}") from None


def dtype_for(vocabulary: int) -> str:
    """Return the smaller of the two formats if it holds every id, else the larger."""
    return "uint16" if vocabulary <= 1 << 16 else "uint32"


class ShardWriter:
    """Writes the shards of one split. A shard appears under its name when it is closed.

    Use it as a context manager: after an error, such as a full disk, only the closed shards remain.
    """

    def __init__(self, folder: Path, split: SplitName, dtype: str, shards: Iterable[Shard] = ()) -> None:
        self.folder, self.split, self.dtype = folder, split, np.dtype(dtype).newbyteorder("<")
        self.shards = list(shards)
        """closed shards, including those of an interrupted run"""
        self.tokens = self._documents = self._bytes = 0
        self._file: BinaryIO | None = None
        self._stack, self._sha256 = ExitStack(), hashlib.sha256()

    def write(self, ids: np.ndarray, documents: int, size: int) -> None:
        """Append `ids`, which encode `size` bytes of text and in which `documents` documents end."""
        if len(ids):
            self._file = self._file or self._open()
            raw = np.ascontiguousarray(ids, self.dtype).view(np.uint8).data
            self._file.write(raw)
            self._sha256.update(raw)
        self.tokens += len(ids)
        self._documents += documents
        self._bytes += size

    def close_shard(self) -> None:
        """Give the shard its name; the next `write` begins another. Does nothing if nothing was written."""
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
    """The tokens of a split as one long sequence, memory-mapped, so that only the parts that are read are loaded.

    At most `MAPPED` shards are mapped at once, those that were read last. Raises UserError, naming the file, if a shard
    is missing or its size is not that in the manifest.
    """

    def __init__(self, folder: str | Path, split: SplitName) -> None:
        manifest = read_manifest(folder)
        shards: list[Shard] = getattr(manifest, split).shards
        check_shards(Path(folder), shards, manifest.dtype)
        dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self.ends = np.cumsum([shard.tokens for shard in shards], dtype=np.int64)
        self.shard = lru_cache(MAPPED)(lambda number: np.memmap(Path(folder) / shards[number].file, dtype, "r"))
        for number in range(min(MAPPED, len(shards))):  # what is mapped stays as it is if the folder is replaced
            self.shard(number)

    def close(self) -> None:
        """Unmap the shards, which Windows cannot remove before; nothing can be read afterwards."""
        self.shard.cache_clear()
        self.ends = self.ends[:0]

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return ids[start:stop] as int64 (stop - start,), from several shards if necessary."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of {len(self)}")
        out = np.empty(stop - start, np.int64)
        number, done = int(np.searchsorted(self.ends, start, side="right")), 0
        while done < len(out):
            array = self.shard(number)
            low = start + done - int(self.ends[number]) + len(array)
            part = array[low : low + len(out) - done]
            out[done : done + len(part)] = part
            number, done = number + 1, done + len(part)
        return out


def check_shards(folder: Path, shards: Iterable[Shard], dtype: str) -> None:
    """Raise UserError if a shard is missing or its size is not that in the manifest. Opens no file."""
    for shard in shards:
        path, size = folder / shard.file, shard.tokens * np.dtype(dtype).itemsize
        if not path.exists():
            raise UserError(f"{path}: missing; copy the whole folder, or repeat `gpt1 prepare`")
        if (found := path.stat().st_size) != size:
            raise UserError(
                f"{path}: {found:,} bytes where the manifest says {size:,}; copy it again, or repeat `gpt1 prepare`"
            )


def check_content(folder: Path, manifest: Manifest, part: slice = slice(None)) -> None:
    """Read every shard, or a `part` of them.

    Raises UserError, with the command that makes it again, if one is not as it was written.
    """
    shards = (manifest.train.shards + manifest.val.shards)[part]
    with bar() as progress:
        for shard in progress.track(shards, description="checking the data"):
            with (folder / shard.file).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != shard.sha256:
                raise UserError(
                    f"{folder / shard.file}: damaged, its content is not what was prepared; copy it again, or make it "
                    f"again: `{prepare_command(folder, manifest)}`"
                )


def prepare_command(folder: Path, manifest: Manifest) -> str:
    """Return the command line that makes a prepared folder again."""
    given = {name: value for name, value in manifest.settings.items() if name not in ("inputs", "out", "fresh")}
    words = ["gpt1", "prepare", *manifest.settings.get("inputs", ["INPUT..."]), "--out", str(folder)]
    for name, option in options(Prepare).items():
        if (value := given.get(name, option.default)) == option.default:
            continue
        if isinstance(value, bool):
            words.append(option.flag if value else option.flag.replace("--", "--no-"))
        else:
            words += [option.flag, *map(str, value if option.is_list else [value])]
    return shlex.join(words)
