"""Read the first sheet of an Excel workbook (.xlsx, .xlsm), by polars with fastexcel; no torch.

A sheet is parsed whole, and a command reads a table several times, so the last two are kept in memory.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.console import say
from gpt1.data.files import content, identify_binary
from gpt1.data.tables import check_unique
from gpt1.errors import UserError

if TYPE_CHECKING:
    import polars

UNNAMED = "__UNNAMED__"  # what fastexcel calls a column without a name, before its number
ZIP = b"PK\x03\x04"  # begins every workbook


def sheet_header(path: Path) -> list[str]:
    """Return the column names: the cells of the first row that is not blank."""
    return list(_sheet(path)[0].columns)


def sheet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number in the sheet and the values of each row; rows without a value are left out."""
    frame, header = _sheet(path)
    for number, values in enumerate(frame.iter_rows(named=True), header + 1):
        if any(value is not None for value in values.values()):
            yield number, values


def header_below(path: Path) -> int | None:
    """Return the number of the first row with a text in every column, if the first row of all leaves columns unnamed.

    That is so where a title stands above the header. None if there is no such row.
    """
    if not any(name.startswith(UNNAMED) for name in sheet_header(path)):
        return None
    found = (n for n, values in sheet_rows(path) if all(isinstance(one, str) for one in values.values()))
    return next(found, None)


def _sheet(path: Path) -> "tuple[polars.DataFrame, int]":
    found = path.stat()
    return _read(path, found.st_mtime_ns, found.st_size)  # keys of the cache, so that a changed file is read again


@lru_cache(maxsize=2)
def _read(path: Path, _modified: int, _size: int) -> "tuple[polars.DataFrame, int]":
    """Return the first sheet and the number of its header, which is the first row with a value.

    Prints the sheet's name if there are others. Raises UserError for what cannot be read.
    """
    import polars

    try:
        import fastexcel
    except ImportError:
        how = "`pip install 'gpt1[xlsx]'`, or save the sheet as csv (CSV UTF-8)"
        raise UserError(f"{path}: to read Excel workbooks, {how}") from None
    data = b"".join(content(path))
    if not data.startswith(ZIP):
        raise UserError(
            f"{path}: {identify_binary(data) or 'not an Excel workbook; if it is a text table, name it .csv'}"
        )
    try:
        book = fastexcel.read_excel(data)
        names = book.sheet_names
        frame = polars.read_excel(
            data, sheet_id=1, engine="calamine", infer_schema_length=None, drop_empty_rows=False, raise_if_empty=False
        )
        height = book.load_sheet(0, header_row=None, skip_rows=0).total_height  # with the blank rows above the header
        header = height - frame.height
        top = book.load_sheet(0, header_row=None, skip_rows=max(0, header - 1), n_rows=1, dtypes="string").to_polars()
    except Exception as error:  # fastexcel's own, of many kinds
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: not readable as an Excel workbook ({reason}); save it again") from None
    # polars renames the second of two columns that are called the same.
    check_unique([name for name in chain(*top.rows()) if name is not None], f"{path}:{header}: two columns")
    if len(names) > 1:
        say(f"{path}: reading the first sheet, {names[0]}; not {', '.join(names[1:])}")
    return frame, header
