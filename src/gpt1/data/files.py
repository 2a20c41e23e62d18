"""Input files: which ones are meant, and what is in them, as a stream; no torch."""

import codecs
import glob
import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from gpt1.data.datasets import SPLITS, STATE, is_dataset, parts, several, splits
from gpt1.errors import UserError

BLOCK = 8 << 20
"""Bytes, or characters, that are worked on at a time."""
PACKED = (".gz", ".zst")
REMEDY = "give the file's encoding with --encoding (cp1252, utf-16, ...) or leave the file out"
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".arrow": "arrow"}


@dataclass(frozen=True)
class File:
    """One input."""

    path: Path
    named: bool
    """given by name, not met in a folder"""

    @property
    def kind(self) -> str:
        """jsonl, csv, tsv, parquet, arrow or text; the folder of a saved dataset is arrow."""
        if is_dataset(self.path):
            return "arrow"
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        if suffixes and suffixes[-1] in PACKED:
            suffixes.pop()
        return KINDS.get(suffixes[-1], "text") if suffixes else "text"

    @property
    def packed(self) -> bool:
        return self.path.suffix.lower() in PACKED


def find(inputs: Iterable[str]) -> list[File]:
    """The files meant by names, folders and globs, each once.

    Folders are walked in sorted order, hidden files left out; of a saved dataset the Arrow files count. Raises
    UserError for an input that leads to no file.
    """
    found: dict[Path, File] = {}
    for given in inputs:
        names = [given] if Path(given).exists() else sorted(glob.glob(given, recursive=True))  # noqa: PTH207
        matches = [Path(name) for name in names]
        if not matches:
            raise UserError(f"{given}: {'no file matches' if glob.has_magic(given) else 'no such file or folder'}")
        files = [file for path in matches for file in _under(path)]
        if not files:
            raise UserError(f"{given}: an empty folder; give one with text files in it")
        for file in files:
            key = file.path.resolve()
            found[key] = file if file.named else found.get(key, file)
    return list(found.values())


def _under(path: Path) -> list[File]:
    if not path.is_dir():
        return [File(path, named=True)]
    if splits(path):
        raise several(path)
    if (path / STATE).is_file():
        return [File(part, named=True) for part in parts(path)]
    inside = sorted(p for p in path.rglob("*") if p.is_file())
    shown = [p for p in inside if not any(part[0] == "." for part in p.relative_to(path).parts)]
    return [File(part, named=False) for p in shown for part in _or_dataset(p)]


def _or_dataset(path: Path) -> list[Path]:
    """A file; but the `state.json` of a saved dataset stands for all that lies beside it."""
    if path.name == STATE and is_dataset(path.parent):
        return parts(path.parent)
    return [] if path.name == SPLITS or (path.parent / STATE).is_file() else [path]


def content(path: Path) -> Iterator[bytes]:
    """The bytes of a file in blocks, unpacked. Raises UserError if a .gz or .zst is damaged or cut short."""
    try:
        if path.suffix.lower() == ".zst":
            yield from _zstandard(path)
        else:
            with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
                while block := file.read(BLOCK):
                    yield block
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise UserError(f"{path}: damaged or cut short ({error}); pack or copy it again") from None


def _zstandard(path: Path) -> Iterator[bytes]:
    # zstandard's own stream_reader ends without a word where a frame is cut short.
    frame = None
    with path.open("rb") as file:
        while packed := file.read(1 << 20):
            while packed:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(packed)
                packed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame has no end")


def text_of(path: Path, encoding: str) -> Iterator[str]:
    """The text of a file in blocks, without a byte-order mark; line ends stay as they are.

    Raises UserError, with the byte offset (in the unpacked file), for bytes that `encoding` does not know and for NUL,
    which no text has; also for an encoding that Python does not know.
    """
    check_encoding(encoding)
    decoder, fed, first = codecs.getincrementaldecoder(encoding)(), 0, True
    for block in _with_end(content(path)):
        fed += len(block)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:
            raise UserError(f"{path}: {_fault(error, fed)} is not {encoding} text; {REMEDY}") from None
        if "\0" in text:
            after = len(decoder.getstate()[0]) + len(text[text.index("\0") :].encode(encoding))
            raise UserError(f"{path}: byte {fed - after:,} is NUL, so this is not {encoding} text; {REMEDY}")
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        if text:
            yield text


def _fault(error: UnicodeError, fed: int) -> str:
    if not isinstance(error, UnicodeDecodeError):
        return str(error)
    return f"byte {fed - len(error.object) + error.start:,} (0x{error.object[error.start]:02x})"


def _with_end(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The non-empty blocks, then an empty one."""
    yield from filter(None, blocks)
    yield b""


def check_encoding(encoding: str) -> None:
    """Raise UserError if Python knows no text encoding of that name."""
    try:
        "".encode(encoding)
        codecs.getincrementaldecoder(encoding)
    except LookupError:
        raise UserError(f"--encoding {encoding}: no such text encoding; try utf-8, cp1252 or utf-16") from None


def lines_of(texts: Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in blocks, each with its end; a line is held whole."""
    held = ""
    for text in texts:
        *whole, held = (held + text).split("\n")
        for line in whole:
            yield line + "\n"
    if held:
        yield held
