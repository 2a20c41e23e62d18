"""Rows are the same from every kind of table, and whatever is wrong with one is named by file and line."""

import csv
import gzip
import json
from decimal import Decimal
from pathlib import Path

import polars
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from conftest import NOT_UTF8, only_linux_names
from gpt1.data import files
from gpt1.data.tables import DEFAULT, TableOptions, columns, header, json_list, rows, table
from gpt1.errors import UserError

ROWS = [
    {"text": 'he said "no", twice', "label": "bad"},
    {"text": "two\nlines, żółw 🙂", "label": "good"},
    {"text": "  spaces kept  ", "label": "good"},
]
OLD = b"\xd0\xcf\x11\xe0" + bytes(8)  # begins documents of old Office programs
PACK = {"": lambda data: data, ".gz": gzip.compress, ".zst": zstandard.compress}


def write(folder: Path, kind: str, found: list[dict[str, str]], packing: str = "") -> Path:
    """A table written by another program than ours."""
    frame, plain = polars.DataFrame(found), folder / f"plain.{kind}"
    if kind == "parquet":
        frame.write_parquet(plain)
    elif kind == "jsonl":
        frame.write_ndjson(plain)
    elif kind == "json":
        frame.write_json(plain)
    else:
        frame.write_csv(plain)
    path = folder / f"rows.{kind}{packing}"
    path.write_bytes(PACK[packing](plain.read_bytes()))
    return path


def file_with(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path, options: TableOptions = DEFAULT) -> list[dict[str, object]]:
    return [row.values for row in rows(table(path), options)]


def refused(path: Path) -> str:
    """What is said about a table, after its name; one line."""
    with pytest.raises(UserError) as caught:
        columns(table(path))
        list(rows(table(path)))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# Kinds


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_what_another_program_wrote_is_read(kind: str, packing: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind, ROWS, packing)
    assert values(path) == ROWS
    assert columns(table(path)) == header(table(path)) == ["text", "label"]
    assert [row.values["text"] for row in rows(table(path), only=["text"])] == [row["text"] for row in ROWS]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), min_size=1))
