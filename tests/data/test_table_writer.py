"""What is written comes back the same, or is refused by row."""

import json
import sys
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import NOT_UTF8, only_linux_names
from gpt1.data.table_writer import check_ending, table_writer
from gpt1.data.tables import Row, rows, table
from gpt1.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def write_only(out: Path, *blocks: list[dict[str, Any]]) -> Path:
    with table_writer(str(out)) as write:
        for number, block in enumerate(blocks):
            write([Row(Path("in.jsonl"), 10 * number + n, values) for n, values in enumerate(block, 1)])
    return out


def written(out: Path, *blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row.values for row in rows(table(write_only(out, *blocks)))]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@given(found=st.lists(st.fixed_dictionaries({"n": TEXT, 'a "b", c': TEXT.filter(bool)}), min_size=1, max_size=5))
def test_any_text_comes_back(kind: str, found: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.getbasetemp() / f"any.{kind}"
    assert written(out, found[:1], found[1:] or found[:1])[: len(found)] == found


def test_tsv_is_plain(tmp_path: Path) -> None:
    written(tmp_path / "a.tsv", [{"text": '"Ha!" été', "p": 0.25, "n": None}])
    assert (tmp_path / "a.tsv").read_text(encoding="utf-8") == 'text\tp\tn\n"Ha!" été\t0.25\t\n'


def test_another_program_reads_csv(tmp_path: Path) -> None:
    found = [{"text": 'two\nlines, "quoted"', "p": 0.1}, {"text": "a\rb", "p": 1e-9}]
    written(tmp_path / "a.csv", found)
    assert polars.read_csv(tmp_path / "a.csv").to_dicts() == found


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    found = [{"p": p} for p in (0.1 + 0.2, 1 / 3, 1e-300, sys.float_info.min)]
    for kind in ("csv", "tsv"):
        assert [float(row["p"]) for row in written(tmp_path / f"a.{kind}", found)] == [row["p"] for row in found]


def test_parquet_blocks_agree_on_types(tmp_path: Path) -> None:
    blocks: list[list[dict[str, Any]]] = [[{"n": None, "x": 1}], [{"n": 2, "x": 1.5}], [{"n": 3, "late": ["a"]}]]
    assert written(tmp_path / "a.parquet", *blocks) == [
        {"n": None, "x": 1.0, "late": None}, {"n": 2, "x": 1.5, "late": None}, {"n": 3, "x": None, "late": ["a"]},
    ]  # fmt: skip


@pytest.mark.parametrize("folder", ["out[1]", pytest.param(NOT_UTF8, marks=only_linux_names)])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_folder_of_any_name(kind: str, folder: str, tmp_path: Path) -> None:
    found = [{"text": "a"}, {"text": "b"}]
    assert written(tmp_path / folder / f"p[0].{kind}", found[:1], found[1:]) == found


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    found = [{"label": "a\ud83d"}]
    assert written(tmp_path / "a.csv", found) == [{"label": "a\\ud83d"}]
    assert json.loads(write_only(tmp_path / "a.jsonl", found).read_text()) == found[0]
    with pytest.raises(UserError, match=r"not Unicode text; write \.jsonl"):
        write_only(tmp_path / "a.parquet", found)


def test_lists_in_csv_are_json(tmp_path: Path) -> None:
    assert written(tmp_path / "a.csv", [{"a": ["é", 1], "b": {"c": None}}]) == [{"a": '["é", 1]', "b": '{"c": null}'}]


@pytest.mark.parametrize(
    ("kind", "blocks", "answer"),
    [
        (
            "tsv",
            [[{"a": "x", "b": "y"}], [{"a": "x", "b": "one\ttwo"}]],
            r"in.jsonl:11: 'one\ttwo' contains a tab or",
        ),
        ("tsv", [[{"a": "x\ny", "b": ""}]], r"in.jsonl:1: 'x\ny' contains a tab or a newline, which "),
        ("tsv", [[{"a": "x\ry", "b": ""}]], r"in.jsonl:1: 'x\ry' contains a tab"),
        ("tsv", [[{"a\tb": "x"}]], r"the header: 'a\tb' contains a tab"),
        ("csv", [[{"a": 1}], [{"a": 2}, {"a": 3, "b": 4}]], "in.jsonl:12: column b is not in the first row"),
        ("parquet", [[{"a": [1]}, {"a": "x"}]], "a column holds different kinds of values"),
        ("parquet", [[{"a": [1]}], [{"a": 1}]], "a column holds different kinds of values"),
        ("parquet", [[{"a": 1}], [{"a": 2**200}]], "int value too large"),
    ],
)
def test_what_a_file_cannot_hold(kind: str, blocks: list[list[dict[str, Any]]], answer: str, tmp_path: Path) -> None:
    out = tmp_path / f"a.{kind}"
    out.write_text("old")
    with pytest.raises(UserError) as caught:
        written(out, *blocks)
    assert answer in str(caught.value)
    assert "write ." in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_text() == "old"


def test_endings() -> None:
    check_ending("a.b.csv")
    with pytest.raises(UserError, match=r"out a.xlsx: the file name must end in one of .jsonl, .csv, .tsv"):
        check_ending("a.xlsx")
