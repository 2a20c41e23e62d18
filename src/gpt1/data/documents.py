"""Read documents from input files as a stream, and split them into training and validation text; no torch.

A text file is one document, or one per paragraph or line; each row of a table is one. Documents come in blocks of about
`BLOCK` characters, so memory is bounded whatever the files hold. A longer document continues over several blocks.
Blocks begin anew with each group of files, so groups can be read independently.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Literal

import numpy as np

from gpt1.console import say
from gpt1.data.files import BLOCK, File, find, text_of
from gpt1.data.tables import TableOptions, header, json_list, rows
from gpt1.errors import UserError, setting

Documents = Literal["file", "blank-line", "line"]
# Given the text of a document that continues, how much of it may go into this block; 0 waits for more text.
Cut = Callable[[str], int]
Piece = tuple[str, bool]  # a part of a document, and whether the document ends with it

BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
MAX_HELD = 2 * BLOCK  # characters after which a document without a place to cut is cut anyway, to bound memory
LARGE = 4 * BLOCK  # bytes of text from which a file is worked on block by block, not as a whole
COMPRESSION = 4  # assumed bytes of text for each byte of a compressed file or table


@dataclass(frozen=True, kw_only=True)
class ReadOptions(TableOptions):
    """How files are read as documents."""

    documents: Documents = "file"
    """what a document is in a text file"""
    text: str = "text"
    """column of the text in tables"""
    columns: tuple[str, ...] = ()
    """columns to read instead in tables that have all of them, each text as a document"""


@dataclass(frozen=True)
class TextBlock:
    """Consecutive documents. Those without any text are left out."""

    texts: list[str]
    is_open: bool
    """whether the last document continues with the first text of the next block"""
    empty: int
    """number of documents left out"""
    html: bool = False
    """whether the first text continues a document that contained "<", which `tokenizer.clean` must know"""

    @property
    def ends(self) -> int:
        """Number of documents that end in this block."""
        return len(self.texts) - self.is_open


@dataclass(frozen=True)
class FileGroup:
    """Consecutive files, read as blocks of their own: a large file, or small ones of about a block together."""

    files: list[File]
    first: int | None
    """number of the first document; None if all are validation text"""


SplitBlock = tuple[TextBlock, np.ndarray]  # a block, and which of its texts are validation text: bool (texts,)
# A part of a corpus that can be worked on by itself, in little memory: a group of small files, or a large file's block.
Portion = FileGroup | SplitBlock


# Reading


def blocks(files: Iterable[File], options: ReadOptions, cut: Cut) -> Iterator[TextBlock]:
    """Yield the documents of `files`, in order. Raises UserError, naming file and place, for anything but text."""
    return gather((piece for file in files for piece in pieces(file, options)), cut)


def gather(found: Iterable[Piece], cut: Cut) -> Iterator[TextBlock]:
    """Join pieces of documents into blocks of at least BLOCK characters, except for the last."""
    texts: list[str] = []
    held: list[str] = []
    size = empty = 0
    # Whether an earlier block has the beginning of the held document, and whether that contained "<".
    is_continued = html = False
    for text, ends in found:
        held.append(text)
        size += len(text)
        if ends:
            whole = "".join(held)
            if is_continued or not (whole.isspace() or not whole):
                texts.append(whole)
            else:
                empty += 1
            held, is_continued = [], False
        if size >= BLOCK:
            rest = "".join(held)
            at = cut(rest)
            if not at or rest[:at].isspace():  # white space alone waits: the document may turn out to be empty
                at = len(rest) if len(rest) >= MAX_HELD else 0
            if texts or at:
                block = TextBlock(texts + [rest[:at]] * (at > 0), at > 0, empty, html)
                yield block
                html = at > 0 and ("<" in block.texts[-1] or (html and len(block.texts) == 1))
                texts, empty, is_continued, rest = [], 0, is_continued or at > 0, rest[at:]
            held, size = [rest] if rest else [], len(rest)
    if texts or empty:
        yield TextBlock(texts, False, empty, html)


def at_whitespace(text: str) -> int:
    """Return where to cut if ids do not matter: before the last space or line end."""
    return max(text.rfind(" "), text.rfind("\n"), 0)


def pieces(file: File, options: ReadOptions) -> Iterator[Piece]:
    """Yield the documents of one file, in pieces."""
    if file.kind != "text":
        return ((text, True) for text in _column(file, options))
    texts = text_of(file.path, options.encoding)
    if options.documents == "file":
        return _whole(texts)
    newline = io.IncrementalNewlineDecoder(None, translate=True)
    translated = (newline.decode(text) for text in texts)
    return _paragraphs(translated) if options.documents == "blank-line" else _lines(translated)


def text_files(inputs: Iterable[str], options: ReadOptions) -> list[File]:
    """Return the files that names, folders and globs refer to.

    Tables without a text column, and JSON without rows, are left out, and named in a message, unless the user named
    them. Raises UserError for an input that refers to no file.
    """
    kept = []
    for file in find(inputs):
        try:
            if file.named or has_text(file, options):
                kept.append(file)
            else:
                choose = f"choose another with {setting('text')}"
                say(f"{file.path}: left out, it has no column {options.text}; {choose}")
        except UserError as error:
            if file.kind != "json":
                raise
            say(f"{error.args[0]}; left out")
    return kept


def has_text(file: File, options: ReadOptions) -> bool:
    """Return whether a file has the text column; True for text and jsonl."""
    return file.kind in ("text", "jsonl") or options.text in header(file, options) or _has_columns(file, options)


def _has_columns(file: File, options: ReadOptions) -> bool:
    """Return whether a table has the columns that are read instead of the text column."""
    return bool(options.columns) and set(options.columns) <= set(header(file, options))


def _whole(texts: Iterable[str]) -> Iterator[Piece]:
    for text in texts:
        yield text, False
    yield "", True


def _lines(texts: Iterable[str]) -> Iterator[Piece]:
    is_begun = False
    for text in texts:
        *whole, last = text.split("\n")
        yield from ((line, True) for line in whole)
        is_begun = bool(last) or (is_begun and not whole)
        yield last, False
    if is_begun:
        yield "", True


def _paragraphs(texts: Iterable[str]) -> Iterator[Piece]:
    held, is_begun = "", False
    for text in texts:
        held += text
        # White space at the end may be the beginning of a blank line, so it waits for more text.
        certain = len(held.rstrip())
        *whole, last = BLANK_LINES.split(held[:certain])
        for paragraph in whole:
            if is_begun or paragraph:
                yield paragraph, True
            is_begun = False
        yield last, False
        held, is_begun = held[certain:], is_begun or bool(last)
    if is_begun:
        yield "", True


def _column(file: File, options: ReadOptions) -> Iterator[str]:
    """Yield the text of each row of a table, or of each of its columns; null is an empty text."""
    names = options.columns if _has_columns(file, options) else (options.text,)
    what = "field" if file.is_json else "column"

    def missing(name: str, there: Iterable[str]) -> str:
        if not (found := ", ".join(map(str, there))):
            return f"no {what} {name}; it has none"
        as_labelled = f"rename it as in the labelled rows, {', '.join(options.columns)}"
        remedy = as_labelled if options.columns else f"choose one with {setting('text')}"
        return f"no {what} {name}; it has {found}: {remedy}"

    if not has_text(file, options):
        raise UserError(f"{file.path}: {missing(options.text, header(file, options))}")
    for row in rows(file, options, only=names):
        for name in names:
            if name not in row.values:
                raise UserError(f"{row.where}: {missing(name, row.values)}")
            text = row.values[name]
            if options.columns and (listed := json_list(text, str)) is not None:  # the turns of a dialogue
                text = "\n".join(listed)
            if not isinstance(text, str | None):
                raise UserError(f"{row.where}: the {what} {name} holds {repr(text)[:40]}, not a text")
            yield text or ""


# Splitting


@dataclass(frozen=True)
class Survey:
    """What a first pass over the training files found."""

    documents: int
    empty: int
    """documents without text"""
    characters: int
    bytes: int
    """size as UTF-8"""
    limit: float
    """documents whose hash is below it are validation text"""
    chosen: int
    """number of those documents"""
    firsts: tuple[int, ...]
    """number of the first document of each group of files"""


@dataclass(frozen=True)
class Corpus:
    """Training and validation documents, which can be read any number of times.

    Without validation files, a seeded hash of a document's number, in [0, 1), assigns it to validation if it is below
    `val_fraction`; at least one document is assigned. A single document is cut: its last `val_fraction` is validation.
    """

    train: list[File]
    val: list[File]
    options: ReadOptions
    val_fraction: float
    seed: int

    @cached_property
    def survey(self) -> Survey:
        """The sizes of the corpus, from a first pass over all files, and which documents are validation text.

        Raises UserError for files that are not text, and if one of the two splits would be empty.
        """
        train, val = (
            survey(map(self._blocks, groups(files)), self.val_fraction, self.seed) for files in (self.train, self.val)
        )
        for files, found in ((self.train, train), (self.val, val)):
            if files and not found.documents:
                more = f" and {len(files) - 1} more" if len(files) > 1 else ""
                raise UserError(f"{files[0].path}{more}: no text, {found.empty} empty documents; give files with text")
        if not self.val:
            self._check_split(train)
        characters, size = train.characters + val.characters, train.bytes + val.bytes
        return replace(train, empty=train.empty + val.empty, characters=characters, bytes=size)

    def portions(self, cut: Cut = at_whitespace) -> Iterator[Portion]:
        """Yield the corpus in portions, in order; `cut` divides long documents."""
        if not self.val and self.survey.documents == 1:
            yield from _split_document(self._blocks(self.train, cut), self._train_characters(self.survey))
            return
        train = zip(groups(self.train), self.survey.firsts, strict=True)
        for files, first in chain(train, ((files, None) for files in groups(self.val))):
            # Absolute paths, since it may be read in another process.
            group = FileGroup([replace(file, path=file.path.absolute()) for file in files], first)
            if sum(map(_text_size, files)) < LARGE:
                yield group
            else:
                yield from self.split_blocks(group, cut)

    def split_blocks(self, portion: Portion, cut: Cut = at_whitespace) -> Iterator[SplitBlock]:
        """Yield the blocks of a portion, each text assigned to training or validation."""
        if not isinstance(portion, FileGroup):
            yield portion
            return
        first = portion.first
        for block in self._blocks(portion.files, cut):
            if first is None or self.val:
                yield block, np.full(len(block.texts), first is None)
            else:
                yield block, document_hash(self.seed, first, len(block.texts)) < self.survey.limit
                first += block.ends

    def _blocks(self, files: list[File], cut: Cut = at_whitespace) -> Iterator[TextBlock]:
        return blocks(files, self.options, cut)

    def _train_characters(self, found: Survey) -> int:
        """Return how much of a single document is training text."""
        return int((1 - self.val_fraction) * found.characters)

    def _check_split(self, found: Survey) -> None:
        """Raise UserError if training or validation would be empty."""
        if found.documents > 1 and found.chosen == found.documents:
            raise UserError(
                f"all {found.documents} documents were assigned to validation; lower {setting('val_fraction')} or "
                f"change {setting('seed')}"
            )
        too_small = self.val_fraction * found.characters < 1 or self._train_characters(found) < 1
        if found.documents == 1 and too_small:
            raise UserError(
                f"one document of {found.characters} characters is too small to keep {self.val_fraction:g} of it for "
                f"validation; add text, raise {setting('val_fraction')}, or name files with {setting('val')}"
            )


def survey(groups: Iterable[Iterable[TextBlock]], val_fraction: float, seed: int) -> Survey:
    """Read all groups, count, and assign `val_fraction` of the documents, and at least one, to validation."""
    documents = empty = characters = size = chosen = 0
    smallest, firsts = math.inf, []
    for blocks in groups:
        firsts.append(documents)
        for block in blocks:
            hashes = document_hash(seed, documents, block.ends)
            smallest = min(smallest, hashes.min(initial=math.inf))
            chosen += int((hashes < val_fraction).sum())
            documents, empty = documents + block.ends, empty + block.empty
            characters += sum(map(len, block.texts))
            size += sum(map(utf8_size, block.texts))
    limit = val_fraction if chosen else math.nextafter(smallest, math.inf)
    return Survey(documents, empty, characters, size, limit, max(1, chosen), tuple(firsts))


def groups(files: Iterable[File]) -> Iterator[list[File]]:
    """Yield consecutive files that hold about a block of text together; a large file comes alone."""
    group: list[File] = []
    size = 0
    for file in files:
        more = _text_size(file)
        if group and (more >= LARGE or size >= BLOCK):
            yield group
            group, size = [], 0
        group.append(file)
        size += more
    if group:
        yield group


def _text_size(file: File) -> int:
    """Return about how many bytes of text a file holds."""
    is_compressed = file.compressed or file.kind in ("parquet", "arrow", "xlsx")
    return file.path.stat().st_size * (COMPRESSION if is_compressed else 1)


def _split_document(blocks: Iterable[TextBlock], left: int) -> Iterator[SplitBlock]:
    """Cut the only document once: its first `left` characters are a training document, the rest is for validation."""
    for block in blocks:
        text = "".join(block.texts)
        if 0 < left < len(text):
            html = block.html or "<" in text[:left]
            yield replace(block, texts=[text[:left]], is_open=False), np.array([False])
            yield replace(block, texts=[text[left:]], empty=0, html=html), np.array([True])
        elif left == len(text):
            yield replace(block, is_open=False), np.array([False])
        else:
            yield block, np.full(len(block.texts), left <= 0)
        left -= len(text)


def document_hash(seed: int, first: int, count: int) -> np.ndarray:
    """Return a hash in [0, 1) of each of the documents first .. first + count - 1: float64 (count,).

    SplitMix64 (Steele, Lea and Flood 2014) of the document's number, from a start that the seed chooses.
    """
    with np.errstate(over="ignore"):
        start = _mix(np.array([seed % 2**64], np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        numbers = np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)
        return (_mix(start + numbers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def utf8_size(text: str) -> int:
    """Return the size of `text` in bytes as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
