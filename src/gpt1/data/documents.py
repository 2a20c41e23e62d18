"""Documents out of input files, as a stream: memory is bounded whatever the files hold; no torch.

A text file is one document, or one for each paragraph or line; a row of a table is one. Documents come in blocks of
about `BLOCK` characters. One that is longer goes on over several blocks, cut where `Cut` says.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from gpt1.data.files import BLOCK, File, text_of
from gpt1.data.tables import header, rows
from gpt1.errors import UserError

Documents = Literal["file", "blank-line", "line"]
Cut = Callable[[str], int]
"""Given the text of a document that goes on: how much of it may go into this block. 0 waits for more."""
Piece = tuple[str, bool]
"""A part of a document, and whether the document ends with it."""

BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
LONGEST_HELD = 2 * BLOCK
"""Characters after which a document that has no place to cut is cut where it stands, to keep memory bounded."""


@dataclass(frozen=True)
class Block:
    """Consecutive documents. Those without any text are left out."""

    texts: list[str]
    goes_on: bool
    """the last text is not the end of its document: the next block's first text is its continuation"""
    empty: int
    """documents that were left out"""
    html: bool = False
    """the first text continues a document that held "<" before, which `repair` must know"""

    @property
    def ends(self) -> int:
        """How many documents end here."""
        return len(self.texts) - self.goes_on


@dataclass(frozen=True)
class Reading:
    """How files become documents."""

    documents: Documents = "file"
    text: str = "text"
    """column of the text in tables"""
    encoding: str = "utf-8"


def blocks(files: Iterable[File], reading: Reading, cut: Cut) -> Iterator[Block]:
    """The documents of `files`, in order. Raises UserError, naming file and place, for anything that is not text."""
    return gather((piece for file in files for piece in pieces(file, reading)), cut)


def gather(found: Iterable[Piece], cut: Cut) -> Iterator[Block]:
    """Pieces of documents -> blocks of at least BLOCK characters, but the last."""
    texts: list[str] = []
    held: list[str] = []
    size = empty = 0
    going_on = html = False  # the document in `held` has its beginning in an earlier block; "<" in it
    for text, ends in found:
        held.append(text)
        size += len(text)
        if ends:
            whole = "".join(held)
            if going_on or not (whole.isspace() or not whole):
                texts.append(whole)
            else:
                empty += 1
            held, going_on = [], False
        if size >= BLOCK:
            rest = "".join(held)
            at = _cut(rest, cut)
            if texts or at:
                block = Block(texts + [rest[:at]] * (at > 0), at > 0, empty, html)
                yield block
                html = at > 0 and ("<" in block.texts[-1] or (html and len(block.texts) == 1))
                texts, empty, going_on, rest = [], 0, going_on or at > 0, rest[at:]
            held, size = [rest] if rest else [], len(rest)
    if texts or empty:
        yield Block(texts, False, empty, html)


def _cut(text: str, cut: Cut) -> int:
    """Nothing goes into a block before the document has shown some text: it may yet turn out empty."""
    at = cut(text)
    if at and not text[:at].isspace():
        return at
    return len(text) if len(text) >= LONGEST_HELD else 0


def at_whitespace(text: str) -> int:
    """A `Cut` for when any word border will do: before the last space or line end."""
    return max(text.rfind(" "), text.rfind("\n"), 0)


def pieces(file: File, reading: Reading) -> Iterator[Piece]:
    """The documents of one file."""
    if file.kind != "text":
        return ((text, True) for text in _column(file, reading))
    texts = text_of(file.path, reading.encoding)
    if reading.documents == "file":
        return _whole(texts)
    newline = io.IncrementalNewlineDecoder(None, translate=True)
    translated = (newline.decode(text) for text in texts)
    return _paragraphs(translated) if reading.documents == "blank-line" else _lines(translated)


def has_column(file: File, reading: Reading) -> bool:
    """Whether a table has the text's column; true of text and jsonl."""
    return file.kind in ("text", "jsonl") or reading.text in header(file, reading.encoding)


def _whole(texts: Iterable[str]) -> Iterator[Piece]:
    for text in texts:
        yield text, False
    yield "", True


def _lines(texts: Iterable[str]) -> Iterator[Piece]:
    begun = False
    for text in texts:
        *whole, last = text.split("\n")
        yield from ((line, True) for line in whole)
        begun = bool(last) or (begun and not whole)
        yield last, False
    if begun:
        yield "", True


def _paragraphs(texts: Iterable[str]) -> Iterator[Piece]:
    """Documents are what stands between blank lines; blank lines are not documents, however many."""
    held, begun = "", False
    for text in texts:
        held += text
        # White space at the end may be the beginning of a blank line.
        certain = len(held.rstrip())
        *whole, last = BLANK_LINES.split(held[:certain])
        for paragraph in whole:
            if begun or paragraph:
                yield paragraph, True
            begun = False
        yield last, False
        held, begun = held[certain:], begun or bool(last)
    if begun:
        yield "", True


def _column(file: File, reading: Reading) -> Iterator[str]:
    """The text of each row of a table; null is an empty text."""
    name, what = reading.text, "field" if file.kind == "jsonl" else "column"
    if not has_column(file, reading):
        raise UserError(f"{file.path}: {_no_column(what, name, header(file, reading.encoding))}")
    for row in rows(file, reading.encoding, only=[name]):
        if name not in row.values:
            raise UserError(f"{row.where}: {_no_column(what, name, row.values)}")
        text = row.values[name]
        if not isinstance(text, str | None):
            raise UserError(f"{row.where}: the {what} {name} holds {repr(text)[:40]}, not a text")
        yield text or ""


def _no_column(what: str, name: str, there: Iterable[str]) -> str:
    return f"no {what} {name}; it has {', '.join(map(str, there)) or 'none'}: choose one with --text"
