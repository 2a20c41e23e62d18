"""Find input files, and read their bytes or text as a stream; no torch.

A dataset that Hugging Face's `datasets` saved to disk is a folder: `state.json` lists its Arrow files, and
`dataset_info.json` describes its columns. A dataset of several splits is a folder of such folders, with
`dataset_dict.json` in it.
"""

import codecs
import glob
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from gpt1.console import say
from gpt1.errors import UserError, setting
from gpt1.tokenizer.tokenizer import replace_surrogates

BLOCK = 8 << 20  # bytes, or characters, that are processed at a time
MAGIC = {".gz": b"\x1f\x8b", ".zst": b"(\xb5/\xfd"}
COMPRESSED = tuple(MAGIC)
ZSTANDARD_WINDOW = 1 << 31  # bytes: that of `zstd --ultra --long=31`, the largest; the default is an eighth of a GiB
OTHER_ENDINGS = (".txt", ".md", ".xls", ".xlsb", ".ods", ".docx", ".pdf", ".zip")  # of files that are not tables
KINDS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".arrow": "arrow", ".xlsx": "xlsx", ".xlsm": "xlsx",
}  # fmt: skip
# What files that hold neither text nor rows begin with, and what to do with them.
SIGNATURES = {
    b"%PDF-": "a PDF document; extract its text, or leave it out",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\xd0\xcf\x11\xe0": "a document of an old Office program; save it as text or csv",
    b"PAR1\x15": "parquet; name it .parquet",
    b"ARROW1": "an Arrow file (feather); save the table as parquet",
    b"\x1f\x8b": "compressed by gzip; name it .gz",
    b"(\xb5/\xfd": "compressed by zstandard; name it .zst",
    b"BZh9": "compressed by bzip2; unpack it",
    b"\xfd7zXZ\0": "compressed by xz; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!\x1a": "a RAR archive; unpack it",
    b"SQLite format 3\0": "a SQLite database; export the table as csv",
    b"\x80\x04\x95": "a Python pickle; save the table as parquet or csv",
    b"\x80\x05\x95": "a Python pickle; save the table as parquet or csv",
    b"\x89HDF": "an HDF5 file; save the table as parquet or csv",
    b"\x89PNG": "an image; leave it out",
    b"\xff\xd8\xff": "an image; leave it out",
}
# Zip archives that are documents, by the name of a file in them; documents of old Office programs, by that of a part.
OFFICE = {
    b"xl/workbook.bin": "a binary Excel workbook; save it as .xlsx, or the sheet as csv (CSV UTF-8)",
    b"xl/work": "an Excel workbook; name it .xlsx, or save the sheet as csv (CSV UTF-8)",
    b"word/document.xml": "a Word document; save it as text (UTF-8)",
    b"opendocument": "an OpenDocument file; save it as text or csv (UTF-8)",
}
OLD_OFFICE = {
    "EncryptedPackage": "an Office document with a password; save it without one",
    "Workbook": "an old Excel workbook (.xls); save it as .xlsx, or the sheet as csv (CSV UTF-8)",
    "WordDocument": "an old Word document (.doc); save it as text (UTF-8)",
}
TAR_AT, TAR = 257, b"ustar"
ASCII = bytes(range(128))
TEXT_CONTROLS = b"\t\n\x0b\x0c\r\x1a\x1b"  # also Ctrl-Z, which ends old DOS files, and the escape of terminals
# Byte-order marks and their encodings. That of utf-32-le begins with that of utf-16-le, so it comes first.
BOMS = {
    codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
TRAIN, VALIDATION = "train", ("validation", "valid", "val", "dev")  # common names of splits


@dataclass(frozen=True)
class File:
    """One input file, or the folder of a saved dataset."""

    path: Path
    named: bool
    """whether the user named the file itself, not a folder that holds it"""

    @property
    def kind(self) -> str:
        """json, jsonl, csv, tsv, parquet, xlsx, arrow (also for a dataset's folder), or text."""
        if is_dataset(self.path):
            return "arrow"
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        if suffixes and suffixes[-1] in COMPRESSED:
            suffixes.pop()
        return KINDS.get(suffixes[-1], "text") if suffixes else "text"

    @property
    def is_json(self) -> bool:
        """Whether it holds rows of JSON, one object a line or an array of objects."""
        return self.kind in ("json", "jsonl")

    @property
    def compressed(self) -> bool:
        return self.path.suffix.lower() in COMPRESSED


def is_path(given: str) -> bool:
    """Return whether an argument that may be a path or a text is a path, whether or not it exists.

    A path exists, has a file ending, or contains a path separator and no blank: `no/such/rows`, not `either / or`.
    """
    with suppress(OSError, ValueError):  # a text may be too long for a path, or contain NUL
        if Path(given).exists():
            return True
    name = given.lower()
    is_path_like = any(mark and mark in name for mark in (os.sep, os.altsep)) and len(given.split()) == 1
    return is_path_like or name.endswith((*KINDS, *COMPRESSED, *OTHER_ENDINGS))


def find(inputs: Iterable[str]) -> list[File]:
    """Return the files that names, folders and globs refer to, each once.

    Folders are searched in sorted order, without hidden files; a saved dataset stands for its Arrow files. Raises
    UserError for an input that refers to no file, and for a pipe.
    """
    found: dict[Path, File] = {}
    for given in inputs:
        files = [file for name in matches(given) for file in _files_under(Path(name))]
        if not files:
            raise UserError(f"{given}: an empty folder; give one with text files in it")
        for file in files:
            key = file.path.resolve()
            found[key] = file if file.named else found.get(key, file)
    return list(found.values())


def matches(given: str) -> list[str]:
    """Return the paths that a name or a glob refers to. Raises UserError if nothing matches."""
    names = [given] if Path(given).exists() else sorted(glob.glob(given, recursive=True))  # noqa: PTH207
    if not names:
        raise UserError(f"{given}: {'no file matches' if glob.has_magic(given) else 'no such file or folder'}")
    return names


def _files_under(path: Path) -> list[File]:
    if path.is_fifo():
        raise UserError(f"{path}: a pipe, which can be read only once; write its content to a file")
    if not path.is_dir():
        return [File(path, named=True)]
    check_single_split(path)
    if _is_one_split(path):
        return [File(part, named=True) for part in dataset_files(path)]
    found = []
    for one in sorted(_visible_files(path)):
        if one.name == SPLITS:
            continue
        if not _is_one_split(one.parent):
            found.append(one)
        elif one.name == STATE:  # which stands for all files beside it
            found += dataset_files(one.parent)
    return [File(one, named=False) for one in found]


def _visible_files(path: Path) -> Iterator[Path]:
    """Yield the files in a folder and in the folders in it. Raises OSError for a folder that cannot be read.

    Path.rglob would leave such a folder out without a word.
    """

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(path, onerror=fail):
        folders[:] = [name for name in folders if name[0] != "."]
        for link in filter(Path.is_symlink, (Path(folder, name) for name in folders)):
            say(f"{link}: skipped, as it is a link to a folder; name it to read it")
        yield from (file for name in names if name[0] != "." and (file := Path(folder, name)).is_file())


# Content


def content(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks, decompressed. Raises UserError for a .gz or .zst that is damaged."""
    try:
        if path.suffix.lower() == ".zst":
            yield from _decompress_zstandard(path)
        else:
            with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
                while block := file.read(BLOCK):
                    yield block
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        with path.open("rb") as file:
            head = file.read(BLOCK)
        if head and not head.startswith(MAGIC[path.suffix.lower()]):
            what = identify_binary(head) or f"not compressed, though it is named {path.suffix}; rename it"
        else:
            what = f"damaged or truncated ({error}); compress or copy it again"
        raise UserError(f"{path}: {what}") from None


def _decompress_zstandard(path: Path) -> Iterator[bytes]:
    # Not zstandard's own stream_reader, which does not notice that a frame is truncated.
    frame = None
    with path.open("rb") as file:
        while compressed := file.read(1 << 20):
            while compressed:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=ZSTANDARD_WINDOW).decompressobj()
                yield frame.decompress(compressed)
                compressed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame has no end")


def text_of(path: Path, encoding: str) -> Iterator[str]:
    """Yield the text of a file in blocks, without a byte-order mark and with its line ends.

    Where `encoding` is UTF-8, a byte-order mark of UTF-16 or UTF-32, which is not valid UTF-8, takes precedence. Raises
    UserError for an unknown encoding, for a known binary format, and, with the line and the offset in the decompressed
    file, for bytes that are not `encoding` and for NUL, which text does not contain.
    """
    check_encoding(encoding)
    blocks = filter(None, content(path))
    block = next(blocks, b"")
    if other := identify_binary(block):
        raise UserError(f"{path}: {other}")
    if codecs.lookup(encoding).name == "utf-8":
        encoding = next((name for mark, name in BOMS.items() if block.startswith(mark)), encoding)
    decoder, fed, line, first = codecs.getincrementaldecoder(encoding)(), 0, 1, True
    while True:
        fed += len(block)
        before = decoder.getstate()
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:
            if isinstance(error, UnicodeDecodeError):
                decoder.setstate(before)
                line += decoder.decode(block[: max(0, error.start - len(before[0]))]).count("\n")
            what = f"{_place(error, fed)} is not {encoding} text"
            raise UserError(f"{path}:{line}: {what}; {_encoding_advice(block, encoding)}") from None
        if "\0" in text:
            start = text.index("\0")
            line += text.count("\n", 0, start)
            after = len(decoder.getstate()[0]) + len(text[start:].encode(encoding))
            what = f"byte {fed - after:,} is NUL, so this is not {encoding} text"
            raise UserError(f"{path}:{line}: {what}; {_encoding_advice(block, encoding)}")
        line += text.count("\n")
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        if text:
            yield replace_surrogates(text)  # which utf-7 and unicode_escape, for example, can encode
        if not block:
            return
        block = next(blocks, b"")


def identify_binary(head: bytes) -> str:
    """Return what a file is, by its first bytes, and what to do with it; an empty string if it may be text."""
    if head.startswith(b"PK\x03\x04"):
        for name, what in OFFICE.items():
            if name in head:
                return what
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        for part, what in OLD_OFFICE.items():
            if part.encode("utf-16-le") in head:
                return what
    if head.startswith(TAR, TAR_AT) and b"\0" in head[:TAR_AT]:
        return "a tar archive; unpack it"
    return next((what for signature, what in SIGNATURES.items() if head.startswith(signature)), "")


def _encoding_advice(block: bytes, encoding: str) -> str:
    """Return what to do about a block that is not text in `encoding`."""
    if block.startswith(tuple(mark for mark, name in BOMS.items() if name == encoding)):
        return "the file is damaged; save or copy it again"
    above_ascii = len(block.translate(None, ASCII))
    controls = sum(map(block.count, set(range(32)) - set(TEXT_CONTROLS)))
    zeros, odd_zeros = block.count(0), block[1::2].count(0)
    advice = f"give the file's encoding with {setting('encoding')}, such as cp1251 or shift_jis"
    if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        advice = f"give {setting('encoding')} utf-16"
    elif 50 * zeros > len(block) and 10 * max(odd_zeros, zeros - odd_zeros) > 9 * zeros:
        # The upper half of spaces, commas and line ends, in any script.
        advice = f"give {setting('encoding')} utf-16-{'le' if 2 * odd_zeros > zeros else 'be'}"
    elif 50 * controls > len(block):
        return "it holds binary data; leave it out"
    elif 8 * above_ascii < len(block) and block.decode("utf-8", "ignore").isascii():
        # Few bytes above ASCII, as in Latin scripts, and none of them UTF-8, as they would be in a damaged file.
        with suppress(UnicodeDecodeError):
            block.decode("cp1252")
            advice = f"try {setting('encoding')} cp1252"
    return f"{advice}, or leave the file out"


def _place(error: UnicodeError, fed: int) -> str:
    if not isinstance(error, UnicodeDecodeError):
        return str(error)
    return f"byte {fed - len(error.object) + error.start:,} (0x{error.object[error.start]:02x})"


def check_encoding(encoding: str) -> None:
    """Raise UserError if Python has no text encoding of that name."""
    try:
        "".encode(encoding)
        codecs.getincrementaldecoder(encoding)
    except LookupError:
        known = "no such text encoding; try utf-8, cp1252 or utf-16"
        raise UserError(f"{setting('encoding')} {encoding}: {known}") from None


def lines_of(texts: Iterable[str]) -> Iterator[str]:
    """Yield the lines, each with its end, of a text that comes in blocks. Memory holds a whole line."""
    held = ""
    for text in texts:
        *whole, held = (held + text).split("\n")
        for line in whole:
            yield line + "\n"
    if held:
        yield held


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hex digits; for a saved dataset, that of its rows and column descriptions."""
    if path.is_dir():
        files = [*dataset_files(path), *(file for file in [path / INFO] if file.exists())]
        return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Saved datasets


def is_dataset(path: Path) -> bool:
    """Return whether `path` is the folder of a saved dataset, of one split or of several."""
    return _is_one_split(path) or (path / SPLITS).is_file()


def _is_one_split(path: Path) -> bool:
    """Return whether a folder was saved as one split; other programs call their files state.json too."""
    return (path / STATE).is_file() and ((path / INFO).is_file() or any(path.glob("*.arrow")))


def dataset_splits(path: Path) -> list[str]:
    """Return the names of a dataset's splits; none if it is not one of several. Raises UserError if it is damaged."""
    return [str(name) for name in read_key(path / SPLITS, "splits", list)] if (path / SPLITS).is_file() else []


def check_single_split(path: Path) -> None:
    """Raise UserError, naming the splits, if `path` is a dataset of several."""
    if names := dataset_splits(path):
        raise _several_splits(path, names)


def choose_splits(path: str, validate: bool) -> tuple[str, str | None]:
    """Return the folders of the splits to train on and, if there is one and `validate`, to validate on.

    Prints the choice. Anything but a dataset of several splits is returned as it is, with None. Raises UserError if no
    split is called train.
    """
    names = dataset_splits(Path(path))
    if not names:
        return path, None
    if TRAIN not in names:
        raise _several_splits(Path(path), names)
    chosen = next((name for name in VALIDATION if name in names), None) if validate else None
    train, validation = str(Path(path) / TRAIN), None if chosen is None else str(Path(path) / chosen)
    say(f"{path}: training on {train}" + (f", validating on {validation}" if validation else ""))
    return train, validation


def _several_splits(path: Path, names: list[str]) -> UserError:
    example = f", such as {path / names[0]}" if names else ""
    return UserError(f"{path}: a dataset of {len(names)} splits ({', '.join(names)}); name the folder of one{example}")


def dataset_files(path: Path) -> list[Path]:
    """Return a dataset folder's Arrow files in order, or an Arrow file itself. Raises UserError if one is missing."""
    if not path.is_dir():
        return [path]
    try:
        found = [path / entry["filename"] for entry in read_key(path / STATE, "_data_files", list)]
    except (TypeError, KeyError):
        raise UserError(f"{path / STATE}: damaged, its _data_files name no files; save the dataset again") from None
    for part in found:
        if not part.is_file():
            raise UserError(f"{part}: missing, though {STATE} names it; copy the whole folder again")
    return found


def read_key(path: Path, key: str, kind: type) -> Any:
    """Return the value, of type `kind`, that a JSON file of a dataset has under `key`. Raises UserError otherwise."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))[key]
    except FileNotFoundError:
        raise UserError(f"{path}: missing; save the dataset again") from None
    except (ValueError, KeyError, TypeError):
        value = None
    if not isinstance(value, kind):
        raise UserError(f"{path}: damaged, it holds no {key}; save the dataset again")
    return value
