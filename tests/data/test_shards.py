"""Shards: what is written is what is read, wherever the files are cut; damage is named."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import one_line
from gpt1.data import shards
from gpt1.data.shards import (
    Manifest,
    Shard,
    ShardWriter,
    Split,
    TokenStream,
    check_content,
    dtype_for,
    read_manifest,
    write_manifest,
)
from gpt1.errors import UserError


def manifest(train: list[Shard], val: list[Shard], dtype: str = "uint16") -> Manifest:
    return Manifest(
        tokenizer="t", kind="bytes", lossless=True, vocabulary=300, dtype=dtype, train=Split(train), val=Split(val),
        empty_documents=0, unknown_tokens=0, inputs=[], settings={}, fingerprint="f", seconds={},
    )  # fmt: skip


def write(folder: Path, parts: list[list[int]], dtype: str = "uint16") -> list[Shard]:
    """Each part is a shard of the training split; validation is one token."""
    with ShardWriter(folder, "val", dtype) as val:
        val.write(np.array([7]), 1, 1)
    with ShardWriter(folder, "train", dtype) as train:
        for part in parts:
            train.write(np.array(part, np.uint32), documents=1, size=2 * len(part))
            train.close_shard()
    write_manifest(folder, manifest(train.shards, val.shards, dtype))
    return train.shards


parts = st.lists(st.lists(st.integers(0, 65_535), min_size=1, max_size=9), min_size=1, max_size=6)


@given(parts, st.sampled_from(["uint16", "uint32"]), st.data())
def test_any_slice_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], dtype: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    write(folder, parts, dtype)
    whole = [token for part in parts for token in part]
    stream = TokenStream(folder, "train")
    assert len(stream) == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    found = stream.read(start, stop)
    assert found.dtype == np.int64
    assert found.tolist() == whole[start:stop]
    assert TokenStream(folder, "val").read(0, 1).tolist() == [7]


def test_more_shards_are_read_than_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAPPED", 2)
    write(tmp_path, [[number] * 3 for number in range(7)])
    stream = TokenStream(tmp_path, "train")
    assert stream.read(0, 21).tolist() == [number for number in range(7) for _ in range(3)]
    assert stream.read(2, 4).tolist() == [0, 1]
    assert stream.shard.cache_info().currsize == 2


def test_a_slice_outside_is_a_mistake(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2], [3]])
    for start, stop in ((-1, 1), (2, 1), (0, 4)):
        with pytest.raises(IndexError):
            TokenStream(tmp_path, "train").read(start, stop)


def test_the_file_is_bare_little_endian_ids(tmp_path: Path) -> None:
    (shard,) = write(tmp_path, [[1, 258]])
    raw = (tmp_path / "train-00000.bin").read_bytes()
    assert raw == b"\x01\x00\x02\x01"
    assert shard == Shard("train-00000.bin", tokens=2, documents=1, bytes=4, sha256=hashlib.sha256(raw).hexdigest())


def test_the_dtype_is_the_smallest_that_holds_every_id() -> None:
    assert [dtype_for(size) for size in (256, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]


def test_a_manifest_is_read_as_written(tmp_path: Path) -> None:
    shards = write(tmp_path, [[1, 2], [3]])
    found = read_manifest(tmp_path)
    assert found.train == Split(shards)
    assert (found.train.tokens, found.train.documents, found.train.bytes) == (3, 2, 6)
    assert json.loads((tmp_path / "manifest.json").read_text())["train"]["tokens"] == 3


def test_an_error_leaves_closed_shards_only(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", "uint16")
    with pytest.raises(ZeroDivisionError), writer:
        writer.write(np.array([1]), 1, 1)
        writer.close_shard()
        writer.write(np.array([2]), 1, 1)
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.bin"]


# Damage


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        TokenStream(folder, "train")
    return str(error.value)


def test_damaged_folders(tmp_path: Path) -> None:
    assert "no manifest.json; make the folder with `gpt1 prepare" in refused(tmp_path)
    (tmp_path / "gpt1.json").touch()
    assert "is a run; give the folder that `gpt1 prepare` wrote" in refused(tmp_path)
    assert "is a file; prepare it first: `gpt1 prepare" in refused(tmp_path / "gpt1.json")
    (tmp_path / "gpt1.json").unlink()
    (tmp_path / "unfinished").mkdir()
    assert "interrupted; repeat `gpt1 prepare`" in refused(tmp_path)
    write(tmp_path, [[1, 2], [3]])
    (tmp_path / "train-00001.bin").write_bytes(b"\x01")
    assert refused(tmp_path).startswith(f"{tmp_path / 'train-00001.bin'}: 1 bytes where the manifest says 2")
    (tmp_path / "train-00001.bin").unlink()
    assert refused(tmp_path).startswith(f"{tmp_path / 'train-00001.bin'}: missing")


def test_a_flipped_bit_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2], [3]])
    found = replace(
        read_manifest(tmp_path),
        settings={"inputs": ["a b.txt", "c"], "out": "x", "val": ["v"], "repair": False, "seed": 3, "fresh": True},
    )
    check_content(tmp_path, found)
    for name in ("train-00000.bin", "train-00001.bin", "val-00000.bin"):
        path = tmp_path / name
        whole = path.read_bytes()
        for bit in range(8 * len(whole)):
            raw = bytearray(whole)
            raw[bit // 8] ^= 1 << bit % 8
            path.write_bytes(raw)
            command = f"`gpt1 prepare 'a b.txt' c --out {tmp_path} --seed 3 --val v --no-repair`"
            with one_line(f"{path}: damaged", command):
                check_content(tmp_path, found)
        path.write_bytes(whole)
    check_content(tmp_path, found)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1, "train": {}}', '{"format": 1, "other": 2}'])
def test_a_damaged_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert "manifest.json: damaged" in refused(tmp_path)


def test_a_newer_format(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 2}')
    assert "written by a newer gpt1 (format 2; this one reads 1)" in refused(tmp_path)
