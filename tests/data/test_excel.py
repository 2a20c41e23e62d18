"""Workbooks of Excel: the rows of the first sheet, by their numbers in it."""

import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from gpt1.config import Columns
from gpt1.data.tables import columns, rows, table
from gpt1.errors import UserError
from gpt1.tasks.columns import ColumnNames, guess_columns
from gpt1.tasks.rows import read_labelled_rows

SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def write_workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    """Write a workbook by hand: the parts of Office Open XML that a spreadsheet needs, and no style."""

    def cell(value: Any, name: str) -> str:
        if isinstance(value, str):
            return f'<c r="{name}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'
        return "" if value is None else f'<c r="{name}"><v>{value}</v></c>'

    def relations(*targets: tuple[str, str]) -> str:
        found = (
            f'<Relationship Id="rId{n}" Type="{RELATIONS}/{kind}" Target="{target}"/>'
            for n, (kind, target) in enumerate(targets, 1)
        )
        return f'<Relationships xmlns="{PACKAGE}/relationships">{"".join(found)}</Relationships>'

    named = [f'<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>' for n, name in enumerate(sheets, 1)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{PACKAGE}/content-types"/>')
        archive.writestr("_rels/.rels", relations(("officeDocument", "xl/workbook.xml")))
        book = f'<workbook xmlns="{SHEETS}" xmlns:r="{RELATIONS}"><sheets>{"".join(named)}</sheets></workbook>'
        archive.writestr("xl/workbook.xml", book)
        parts = [f"worksheets/sheet{n}.xml" for n in range(1, len(sheets) + 1)]
        archive.writestr("xl/_rels/workbook.xml.rels", relations(*(("worksheet", part) for part in parts)))
        for part, lines in zip(parts, sheets.values(), strict=True):
            cells = [
                f'<row r="{n}">{"".join(cell(value, f"{chr(65 + i)}{n}") for i, value in enumerate(line))}</row>'
                for n, line in enumerate(lines, 1)
            ]
            body = f'<worksheet xmlns="{SHEETS}"><sheetData>{"".join(cells)}</sheetData></worksheet>'
            archive.writestr(f"xl/{part}", body)
    return path


LINES = [["text", "stars", "label"], ["Żółw & co", 3.5, 1], ["two\nlines", 4, "x"], [], ["2026", 0.25, None]]


def test_the_rows_of_the_first_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastexcel", reason="reading .xlsx needs the extra xlsx")
    path = write_workbook(tmp_path / "a.xlsx", Sheet1=LINES, Notes=[["nothing"]])
    assert columns(table(path)) == ["text", "stars", "label"]
    found = list(rows(table(path)))
    assert [(row.line, row.text("text"), row.number("stars")) for row in found] == [
        (2, "Żółw & co", 3.5), (3, "two\nlines", 4.0), (5, "2026", 0.25),
    ]  # fmt: skip
    assert [row.label("label") for row in found[:2]] == ["1", "x"]
    with pytest.raises(UserError, match=r"a\.xlsx:5: column label is empty"):
        found[2].label("label")
    assert capsys.readouterr().err == f"{path}: reading the first sheet, Sheet1; not Notes\n"


def test_blank_rows_above_the_header_count(tmp_path: Path) -> None:
    pytest.importorskip("fastexcel", reason="reading .xlsx needs the extra xlsx")
    for blank in ([[]], [[], [None, None], []]):
        path = write_workbook(tmp_path / f"{len(blank)}.xlsx", Sheet1=[*blank, *LINES])
        lines = [line + len(blank) for line in (2, 3, 5)]
        assert columns(table(path)) == ["text", "stars", "label"]
        assert [row.line for row in rows(table(path))] == lines
        with pytest.raises(UserError, match=rf"\.xlsx:{lines[-1]}: column label is empty"):
            read_labelled_rows(str(path), Columns(["text"], ["label"]), "classes")
    title = [[], ["Moods of 2026"], ["body", "label"], ["a", 1]]
    with pytest.raises(UserError, match="; row 3 looks like the header"):
        guess_columns(str(write_workbook(tmp_path / "title.xlsx", Sheet1=title)), "classification", ColumnNames())


def test_a_title_above_the_header_is_named(tmp_path: Path) -> None:
    pytest.importorskip("fastexcel", reason="reading .xlsx needs the extra xlsx")
    for title, number in (([["Moods of 2026"]], 2), ([["Moods"], ["by hand", None], []], 4)):
        path = write_workbook(tmp_path / f"{number}.xlsx", Sheet1=[*title, ["body", "label"], ["a", 1], ["b", 2]])
        with pytest.raises(UserError, match=rf"; row {number} looks like the header: delete the rows above it$"):
            guess_columns(str(path), "classification", ColumnNames())
    path = write_workbook(tmp_path / "none.xlsx", Sheet1=[["a", None], ["b", 2]])
    with pytest.raises(UserError, match=r"; the columns are a, __UNNAMED__1$"):
        guess_columns(str(path), "classification", ColumnNames())


def test_a_workbook_and_a_csv_hold_the_same_labelled_rows(tmp_path: Path) -> None:
    pytest.importorskip("fastexcel", reason="reading .xlsx needs the extra xlsx")
    lines = [["text", "stars", "label"], *([f"text {n}", n / 4, n % 3] for n in range(20))]
    book = write_workbook(tmp_path / "a.xlsx", Data=lines)
    path = tmp_path / "a.csv"
    path.write_text("".join(";".join(map(str, line)).replace(".", ",") + "\n" for line in lines))
    for label, kind in (("stars", "score"), ("label", "classes")):
        one, other = (read_labelled_rows(str(file), Columns(["text"], [label]), kind) for file in (book, path))
        assert (one.texts, one.labels) == (other.texts, other.labels)
        assert [where.partition(":")[2] for where in one.where] == [where.partition(":")[2] for where in other.where]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    pytest.importorskip("fastexcel", reason="reading .xlsx needs the extra xlsx")
    for above, header, name in (([], ["text", "label", "text"], "text"), ([[], []], ["text", 1, 1.0], "1")):
        path = write_workbook(tmp_path / "a.xlsx", Sheet1=[*above, header, ["a", "b", "c"]])
        with pytest.raises(UserError, match=rf"a\.xlsx:{len(above) + 1}: two columns are called '{name}'; rename one$"):
            columns(table(path))
    path = write_workbook(tmp_path / "b.xlsx", Sheet1=[["text", None, "text_1", None], ["a", "b", "c", "d"]])
    assert columns(table(path)) == ["text", "__UNNAMED__1", "text_1", "__UNNAMED__3"]


def test_whole_numbers_are_whole(tmp_path: Path) -> None:
    """Excel stores every number as a float; as labels, 1 and 1.0 are one class, in a column of both and in others."""
    pytest.importorskip("fastexcel", reason="reading .xlsx needs the extra xlsx")
    path = write_workbook(tmp_path / "a.xlsx", Sheet1=[["text", "label"], ["a", 1.0], ["b", 2], ["c", 7]])
    assert [row.label("label") for row in rows(table(path))] == ["1", "2", "7"]


def test_workbooks_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastexcel", reason="reading .xlsx needs the extra xlsx")
    for name, content, answer in (
        ("a.xlsx", b"PK\x03\x04 and no more", "not readable as an Excel workbook ("),
        ("b.xlsx", b"%PDF-1.7", "a PDF document; "),
        ("c.xlsx", b"text,label\na,b\n", "not an Excel workbook; if it is a text table, name it .csv"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name) as caught:
            columns(table(tmp_path / name))
        assert answer in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no rows; the first line must name the columns"):
        columns(table(write_workbook(tmp_path / "d.xlsx", Sheet1=[["text", "label"]])))


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastexcel", None)
    with pytest.raises(
        UserError, match=r"to read Excel workbooks, `pip install 'gpt1\[xlsx\]'`, or save the sheet as csv"
    ):
        columns(table(write_workbook(tmp_path / "a.xlsx", Sheet1=LINES)))
