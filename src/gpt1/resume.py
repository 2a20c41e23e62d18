"""One protocol by which `prepare`, `pretrain`, `finetune` and `ablate` continue after a stop.

A job keeps three things in its folder: a *record* of the settings and inputs it was begun with, a *state* to continue
from (the job's own affair), and a *lock* that one process at a time holds. The same request continues the job; another
request is refused with the first difference named, and `fresh` starts over.
"""

import dataclasses
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.errors import UserError, setting
from gpt1.storage import write_json

LOCK = ".lock"
"""File in a job's folder while a process works there; checks of a folder's content must ignore it."""
ELSEWHERE = frozenset({"out", "fresh", "device", "threads"})
"""Settings of every job that say where and how it runs, not what it makes."""


@dataclass(frozen=True)
class Record:
    """What a job was begun with."""

    settings: dict[str, Any]
    """as JSON holds them, sections nested"""
    inputs: dict[str, str]
    """role, such as the setting `train`, -> sha256 of the content; a file that only moved is the same input"""

    @classmethod
    def of(cls, settings: Any, inputs: Mapping[str, str]) -> "Record":
        """The record of a settings dataclass and the hashes of its inputs."""
        return cls(json.loads(json.dumps(dataclasses.asdict(settings))), dict(inputs))

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """The record at `path`, None if there is none. Raises UserError if it is damaged."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(dict(found["settings"]), dict(found["inputs"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); start over with {setting('fresh')}") from None

    def write(self, path: Path) -> None:
        """Write the record, atomically."""
        write_json(path, {"settings": self.settings, "inputs": self.inputs})

    def fingerprint(self, free: Set[str] = ELSEWHERE) -> str:
        """sha256 of everything that decides the result; settings named in `free` do not."""
        decisive = {name: value for name, value in flatten(self.settings).items() if name not in free}
        return hashlib.sha256(json.dumps([decisive, self.inputs], sort_keys=True).encode()).hexdigest()

    def difference(self, now: "Record", free: Set[str] = ELSEWHERE) -> str:
        """The first difference that matters, `lr 0.1, not 0.2`; empty if `now` asks for the same result."""
        for role in sorted(self.inputs.keys() | now.inputs.keys()):
            if self.inputs.get(role) != now.inputs.get(role):
                return f"other content of {setting(role) if role in now.settings else role}"
        before, after = flatten(self.settings), flatten(now.settings)
        for name in after:
            if name not in free and before.get(name) != after[name]:
                return f"{setting(name)} {_shown(before.get(name))}, not {_shown(after[name])}"
        return ""

    def check(self, now: "Record", place: str | Path, free: Set[str] = ELSEWHERE) -> None:
        """Raise UserError, naming the first difference, unless `now` continues what this record began at `place`."""
        if found := self.difference(now, free):
            raise UserError(
                f"{place} was begun with {found}; repeat the earlier request to continue, choose another "
                f"{setting('out')}, or start over with {setting('fresh')}"
            )


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by full name: `{"optim": {"lr": 1}}` -> `{"optim.lr": 1}`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


@contextmanager
def hold(place: str | Path, *, file: bool = False) -> Iterator[None]:
    """Lock a job's folder, which is created if need be; one that the job leaves empty is removed.

    With `file`, the place is the one file that the job writes, and the lock lies hidden beside it. Raises UserError at
    once, and changes nothing, if another process holds the place; the message says which.
    """
    from filelock import FileLock, Timeout

    place = Path(place)
    folder = place.parent if file else place
    was_empty = folder.exists() and not any(folder.iterdir())
    created = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f".{place.name}{LOCK}" if file else LOCK)
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{place} is in use by {_holder(path)}; wait until it has finished") from None
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with suppress(OSError):  # a full disk: the lock holds all the same
            path.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        # While the lock is still held, since whoever acquires an unlinked file tries again. Windows refuses, and needs
        # it after the release.
        with suppress(OSError):
            path.unlink()
        lock.release()
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if not was_empty:
            with suppress(OSError):  # not empty
                for one in dict.fromkeys([folder, *created]):
                    one.rmdir()


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
