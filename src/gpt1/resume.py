"""How `prepare`, `pretrain`, `finetune` and `ablate` resume after a stop: one protocol for all.

A job keeps three things in its folder: a *record* of the settings and inputs it was begun with, a *state* to continue
from (whose form is up to the job), and a *lock* that one process at a time holds. Repeating the request continues the
job; a different request is refused with a message that names the first difference, and `fresh` starts over.
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

from gpt1.errors import UserError, addressed, setting
from gpt1.options import flatten
from gpt1.storage import remove_temporaries, write_json

# File in a job's folder while a process works there; checks of a folder's content must ignore it.
LOCK = ".lock"
# Settings of every job that say where and how it runs and do not affect its result.
RUNTIME_SETTINGS = frozenset({"out", "fresh", "device", "threads", "track", "engine"})
# Settings that records of earlier versions lack, and what these versions did.
ADDED_SETTINGS = {
    "with_words": False, "optim.cooldown": 1.0, "optim.skip_spikes": False, "delimiter": "auto", "skip_invalid": False,
    "read_epochs": 3.0, "read_lr": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """What a job was begun with."""

    settings: dict[str, Any]
    """JSON values, with sections nested"""
    inputs: dict[str, str]
    """role, such as the setting `train`, -> sha256 of the content, so a file that was only moved is the same input"""

    @classmethod
    def of(cls, settings: Any, inputs: Mapping[str, str]) -> "Record":
        """Return the record of a settings dataclass and the hashes of its inputs."""
        return cls(json.loads(addressed(json.dumps(dataclasses.asdict(settings)))), dict(inputs))

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """Return the record at `path`, or None without one. Raises UserError if it is damaged."""
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

    def fingerprint(self, may_change: Set[str] = RUNTIME_SETTINGS) -> str:
        """Return a sha256 of everything that decides the result, which settings named in `may_change` do not."""
        decisive = {name: value for name, value in flatten(self.settings).items() if name not in may_change}
        return hashlib.sha256(json.dumps([decisive, self.inputs], sort_keys=True).encode()).hexdigest()

    def difference(self, now: "Record", may_change: Set[str] = RUNTIME_SETTINGS) -> str:
        """Return the first difference that matters, `lr 0.1, not 0.2`; empty if `now` asks for the same result."""
        for role in sorted(self.inputs.keys() | now.inputs.keys()):
            if self.inputs.get(role) != now.inputs.get(role):
                return f"other content of {setting(role) if role in now.settings else role}"
        before, after = ADDED_SETTINGS | flatten(self.settings), flatten(now.settings)
        for name in after:
            if name not in may_change and before.get(name) != after[name]:
                return f"{setting(name)} {_shown(before.get(name))}, not {_shown(after[name])}"
        return ""

    def check(self, now: "Record", place: str | Path, may_change: Set[str] = RUNTIME_SETTINGS) -> None:
        """Raise UserError, naming the first difference, unless `now` continues what this record began at `place`."""
        if found := self.difference(now, may_change):
            raise UserError(
                f"{place} was begun with {found}; repeat the earlier request to continue, choose another "
                f"{setting('out')}, or start over with {setting('fresh')}"
            )


@contextmanager
def hold(place: str | Path, *, file: bool = False, wait: float = 0.0) -> Iterator[None]:
    """Lock a job's folder, creating it if necessary; a folder that is empty at the end is removed.

    Temporary files that a killed job left there are removed.

    With `file`, `place` is the single file that the job writes, and the lock is a hidden file beside it. If another
    process holds the lock for more than `wait` seconds, raises UserError, naming the process, and changes nothing.
    """
    from filelock import FileLock, Timeout

    place = Path(place)
    folder = place.parent if file else place
    was_empty = folder.exists() and not any(folder.iterdir())
    created = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f".{place.name}{LOCK}" if file else LOCK)
    lock = FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{place} is in use by {_holder(path)}; wait until it has finished") from None
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with suppress(OSError):  # on a full disk the lock still holds
            path.write_text(json.dumps(holder), encoding="utf-8")
        remove_temporaries(folder, place.name if file else "")
        yield
    finally:
        # Unlink before the release: a process that acquires an unlinked file tries again. Windows cannot unlink an
        # open file, so there it is done after the release.
        with suppress(OSError):
            path.unlink()
        lock.release()
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if not was_empty:
            for one in dict.fromkeys([folder, *created]):
                with suppress(OSError):  # not empty, or `new/..`, which cannot be removed by that name
                    one.rmdir()


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
