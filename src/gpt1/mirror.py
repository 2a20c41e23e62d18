"""A local copy of the objects at an address, so that all else works on files: mapped, locked, replaced atomically.

An index beside the copy records the version of each object, and the size, time and hash of the file when it was
copied: an object that differs from the index has changed in the store, a file that differs has changed locally. So
nothing is copied twice, and it is noticed if two machines have written at once.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rich.filesize import decimal

from gpt1.console import bar, say
from gpt1.errors import Gpt1Error, RunFailed, UserError, name_as, setting
from gpt1.object_store import ObjectInfo, Store, is_hidden
from gpt1.storage import atomic, check_space, write_json

# Downloads at once, and how often the objects are listed again before they are given up as never at rest.
THREADS, LISTINGS = 8, 5
# Bytes that stay free on the disk of the cache.
MARGIN = 64 << 20
# Files up to this size are compared by content: jobs write settings and tokenizers again as they were.
SMALL = 1 << 20
# A folder with one of these is complete; one with other RECORDS holds the work of another job.
MARKERS, RECORDS = {"gpt1.json", "manifest.json"}, {"settings.json", "begun.json", "manifest.json"}

# A file of a training state that processes share out; its name says how many there are.
PART = re.compile(r"((?:.*/)?checkpoints/[^/]+/part-)\d+-of-(\d+)\.safetensors")


class Entry(NamedTuple):
    """What the index says of an object and its file."""

    version: str | None
    """version in the store; "": its download is not finished, None: its upload is not finished"""
    size: int = -1
    """bytes of the file when it was last equal to the object; -1: it never was"""
    mtime_ns: int = -1
    sha256: str = ""
    """of a small file"""

    @classmethod
    def of(cls, version: str, path: Path) -> "Entry":
        """Return the entry of a file that is equal to this version of its object."""
        stat = path.stat()
        return cls(version, stat.st_size, stat.st_mtime_ns, _sha256(path) if stat.st_size <= SMALL else "")

    def matches(self, path: Path) -> bool:
        """Return whether a file is still as it was."""
        stat = path.stat()
        if stat.st_size != self.size:
            return False
        return stat.st_mtime_ns == self.mtime_ns or (self.sha256 != "" and self.sha256 == _sha256(path))


Index = dict[str, Entry]


class Mirror:
    """A file or folder in the cache that is the copy of what an address names."""

    def __init__(self, address: str | os.PathLike[str], pattern: str = "") -> None:
        self.store, self._pattern = Store(address), pattern
        self.address = self.store.address
        name = PurePosixPath(self.address).name
        key = hashlib.sha256(f"{self.address} {pattern}".encode()).hexdigest()[:12]
        self.folder = _cache_folder() / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:40]}-{key}"
        self.path = self.folder / name
        name_as(str(self.path), self.address)

    def refresh(self, is_flat: bool = False) -> bool:
        """Make the copy equal to the objects, if `is_flat` to those in no folder; return whether there are any.

        Files that have changed here and were not uploaded stay. Raises UserError if the objects have changed too.
        """

        def is_wanted(name: str) -> bool:
            return not (is_flat and "/" in name)

        with self._index() as index:
            if not self._changed_here(index):  # then it was no job that removed files, but somebody who tidied up
                for name in filter(is_wanted, self._removed_here(index)):
                    del index[name]
            for _ in range(LISTINGS):
                listed = {name: one for name, one in self.store.list(self._pattern).items() if is_wanted(name)}
                partial = {name for name in listed if name not in index and not _is_whole(name, listed)}
                there = {name: one for name, one in listed.items() if name not in partial}
                known = {name: entry for name, entry in index.items() if is_wanted(name)}
                changed = [name for name, one in there.items() if not _is_known(known.get(name), one)]
                gone = [name for name, entry in known.items() if name not in there and entry.version is not None]
                if not changed and not gone:
                    index |= dict.fromkeys(partial, Entry(None))  # as if removed here: `upload` removes them there
                    return bool(there)
                if any(map(is_wanted, self._changed_here(index) | self._removed_here(index))):
                    raise UserError(
                        f"{self.address} was changed by another machine, and here {self.folder} holds work that was "
                        f"never uploaded; remove that folder to continue from {self.address}, or choose another "
                        f"{setting('out')}"
                    )
                for name in gone:
                    (self.path / name).unlink(missing_ok=True)
                    del index[name]
                self._download({name: there[name] for name in changed}, index)
        raise RunFailed(f"{self.address} keeps changing while it is read; wait until nobody writes there")

    def clear(self) -> None:
        """Forget the copy, whose objects will be replaced as a whole."""
        with self._index() as index:
            index.clear()
            self.path.unlink(missing_ok=True)

    def upload(self) -> None:
        """Write to the store what has changed here since the last time, and remove what was removed here.

        Objects go up in an order in which a reader, or a job that continues on another machine, can use them at any
        time: records and measurements, then weights, states and shards, the newest first, then the file that marks a
        folder as complete. Older states are removed at the end. A folder that has become another job's is first marked
        as incomplete.
        """
        with self._index() as index:
            changed, removed = self._changed_here(index), self._removed_here(index)
            if any(_file_name(name) in RECORDS and name in index for name in changed):
                markers = {name for name in index if _file_name(name) in MARKERS}
                for name in markers | removed:
                    self.store.remove(name)
                    del index[name]
                changed, removed = changed | {name for name in markers if (self.path / name).is_file()}, set()
        for name in sorted(changed, key=self._upload_order):
            self._upload(name)
        for name in removed:
            with self._index() as index:
                self.store.remove(name)
                index.pop(name, None)

    def _download(self, wanted: dict[str, ObjectInfo], index: Index) -> None:
        """Copy objects into files, several at a time."""
        size = sum(listed.size or 0 for listed in wanted.values())
        check_space(self.path, size, MARGIN, f"the copy in {self.folder.parent}")
        index |= dict.fromkeys(wanted, Entry(""))
        self._write(index)  # else a process that is killed would leave files that seem to have been made here
        pool = ThreadPoolExecutor(THREADS)
        try:
            with bar() as progress:
                task = progress.add_task(f"copying {self.address}, MB", total=size / 1e6)
                waiting = {pool.submit(self._download_one, name, listed): name for name, listed in wanted.items()}
                for done in as_completed(waiting):
                    index[waiting[done]] = done.result()
                    progress.advance(task, (wanted[waiting[done]].size or 0) / 1e6)
        finally:
            pool.shutdown(cancel_futures=True)
        if wanted:
            number = f"{len(wanted):,} object{'' if len(wanted) == 1 else 's'}"
            say(f"{self.address}: copied {number}, {decimal(size)}")

    def _download_one(self, name: str, listed: ObjectInfo) -> Entry:
        path = self.path / name
        with atomic(path) as temporary:
            self.store.read(name, temporary)
            whole = listed.size in (None, temporary.stat().st_size)
        return Entry.of(listed.version if whole else "", path)

    def _upload_order(self, name: str) -> tuple[bool, bool, int]:
        """Return a key that sorts names in the order in which `upload` writes them."""
        try:
            age = -(self.path / name).stat().st_mtime_ns
        except FileNotFoundError:
            age = 0
        return _file_name(name) in MARKERS, ".json" not in _file_name(name), age

    def _upload(self, name: str) -> None:
        path = self.path / name
        try:
            entry = Entry.of("", path)  # before it is read: what changes meanwhile is uploaded the next time
            with self._index() as index:
                index[name] = Entry(None)
            self.store.write(path, name)
        except (FileNotFoundError, Gpt1Error):
            if path.exists():
                raise
            return  # an old state that was removed meanwhile
        with self._index() as index:
            index[name] = entry._replace(version=self.store.version(name) or None)

    def _changed_here(self, index: Index) -> set[str]:
        """Return the names of files that are new here or differ from their objects."""
        found = [self.path] if self.path.is_file() else [path for path in self.path.rglob("*") if path.is_file()]
        changed = set()
        for path in found:
            name, entry = "" if path == self.path else path.relative_to(self.path).as_posix(), None
            with suppress(FileNotFoundError):  # an old state that was removed meanwhile
                if (entry := index.get(name)) is None or (entry.version != "" and not entry.matches(path)):
                    changed.add(name)
        return {name for name in changed if not is_hidden(name)}

    def _removed_here(self, index: Index) -> set[str]:
        """Return the names of objects whose files were removed here."""
        return {name for name, entry in index.items() if entry.version != "" and not (self.path / name).exists()}

    @contextmanager
    def _index(self) -> Iterator[Index]:
        """Yield the index, and write it at the end; no other process or thread has it meanwhile."""
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            try:
                found = json.loads((self.folder / ".index.json").read_text(encoding="utf-8"))
                index = {name: Entry(*entry) for name, entry in found["objects"].items()}
            except (OSError, ValueError, KeyError, TypeError):
                index = {}
            if not self.path.exists():
                index.clear()  # else `upload` would remove every object
            try:
                yield index
            finally:
                self._write(index)

    def _write(self, index: Index) -> None:
        write_json(self.folder / ".index.json", {"address": self.address, "objects": index})


def _cache_folder() -> Path:
    """Return the folder of all copies: GPT1_CACHE, or ~/.cache/gpt1."""
    return Path(os.environ.get("GPT1_CACHE") or Path.home() / ".cache" / "gpt1").resolve()


def _is_known(entry: Entry | None, listed: ObjectInfo) -> bool:
    """Return whether the copy holds this version, or one that this machine began to upload."""
    return entry is not None and entry.version in (None, listed.version)


def _is_whole(name: str, listed: Collection[str]) -> bool:
    """Return whether an object may be used: a part of a training state only if all its parts were uploaded."""
    found = PART.fullmatch(name)
    return found is None or sum(one.startswith(found[1]) for one in listed) == int(found[2])


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
