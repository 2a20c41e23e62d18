"""Rows out of csv, tsv, jsonl, parquet and saved datasets, as a stream, with the line each came from; no torch.

In csv quotes enclose a field, which may hold newlines; in tsv, as that format says, quotes are text.
"""

import csv
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpt1.data.datasets import frames, is_dataset, namings, several, splits
from gpt1.data.files import File, content, lines_of, text_of
from gpt1.errors import UserError
from gpt1.tokenizer.tokenizer import valid

ROWS_AT_ONCE = 4096
LARGEST = 1e30
"""of a number: the squares of larger ones are none in float64, and the model counts in float32"""


@dataclass(frozen=True)
class Row:
    """One row: its columns, and where it stands."""

    file: Path
    line: int
    """line it ends at, from 1; in parquet and datasets the row's number"""
    values: dict[str, Any]

    @property
    def where(self) -> str:
        """`train.csv:12`."""
        return f"{self.file}:{self.line}"

    def text(self, column: str) -> str:
        """A column that must hold a text. Raises UserError if it holds none."""
        value = self._value(column, "a text")
        if isinstance(value, str):
            return value
        raise UserError(f"{self.where}: column {column} holds {_short(value)}, where a text must stand")

    def label(self, column: str) -> str:
        """A column that must hold a class name, as text: 1 and 1.0 and "1" are one class."""
        value = self._value(column, "a label")
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, str | int | float):
            return str(value)
        raise UserError(f"{self.where}: column {column} holds {_short(value)}, where one label must stand")

    def number(self, column: str) -> float:
        """A column that must hold a finite number. Raises UserError if it holds none."""
        value = self._value(column, "a number")
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if abs(number) <= LARGEST:
            return number
        wanted = f"a number of at most {LARGEST:g}" if math.isfinite(number) else "a number"
        raise UserError(f"{self.where}: column {column} holds {_short(value)}, where {wanted} must stand")

    def _value(self, column: str, wanted: str) -> Any:
        value = self.values.get(column)
        nothing = value is None or (isinstance(value, str) and not value.strip())
        if nothing or (isinstance(value, float) and math.isnan(value)):
            found = "is empty" if column in self.values else "is missing"
            raise UserError(
                f"{self.where}: column {column} {found}, where {wanted} must stand; fill it or drop the row"
            )
        return value


def table(path: str | Path) -> File:
    """The file, or folder of a saved dataset, at `path`. Raises UserError if it is missing or is not a table."""
    file = File(Path(path), named=True)
    if splits(file.path):
        raise several(file.path)
    if not file.path.is_file() and not is_dataset(file.path):
        folder = "a folder, but not of a dataset that save_to_disk wrote; give a file or such a folder"
        there = splits(file.path.parent)
        missing = "no such file" + (f"; {file.path.parent} has the splits {', '.join(there)}" if there else "")
        raise UserError(f"{path}: {folder if file.path.is_dir() else missing}")
    if file.kind == "text":
        raise UserError(f"{path}: not known as a table; name it .csv, .tsv, .jsonl or .parquet (also .gz, .zst)")
    return file


def rows(file: File, encoding: str = "utf-8", only: Sequence[str] = ()) -> Iterator[Row]:
    """Every row of a table, in order; `only` names the columns, if not all, that the caller will look at.

    Raises UserError naming the line for a row that is none.
    """
    if file.kind == "parquet":
        return _parquet(file, only)
    if file.kind == "arrow":
        return _arrow(file, only)
    return _jsonl(file, encoding) if file.kind == "jsonl" else _separated(file, encoding)


def header(file: File, encoding: str = "utf-8") -> list[str]:
    """The names of a table's columns: of jsonl, which has no header, the keys of the first row."""
    if file.kind == "parquet":
        return _parquet_header(file)
    if file.kind == "arrow":
        return next((list(frame.columns) for frame in frames(file.path)), [])
    if file.kind == "jsonl":
        first = next(_jsonl(file, encoding), None)
        return list(first.values) if first else []
    return next(_records(file, encoding), (0, []))[1]


def columns(file: File, encoding: str = "utf-8") -> list[str]:
    """The names of a table's columns. Raises UserError if it has no row."""
    if next(rows(file, encoding), None) is None:
        raise UserError(f"{file.path}: no rows; the first line must name the columns, and rows must follow")
    return header(file, encoding)


