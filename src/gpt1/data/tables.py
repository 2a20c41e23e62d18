"""Read the rows of csv, tsv, JSON, parquet and xlsx files and saved datasets, with their line numbers; no torch.

All but xlsx are read as a stream. In csv, quotes enclose a field, which may contain newlines. Where the header has more
semicolons, tabs or bars than commas outside of quotes, they separate the columns, unless a first line `sep=;`, which
Excel writes and reads, or a setting says otherwise. In tsv, as that format is defined, quotes are plain text.
"""

import csv
import json
import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from decimal import Decimal
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from gpt1.config import Embed, Evaluate, Finetune, Predict, Prepare
from gpt1.data.files import (
    File,
    check_single_split,
    content,
    dataset_splits,
    identify_binary,
    is_dataset,
    lines_of,
    text_of,
)
from gpt1.errors import UserError, first_line, setting

PARQUET_ROWS = 4096  # rows that are read at a time
MAX_NUMBER = 1e30  # largest number: squares of larger ones may overflow, as the model computes in float32
DELIMITERS = ",;\t|"  # what may separate the columns of csv, the usual one first
AUTO, TAB = "auto", "tab"  # values of the setting `delimiter` that are not the character itself
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\1*\s*', re.IGNORECASE)  # the first line that tells Excel the delimiter
DECIMAL_COMMA = re.compile(r"\s*([+-]?)(\d+),(\d+)\s*")
THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})+\s*")  # 1,234, which may be a thousand
PAGE = re.compile(r"\s*<(!doctype|html|\?xml)", re.IGNORECASE)
JSON_START = re.compile(r'\s*(\[\s*[{\[]|\[\s*$|\{\s*"|\{\s*$)')
LONG_NAME = 5  # words from which on the name of a column may be a text
MAX_FIELD = 2**31 - 1  # characters of a csv field; Python's default is 131,072
_csv_limit = threading.Lock()


class InvalidRow(UserError):
    """A row without a text, label or number that a task needs; `skip_invalid` drops it."""

    def __init__(self, fault: str, remedy: str = "") -> None:
        super().__init__(f"{fault}{remedy and '; '}{remedy} ({setting('skip_invalid')} drops such rows)")
        self.fault = fault


