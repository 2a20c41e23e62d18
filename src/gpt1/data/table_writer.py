"""Rows into a csv, tsv, jsonl or parquet file, a block at a time, in bounded memory; no torch."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from gpt1.data.tables import Row
from gpt1.errors import UserError
from gpt1.storage import atomic, check_folder

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
Write = Callable[[list[Row]], None]


def check_ending(out: str) -> None:
    """Raise UserError unless the name says what to write, and is not under a file."""
    check_folder(Path(out).parent)
    if not out.endswith(ENDINGS):
        raise UserError(f"--out {out}: its ending must say what to write: {', '.join(ENDINGS)}")


@contextmanager
def table_writer(out: str) -> Iterator[Write]:
    """What writes the next rows; the file appears, whole, when all are written.

    In csv and tsv the first row decides the columns. Raises UserError for a row that this kind of file cannot hold.
    """
    with atomic(out) as temporary:
        if out.endswith(".parquet"):
            with _parquet(out, temporary) as write:
                yield write
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                yield (lambda rows: write_jsonl(file, rows)) if out.endswith(".jsonl") else _separated(file, out)


def write_jsonl(file: IO[str], rows: list[Row]) -> None:
    """One JSON object a line; dates and the like as text."""
    file.writelines(json.dumps(row.values, ensure_ascii=False, default=str) + "\n" for row in rows)


def _separated(file: IO[str], out: str) -> Write:
    header: list[str] = []
    line = _tsv_line(file, out) if out.endswith(".tsv") else _csv_line(file)

    def write(rows: list[Row]) -> None:
        if not header:
            header.extend(rows[0].values)
            line("the header", header)
        for row in rows:
            if late := [name for name in row.values if name not in header]:
                raise UserError(
                    f"{row.where}: column {late[0]} is not in the first row, so {out} lacks it; write .jsonl"
                )
            line(row.where, [_field(row.values.get(name)) for name in header])

    return write


def _field(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def _csv_line(file: IO[str]) -> Callable[[str, list[Any]], None]:
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def line(_where: str, fields: list[Any]) -> None:
        # Python 3.12 and older leave a lone carriage return without the quotes that a reader needs.
        (quoted if any("\r" in field for field in fields if isinstance(field, str)) else plain).writerow(fields)

    return line


def _tsv_line(file: IO[str], out: str) -> Callable[[str, list[Any]], None]:
    def line(where: str, fields: list[Any]) -> None:
        texts = ["" if field is None else str(field) for field in fields]
        if wrong := [text for text in texts if not {"\t", "\r", "\n"}.isdisjoint(text)]:
            raise UserError(
                f"{where}: {wrong[0][:40]!r} holds a tab or a newline, which {out} cannot; write .csv or .jsonl"
            )
        file.write("\t".join(texts) + "\n")

    return line


@contextmanager
def _parquet(out: str, path: Path) -> Iterator[Write]:
    """Blocks lie in files of their own until the last one tells the type of each column."""
    import polars  # loads in half a second, which only parquet should cost

    blocks: list[polars.LazyFrame] = []
    with TemporaryDirectory(dir=path.parent, prefix=".") as folder:

        def write(rows: list[Row]) -> None:
            block = Path(folder) / f"{len(blocks)}.parquet"
            polars.DataFrame([row.values for row in rows], infer_schema_length=None).write_parquet(block)
            blocks.append(polars.scan_parquet(block))

        try:
            yield write
            polars.concat(blocks, how="diagonal_relaxed").sink_parquet(path)
        except (polars.exceptions.PolarsError, TypeError) as error:
            first_line = str(error).split("\n")[0]
            raise UserError(
                f"--out {out}: a column holds different kinds of values ({first_line}); write .jsonl"
            ) from None
