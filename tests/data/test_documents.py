"""Documents out of files: the same from every kind of file, however it is cut; every fault named by file and place."""

import errno
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import polars
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gpt1.data import documents, files
from gpt1.data.documents import (
    Corpus,
    Piece,
    ReadOptions,
    TextBlock,
    at_whitespace,
    blocks,
    gather,
    groups,
    has_text,
    pieces,
)
from gpt1.data.files import File, find
from gpt1.errors import UserError

TEXTS = ['One day,\nthe hare said: "Ha!"', "żółw, 亀\tand tab", "  indented\n\nand more  ", "end"]


def joined(found: Iterator[TextBlock]) -> list[str]:
    """The documents that blocks hold, put together again."""
    whole, open_text = [], ""
    for block in found:
        for number, text in enumerate(block.texts):
            open_text += text
            if number < block.ends:
                whole.append(open_text)
                open_text = ""
    assert open_text == ""
    return whole


def read(path: Path, **options: str) -> list[str]:
    return joined(blocks([File(path, named=True)], ReadOptions(**options), at_whitespace))  # type: ignore[arg-type]


def packed(path: Path, how: str) -> Path:
    """The same file, packed."""
    pack = gzip.compress if how == ".gz" else zstandard.compress
    out = path.with_name(path.name + how)
    out.write_bytes(pack(path.read_bytes()))
    return out


def table(folder: Path, kind: str, texts: list[str]) -> Path:
    path = folder / f"table.{kind}"
    frame = polars.DataFrame({"n": range(len(texts)), "text": texts})
    if kind == "parquet":
        frame.write_parquet(path)
    elif kind == "csv":
        frame.write_csv(path)
    elif kind == "tsv":
        path.write_text("n\ttext\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(texts)), encoding="utf-8")
    else:
        path.write_text("\n\n".join(json.dumps({"text": text, "n": 1}) for text in texts), encoding="utf-8")
    return path


# Kinds


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "csv", "parquet"])
def test_a_row_is_a_document(kind: str, packing: str, tmp_path: Path) -> None:
    path = table(tmp_path, kind, TEXTS)
    assert read(packed(path, packing) if packing else path) == TEXTS