def check_column(name: str, there: Sequence[str], file: File) -> str:
    """`name`. Raises UserError, naming the columns that are there, if it is not one of them."""
    if name not in there:
        raise UserError(f"{file.path}: no column {name}; the columns are {', '.join(there)}")
    return name


def _jsonl(file: File, encoding: str) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text_of(file.path, encoding)), 1):
        if line.isspace():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file.path}:{number}: not JSON ({error}); a line must hold one object") from None
        if not isinstance(value, dict):
            raise UserError(f'{file.path}:{number}: not a JSON object; a line must look like {{"text": "..."}}')
        if "\\ud" in line.lower():  # JSON can escape half a surrogate pair, which no encoding can hold
            value = json.loads(valid(json.dumps(value, ensure_ascii=False)))
        yield Row(file.path, number, value)


def _separated(file: File, encoding: str) -> Iterator[Row]:
    records = _records(file, encoding)
    _, names = next(records, (0, []))
    hint = {
        "csv": "a field with a comma must stand in quotes",
        "tsv": "a field of tsv cannot hold a tab or a line break, not in quotes either; csv and jsonl can",
    }[file.kind]
    for line, fields in records:
        if len(fields) != len(names):
            raise UserError(f"{file.path}:{line}: {len(fields)} fields where the header has {len(names)}; {hint}")
        yield Row(file.path, line, dict(zip(names, fields, strict=True)))


def _records(file: File, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """The line number and the fields of the header, which is checked, then of each row."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    how: dict[str, Any] = {"strict": True} if file.kind == "csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines_of(text_of(file.path, encoding)), **how)
    records = ((reader.line_num, fields) for fields in reader if fields)
    try:
        if first := next(records, None):
            _check_header(first[1], file)
            yield first
        yield from records
    except csv.Error as error:
        where = f"{file.path}:{reader.line_num}"
        if "new-line character" in str(error):
            raise UserError(f"{where}: a carriage return stands inside a field; convert its line ends") from None
        raise UserError(f"{where}: not {file.kind} ({error}); check its quotes") from None


def _check_header(names: list[str], file: File) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{file.path}:1: two columns are called {twice!r}; rename one")
    for separator, name in (("\t", "tabs"), (";", "semicolons"), ("|", "bars"), (",", "commas")):
        if len(names) == 1 and separator in names[0]:
            wanted = "commas (.csv)" if file.kind == "csv" else "tabs (.tsv)"
            raise UserError(
                f"{file.path}:1: the columns are separated by {name}, not by {wanted}; convert or rename it"
            )


def _parquet(file: File, only: Sequence[str]) -> Iterator[Row]:
    import polars  # loads in half a second, which only parquet should cost

    number = 0
    with _unpacked(file) as path:
        try:
            frames = polars.scan_parquet(path).select(list(only) or polars.all())
            for frame in frames.collect_batches(chunk_size=ROWS_AT_ONCE, maintain_order=True):
                for values in frame.iter_rows(named=True):
                    number += 1
                    yield Row(file.path, number, values)
        except (polars.exceptions.PolarsError, OSError) as error:
            raise _unreadable(file, error) from None


def _arrow(file: File, only: Sequence[str]) -> Iterator[Row]:
    names, number = namings(file.path), 0
    for frame in frames(file.path, only):
        for values in frame.iter_rows(named=True):
            number += 1
            for column in names.keys() & values.keys():
                try:
                    values[column] = names[column](values[column])
                except UserError as error:
                    raise UserError(f"{file.path}:{number}: column {column} {error}") from None
            yield Row(file.path, number, values)


def _parquet_header(file: File) -> list[str]:
    import polars

    with _unpacked(file) as path:
        try:
            return list(polars.read_parquet_schema(path))
        except (polars.exceptions.PolarsError, OSError) as error:
            raise _unreadable(file, error) from None


def _unreadable(file: File, error: Exception) -> UserError:
    first_line = str(error).split("\n")[0]
    return UserError(f"{file.path}: not readable as parquet ({first_line}); copy it again")


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


def _short(value: Any) -> str:
    return repr(value)[:40]
