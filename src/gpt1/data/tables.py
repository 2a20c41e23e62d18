"""Rows out of csv, tsv, jsonl and parquet files, as a stream, with the line each came from; no torch.

In csv quotes enclose a field, which may hold newlines; in tsv, as that format says, quotes are text.
"""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpt1.data.files import File, content, lines_of, text_of
from gpt1.errors import UserError

ROWS_AT_ONCE = 4096
TEXT_NAMES = ("text", "sentence", "review", "content", "body", "message", "comment", "question", "document", "title")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "intent", "gold_label", "y")


@dataclass(frozen=True)
class Row:
    """One row: its columns, and where it stands."""

    file: Path
    line: int
    """line it ends at, from 1; in parquet the row's number"""
    values: dict[str, Any]

    @property
    def where(self) -> str:
        """`train.csv:12`."""
        return f"{self.file}:{self.line}"

    def text(self, column: str) -> str:
        """A column that must hold a text. Raises UserError if it holds none."""
        value = self.values.get(column)
        if not isinstance(value, str) or not value.strip():
            found = "is empty" if value is None or value == "" or isinstance(value, str) else f"holds {value!r}"
            raise UserError(f"{self.where}: column {column} {found}, where a text must stand; fill it or drop the row")
        return value

    def label(self, column: str) -> str:
        """A column that must hold a class name, as text: 1 and 1.0 and "1" are one class."""
        value = self.values.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise UserError(
                f"{self.where}: column {column} is empty, where a label must stand; fill it or drop the row"
            )
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def table(path: str | Path) -> File:
    """The file at `path`. Raises UserError if it is missing or is not a table."""
    file = File(Path(path), named=True)
    if not file.path.is_file():
        raise UserError(f"{path}: {'a folder, where a file must be given' if file.path.is_dir() else 'no such file'}")
    if file.kind == "text":
        raise UserError(f"{path}: not known as a table; name it .csv, .tsv, .jsonl or .parquet (also .gz, .zst)")
    return file


def rows(file: File) -> Iterator[Row]:
    """Every row of a table, in order. Raises UserError naming the line for a row that is none."""
    readers = {"jsonl": _jsonl, "csv": _separated, "tsv": _separated, "parquet": _parquet}
    return readers[file.kind](file)


def columns(file: File) -> list[str]:
    """The names of a table's columns, from its header or its first row. Raises UserError if it has no row."""
    first = next(rows(file), None)
    if first is None:
        raise UserError(f"{file.path}: no rows; the first line must name the columns, and rows must follow")
    return list(first.values)


def find_column(what: str, given: str | None, names: tuple[str, ...], there: list[str], file: Path) -> str:
    """The column called `given`; without one the first of the usual `names`, or the only one there is.

    Raises UserError, naming the columns that are there, if that leaves none or a choice.
    """
    if given is not None:
        if given in there:
            return given
        raise UserError(f"{file}: no column {given}; the columns are {', '.join(there)}")
    lowered = {name.lower(): name for name in reversed(there)}
    usual = [lowered[name] for name in names if name in lowered]
    if usual or len(there) == 1:
        return usual[0] if usual else there[0]
    raise UserError(f"{file}: which column is the {what}? Say --{what} with one of {', '.join(there)}")


def _jsonl(file: File) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text_of(file.path, "utf-8")), 1):
        if line.isspace():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file.path}:{number}: not JSON ({error}); a line must hold one object") from None
        if not isinstance(value, dict):
            raise UserError(f'{file.path}:{number}: not a JSON object; a line must look like {{"text": "..."}}')
        yield Row(file.path, number, value)


def _separated(file: File) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    how: dict[str, Any] = {"strict": True} if file.kind == "csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines_of(text_of(file.path, "utf-8")), **how)
    try:
        header = next((row for row in reader if row), [])
        _check_header(header, file)
        for fields in reader:
            if fields and len(fields) != len(header):
                raise UserError(
                    f"{file.path}:{reader.line_num}: {len(fields)} fields where the header names {len(header)}"
                    f"{'; a field with a comma must stand in quotes' if file.kind == 'csv' else ''}"
                )
            if fields:
                yield Row(file.path, reader.line_num, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise UserError(f"{file.path}:{reader.line_num}: not {file.kind} ({error}); check its quotes") from None


def _check_header(header: list[str], file: File) -> None:
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"{file.path}:1: two columns are called {twice!r}; rename one")
    for separator, name in (("\t", "tabs"), (";", "semicolons"), (",", "commas")):
        if len(header) == 1 and separator in header[0]:
            wanted = "commas (.csv)" if file.kind == "csv" else "tabs (.tsv)"
            raise UserError(
                f"{file.path}:1: the columns are separated by {name}, not by {wanted}; convert or rename it"
            )


def _parquet(file: File) -> Iterator[Row]:
    import polars  # loads in half a second, which only parquet should cost

    number = 0
    try:
        with _unpacked(file) as path:
            for frame in polars.scan_parquet(path).collect_batches(chunk_size=ROWS_AT_ONCE, maintain_order=True):
                for values in frame.iter_rows(named=True):
                    number += 1
                    yield Row(file.path, number, values)
    except (polars.exceptions.PolarsError, OSError) as error:
        first_line = str(error).split("\n")[0]
        raise UserError(f"{file.path}: not readable as parquet ({first_line}); copy it again") from None


@contextmanager
def _unpacked(file: File) -> Iterator[Path]:
    """Where the file lies unpacked: parquet is read at random, so a packed one goes through a temporary file."""
    if not file.packed:
        yield file.path
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "unpacked.parquet"
        with path.open("wb") as out:
            out.writelines(content(file.path))
        yield path