def test_quotes_in_tsv_are_text(tmp_path: Path) -> None:
    assert read(table(tmp_path, "tsv", ['"Ha!" he said', 'no"quotes', '"'])) == ['"Ha!" he said', 'no"quotes', '"']


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_a_text_file_is_a_document(packing: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffTwo\r\nlines żółw\n".encode())
    assert read(packed(path, packing) if packing else path) == ["Two\r\nlines żółw\n"]


def test_lines_and_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n\n  one\ntwo  \r\n \t \r\n\n\n\nthree\n\n")
    assert read(path, documents="line") == ["  one", "two  ", "three"]
    assert read(path, documents="blank-line") == ["  one\ntwo  ", "three"]
    assert read(path, documents="file") == ["\n\n  one\ntwo  \r\n \t \r\n\n\n\nthree\n\n"]


def test_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for encoding in ("utf-16", "utf-8", "cp1250", "utf-16-le"):
        path.write_text("żółw\n", encoding=encoding)
        assert read(path, encoding=encoding) == ["żółw\n"]


def test_half_a_surrogate_pair_in_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(r'{"text": "é \ud83d\ude00 \ud83d."}')
    assert read(path) == ["é 😀 \ufffd."]


# Cutting

lines = st.text(alphabet="ab \t\n\r\u2028é", max_size=60)


@given(lines, st.integers(1, 7))
def test_documents_do_not_depend_on_blocks(text: str, size: int) -> None:
    """Each way of splitting a file gives the same documents whether it comes at once or a few characters at a time."""
    parts = [text[i : i + size] for i in range(0, len(text), size)]
    for split in (documents._whole, documents._lines, documents._paragraphs):
        at_once = joined(gather(split([text]), at_whitespace))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(documents, "BLOCK", size)
            assert joined(gather(split(parts), at_whitespace)) == at_once
    if not text.isspace() and text:
        assert joined(gather(documents._whole(parts), at_whitespace)) == [text]
    assert joined(gather(documents._lines([text]), at_whitespace)) == [x for x in text.split("\n") if x.strip()]


@given(st.lists(st.text(alphabet="ab \n", max_size=20), max_size=20), st.integers(1, 9))
def test_blocks_are_small_and_leave_empty_documents_out(texts: list[str], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "BLOCK", size)
        patch.setattr(documents, "MAX_HELD", 2 * size)
        found = list(gather(((text, True) for text in texts), at_whitespace))
    kept = [text for text in texts if text.strip()]
    assert joined(iter(found)) == kept
    assert sum(block.empty for block in found) == len(texts) - len(kept)
    assert all(len("".join(block.texts)) < size + 20 for block in found)


def test_a_document_is_open_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BLOCK", 10)
    whole: list[Piece] = [("some words and ", False), ("a long tail", False), ("", True), ("next", True)]
    found = list(gather(iter(whole), at_whitespace))
    assert [(block.texts, block.is_open) for block in found] == [
        (["some words and"], True),
        ([" a long"], True),
        ([" tail", "next"], False),
    ]


def test_a_document_without_a_place_to_cut_is_cut_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BLOCK", 10)
    monkeypatch.setattr(documents, "MAX_HELD", 30)
    found = list(gather(iter([("x" * 10, False)] * 4 + [("", True)]), at_whitespace))
    assert [(len(block.texts[0]), block.is_open) for block in found] == [(30, True), (10, False)]


# Which files


def test_folders_globs_and_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/c.md", ".hidden", ".git/config"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    names = [str(file.path.relative_to(tmp_path)) for file in find([str(tmp_path)])]
    assert names == ["a.txt", "b.txt", str(Path("deep/c.md"))]
    assert [file.path.name for file in find([str(tmp_path / "**" / "*.md"), str(tmp_path)])] == [
        "c.md",
        "a.txt",
        "b.txt",
    ]
    assert [file.named for file in find([str(tmp_path / "b.txt"), str(tmp_path)])] == [True, False, False]


def test_what_a_folder_holds_is_read_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, scandir = tmp_path / "in", os.scandir
    (folder / "secret").mkdir(parents=True)
    (folder / "a.txt").write_text("x")
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    assert [file.path.name for file in find([str(folder)])] == ["a.txt"]
    assert capsys.readouterr().err == f"{folder / 'link'}: skipped, as it is a link to a folder; name it to read it\n"

    def refuse(path: str) -> object:
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="secret"):
        find([str(folder)])


def test_a_state_of_another_program_makes_no_dataset(tmp_path: Path) -> None:
    for name in ("a.txt", "state.json", "deep/b.txt", "deep/state.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert [file.path.name for file in find([str(tmp_path)])] == ["a.txt", "b.txt", "state.json", "state.json"]


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    assert len(find([str(tmp_path / "a[1].txt")])) == 1


def test_tables_without_the_column_can_be_told(tmp_path: Path) -> None:
    for kind in ("csv", "tsv", "parquet", "jsonl"):
        file = File(table(tmp_path, kind, TEXTS), named=False)
        assert has_text(file, ReadOptions())
        assert has_text(file, ReadOptions(text="other")) == (kind == "jsonl")


# Faults


def refused(path: Path, **options: str) -> str:
    with pytest.raises(UserError) as error:
        read(path, **options)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    return line.removeprefix(str(path))


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, answer in (("none", "no such file or folder"), ("*.x", "no file matches"), ("empty", "an empty folder")):
        with pytest.raises(UserError, match=answer):
            find([str(tmp_path / name)])


@pytest.mark.parametrize("before", [0, 5, 20, 39])
def test_bytes_that_are_not_text(before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK", 4)
    path = tmp_path / "a.txt"
    lines = 4 * before
    good, place = ("\n" * lines + "é" * before).encode(), f":{lines + 1}: byte {lines + 2 * before}"
    path.write_bytes(good + b"\xe9 t")
    assert refused(path).startswith(f"{place} (0xe9) is not utf-8 text; give the file's encoding")
    path.write_bytes(good + b"\xc3")
    assert refused(path).startswith(f"{place} (0xc3) is not utf-8")
    path.write_bytes(good + b"\0\x01")
    assert refused(path).startswith(f"{place} is NUL")
    assert "not utf-16 text" in refused(path, encoding="utf-16")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ('{"txt": "a", "n": 1}', ":3: no field text; it has txt, n: choose one with text"),
        ("{}", ":3: no field text; it has none"),
        ('{"text": "a", n}', ":3: not JSON (Expecting property name enclosed in double quotes at column 15); a line"),
        ("plain", ":3: not JSON ("),
        ('["a"]', ':3: not a JSON object; a line must look like {"text": "..."}'),
        ('{"text": 5}', ":3: the field text holds 5, not a text"),
    ],
)
def test_rows_that_are_not_rows(row: str, answer: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n\n' + row + "\n")
    assert refused(path).startswith(answer)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "utf-16-be"])