@dataclass(frozen=True)
class TableOptions:
    """How tables are read. Raises UserError for an invalid delimiter."""

    encoding: str = "utf-8"
    delimiter: str = AUTO
    """what separates the columns of csv: a character, `tab`, or `auto` for what its header shows"""
    skip_invalid: bool = False
    """whether to drop rows without a text or label that a task needs, see `tasks.rows.valid_rows`"""

    def __post_init__(self) -> None:
        if self.delimiter not in (AUTO, TAB, r"\t") and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise UserError(
                f"{setting('delimiter')} {self.delimiter!r} must be auto, tab or one character, such as ';' or '|'"
            )

    @classmethod
    def of(cls, settings: Prepare | Finetune | Predict | Embed | Evaluate) -> Self:
        """Return the options among the settings of a command."""
        return cls(**{one.name: getattr(settings, one.name) for one in fields(cls) if hasattr(settings, one.name)})


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    file: Path
    line: int
    """line that the row ends on, from 1; in xlsx that of the sheet; in parquet, datasets and arrays the row's number"""
    values: dict[str, Any]
    """column name -> value"""
    decimal_comma: bool = False
    """whether 1,234 is a number just above 1: in csv with semicolons, which Excel writes where commas are decimal"""
    in_array: bool = False
    """whether the row is an object of a JSON array, where its number is not that of a line in the file"""

    @property
    def where(self) -> str:
        """The place of the row, `train.csv:12`; in an array `train.json: row 12`."""
        return f"{self.file}:{' row ' if self.in_array else ''}{self.line}"

    def text(self, column: str) -> str:
        """Return the text in a column. Raises UserError if it holds anything else."""
        value = self._value(column, "a text")
        if isinstance(value, str):
            return value
        raise InvalidRow(f"{self.where}: column {column} holds {repr(value)[:40]}, not a text")

    def label(self, column: str) -> str:
        """Return the class name in a column as text: 1, 1.0 and "1" are the same class. Raises UserError otherwise."""
        value = self._value(column, "a label")
        if isinstance(value, float | Decimal) and math.isfinite(value):
            return str(int(value)) if value == int(value) else str(float(value))
        if isinstance(value, str | int | float):
            return str(value)
        raise InvalidRow(f"{self.where}: column {column} holds {repr(value)[:40]}, not one label")

    def number(self, column: str) -> float:
        """Return the number in a column, `3.5` or `3,5`.

        Raises UserError if it is not one, larger than `MAX_NUMBER`, or 1,234 where that may be a thousand.
        """
        value = self._value(column, "a number")
        number = parse_number(value)
        found = f"{self.where}: column {column} holds {repr(value)[:40]}"
        if not self.decimal_comma and isinstance(value, str) and THOUSANDS.fullmatch(value):
            raise InvalidRow(f"{found}, which may be {number:g} or {value.replace(',', '')}", "write it without comma")
        if number is not None and abs(number) <= MAX_NUMBER:
            return number
        wanted = f"a number of at most {MAX_NUMBER:g}" if number is not None and math.isfinite(number) else "a number"
        raise InvalidRow(f"{found}, not {wanted}")

    def _value(self, column: str, wanted: str) -> Any:
        value = self.values.get(column)
        is_empty = value is None or (isinstance(value, str) and not value.strip())
        if is_empty or (isinstance(value, float) and math.isnan(value)):
            found = "is empty" if column in self.values else "is missing"
            raise InvalidRow(f"{self.where}: column {column} {found}", f"give it {wanted} or drop the row")
        return value


def parse_number(value: Any) -> float | None:
    """Convert a number, or a text such as `3.5`, `3,5` or `1e3`, to a float; return None for anything else."""
    if isinstance(value, str) and (parts := DECIMAL_COMMA.fullmatch(value)):
        value = "{}{}.{}".format(*parts.groups())
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


DEFAULT = TableOptions()


def table(path: str | Path) -> File:
    """Return the table at `path`, a file or the folder of a saved dataset. Raises UserError for anything else."""
    file = File(Path(path), named=True)
    check_single_split(file.path)
    if not file.path.is_file() and not is_dataset(file.path):
        folder = "a folder, but not of a dataset that save_to_disk wrote; give a file or such a folder"
        splits = dataset_splits(file.path.parent)
        missing = "no such file" + (f"; {file.path.parent} has the splits {', '.join(splits)}" if splits else "")
        raise UserError(f"{path}: {folder if file.path.is_dir() else missing}")
    if file.kind == "text":
        known = "not a known kind of table; name it .csv, .tsv, .json, .jsonl, .parquet or .xlsx (also .gz, .zst)"
        raise UserError(f"{path}: {identify_binary(next(content(file.path), b'')) or known}")
    return file


def text_or_table(path: str | Path) -> File:
    """Return the text file or table at `path`. Raises UserError for anything else."""
    file = File(Path(path), named=True)
    if file.kind != "text":
        return table(path)
    if not file.path.is_file():
        raise UserError(f"{path}: {'a folder; name the files in it' if file.path.is_dir() else 'no such file'}")
    return file