def test_any_text_survives_csv_and_json(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    found = [{"n": str(number), "text": text} for number, text in enumerate(texts)]
    for kind in ("csv", "json", "jsonl"):
        assert values(write(folder, kind, found)) == found


@given(
    found=st.lists(st.dictionaries(st.text('ab"\\é', max_size=2), st.recursive(
        st.none() | st.booleans() | st.integers() | st.text('a"\\[]{},: é🙂', max_size=40),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("n"), inner), max_leaves=4,
    )), max_size=5),
    indent=st.sampled_from([None, 0, 2]), ascii=st.booleans(), block=st.integers(1, 50),
)  # fmt: skip
def test_arrays_are_read_in_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    found: list[dict[str, object]],
    indent: int | None,
    ascii: bool,
    block: int,
) -> None:
    """However an array is laid out, and wherever blocks end within an object."""
    text = json.dumps(found, indent=indent, ensure_ascii=ascii)
    path = file_with(tmp_path_factory.mktemp("array"), "a.json", f" {text}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        assert [(row.line, row.values) for row in rows(table(path))] == list(enumerate(found, 1))


def test_the_place_of_a_row_of_an_array_is_no_line(tmp_path: Path) -> None:
    """In an array over several lines, `a.json:2` would be another row."""
    path = file_with(tmp_path, "a.json", json.dumps(ROWS, indent=2))
    assert [row.where for row in rows(table(path))][:2] == [f"{path}: row 1", f"{path}: row 2"]


def test_json_with_one_object_a_line(tmp_path: Path) -> None:
    """As many programs name it; and an array in a file that is named as if it had lines."""
    assert values(file_with(tmp_path, "a.json", '\n{"text": "a"}\n{"text": "b"}\n')) == [{"text": "a"}, {"text": "b"}]
    assert values(file_with(tmp_path, "a.jsonl", '[{"text": "a"},\n {"text": "b"}]')) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize("name", ["rows[1].parquet", pytest.param(f"{NOT_UTF8}.parquet", marks=only_linux_names)])
def test_a_name_is_no_pattern(name: str, tmp_path: Path) -> None:
    write(tmp_path, "parquet", ROWS[:1]).rename(tmp_path / "rows1.parquet")  # what the pattern rows[1] stands for
    path = write(tmp_path, "parquet", ROWS).rename(tmp_path / name)
    assert values(path) == ROWS
    assert columns(table(path)) == ["text", "label"]


def test_quotes_in_tsv_are_text(tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.tsv", 'text\tlabel\r\n"Ha!" he said\t1\r\n"\t0\r\n')
    assert values(path) == [{"text": '"Ha!" he said', "label": "1"}, {"text": '"', "label": "0"}]


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_csv_of_other_programs(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    polars.DataFrame(ROWS).write_csv(path, separator=mark)
    assert values(path) == ROWS
    polars.DataFrame(ROWS).write_csv(path, separator=mark, quote_style="always")
    assert values(path) == ROWS
    path.write_text(f'"text{mark} or so",label\na,b\n')
    assert header(table(path)) == [f"text{mark} or so", "label"]


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", 'text,label\n"one\n\ntwo",x\n\nthree,y\n')
    assert [row.line for row in rows(table(path))] == [4, 6]
    assert [row.where for row in rows(table(write(tmp_path, "parquet", ROWS)))] == [
        f"{tmp_path / 'rows.parquet'}:{n}" for n in (1, 2, 3)
    ]


def test_a_mark_at_the_beginning_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert columns(table(file_with(tmp_path, "a.csv", "\ufefftext,label\na,b\n"))) == ["text", "label"]


def test_another_encoding(tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", "text\nété\n".encode("cp1252"))
    assert values(path, TableOptions("cp1252")) == [{"text": "été"}]


def test_half_a_surrogate_pair_in_json(tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.jsonl", r'{"text": "\ud83d\ude00 \uD83d", "more": ["\ud83d"], "é": 1}')
    assert values(path) == [{"text": "😀 \ufffd", "more": ["\ufffd"], "é": 1}]


def test_rows_come_one_by_one(tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.jsonl", '{"text": "fine"}\nbroken\n')
    assert next(rows(table(path))).values == {"text": "fine"}


def test_a_field_of_any_length_without_a_change_of_the_process(tmp_path: Path) -> None:
    """Python's limit belongs to the process; it holds for everybody else, even between two rows."""
    limit, long = csv.field_size_limit(), "x" * 200_000
    found = rows(table(file_with(tmp_path, "a.csv", f"text\n{long}\nshort\n")))
    assert next(found).values == {"text": long}
    assert csv.field_size_limit() == limit
    assert next(found).values == {"text": "short"}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("\n\nid;text\n1;x\n", ["id", "text"]),
        ("id;text, raw;label\n1;x;y\n", ["id", "text, raw", "label"]),
        ('id,"a;b;c"\n1,x\n', ["id", "a;b;c"]),
    ],
)
def test_the_header_shows_the_delimiter(tmp_path: Path, content: str, names: list[str]) -> None:
    assert header(table(file_with(tmp_path, "a.csv", content))) == names


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_european_excel(mark: str, encoding: str, tmp_path: Path) -> None:
    """Another delimiter, a first line that tells it, an encoding of Windows, and commas that are decimal."""
    lines = [f"sep={mark}", f"text{mark}note", f"Größe, schön{mark}3,5", f"déjà{mark}-12,25", f'"a{mark}b"{mark}4']
    path = file_with(tmp_path, "a.csv", "\r\n".join([*lines, ""]).encode(encoding))
    found = list(rows(table(path), TableOptions("cp1252" if encoding == "cp1252" else "utf-8")))
    assert [(row.values["text"], row.number("note")) for row in found] == [
        ("Größe, schön", 3.5), ("déjà", -12.25), (f"a{mark}b", 4.0),
    ]  # fmt: skip
    assert [row.line for row in found] == [3, 4, 5]


def test_a_delimiter_that_the_header_does_not_show(tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", "a;b, c, d\n1;x, y, z\n")
    assert header(table(path)) == ["a;b", " c", " d"]
    assert values(path, TableOptions(delimiter=";")) == [{"a": "1", "b, c, d": "x, y, z"}]
    path = file_with(tmp_path, "b.csv", "a,b\tc\n1,2\t3\n")
    assert values(path, TableOptions(delimiter="tab")) == values(path, TableOptions(delimiter=r"\t"))
    assert values(path, TableOptions(delimiter="tab")) == [{"a,b": "1,2", "c": "3"}]
    path = file_with(tmp_path, "c.csv", "sep=;\na:b\n1:2\n")
    assert values(path, TableOptions(delimiter=":")) == [{"a": "1", "b": "2"}]
    for wrong in ("", "semicolon", '"', "\n", ";;"):
        with pytest.raises(UserError, match="must be auto, tab or one character"):
            TableOptions(delimiter=wrong)


@pytest.mark.parametrize(
    ("mark", "text", "number"),
    [(";", "1,234", 1.234), (";", "0,5", 0.5), ("\t", "0,125", 0.125), ("\t", "1,2345", 1.2345), (";", " 3,5 ", 3.5)],
)
def test_numbers_with_a_decimal_comma(mark: str, text: str, number: float, tmp_path: Path) -> None:
    (row,) = rows(table(file_with(tmp_path, "a.csv", f"text{mark}stars\nfine{mark}{text}\n")))
    assert row.number("stars") == number


@pytest.mark.parametrize(
    ("mark", "text", "answer"),
    [
        (",", '"1,234"', "holds '1,234', which may be 1.234 or 1234; write it without comma"),
        ("\t", "-12,000", "holds '-12,000', which may be -12 or -12000; write it without comma"),
        (";", "1.234,5", "holds '1.234,5', not a number"),
        (";", "1,234,567", "holds '1,234,567', not a number"),
        (";", "3,", "holds '3,', not a number"),
    ],
)
def test_numbers_that_may_be_others(mark: str, text: str, answer: str, tmp_path: Path) -> None:
    (row,) = rows(table(file_with(tmp_path, "a.csv", f"text{mark}stars\nfine{mark}{text}\n")))
    with pytest.raises(UserError, match=answer):
        row.number("stars")


# Faults


@pytest.mark.parametrize(
    ("name", "content", "answer"),
    [
        (
            "a.csv",
            "text,label\na,b\nc\n",
            ":3: 1 fields where the header has 2; put a field that contains ',' in quotes, or name another delimiter",
        ),
        ("a.tsv", "text\tlabel\na\tb\tc\n", ":2: 3 fields where the header has 2"),
        ("a.csv", "text,label,text\n", ":1: two columns are called 'text'; rename one"),
        ("a.csv", "text;label;;\na;b;;\n", ":1: two columns have no name; name or delete them"),
        ("a.csv", "", ": no rows; the first line must name the columns, and rows must follow"),
        ("a.csv", "text,label\n", ": no rows"),
        ("a.tsv", "\n\n", ": no rows"),
        ("a.jsonl", "\n", ": no rows"),
        ("a.csv", "text,label\ra,b\rc,d\r", ":1: a field contains a carriage return; convert the file's line ends"),
        ("a.jsonl", '{"text": ' + "[" * 99_999 + "]" * 99_999 + "}\n", ":1: not JSON (maximum recursion depth"),
        ("a.tsv", "text,label\na,b\n", ":1: the columns are not separated by tabs; name it .csv"),
        ("a.csv", 'text,label\na,b\n"a,b\nc,d\ne,f\n', ":3: a quote that opens in this row is never closed"),
        ("a.csv", b"text,label\nfine,1\ncaf\xe9,0\n", ":3: byte 21 (0xe9) is not utf-8 text; "),
        ("a.jsonl", b'{"text": "a"}\n\0\x01', ":2: byte 14 is NUL, so this is not utf-8 text"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', ":2: the line ends before its object does; give one object a line"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', ":2: not a JSON object"),
        ("a.jsonl", '{"text": "a"}\n{"text": "a", "text": "b"}\n', ":2: two keys are called 'text'; rename one"),
        ("a.parquet", b"PAR1 but no more", ": not readable as parquet ("),
        ("a.parquet", b"PK\x03\x04 xl/workbook.xml", ": an Excel workbook; name it .xlsx, or save the sheet as csv"),
        ("a.csv", b"PK\x03\x04 xl/worksheets/", ": an Excel workbook; name it .xlsx, or save the sheet as csv"),
        ("a.csv", b"PK\x03\x04 xl/workbook.bin", ": a binary Excel workbook; save it as .xlsx"),
        ("a.xls", OLD + "Workbook".encode("utf-16-le"), ": an old Excel workbook (.xls); save it as .xlsx"),
        (
            "a.csv",
            OLD + "EncryptedPackage".encode("utf-16-le"),
            ": an Office document with a password; save it without",
        ),
        ("a.csv", b"ARROW1\0\0", ": an Arrow file (feather); save the table as parquet"),
        ("a.csv", b"\x80\x04\x95...", ": a Python pickle; save the table as parquet or csv"),
        ("a.csv", '[{"text": "a"},', ": JSON, not csv; name it .json"),
        ("a.tsv", '[\n  {"text": "a"}\n]', ": JSON, not tsv; name it .json"),
        ("a.csv", '{"text": "a"}\n', ": JSON, not csv; name it .json"),
        ("a.csv", "<!DOCTYPE html>\n<html>", ": a web page (HTML or XML), not a table; save the table itself as csv"),
        ("a.csv.gz", b"PK\x03\x04", ": a zip archive; unpack it"),
        ("a.csv", b"PAR1\x15 and more", ": parquet; name it .parquet"),
        ("a.csv", "PAR1,PAR1\n", ":1: two columns are called 'PAR1'"),
        ("a.csv", "text,label\n".encode("utf-16"), ": no rows"),
        (
            "a.csv",
            "text,label\n".encode("utf-16-le"),
            ":1: byte 1 is NUL, so this is not utf-8 text; give encoding utf-16-le",
        ),
        (
            "a.json",
            '{\n  "text": "a"\n}',
            ":1: the line ends before its object does; give one object a line, or a file with an array of objects",
        ),
        ("a.json", '{"text": "a",}\n{"text": "b"}', ":1: not JSON (Expecting property name enclosed"),
        ("a.json", '{"text": "a", "text": "b"}\n', ":1: two keys are called 'text'; rename one"),
        ("a.json", "text,label\na,b\n", ":1: not JSON (Expecting value at column 1); a line must hold one object"),
        ("a.json", '"a"', ":1: not a JSON object; a line must look like"),
        ("a.json", '{"data": [{"text": "a"}]}', ": one object, which is not a row; give one object a line, or a file"),
        ("a.json", '{"text": {"0": "a"}, "label": {"0": 1}}', ": one object, which is not a row; give one object"),
        ("a.json", '[{"text": "a"}', ": row 2: not JSON (the file ends before the array does)"),
        ("a.json", '[{"text": "a"},]', ": row 2: not JSON (Expecting value at ']')"),
        (
            "a.json",
            '[{"text": "a"} {"text": "b"}]',
            ": row 2: not JSON (Expecting ',' delimiter at '{\"text\": \"b\"}]')",
        ),
        ("a.json", '[{"text": "a}]', ": row 1: not JSON (Unterminated string starting at '\"a}]')"),
        ("a.json", '[{"text": ' + "[" * 99_999, ": row 1: not JSON (maximum recursion depth"),
        ("a.json", '[{"text": "a"}]\n[]', ": there is more text after the array; a file holds one array"),
        ("a.json", '["a", "b"]', ": row 1: not a JSON object; an array must look like"),
        ("a.json", '[{"text": "a"}, {"text": "b", "text": "c"}]', ": row 2: two keys are called 'text'; rename one"),
        ("a.csv.gz", b"text,label\n", ": not compressed, though it is named .gz; rename it"),
    ],
)
def test_tables_that_are_not_tables(name: str, content: str | bytes, answer: str, tmp_path: Path) -> None:
    assert refused(file_with(tmp_path, name, content)).startswith(answer)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.csv") == ": no such file"
    assert refused(tmp_path).startswith(": a folder, but not of a dataset that save_to_disk wrote")
    assert refused(file_with(tmp_path, "a.json", "[]")) == ": no rows", "not that a line must name the columns"
    assert refused(file_with(tmp_path, "a.ods", "x")).startswith(": not a known kind of table; name it .csv, .tsv")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"label": 1}, ":1: column text is missing; give it a text or drop the row"),
        ({"text": None, "label": 1}, ":1: column text is empty; give it a text"),
        ({"text": " \n", "label": 1}, ":1: column text is empty"),
        ({"text": 5, "label": 1}, ":1: column text holds 5, not a text"),
        ({"text": "a"}, ":1: column label is missing; give it a label"),
        ({"text": "a", "label": ""}, ":1: column label is empty"),
        ({"text": "a", "label": float("nan")}, ":1: column label is empty"),
        ({"text": "a", "label": ["x", "y"]}, ":1: column label holds ['x', 'y'], not one label"),
    ],
)
def test_rows_without_a_text_or_a_label(row: dict[str, object], answer: str, tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.jsonl", json.dumps(row) + '\n{"text": "b", "label": "x"}\n')
    found = next(rows(table(path)))
    with pytest.raises(UserError) as caught:
        found.text("text")
        found.label("label")
    assert str(caught.value).startswith(f"{path}{answer}")


def test_a_text_of_brackets_is_no_list() -> None:
    assert json_list('["a", "b"]', str) == ["a", "b"]
    assert json_list("[" * 200_000, str) is None


def test_decimals_of_a_database_are_labels(tmp_path: Path) -> None:
    labels = [Decimal("1.00"), Decimal("0.50"), Decimal("-12.00")]
    polars.DataFrame({"label": labels}).write_parquet(tmp_path / "a.parquet")
    assert [row.label("label") for row in rows(table(tmp_path / "a.parquet"))] == ["1", "0.5", "-12"]


def test_parquet_that_stops_polars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic is an error of one line too; and the batches that end early, as after one in a thread, are no end."""
    path = tmp_path / "a.parquet"
    for day in (10**8, 10**6 * 4):  # later than polars, and than Python, can say
        days = polars.Series([day], dtype=polars.Int32).cast(polars.Date)
        polars.DataFrame({"text": ["a"], "day": days}).write_parquet(path)
        assert refused(path).startswith(": not readable as parquet (")
        assert [row.values for row in rows(table(path), only=["text"])] == [{"text": "a"}]
    monkeypatch.setattr(polars.LazyFrame, "collect_batches", lambda *_args, **_settings: iter(()))
    assert refused(path) == ": not readable as parquet (only 0 of 1 rows); copy or write it again"
