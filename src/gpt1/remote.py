"""Commands whose paths are addresses, such as `s3://bucket/folder`: download inputs before, upload outputs after.

The command itself works on local files and needs to know nothing of this, except that a long one calls `publish` when
it has saved a state, which is then uploaded in the background.
"""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gpt1 import torchrun
from gpt1.config import NAMED_RUN, TABLE_OR_TEXTS, TEXT_FILES, PathTo
from gpt1.console import quiet, say
from gpt1.errors import Gpt1Error, RunFailed, UserError, addressed, setting
from gpt1.object_store import is_address, split_glob
from gpt1.options import options

if TYPE_CHECKING:
    from gpt1.mirror import Mirror

S = TypeVar("S")

# Seconds before an upload that failed is tried again; after the last try it has failed.
RETRY_DELAYS = (1.0, 4.0)


class Upload:
    """What a running command writes to an address. Uploads follow its `request`s, in a thread of their own."""

    def __init__(self, mirror: "Mirror") -> None:
        self.mirror = mirror
        self._requested, self._stopped = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    def request(self) -> None:
        """Upload soon; requests that come during an upload lead to one more."""
        self._requested.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._upload_on_request, name="gpt1-upload", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Wait for the upload in progress, and make no more."""
        self._stopped.set()
        self._requested.set()
        if self._thread is not None:
            self._thread.join()

    def upload(self, remedy: str = "repeat the command to upload it") -> None:
        """Upload, and try again a few times. Raises RunFailed, with where the work is and a remedy, if that fails."""
        for wait in (*RETRY_DELAYS, None):
            try:
                self.mirror.upload()
                return
            except (Gpt1Error, OSError) as error:
                if wait is None:
                    raise RunFailed(f"{error}; everything is in {self.mirror.folder}; {remedy}") from None
                time.sleep(wait)

    def _upload_on_request(self) -> None:
        while self._requested.wait() and not self._stopped.is_set():
            self._requested.clear()
            try:
                self.upload("the upload is tried again later")
                self._failing = False
            except RunFailed as error:
                if not self._failing:
                    say(str(error))
                self._failing = True


_outputs: list[Upload] = []


def publish(path: Path) -> None:
    """Begin to upload what a command has written so far, if `path` lies in a folder that it writes to an address."""
    for output in _outputs:
        if path.is_relative_to(output.mirror.path):
            output.request()


def local_copy(address: str | os.PathLike[str], is_flat: bool = True) -> Path:
    """Bring the copy of what an address names up to date and return its path; by default, without folders in it.

    Raises UserError if there is nothing, or it cannot be read.
    """
    mirror = _mirror(address)
    if not mirror.refresh(is_flat):
        raise UserError(f"{mirror.address}: no such object or folder")
    return mirror.path


@contextmanager
def output_path(address: str | os.PathLike[str], written: str = "folder") -> Iterator[Path]:
    """Yield a local path; when the block ends, even with an error, what it wrote there is uploaded to the address.

    A path that is no address is yielded as it is. What is `written` there is a folder or a continued file, which begins
    as the store has it, or a new file (`config.PathTo`). Only the first of several processes uploads. Raises UserError
    if the address cannot be written, and RunFailed if the upload fails.
    """
    if not is_address(address):
        yield Path(address)
        return
    mirror, is_main = _mirror(address), torchrun.rank() == 0
    if written != "new file":
        mirror.refresh()
    elif is_main:
        mirror.clear()
    if not is_main:
        yield mirror.path
        return
    mirror.store.check_writable(is_folder=written == "folder")
    _outputs.append(output := Upload(mirror))
    try:
        yield mirror.path
    except UserError:
        output.stop()
        raise
    except BaseException:
        output.stop()
        try:
            output.upload()
        except RunFailed as error:
            say(str(error))
        raise
    else:
        output.stop()
        output.upload()
    finally:
        _outputs.remove(output)


@contextmanager
def mirrored(settings: S) -> Iterator[S]:
    """Yield a command's settings with paths here in place of addresses; upload what it has written at the end.

    Raises UserError for an address that cannot be read or written.
    """
    paths = {key: option.path for key, option in options(type(settings)).items() if option.path}
    given = {key: value for key, path in paths.items() if _addresses(path, value := getattr(settings, key))}
    if not given:
        yield settings
        return
    changes: dict[str, Any] = {}
    with ExitStack() as stack:
        with quiet(torchrun.rank() > 0):
            # What is written comes first: it may be cleared, and then be read.
            for key in sorted(given, key=lambda key: not paths[key].written):
                value, path = given[key], paths[key]
                if path.written:
                    _check_output(value, path.written, given.get("inputs", []))
                    changes[key] = str(stack.enter_context(output_path(value, path.written)))
                else:
                    found = [local_path(one, path) for one in (value if isinstance(value, list) else [value])]
                    changes[key] = found if isinstance(value, list) else found[0]
        yield dataclasses.replace(settings, **changes)  # type: ignore[type-var]


def with_addresses(result: S) -> S:
    """Return a command's result with addresses in place of the paths of their copies."""

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(one) for one in value]
        return addressed(value) if isinstance(value, str) else value

    texts = {name: value for name, value in getattr(result, "__dict__", {}).items() if isinstance(value, str | list)}
    changes = {name: new for name, value in texts.items() if (new := named(value)) != value}
    return dataclasses.replace(result, **changes) if changes else result  # type: ignore[type-var]


def _addresses(path: PathTo, value: Any) -> list[str]:
    """Return the addresses in the value of a path's setting."""
    named = value if isinstance(value, list) else [value]
    if path == NAMED_RUN:
        named = [_run(one)[1] for one in named]
    # A text may begin like an address, but contains blanks.
    return [one for one in named if is_address(one) and not (path == TABLE_OR_TEXTS and len(one.split()) > 1)]


def local_path(value: str, path: PathTo) -> str:
    """Return the path of an address's local copy (a glob for a glob), and any other path unchanged."""
    if not _addresses(path, value):
        return value
    if path == NAMED_RUN:
        name, address = _run(value)
        return name + str(local_copy(address))
    if path == TEXT_FILES:
        address, pattern = split_glob(value)
        if pattern:
            mirror = _mirror(address, pattern)
            if not mirror.refresh():
                raise UserError(f"{value}: no object matches")
            return f"{escape(str(mirror.path))}/{pattern}"
    return str(local_copy(value, is_flat=path.is_flat))


def _mirror(address: str | os.PathLike[str], pattern: str = "") -> "Mirror":
    from gpt1.mirror import Mirror  # here, since most commands, and every `--help`, meet no addresses

    return Mirror(address, pattern)


def _run(value: str) -> tuple[str, str]:
    """Return `NAME=`, empty if a run is not named, and the run."""
    name, equals, run = value.partition("=")
    return (name + equals, run) if equals and is_address(run) else ("", value)


def _check_output(address: str, written: str, inputs: list[str]) -> None:
    """Raise UserError for an output that lies in a folder that is read, or whose states several machines would read."""
    for one in inputs:
        if is_address(one) and f"{address.rstrip('/')}/".startswith(f"{one.rstrip('/')}/"):
            raise UserError(f"{setting('out')} {address} lies inside the input folder {one}; choose a folder elsewhere")
    if torchrun.processes() > torchrun.processes_here() and written != "new file":
        raise UserError(
            f"{setting('out')} {address}: several machines need a folder that all of them share; give "
            "that, and copy it when it is complete"
        )