def rows(file: File, options: TableOptions = DEFAULT, only: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of a table, in order; `only` names the columns that the caller needs, if not all.

    Raises UserError, naming file and line, for a row that cannot be read.
    """
    if file.kind == "parquet":
        return _parquet(file, only)
    if file.kind == "arrow":
        from gpt1.data.datasets import dataset_rows

        return (Row(file.path, number, values) for number, values in enumerate(dataset_rows(file.path, only), 1))
    if file.kind == "xlsx":
        from gpt1.data.excel import sheet_rows

        return (Row(file.path, line, values) for line, values in sheet_rows(file.path))
    if file.is_json:
        from gpt1.data.json_rows import json_rows

        return json_rows(file, options.encoding)
    return _separated(file, options)


def header(file: File, options: TableOptions = DEFAULT) -> list[str]:
    """Return the column names of a table; for JSON, which has no header, the keys of the first row."""
    if file.kind == "parquet":
        import polars

        with _decompressed(file) as path, _parquet_errors(file), path.open("rb") as source:
            return list(polars.read_parquet_schema(source))
    if file.kind == "arrow":
        from gpt1.data.datasets import arrow_frames

        return next((list(frame.columns) for frame in arrow_frames(file.path)), [])
    if file.kind == "xlsx":
        from gpt1.data.excel import sheet_header

        return sheet_header(file.path)
    if file.is_json:
        first = next(rows(file, options), None)
        return list(first.values) if first else []
    return next(_records(file, options), (0, [], ""))[1]


def columns(file: File, options: TableOptions = DEFAULT) -> list[str]:
    """Return the column names of a table. Raises UserError if it has no rows."""
    if next(rows(file, options), None) is None:
        remedy = "" if file.is_json else "; the first line must name the columns, and rows must follow"
        raise UserError(f"{file.path}: no rows{remedy}")
    return header(file, options)


def check_column(name: str, there: Sequence[str], file: File, advice: str = "") -> str:
    """Return `name`. Raises UserError, naming the columns that there are, if it is not one of them."""
    if name not in there:
        raise UserError(f"{file.path}: no column {name}; {listed_columns(file, there, advice)}")
    return name


def listed_columns(file: File, there: Sequence[str], advice: str = "") -> str:
    """Return the columns of a table for a message, then advice: other advice where their line seems to be no header."""
    listed = f"the columns are {', '.join(there)}"
    if file.kind == "xlsx":
        from gpt1.data.excel import header_below

        if number := header_below(file.path):
            return f"{listed}; row {number} looks like the header: delete the rows above it"
    # A number or a text of several words may be a value.
    if file.kind in ("csv", "tsv", "xlsx") and any(
        parse_number(name) is not None or len(name.split()) >= LONG_NAME for name in there
    ):
        return f"{listed}; if the first line is a row already, write the names of the columns above it"
    return listed + advice


def json_list(value: Any, kind: Any) -> list[Any] | None:
    """Return a list whose items are all of type `kind`, also from JSON text, as `gpt1 predict` writes lists to csv.

    Returns None for anything else.
    """
    try:
        found = json.loads(value) if isinstance(value, str) and value.startswith("[") else value
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(one, kind) for one in found) else None


# csv, tsv


def _separated(file: File, options: TableOptions) -> Iterator[Row]:
    records = _records(file, options)
    _, names, delimiter = next(records, (0, [], ""))
    mark = "a tab" if delimiter == "\t" else repr(delimiter)
    hint = {
        "csv": f"put a field that contains {mark} in quotes, or name another {setting('delimiter')}",
        "tsv": "a field of tsv cannot contain a tab or a line break, even in quotes; csv and jsonl can",
    }[file.kind]
    for line, found, _ in records:
        if len(found) != len(names):
            raise UserError(f"{file.path}:{line}: {len(found)} fields where the header has {len(names)}; {hint}")
        yield Row(file.path, line, dict(zip(names, found, strict=True)), decimal_comma=delimiter == ";")


def _records(file: File, options: TableOptions) -> Iterator[tuple[int, list[str], str]]:
    """Yield line number, fields and delimiter of the header, which is checked, then of each row."""
    lines = lines_of(text_of(file.path, options.encoding))
    start: list[str] = []
    declared = ""  # the delimiter in a first line `sep=;`
    while not start or start[-1].isspace():
        start.append(next(lines, ""))  # blank lines may stand before the header
        if file.kind == "csv" and not declared and (line := SEPARATOR_LINE.fullmatch(start[-1])):
            declared, start[-1] = line[1], "\n"
    if JSON_START.match(start[-1]):
        raise UserError(f"{file.path}: JSON, not {file.kind}; name it .json")
    if PAGE.match(start[-1]):
        raise UserError(f"{file.path}: a web page (HTML or XML), not a table; save the table itself as csv")
    delimiter = "\t"
    dialect: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
    if file.kind == "csv":
        given = "\t" if options.delimiter in (TAB, r"\t") else options.delimiter
        without_quoted = re.sub('"[^"]*"', "", start[-1])  # of several marks that are as frequent, the first
        delimiter = (declared or max(DELIMITERS, key=without_quoted.count)) if given == AUTO else given
        dialect = {"strict": True}
    reader = csv.reader(chain(start, lines), delimiter=delimiter, **dialect)
    is_first, begins = True, 1
    try:
        while (found := _next_record(reader)) is not None:
            begins = reader.line_num + 1
            if found and is_first:
                _check_header(found, file)
            if found:
                is_first = False
                yield reader.line_num, found, delimiter
    except csv.Error as error:
        where = f"{file.path}:{reader.line_num}"
        if "new-line character" in str(error):
            raise UserError(f"{where}: a field contains a carriage return; convert the file's line ends") from None
        if "unexpected end" in str(error):  # found at the end of the file, but the quote may be far above
            raise UserError(f"{file.path}:{begins}: a quote that opens in this row is never closed") from None
        raise UserError(f"{where}: not {file.kind} ({error}); check its quotes") from None


def _next_record(reader: Iterator[list[str]]) -> list[str] | None:
    # The limit is global to the process, and other code may rely on it: restore it after each record.
    with _csv_limit:
        before = csv.field_size_limit(MAX_FIELD)
        try:
            return next(reader, None)
        finally:
            csv.field_size_limit(before)


def _check_header(names: list[str], file: File) -> None:
    check_unique(names, f"{file.path}:1: two columns")
    if file.kind == "tsv" and len(names) == 1 and any(mark in names[0] for mark in DELIMITERS):
        raise UserError(f"{file.path}:1: the columns are not separated by tabs; name it .csv")


def check_unique(names: Sequence[str], what: str) -> None:
    """Raise UserError, which begins with `what`, if a name occurs twice."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        fault = f"are called {twice!r}; rename one" if twice else "have no name; name or delete them"
        raise UserError(f"{what} {fault}")


# parquet


def _parquet(file: File, only: Sequence[str]) -> Iterator[Row]:
    import polars  # takes half a second, which other formats do not need

    number = 0
    # polars is given an open file: a path it would read as a pattern (`part[1].parquet`), and only if it is UTF-8.
    with _decompressed(file) as path, _parquet_errors(file), path.open("rb") as source:
        table = polars.scan_parquet(source)
        there = table.select(polars.len()).collect().item()
        frames = table.select(list(only) or polars.all())
        for frame in frames.collect_batches(chunk_size=PARQUET_ROWS, maintain_order=True):
            for values in frame.iter_rows(named=True):
                number += 1
                yield Row(file.path, number, values)
        if number < there:  # a panic in a thread of polars ends the batches without an error
            raise OSError(f"only {number:,} of {there:,} rows")


@contextmanager
def _parquet_errors(file: File) -> Iterator[None]:
    from polars.exceptions import PanicException, PolarsError

    try:
        yield
    except (PolarsError, PanicException, OSError, ValueError) as error:  # the last for dates that Python cannot hold
        head = next(content(file.path), b"")
        other = "" if head.startswith(b"PAR1") else identify_binary(head)
        damaged = f"not readable as parquet ({first_line(error)}); copy or write it again"
        raise UserError(f"{file.path}: {other or damaged}") from None


@contextmanager
def _decompressed(file: File) -> Iterator[Path]:
    """Yield the path of the file, or of a decompressed copy, since parquet needs random access."""
    if not file.compressed:
        yield file.path
        return
    # On Windows the copy cannot be removed while polars has it open, as after an error.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "decompressed.parquet"
        with path.open("wb") as out:
            out.writelines(content(file.path))
        yield path
