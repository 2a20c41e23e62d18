"""Training states on disk: a safetensors file for each update that is kept, without pickle, separate from the model.

`Checkpoints` lets training wait only while a state is copied; a thread writes the copy. A file gets its name when it is
complete on the disk. The dropout of an update and its batch depend on (seed, step) alone, so the step is all that a
state needs to say of random numbers and data.

A state that processes share out (`sharding`) is a folder with a file for each, which holds its rows of every tensor: a
whole tensor is the rows of all files, in the order of their numbers. Any number of processes can continue from it.
"""

import errno
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gpt1.console import say
from gpt1.errors import UserError, setting
from gpt1.remote import publish
from gpt1.storage import atomic, check_space, move_folder, open_tensors, remove_folder, save_file, temporary_name
from gpt1.training import parallel
from gpt1.training.parallel import ALONE, World

# Folder inside a run folder.
FOLDER = "checkpoints"
PATTERN = "step-*"
# Ending of files, and names of those in the folder of a state that is shared out.
SUFFIX, PART = ".safetensors", "part-{:05d}-of-{:05d}.safetensors"
# Bytes that stay free on the disk, for the model and the log.
MARGIN = 1 << 20


class Checkpoints:
    """Save a run's states in the background, as a context manager, keeping the newest and the best.

    One write is under way at a time; the next one waits for it. Leaving the block waits too, except on
    KeyboardInterrupt: what a second Ctrl-C interrupts leaves no file under a final name. With several processes, rank 0
    writes; with `shared_out` each writes its part, and all construct this and call `save` together.
    """

    def __init__(self, folder: Path, keep: int = 1, shared_out: bool = False) -> None:
        self.folder, self.keep = folder, keep
        self.world = parallel.current().with_own_group() if shared_out else ALONE
        """the processes that write each state together, with messages of the thread's own"""
        self.best: int | None = None
        """update whose state is kept however many newer ones there are"""
        self.is_writer = parallel.is_main()
        """whether this process writes what is not shared out"""
        self._saved = time.monotonic()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def age(self) -> float:
        """Seconds since the last state was saved, or since the beginning."""
        return time.monotonic() - self._saved

    def save(self, step: int, state: dict[str, Tensor], notes: dict[str, Any], *, required: bool = False) -> None:
        """Copy the state after update `step`, and begin to write it with a few JSON values.

        If it cannot be written (disk full), say so and let training continue; if it is `required`, wait, and raise
        OSError.
        """
        if not self.is_writer and self.world.size == 1:
            return
        self.wait()  # before the copy, so that there is never more than one
        copies, written, best = copy_to_host(state), deepcopy(notes), self.best  # training changes these meanwhile
        self.start(
            lambda: save(self.folder, step, copies, written, self.keep, best, self.world), "state", required=required
        )
        self._saved = time.monotonic()

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
                    say(f"{self.folder}: could not save a {what} ({reason}); training continues")
            except BaseException as error:
                self._error = error

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
            for path in states(self.folder):
                if _step(path) == step:
                    _remove(path)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.wait()
        elif self._thread is not None and not isinstance(error, KeyboardInterrupt):
            self._thread.join()