def test_the_encoding_to_give_is_named(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "The old café in the street by the river is closed."
    path.write_bytes(text.encode(encoding))
    assert f" encoding {encoding}, or leave the file out" in refused(path)
    assert read(path, encoding=encoding) == [text]
    path.write_bytes("Кафе закрыто.".encode("koi8-r"))  # cp1252 would read other letters
    assert "; give the file's encoding with encoding, such as cp1251 or shift_jis, or leave" in refused(path)
    if encoding.startswith("utf-16"):  # in any script, spaces and line ends tell
        path.write_bytes("Кафе закрыто.\nТекст, метка\n".encode(encoding))
        assert f"; give encoding {encoding}, or leave" in refused(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"])
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_a_mark_tells_the_encoding(encoding: str, packing: str, tmp_path: Path) -> None:
    """What Excel and the Windows shell write; the rest of a damaged one is refused at its place."""
    path, text = tmp_path / "a.txt", "Żółw, кафе, 春 🙂\n" * 3
    path.write_bytes(("\ufeff" + text).encode(encoding))
    assert read(packed(path, packing) if packing else path) == [text]
    path.write_bytes(("\ufeff" + text).encode(encoding)[:-1] + b"\xff")
    if encoding == "utf-16-le":
        path.write_bytes(("\ufeffab").encode(encoding) + b"\0\xd8a\0")
        assert refused(path) == ":1: byte 6 (0x00) is not utf-16-le text; the file is damaged; save or copy it again"


def test_binary_data_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(256)) * 40)
    assert refused(path).endswith("; it holds binary data; leave it out")


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"%PDF-1.7 ...", "a PDF document; extract its text"),
        (b"PK\x03\x04 a.txt", "a zip archive; unpack it"),
        (b"PK\x03\x04 word/document.xml", "a Word document; save it as text"),
        (gzip.compress(b"text", mtime=0), "compressed by gzip; name it .gz"),
        (zstandard.compress(b"text"), "compressed by zstandard; name it .zst"),
        (b"a.txt" + bytes(252) + b"ustar", "a tar archive; unpack it"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_what_is_no_text_is_called_what_it_is(name: str, head: bytes, answer: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(head)
    for encoding in ("utf-8", "cp1252"):
        assert refused(path, encoding=encoding).startswith(f": {answer}")


def test_json_may_hold_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ('[{"text": "a"}, {"text": "b"}]', '{"text": "a"}\n{"text": "b"}\n'):
        path.write_text(text)
        (block,) = blocks([File(path, named=True)], ReadOptions(), at_whitespace)
        assert block.texts == ["a", "b"]
        assert has_text(File(path, named=False), ReadOptions())
    path.write_text('[{"body": "a"}]')
    assert refused(path) == ": no field text; it has body: choose one with text"
    assert not has_text(File(path, named=False), ReadOptions())
    path.write_text('{\n"text": "a"}')
    assert refused(path) == (
        ":1: the line ends before its object does; give one object a line, or a file with an array of objects"
    )


def test_null_is_an_empty_document(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null}\n{"text": "a"}\n')
    (block,) = blocks([File(path, named=True)], ReadOptions(), at_whitespace)
    assert (block.texts, block.empty) == (["a"], 1)


@pytest.mark.parametrize(
    ("name", "content", "answer"),
    [
        ("a.csv", "n,txt\n1,b\n", ": no column text; it has n, txt: choose one with text"),
        ("a.csv", "", ": no column text; it has none"),
        ("a.tsv", "n\ttext\n1\n", ":2: 1 fields where the header has 2"),
        ("a.csv", 'text\n"a\n', ":2: a quote that opens in this row is never closed"),
        ("a.csv", 'text\n"a"b\n', ":2: not csv ("),
    ],
)
def test_tables_that_are_not_tables(name: str, content: str, answer: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert refused(path).startswith(answer)


def test_parquet_faults(tmp_path: Path) -> None:
    path = table(tmp_path, "parquet", TEXTS)
    assert refused(path, text="body").startswith(": no column body; it has n, text")
    assert refused(path, text="n").startswith(":1: the column n holds 0, not a text")
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(path).startswith(": not readable as parquet (")


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_packed_files_that_are_cut_short_or_not_packed(packing: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n} words, " for n in range(20_000)))
    path = packed(tmp_path / "a.txt", packing)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:6]):
        path.write_bytes(content)
        assert refused(path).startswith(": damaged or truncated (")
    path.write_bytes(b"no archive at all")
    assert refused(path) == f": not compressed, though it is named {packing}; rename it"
    path.write_bytes(b"%PDF-1.7 ...")
    assert refused(path).startswith(": a PDF document; extract its text")
    path.write_bytes(whole + whole)
    assert len(read(path)[0]) == 2 * len((tmp_path / "a.txt").read_text())


@pytest.mark.parametrize(("encoding", "content"), [("utf-7", b"a+2AA-b"), ("unicode_escape", rb"a\ud800b")])
def test_half_a_character_of_utf16_is_replaced(encoding: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert read(tmp_path / "a.txt", encoding=encoding) == ["a\ufffdb"]


def test_zstandard_of_a_long_window(tmp_path: Path) -> None:
    """`zstd --long=31` writes frames that the library refuses to read by default."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.txt.zst").write_bytes(stream.compress(b"text") + stream.flush())
    assert read(tmp_path / "a.txt.zst") == ["text"]


def test_pieces_are_lazy(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\nbroken\n')
    assert next(iter(pieces(File(path, named=True), ReadOptions()))) == ("fine", True)


# Groups of files


def test_small_files_come_together_and_a_large_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BLOCK", 10)
    monkeypatch.setattr(documents, "LARGE", 30)
    sizes = [4, 4, 4, 4, 30, 9, 9, 9, 40, 50, 1]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number:02d}.txt").write_text("x" * size)
    (tmp_path / "11.txt.gz").write_bytes(gzip.compress(b"", mtime=0))  # 20 bytes, about 80 of text
    found = [[file.path.stat().st_size for file in group] for group in groups(find([str(tmp_path)]))]
    assert found[:-1] == [[4, 4, 4], [4], [30], [9, 9], [9], [40], [50], [1]]
    assert len(found[-1]) == 1


@given(st.lists(st.integers(1, 60), min_size=2, max_size=12), st.integers(5, 40), st.integers(20, 90))
def test_documents_and_their_split_do_not_depend_on_groups(sizes: list[int], block: int, large: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for number, size in enumerate(sizes):
            (Path(folder) / f"{number:02d}.txt").write_text(f"{number}" + " word" * size)
        corpus = Corpus(find([folder]), [], ReadOptions(), 0.4, 3)
        (portion,) = corpus.portions()
        ((whole, is_val),) = corpus.split_blocks(portion)
        patch.setattr(documents, "BLOCK", block)
        patch.setattr(documents, "LARGE", large)
        cut = Corpus(find([folder]), [], ReadOptions(), 0.4, 3)
        found = [split for portion in cut.portions() for split in cut.split_blocks(portion)]
        assert joined(iter(one for one, _ in found)) == whole.texts
        ended = [val for one, vals in found for val in vals[: one.ends]]
        assert ended == is_val.tolist()
