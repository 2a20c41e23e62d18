"""Rows are the same from every kind of table, and whatever is wrong with one is named by file and line."""

import csv
import gzip
import json
from pathlib import Path

import polars
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from conftest import NOT_UTF8, only_linux_names
from gpt1.data.tables import columns, header, rows, table
from gpt1.errors import UserError

ROWS = [
    {"text": 'he said "no", twice', "label": "bad"},
    {"text": "two\nlines, żółw 🙂", "label": "good"},
    {"text": "  spaces kept  ", "label": "good"},
]
PACK = {"": lambda data: data, ".gz": gzip.compress, ".zst": zstandard.compress}


def write(folder: Path, kind: str, found: list[dict[str, str]], packing: str = "") -> Path:
    """A table written by another program than ours."""
    frame, plain = polars.DataFrame(found), folder / f"plain.{kind}"
    if kind == "parquet":
        frame.write_parquet(plain)
    elif kind == "jsonl":
        frame.write_ndjson(plain)
    else:
        frame.write_csv(plain)
    path = folder / f"rows.{kind}{packing}"
    path.write_bytes(PACK[packing](plain.read_bytes()))
    return path


def file_with(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path, encoding: str = "utf-8") -> list[dict[str, object]]:
    return [row.values for row in rows(table(path), encoding)]


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
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_what_another_program_wrote_is_read(kind: str, packing: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind, ROWS, packing)
    assert values(path) == ROWS
    assert columns(table(path)) == header(table(path)) == ["text", "label"]
    assert [row.values["text"] for row in rows(table(path), only=["text"])] == [row["text"] for row in ROWS]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), min_size=1))
def test_any_text_survives_csv_and_jsonl(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    found = [{"n": str(number), "text": text} for number, text in enumerate(texts)]
    for kind in ("csv", "jsonl"):
        assert values(write(folder, kind, found)) == found


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
    assert values(path, "cp1252") == [{"text": "été"}]


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


# Faults


@pytest.mark.parametrize(
    ("name", "content", "answer"),
    [
        (
            "a.csv",
            "text,label\na,b\nc\n",
            ":3: 1 fields where the header has 2; put a field that contains the delimiter in",
        ),
        ("a.tsv", "text\tlabel\na\tb\tc\n", ":2: 3 fields where the header has 2"),
        ("a.csv", "text,label,text\n", ":1: two columns are called 'text'; rename one"),
        ("a.csv", "", ": no rows; the first line must name the columns, and rows must follow"),
        ("a.csv", "text,label\n", ": no rows"),
        ("a.tsv", "\n\n", ": no rows"),
        ("a.jsonl", "\n", ": no rows"),
        ("a.csv", "text,label\ra,b\rc,d\r", ":1: a field contains a carriage return; convert the file's line ends"),
        ("a.jsonl", '{"text": ' + "[" * 99_999 + "]" * 99_999 + "}\n", ":1: not JSON (maximum recursion depth"),
        ("a.tsv", "text,label\na,b\n", ":1: the columns are not separated by tabs; name it .csv"),
        ("a.csv", 'text,label\n"a,b\n', ":2: not csv (unexpected end of data); check its quotes"),
        ("a.csv", b"text,label\nfine,1\ncaf\xe9,0\n", ": byte 21 (0xe9) is not utf-8 text; "),
        ("a.jsonl", b'{"text": "a"}\n\0\x01', ": byte 14 is NUL, so this is not utf-8 text"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', ":2: not JSON ("),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', ":2: not a JSON object"),
        ("a.parquet", b"PAR1 but no more", ": not readable as parquet ("),
        ("a.parquet", b"PK\x03\x04 xl/workbook.xml", ": an Excel workbook; save the sheet as csv"),
        ("a.csv", b"PK\x03\x04 xl/workbook.xml", ": an Excel workbook; save the sheet as csv"),
        ("a.xlsx", b"PK\x03\x04 xl/workbook.xml", ": an Excel workbook; save the sheet as csv"),
        ("a.csv", b"PAR1\x15 and more", ": parquet; name it .parquet"),
        ("a.csv", "PAR1,PAR1\n", ":1: two columns are called 'PAR1'"),
        (
            "a.csv",
            "text,label\n".encode("utf-16"),
            ": byte 0 (0xff) is not utf-8 text; give encoding utf-16",
        ),
        ("a.jsonl", '[\n{"text": "a"}\n]', ": JSON, an array; write its objects, one a line, to a file named .jsonl"),
        ("a.json", '[{"text": "a"}]', ": JSON, an array; write its objects, one a line, to a file named .jsonl"),
        ("a.json", '\n{"text": "a"}', ": JSON, not text; with one object a line, it is a file named .jsonl"),
        ("a.csv.gz", b"text,label\n", ": damaged or truncated ("),
    ],
)
def test_tables_that_are_not_tables(name: str, content: str | bytes, answer: str, tmp_path: Path) -> None:
    assert refused(file_with(tmp_path, name, content)).startswith(answer)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.csv") == ": no such file"
    assert refused(tmp_path).startswith(": a folder, but not of a dataset that save_to_disk wrote")
    assert refused(file_with(tmp_path, "a.xlsx", "x")).startswith(": not a known kind of table; name it .csv, .tsv")


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
