"""Documents out of input files, as a stream: memory is bounded whatever the files hold; no torch.

A text file is one document, or one for each paragraph or line; a row of a table is one. Documents come in blocks of
about `BLOCK` characters. One that is longer goes on over several blocks, cut where `Cut` says.
"""

import csv
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpt1.data.files import BLOCK, File, content, lines_of, text_of
from gpt1.errors import UserError

Documents = Literal["file", "blank-line", "line"]
Cut = Callable[[str], int]
"""Given the text of a document that goes on: how much of it may go into this block. 0 waits for more."""
Piece = tuple[str, bool]
"""A part of a document, and whether the document ends with it."""

BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
LONGEST_HELD = 8 * BLOCK
"""Characters after which a document that has no place to cut is cut where it stands, to keep memory bounded."""
ROWS = 4096
"""Rows of a parquet file decoded at a time."""


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
    kind, path = file.kind, file.path
    if kind == "jsonl":
        return ((text, True) for text in _jsonl(path, reading))
    if kind in ("csv", "tsv"):
        return ((text, True) for text in _csv(path, reading, kind))
    if kind == "parquet":
        return ((text, True) for text in _parquet(file, reading))
    texts = text_of(path, reading.encoding)
    if reading.documents == "file":
        return _whole(texts)
    newline = io.IncrementalNewlineDecoder(None, translate=True)
    translated = (newline.decode(text) for text in texts)
    return _paragraphs(translated) if reading.documents == "blank-line" else _lines(translated)


def has_column(file: File, reading: Reading) -> bool:
    """Whether a table has the text's column; true of anything but csv, tsv and parquet."""
    if file.kind in ("csv", "tsv"):
        return reading.text in next(_rows(file.path, reading, file.kind), (0, []))[1]
    if file.kind == "parquet":
        with _unpacked(file) as path:
            return reading.text in _schema(path, file.path)
    return True


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


def _jsonl(path: Path, reading: Reading) -> Iterator[str]:
    for number, line in enumerate(lines_of(text_of(path, reading.encoding)), 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON ({error}); a line must hold one object") from None
        if not isinstance(row, dict):
            raise UserError(f'{path}:{number}: not a JSON object; a line must look like {{"{reading.text}": "..."}}')
        if reading.text not in row:
            raise UserError(f"{path}:{number}: {_no_column('field', reading.text, row)}")
        text = row[reading.text]
        if not isinstance(text, str | None):
            raise UserError(f"{path}:{number}: the field {reading.text} holds {json.dumps(text)[:40]}, not a text")
        yield _well_formed(text or "")


def _well_formed(text: str) -> str:
    """JSON can escape half a surrogate pair, which no encoding can: it becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _csv(path: Path, reading: Reading, kind: str) -> Iterator[str]:
    rows = _rows(path, reading, kind)
    _, header = next(rows, (0, []))
    if reading.text not in header:
        raise UserError(f"{path}: {_no_column('column', reading.text, header)}")
    column = header.index(reading.text)
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}:{number}: {len(row)} fields where the header has {len(header)}")
        yield row[column]


def _rows(path: Path, reading: Reading, kind: str) -> Iterator[tuple[int, list[str]]]:
    """The line number and fields of each row. In csv quotes enclose; in tsv, as that format says, they are text."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = lines_of(text_of(path, reading.encoding))
    how: dict[str, Any] = {"strict": True} if kind == "csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, **how)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not {kind} ({error}); check its quotes") from None


def _parquet(file: File, reading: Reading) -> Iterator[str]:
    import polars  # loads in half a second, which only tables should cost

    with _unpacked(file) as path:
        schema = _schema(path, file.path)
        if reading.text not in schema:
            raise UserError(f"{file.path}: {_no_column('column', reading.text, schema)}")
        if schema[reading.text] != polars.String:
            raise UserError(f"{file.path}: the column {reading.text} holds {schema[reading.text]}, not text")
        column = polars.scan_parquet(path).select(polars.col(reading.text).fill_null(""))
        try:
            for rows in column.collect_batches(chunk_size=ROWS, maintain_order=True):
                yield from rows[reading.text].to_list()
        except polars.exceptions.PolarsError as error:
            raise UserError(f"{file.path}: damaged ({_first_line(error)}); copy it again") from None


def _schema(path: Path, name: Path) -> dict[str, Any]:
    import polars

    try:
        return dict(polars.read_parquet_schema(path))
    except (polars.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{name}: not readable as parquet ({_first_line(error)})") from None


@contextmanager
def _unpacked(file: File) -> Iterator[Path]:
    """Where the file lies unpacked: parquet is read at random, so a packed one goes through a temporary file."""
    if not file.packed:
        yield file.path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unpacked.parquet"
        with path.open("wb") as out:
            out.writelines(content(file.path))
        yield path


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def _no_column(what: str, name: str, there: Iterable[str]) -> str:
    return f"no {what} {name}; it has {', '.join(map(str, there)) or 'none'}: choose one with --text"
