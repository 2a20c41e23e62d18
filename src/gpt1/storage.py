"""Atomic writes: a file is written under a temporary name, synced, then renamed, so it is complete or absent."""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from gpt1.errors import UserError, addressed, setting

if TYPE_CHECKING:
    from torch import Tensor

# How to write a lone surrogate, which UTF-8 cannot encode. Python turns each byte of a file name that is not UTF-8
# into one. `\\udce9` is also how JSON escapes it, so a name in JSON comes back as it was.
UNENCODABLE = "backslashreplace"
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp")


def is_utf8(path: str | Path) -> bool:
    """Return whether UTF-8 can encode a path. Linux has others, which libraries written in Rust do not open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_folder(out: Path, name: str = "out") -> None:
    """Raise UserError if the folder, which the setting `name` names, or one above it is a file or not writable."""
    for place in (out, *out.parents):
        if place.exists():
            what = f"{setting(name)} {out}{'' if place == out else f': {place}'}"
            if not place.is_dir():
                raise UserError(f"{what} is a file; name a folder")
            if not os.access(place, os.W_OK | os.X_OK):
                raise UserError(f"{what} is not writable; choose a folder where you may write")
            return


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. On success it replaces `path`; on any error it is removed.

    The old file stays until the new one is on the disk, so a full disk or a crash loses nothing. Close the temporary
    file before the block ends: Windows does not rename open files.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():  # a rename would replace the device for everybody
        raise FileExistsError(errno.EEXIST, "A device or pipe, not a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        # Not tempfile.mkstemp, whose files are private: results should be as readable as any other new file.
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        error.filename = str(path)  # not the temporary file, which the user does not know
        raise
    try:
        mode = temporary.stat().st_mode
        yield temporary
        _sync(temporary)
        temporary.chmod(mode)  # safetensors puts a private file in its place
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Return a new name beside `path` that `is_temporary`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def move_folder(temporary: Path, path: Path) -> None:
    """Rename a folder, whose files are synced, from its temporary name; a folder of the new name is removed."""
    _sync(temporary)
    if path.exists():
        remove_folder(path)
    temporary.rename(path)
    _sync(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder and its contents; it is renamed first, so that it never exists in part under its name."""
    temporary = temporary_name(path)
    path.rename(temporary)
    shutil.rmtree(temporary)


def check_space(path: Path, size: int, margin: int, what: str) -> None:
    """Raise OSError, as a full disk does, if `size` bytes leave less than `margin` free in the folder of `path`."""
    free = shutil.disk_usage(path.parent).free
    if free < size + margin:
        needed = f"{what} takes {decimal(size)}, {decimal(margin)} must stay free, and {decimal(free)} are free"
        reason = f"{os.strerror(errno.ENOSPC)}: {needed}"
        raise OSError(errno.ENOSPC, reason, str(path))


def is_temporary(path: Path) -> bool:
    """Return whether a file or folder was made here; it stays behind if the process is killed."""
    return TEMPORARY.fullmatch(path.name) is not None


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove the temporary files and folders that a killed process left in a folder, or of one file in it.

    Only the process that holds the folder may do so.
    """
    for path in [*(folder.glob(".*.tmp") if name else folder.rglob(".*.tmp"))]:
        if (found := TEMPORARY.fullmatch(path.name)) and name in ("", found[1]):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; lone surrogates are escaped, and local copies named by their addresses."""
    with atomic(path) as temporary:
        temporary.write_text(addressed(text), encoding="utf-8", errors=UNENCODABLE, newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def save_file(tensors: dict[str, "Tensor"], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file. A full disk raises OSError, as for every other file."""
    from safetensors import SafetensorError, torch  # here, since it imports torch

    try:
        torch.save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from None


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file to read, with PyTorch's tensors. Raises SafetensorError if it is damaged."""
    from safetensors import safe_open

    with path.open("rb") as file:
        # Linux has names that are not UTF-8, which this library does not open, and a second name for an open file.
        name = path if is_utf8(path) else f"/proc/self/fd/{file.fileno()}"
        with safe_open(name, framework="pt") as tensors:
            yield tensors


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a directory to sync it
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