def copy_to_host(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies in the CPU's memory; CUDA copies into pinned memory, and is waited for once."""
    copies = {}
    for name, tensor in state.items():
        copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        copies[name].copy_(tensor.detach(), non_blocking=tensor.is_cuda)
    if any(tensor.is_cuda for tensor in state.values()):
        torch.cuda.synchronize()
    return copies


def save(
    folder: Path, step: int, state: dict[str, Tensor], notes: dict[str, Any], keep: int = 1, best: int | None = None,
    world: World = ALONE,
) -> Path:  # fmt: skip
    """Write the state after update `step` and a few JSON values; return the file or folder.

    Then remove all other states but the newest `keep` and that of update `best`. Processes of a `world` each write
    their part. Raises OSError, in all of them and before anything has its name, if the disk has too little space.
    """
    place, tensors = folder / FOLDER, {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"gpt1": json.dumps({"step": step, **notes})}
    path = place / f"step-{step:08d}{SUFFIX if world.size == 1 else ''}"

    def write(file: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        size = world.size * sum(tensor.nbytes for tensor in tensors.values())
        check_space(path, size, MARGIN, "a state")
        with atomic(file) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    if world.size == 1:
        write(path)
    else:
        _write_together(path, world, write)
    if world.rank == 0:
        newest = states(folder)[-keep:]
        for old in states(folder):
            if old not in newest and _step(old) != best:
                _remove(old)
    return path


def _write_together(path: Path, world: World, write: Callable[[Path], None]) -> None:
    """Let each process write its part into a folder, which gets its name once all are there.

    Raises OSError in every process, and leaves nothing, if one cannot write its part.
    """
    folder = world.from_main(lambda: temporary_name(path))
    try:
        _agree(world, lambda: write(folder / PART.format(world.rank + 1, world.size)))
        _agree(world, lambda: move_folder(folder, path) if world.rank == 0 else None)
    finally:
        if world.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _agree(world: World, work: Callable[[], None]) -> None:
    """Do something in every process; if it fails in one, raise OSError in all."""
    failed: OSError | None = None
    try:
        work()
    except OSError as error:
        failed = error
    reasons = [reason for reason in world.gather(str(failed.strerror or failed) if failed else "") if reason]
    if reasons:
        raise failed or OSError(errno.EIO, reasons[0])


def clear(folder: Path) -> None:
    """Remove every training state of a run."""
    for old in states(folder):
        _remove(old)


def states(folder: Path) -> list[Path]:
    """Return the files and folders of a run's training states, oldest first."""
    return sorted((folder / FOLDER).glob(PATTERN))


def any_within(folder: Path) -> bool:
    """Return whether a folder or any folder in it holds a training state."""
    return any(folder.rglob(PATTERN))


def latest(folder: Path) -> Path | None:
    """Return the file or folder of a run's newest training state, or None without one."""
    return max(states(folder), default=None)


def read_notes(path: Path) -> dict[str, Any]:
    """Return the `step` of a state and the values saved with it.

    Raises UserError, naming the file, if one is missing or unreadable.
    """
    older = [other.name for other in states(path.parent.parent) if other < path]
    remedy = f"remove {path.name if path.is_dir() else 'it'} to continue from {older[-1]}, or " if older else ""
    notes: dict[str, Any] = {}
    for file in _files(path):
        try:
            with open_tensors(file) as tensors:
                notes = json.loads(tensors.metadata()["gpt1"])
        except Exception as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
            raise UserError(f"{file} {what}; {remedy}start over with {setting('fresh')}") from None
    return notes


def load(path: Path, rows: Callable[[int], slice] | None = None) -> dict[str, Tensor]:
    """Return the tensors of a state, on the CPU: all rows of each, or those in `rows(number of rows)`.

    Whole tensors of a file are mapped from it: copy what must outlive it.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(open_tensors(file)) for file in _files(path)]
        names = dict.fromkeys(name for file in files for name in file.keys())  # noqa: SIM118
        return {name: _joined(files, name, rows) for name in names}


def _joined(files: Sequence[Any], name: str, rows: Callable[[int], slice] | None) -> Tensor:
    """Return rows of a tensor, or all, from the files of a state; a scalar, which all files hold, from the first."""
    parts = [file.get_slice(name) for file in files]
    if not parts[0].get_shape() or (rows is None and len(files) == 1):
        return files[0].get_tensor(name)
    counts = [part.get_shape()[0] for part in parts]
    wanted = rows(sum(counts)) if rows else slice(0, sum(counts))
    firsts = [0, *itertools.accumulate(counts)]
    return torch.cat([
        part[max(0, wanted.start - first) : max(0, wanted.stop - first)]
        for part, first in zip(parts, firsts, strict=False)
    ])  # fmt: skip


def _files(path: Path) -> list[Path]:
    """Return the files of a state; for a folder, all parts that its files' names say there are, missing or not."""
    if not path.is_dir():
        return [path]
    count = max((int(file.stem[-5:]) for file in path.glob(f"part-*-of-{'[0-9]' * 5}{SUFFIX}")), default=1)
    return [path / PART.format(number, count) for number in range(1, count + 1)]


def _step(path: Path) -> int:
    """Return the update of a state; -1 for anything else with such a name."""
    number = path.name.removesuffix(SUFFIX).removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def _remove(path: Path) -> None:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink()
