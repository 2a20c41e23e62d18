"""Copies of what addresses name: up to date, whole, inside the cache, and not in the way of another machine's work."""

import functools
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from conftest import one_line
from gpt1.errors import RunFailed, UserError, addressed
from gpt1.mirror import Mirror
from gpt1.object_store import Store, is_address, split_glob

ADDRESS = "memory://lake/run"


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty object store in memory, whose `calls` say what was read, written and removed; and an empty cache."""
    monkeypatch.setenv("GPT1_CACHE", str(tmp_path / "cache"))
    store, calls = fsspec.filesystem("memory"), []

    def note(verb: str, name: str, place: int) -> None:
        real = getattr(store, name)

        def noted(*paths: str) -> None:
            real(*paths)
            calls.append(f"{verb} {paths[place].removeprefix('/lake/run/')}")

        monkeypatch.setattr(store, name, noted)

    note("get", "get_file", 0)
    note("put", "put_file", 1)
    note("rm", "rm_file", 0)
    monkeypatch.setattr(store, "calls", calls, raising=False)
    yield store
    store.store.clear()
    del store.pseudo_dirs[1:]


def put(store: Any, objects: Mapping[str, str]) -> None:
    """Write objects as another program does."""
    for name, text in objects.items():
        store.pipe_file(f"/lake/run/{name}", text.encode())


def write(mirror: Mirror, files: Mapping[str, str]) -> None:
    """Write files as a command does."""
    for name, text in files.items():
        (mirror.path / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror.path / name).write_text(text)


def files(mirror: Mirror) -> dict[str, str]:
    paths = [path for path in mirror.path.rglob("*") if path.is_file()]
    return {path.relative_to(mirror.path).as_posix(): path.read_text() for path in paths}


def objects(store: Any) -> dict[str, str]:
    return {path.removeprefix("/lake/run/"): store.cat(path).decode() for path in store.find("/lake/run")}


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """The copy that another machine has, whose cache is another one."""
    with monkeypatch.context() as patch:
        patch.setenv("GPT1_CACHE", f"{os.environ['GPT1_CACHE']}-elsewhere")
        return Mirror(ADDRESS)


def test_only_what_has_changed_is_copied(lake: Any) -> None:
    put(lake, {"a": "1", "sub/b": "2", ".hidden": "3", "sub/.hidden": "4"})
    lake.pipe_file("/lake/runs", b"a neighbour")
    mirror = Mirror(ADDRESS)
    assert mirror.refresh()
    assert files(mirror) == {"a": "1", "sub/b": "2"}
    assert sorted(lake.calls) == ["get a", "get sub/b"]
    lake.calls.clear()
    assert Mirror(f"{ADDRESS}/").refresh()
    assert lake.calls == []
    put(lake, {"a": "5", "c": "6"})
    lake.rm_file("/lake/run/sub/b")
    lake.calls.clear()
    assert Mirror(Path(ADDRESS)).refresh(), "pathlib leaves one slash of two"
    assert files(mirror) == {"a": "5", "c": "6"}
    assert sorted(lake.calls) == ["get a", "get c"]


def test_a_copy_without_folders(lake: Any) -> None:
    put(lake, {"a": "1", "checkpoints/1": "2"})
    mirror = Mirror(ADDRESS)
    assert mirror.refresh(is_flat=True)
    assert files(mirror) == {"a": "1"}
    mirror.upload()
    assert mirror.refresh()
    assert files(mirror) == {"a": "1", "checkpoints/1": "2"}, "it was not taken for removed"


def test_an_object_is_a_file(lake: Any) -> None:
    lake.pipe_file("/lake/run", b"text,y\n")
    mirror = Mirror(ADDRESS)
    assert mirror.refresh()
    assert mirror.path.read_text() == "text,y\n"
    assert addressed(f"{mirror.path}:3: odd") == f"{ADDRESS}:3: odd"


def test_nothing_there(lake: Any) -> None:
    assert not Mirror(ADDRESS).refresh()
    assert not Mirror(ADDRESS).path.exists()


@pytest.mark.parametrize("name", ["../../b", "a/../../b", "a//b", "./a", "a\0b"])
def test_no_name_leads_out_of_the_cache(name: str, lake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {f"/lake/run/{name}": {"type": "file", "size": 1, "created": 1.0}}
    monkeypatch.setattr(lake, "find", lambda *args, **more: listed)
    with one_line("memory://lake/run: the object", "no file can have"):
        Mirror(ADDRESS).refresh()
    assert not lake.calls
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {".lock", ".index.json"}


def test_a_download_that_was_cut_short(lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(lake, {str(number): "x" * 9 for number in range(20)})
    real, mirror = lake.get_file, Mirror(ADDRESS)

    def fails(path: str, target: str) -> None:
        if path.endswith("/7"):
            Path(target).write_bytes(b"half")
            raise ConnectionError("reset by peer")
        real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(lake, "get_file", fails)
        with pytest.raises(RunFailed, match=r"memory://lake/run: cannot be read \(reset by peer\)"):
            mirror.refresh()
    assert "7" not in files(mirror)
    assert set(files(mirror).values()) == {"x" * 9}
    assert mirror.refresh()
    assert files(mirror) == objects(lake)


def test_no_space_for_the_copy(lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(lake, {"a": "1" * 1_500, "b": "1" * 40})
    mirror = Mirror(ADDRESS)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=67_110_000))
    with pytest.raises(OSError, match="No space left") as caught:
        mirror.refresh()
    needed = f"the copy in {mirror.folder.parent} takes 1.5 kB, 67.1 MB must stay free, and 67.1 MB are free"
    assert caught.value.strerror == f"No space left on device: {needed}"
    assert not lake.calls


def test_objects_that_change_meanwhile(lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(lake, {"a": "1", "b": "1"})
    real, mirror, times = lake.get_file, Mirror(ADDRESS), iter(range(2))

    def and_change(path: str, target: str) -> None:
        real(path, target)
        if path.endswith("/a") and (number := next(times, None)) is not None:
            put(lake, {"a": f"new {number}", "b": f"new {number}"})

    monkeypatch.setattr(lake, "get_file", and_change)
    assert mirror.refresh()
    assert files(mirror) == {"a": "new 1", "b": "new 1"}, "both of one moment"
    times = iter(range(99))
    put(lake, {"a": "2"})
    with pytest.raises(RunFailed, match="memory://lake/run keeps changing"):
        mirror.refresh()


def test_there_is_something_whole_at_any_time(lake: Any) -> None:
    mirror = Mirror(ADDRESS)
    write(mirror, {"gpt1.json": "1", "model.bin": "1", "settings.json": "1", "s/1.bin": "1", "log.jsonl": "1"})
    mirror.upload()
    assert set(lake.calls[:2]) == {"put log.jsonl", "put settings.json"}
    assert set(lake.calls[2:4]) == {"put model.bin", "put s/1.bin"}
    assert lake.calls[4:] == ["put gpt1.json"]
    lake.calls.clear()
    mirror.upload()
    assert lake.calls == []
    write(mirror, {"gpt1.json": "2", "model.bin": "2", "settings.json": "1", "s/2.bin": "2", "log.jsonl": "12"})
    os.utime(mirror.path / "s" / "2.bin", (9, 9))
    (mirror.path / "s" / "1.bin").unlink()
    (mirror.path / ".model.bin.0123456789ab.tmp").write_text("half")
    mirror.upload()
    assert lake.calls == ["put log.jsonl", "put model.bin", "put s/2.bin", "put gpt1.json", "rm s/1.bin"]
    assert objects(lake) == {name: text for name, text in files(mirror).items() if not name.startswith(".")}


def test_a_folder_that_becomes_another_job_is_incomplete_meanwhile(lake: Any) -> None:
    mirror = Mirror(ADDRESS)
    write(mirror, {"gpt1.json": "1", "model.bin": "1", "settings.json": "1", "s/9.bin": "1"})
    mirror.upload()
    lake.calls.clear()
    (mirror.path / "s" / "9.bin").unlink()
    write(mirror, {"gpt1.json": "2", "model.bin": "2", "settings.json": "2", "s/1.bin": "2"})
    mirror.upload()
    assert sorted(lake.calls[:2]) == ["rm gpt1.json", "rm s/9.bin"]
    assert lake.calls[2:3] + lake.calls[5:] == ["put settings.json", "put gpt1.json"]


def test_an_upload_that_was_cut_short_goes_on(lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(ADDRESS)
    write(mirror, {"a": "1", "b": "1"})
    mirror.upload()
    write(mirror, {"a": "two", "b": "two"})
    real = lake.put_file

    def dies(source: str, target: str) -> None:
        real(source, target)
        raise KeyboardInterrupt  # the object is there, and the index does not say so

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lake, "put_file", dies)
        mirror.upload()
    write(mirror, {"a": "three"})
    again = Mirror(ADDRESS)
    again.refresh()
    assert files(again) == {"a": "three", "b": "two"}, "what the store has is our own, older work"
    again.upload()
    assert objects(lake) == {"a": "three", "b": "two"}


def test_a_file_that_is_removed_during_its_upload(lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(ADDRESS)
    write(mirror, {"1.bin": "1", "2.bin": "2"})
    real = lake.put_file

    def removes(source: str, target: str) -> None:
        if source.endswith("1.bin"):
            Path(source).unlink()
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(lake, "put_file", removes)
        mirror.upload()
    mirror.upload()
    assert objects(lake) == {"2.bin": "2"}


def test_another_machine_goes_on(lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = Mirror(ADDRESS), elsewhere(monkeypatch)
    write(here, {"a": "1", "state/1": "1"})
    here.upload()
    assert there.refresh()
    assert files(there) == files(here)
    write(there, {"a": "2", "state/2": "2"})
    (there.path / "state" / "1").unlink()
    there.upload()
    assert here.refresh()
    assert files(here) == files(there) == objects(lake) == {"a": "2", "state/2": "2"}


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_state_whose_upload_was_cut_short_is_not_there(
    is_lost: bool, lake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (f"checkpoints/step-00000020/part-0000{number}-of-00002.safetensors" for number in (1, 2))
    whole = {"checkpoints/step-00000010/part-00001-of-00001.safetensors": "1", "part-1-of-3.txt": "a corpus"}
    here, there = Mirror(ADDRESS), elsewhere(monkeypatch)
    write(here, whole)
    here.upload()
    write(here, {first: "1", second: "2"})
    put_file = lake.put_file

    def dies(source: str, target: str) -> None:
        if lake.find("/lake/run/checkpoints/step-00000020"):
            raise KeyboardInterrupt
        put_file(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lake, "put_file", dies)
        here.upload()
    assert there.refresh()
    assert files(there) == whole
    if is_lost:
        there.upload()
        assert objects(lake) == whole, "nor can it become part of another state"
    else:
        here.refresh()
        here.upload()
        assert there.refresh()
        assert files(there) == {**whole, first: "1", second: "2"}


def test_two_machines_at_once_are_noticed(lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = Mirror(ADDRESS), elsewhere(monkeypatch)
    write(here, {"a": "1"})
    here.upload()
    there.refresh()
    write(there, {"a": "theirs"})
    there.upload()
    write(here, {"a": "ours"})
    with one_line("memory://lake/run was changed by another machine", str(here.folder), "remove that folder"):
        here.refresh()
    assert files(here) == {"a": "ours"}, "nothing is lost"


def test_a_tidied_cache_removes_nothing_in_the_store(lake: Any) -> None:
    mirror = Mirror(ADDRESS)
    write(mirror, {"a": "1", "b": "2"})
    mirror.upload()
    for removed in (["a"], ["a", "b", "."]):
        for name in removed:
            (mirror.path / name).rmdir() if name == "." else (mirror.path / name).unlink()
        mirror.refresh()
        mirror.upload()
        assert files(mirror) == objects(lake) == {"a": "1", "b": "2"}


def test_a_job_that_started_over_does_not_get_its_old_states_back(lake: Any) -> None:
    mirror = Mirror(ADDRESS)
    write(mirror, {"begun.json": "1", "s/9.bin": "1"})
    mirror.upload()
    (mirror.path / "s" / "9.bin").unlink()
    write(mirror, {"begun.json": "2"})
    again = Mirror(ADDRESS)  # after it was killed before it uploaded anything
    again.refresh()
    assert files(again) == {"begun.json": "2"}
    again.upload()
    assert objects(lake) == {"begun.json": "2"}


def test_a_removed_run_is_removed_here(lake: Any) -> None:
    put(lake, {"a": "1"})
    mirror = Mirror(ADDRESS)
    mirror.refresh()
    lake.rm_file("/lake/run/a")
    assert not mirror.refresh()
    assert files(mirror) == {}


def test_the_web_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists no hashes, and knows an object only by asking for it."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    monkeypatch.setenv("GPT1_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.csv").write_text("text,y\n")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.csv"
        mirror = Mirror(address)
        assert mirror.refresh()
        assert mirror.path.read_text() == "text,y\n"
        before = mirror.path.stat()
        assert mirror.refresh()
        assert mirror.path.stat().st_ino == before.st_ino, "not copied again"
        assert not Mirror(f"{address}.gz").refresh()
        with pytest.raises(RunFailed, match=f"{address}: cannot be written"):
            Store(address).check_writable(is_folder=False)
        server.shutdown()


def test_addresses() -> None:
    assert all(map(is_address, ["s3://b/a", "memory://a b", Path("s3://b/a"), "hf://datasets/a/b", "S3://b/a"]))
    assert Store("Memory://lake/a").address == "memory://lake/a"
    assert not any(map(is_address, ["a/b", "/a", "C:/a", "c:\\a", "name=s3://b/a", "either / or", "s3:", 3, None]))
    with one_line("foo://b/a: cannot be read (Protocol not known: foo)"):
        Store("foo://b/a")
    with one_line("file:///a: this is a path; give it without file://"):
        Store("file:///a")
    for wrong in ("s3:///", "memory://a//b", "memory://a/../b"):
        with one_line(wrong, "give an address like s3://bucket/folder"):
            Store(wrong)


def test_globs(lake: Any) -> None:
    put(lake, {"a/1.txt": "1", "a/2.csv": "2", "a/b/3.txt": "3", "[x]": "4"})
    assert split_glob(f"{ADDRESS}/a/*.txt") == (f"{ADDRESS}/a", "*.txt")
    assert split_glob(f"{ADDRESS}/**/*.txt") == (ADDRESS, "**/*.txt")
    assert split_glob(f"{ADDRESS}/[x]") == (f"{ADDRESS}/[x]", ""), "the name of an object"
    assert list(Store(ADDRESS).list("**/*.txt")) == ["a/1.txt", "a/b/3.txt"]
    with one_line("memory://*/a: wildcards cannot stand for a bucket"):
        split_glob("memory://*/a")


def test_a_store_that_is_read_only(lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(lake, "pipe_file", denied)
    with pytest.raises(UserError, match=r"memory://lake/run: cannot be written \(Access Denied\)"):
        Store(ADDRESS).check_writable(is_folder=True)
