"""Training states on disk: a safetensors file for each update that is kept, without pickle, separate from the model.

`Checkpoints` lets training wait only while a state is copied; a thread writes the copy. A file gets its name when it is
complete on the disk. The dropout of an update and its batch depend on (seed, step) alone, so the step is all that a
state needs to say of random numbers and data.

A state that many processes share out (FSDP) has one place to go: `save`, `load` and `read_notes`, which would write and
read a folder `step-...` of one safetensors file for each process (docs/method.md says why not with pickled metadata).
"""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gpt1.console import say
from gpt1.errors import UserError, setting
from gpt1.remote import publish
from gpt1.storage import atomic, open_tensors, save_file
from gpt1.training import parallel

# Folder inside a run folder.
FOLDER = "checkpoints"
PATTERN = "step-*.safetensors"
# Bytes that stay free on the disk, for the model and the log.
MARGIN = 1 << 20


class Checkpoints:
    """Save a run's states in the background, as a context manager, keeping the newest and the best.

    One write is under way at a time; the next one waits for it. Leaving the block waits too, except on
    KeyboardInterrupt: what a second Ctrl-C interrupts leaves no file under a final name. Of several processes, the
    first one writes.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder, self.keep = folder, keep
        self.best: int | None = None
        """update whose state is kept however many newer ones there are"""
        self.is_writer = parallel.is_main()
        """whether this process writes; others return at once"""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, state: dict[str, Tensor], notes: dict[str, Any], *, required: bool = False) -> None:
        """Copy the state after update `step`, and begin to write it with a few JSON values.

        If it cannot be written (disk full), say so and let training continue; if it is `required`, wait, and raise
        OSError.
        """
        if not self.is_writer:
            return
        self.wait()  # before the copy, so that there is never more than one
        copies, written = copy_to_host(state), deepcopy(notes)  # training changes both meanwhile
        self.start(lambda: save(self.folder, step, copies, written, self.keep, self.best), "state", required=required)

    def start(self, write: Callable[[], object], what: Literal["state", "model"], *, required: bool = False) -> None:
        """Call `write` in the background once the earlier write is done; errors are handled as those of `save`."""

        def attempt() -> None:
            try:
                write()
                publish(self.folder)
            except OSError as error:
                if required:
                    self._error = error
                else:
                    reason = error.strerror or error
                    say(f"{self.folder}: no {what} could be saved ({reason}); training continues")
            except BaseException as error:
                self._error = error

        if not self.is_writer:
            return
        self.wait()
        self._thread = threading.Thread(target=attempt, name="gpt1-checkpoint", daemon=True)
        self._thread.start()
        if required:
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written. Raises the error of a write that was required."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def discard(self, step: int) -> None:
        """Remove the state after update `step`, whose weights turned out to be useless."""
        self.wait()
        if self.is_writer:
            _path(self.folder, step).unlink(missing_ok=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.wait()
        elif self._thread is not None and not isinstance(error, KeyboardInterrupt):
            self._thread.join()


def copy_to_host(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies in the CPU's memory; a GPU copies into pinned memory, and is waited for once."""
    copies = {}
    for name, tensor in state.items():
        copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        copies[name].copy_(tensor.detach(), non_blocking=True)
    if any(tensor.is_cuda for tensor in state.values()):
        torch.cuda.synchronize()
    return copies


def save(
    folder: Path, step: int, state: dict[str, Tensor], notes: dict[str, Any], keep: int = 1, best: int | None = None
) -> Path:
    """Write the state after update `step` and a few JSON values; return the file.

    Then remove all other states but the newest `keep` and that of update `best`. Raises OSError, before it writes
    anything, if the disk has too little space.
    """
    path = _path(folder, step)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    size, free = sum(tensor.nbytes for tensor in tensors.values()), shutil.disk_usage(path.parent).free
    if free < size + MARGIN:
        reason = f"{os.strerror(errno.ENOSPC)}: a state takes {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, reason, str(path))
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"gpt1": json.dumps({"step": step, **notes})})
    newest = states(folder)[-keep:]
    for old in states(folder):
        if old not in newest and (best is None or old != _path(folder, best)):
            old.unlink()
    return path


def clear(folder: Path) -> None:
    """Remove every training state of a run."""
    for old in states(folder):
        old.unlink()


def states(folder: Path) -> list[Path]:
    """Return the files of a run's training states, oldest first."""
    return sorted((folder / FOLDER).glob(PATTERN))


def any_within(folder: Path) -> bool:
    """Return whether a folder or any folder in it holds a training state."""
    return any(folder.rglob(PATTERN))


def latest(folder: Path) -> Path | None:
    """Return the file of a run's newest training state, or None without one."""
    return max(states(folder), default=None)


def read_notes(path: Path) -> dict[str, Any]:
    """Return the `step` of a state and the values saved with it. Raises UserError if the file is unreadable."""
    try:
        with open_tensors(path) as file:
            notes: dict[str, Any] = json.loads(file.metadata()["gpt1"])
    except Exception as error:
        older = [other.name for other in states(path.parent.parent) if other < path]
        remedy = f"remove it to continue from {older[-1]}, or " if older else ""
        raise UserError(f"{path} is damaged ({error}); {remedy}start over with {setting('fresh')}") from None
    return notes


def load(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state, on the CPU. They are mapped from the file: copy what must outlive it."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _path(folder: Path, step: int) -> Path:
    return folder / FOLDER / f"step-{step:08d}.safetensors"
