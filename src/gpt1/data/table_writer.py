"""Write rows to a csv, tsv, jsonl or parquet file, a block at a time, in bounded memory; no torch."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from gpt1.data.tables import Row
from gpt1.errors import UserError, first_line, setting
from gpt1.storage import UNENCODABLE, atomic, check_folder, is_utf8

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
# A numpy array is not a table, but holds vectors.
VECTOR_ENDINGS = (*ENDINGS, ".npy")
Write = Callable[[list[Row]], None]


def check_ending(out: str, endings: Sequence[str] = ENDINGS) -> None:
    """Raise UserError unless the file name has a known ending, and its folder is not a file."""
    check_folder(Path(out).parent)
    if _ending(out) not in endings:
        raise UserError(f"{setting('out')} {out}: the file name must end in one of {', '.join(endings)}")


def _ending(out: str) -> str:
    return Path(out).suffix.lower()


@contextmanager
def table_writer(out: str) -> Iterator[Write]:
    """Yield a function that writes the next rows. The file appears when all are written, and not if an error occurs.

    In csv and tsv, the first row decides the columns. Raises UserError for a row that this kind of file cannot hold.
    """
    with atomic(out) as temporary:
        if _ending(out) == ".parquet":
            with _parquet(out, temporary) as write:
                yield write
        else:
            with temporary.open("w", encoding="utf-8", errors=UNENCODABLE, newline="") as file:
                yield (lambda rows: write_jsonl(file, rows)) if _ending(out) == ".jsonl" else _separated(file, out)


def write_jsonl(file: IO[str], rows: list[Row]) -> None:
    """Write each row as a line with a JSON object; dates and the like become strings."""
    file.writelines(_json(row.values) + "\n" for row in rows)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _separated(file: IO[str], out: str) -> Write:
    header: list[str] = []
    line = _tsv_line(file) if _ending(out) == ".tsv" else _csv_line(file)

    def write(rows: list[Row]) -> None:
        if not header:
            header.extend(rows[0].values)
            line("the header", header)
        for row in rows:
            if late := [name for name in row.values if name not in header]:
                raise UserError(
                    f"{row.where}: column {late[0]} is not in the first row, so {out} has no such column; write .jsonl"
                )
            values = [row.values.get(name) for name in header]
            line(row.where, [_json(one) if isinstance(one, list | dict) else one for one in values])

    return write


def _csv_line(file: IO[str]) -> Callable[[str, list[Any]], None]:
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def line(_where: str, fields: list[Any]) -> None:
        # Python 3.12 and older do not quote a lone carriage return, as readers need.
        (quoted if any("\r" in field for field in fields if isinstance(field, str)) else plain).writerow(fields)

    return line


def _tsv_line(file: IO[str]) -> Callable[[str, list[Any]], None]:
    def line(where: str, fields: list[Any]) -> None:
        texts = ["" if field is None else str(field) for field in fields]
        if wrong := [text for text in texts if not {"\t", "\r", "\n"}.isdisjoint(text)]:
            raise UserError(
                f"{where}: {wrong[0][:40]!r} contains a tab or a newline, which tsv cannot hold; write .csv or .jsonl"
            )
        file.write("\t".join(texts) + "\n")

    return line


@contextmanager
def _parquet(out: str, path: Path) -> Iterator[Write]:
    """Write each block to a file of its own; join them at the end, when the type of each column is known."""
    import polars  # takes half a second, which other formats do not need

    blocks: list[polars.LazyFrame] = []
    # polars reads a path only if it is UTF-8, and as a pattern unless told otherwise.
    near = path.parent if is_utf8(path.parent) else None
    # On Windows a block cannot be removed while polars has it open, as after an error.
    with TemporaryDirectory(dir=near, prefix=".", ignore_cleanup_errors=True) as folder:

        def write(rows: list[Row]) -> None:
            block = Path(folder) / f"{len(blocks)}.parquet"
            polars.DataFrame([row.values for row in rows], infer_schema_length=None).write_parquet(block)
            blocks.append(polars.scan_parquet(block, glob=False))

        try:
            yield write
            with path.open("wb") as file:
                polars.concat(blocks, how="diagonal_relaxed").sink_parquet(file)
        except (polars.exceptions.PolarsError, TypeError, OverflowError) as error:
            mixed = f"a column holds different kinds of values ({first_line(error)})"
            raise UserError(f"{out}: {mixed}; write .jsonl") from None
        except UnicodeEncodeError as error:
            raise UserError(f"{out}: {error.object[:40]!r} is not Unicode text; write .jsonl") from None
