"""Files that appear whole or not at all."""

import json
import os
from pathlib import Path

import pytest
import torch

from conftest import NOT_UTF8
from gpt1.storage import (
    atomic,
    move_folder,
    remove_folder,
    remove_temporaries,
    save_file,
    temporary_name,
    write_json,
    write_text,
)


@pytest.mark.parametrize("value", [NOT_UTF8, "a\\ud83d \\", "żółw 🙂"])
def test_any_text_comes_back_from_json(value: str, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {value: [value]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {value: [value]}


def test_tensors_that_cannot_be_written_are_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="I/O error"):
        save_file({"a": torch.zeros(4)}, tmp_path / "missing" / "a.safetensors", metadata={})


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(IsADirectoryError) as caught, atomic(tmp_path / "page.html"):
        pass
    assert caught.value.filename == str(tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="pipe"), atomic(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "text", "a")
    with atomic(tmp_path / "a.safetensors") as temporary:
        save_file({"a": torch.zeros(4)}, temporary, metadata={})
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1 and len(list(tmp_path.iterdir())) == 3


def test_an_error_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(MemoryError), atomic(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise MemoryError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in (".a.json.0123456789ab.tmp", "inner/.b.0123456789ab.tmp", ".mine.tmp", "a.json", ".b.0123456789ab.tmp"):
        (tmp_path / name).touch()
    another = tmp_path / ".a.jsonl.0123456789ab.tmp"  # which another process may be writing
    another.touch()
    remove_temporaries(tmp_path, "a.json")
    assert not (tmp_path / ".a.json.0123456789ab.tmp").exists() and another.exists()
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".mine.tmp", "a.json"]


def test_a_folder_appears_and_goes_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "state"
    for text in ("first", "second"):
        temporary = temporary_name(place)
        write_text(temporary / text, text)
        move_folder(temporary, place)
        assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["state", f"state/{text}"]
    with monkeypatch.context() as patch:  # killed while it removes
        patch.setattr("shutil.rmtree", lambda path: None)
        remove_folder(place)
    assert not place.exists() and [*tmp_path.iterdir()]
    remove_temporaries(tmp_path)
    assert not [*tmp_path.iterdir()]
