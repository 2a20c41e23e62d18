"""Object stores by fsspec's addresses, `s3://bucket/folder`: list, read, write and remove objects.

fsspec (https://filesystem-spec.readthedocs.io) knows the stores, and where each looks for its credentials. Whatever one
of them raises becomes a UserError or RunFailed of one line that names the address.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

from gpt1.errors import RunFailed, UserError

# A single slash too: `pathlib.Path("s3://bucket/a")` is `s3:/bucket/a`. Drives of Windows have one letter.
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(.+)", re.DOTALL | re.IGNORECASE)
# The package that gives fsspec a store, if it is not installed with gpt1.
PACKAGES = {
    "s3": "gpt1[s3]", "s3a": "gpt1[s3]", "gs": "gpt1[gs]", "gcs": "gpt1[gs]",
    "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "http": "aiohttp", "https": "aiohttp",
}  # fmt: skip
# Where stores say which version of an object they hold, the most reliable first.
VERSIONS = (
    "ETag", "etag", "md5Hash", "generation", "blob_id", "mtime", "LastModified", "last_modified", "Last-Modified",
    "updated", "created",
)  # fmt: skip
# Name of the object by which `Store.check_writable` tries whether it may write.
PROBE = ".gpt1-may-write"


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing shows it."""

    size: int | None
    version: str
    """changes with the content: the object's hash or, where the store has none, its time; with its size"""


def is_address(name: object) -> bool:
    """Return whether a path is an address, as `s3://bucket/folder`."""
    return isinstance(name, str | os.PathLike) and ADDRESS.fullmatch(str(name)) is not None


class Store:
    """The object, or the objects, under one address; a `name` is what follows it, empty for the object itself."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        scheme, rest = _split_address(address)
        self.address = f"{scheme}://{rest}"
        self._scheme = scheme
        if scheme in ("file", "local"):
            raise UserError(f"{address}: this is a path; give it without {scheme}://")
        with self._in_one_line("read"):
            from fsspec.core import url_to_fs  # here, since most commands read no addresses

            self._fs, self._path = url_to_fs(self.address)

    def list(self, pattern: str = "") -> dict[str, ObjectInfo]:
        """Return the objects by name, sorted, or those that match a glob; hidden ones are left out.

        Raises UserError for a name that no file in a folder can have.
        """
        with self._in_one_line("read"):
            self._fs.invalidate_cache()
            infos = self._fs.glob(self._full_path(pattern), detail=True) if pattern else self._find("")
        # A name that ends in a slash stands for an empty folder.
        paths = [path for path, info in infos.items() if info["type"] == "file" and not path.endswith("/")]
        found = {self._name(path): infos[path] for path in paths}
        return {name: _object_info(found[name]) for name in sorted(found) if not is_hidden(name)}

    def version(self, name: str) -> str:
        """Return the version of an object as `list` does; an empty string if the object does not exist."""
        with self._in_one_line("read"):
            self._fs.invalidate_cache()
            info = self._find(name).get(self._full_path(name))
        return _object_info(info).version if info else ""

    def has_object(self) -> bool:
        """Return whether the address is the name of an object."""
        return self.version("") != ""

    def read(self, name: str, path: Path) -> None:
        """Copy an object to a file."""
        with self._in_one_line("read"):
            self._fs.get_file(self._full_path(name), str(path))

    def write(self, path: Path, name: str) -> None:
        """Copy a file to an object, which appears whole or not at all."""
        with self._in_one_line("written"):
            self._fs.put_file(str(path), self._full_path(name))

    def remove(self, name: str) -> None:
        """Remove an object, if there is one."""
        with self._in_one_line("written"), suppress(FileNotFoundError):
            self._fs.rm_file(self._full_path(name))

    def check_writable(self, is_folder: bool) -> None:
        """Write and remove an empty object. Raises an error if that is refused, before anything is computed."""
        probe = f"{self._path}{'/' if is_folder else ''}{PROBE}"
        with self._in_one_line("written"):
            self._fs.pipe_file(probe, b"")
            self._fs.rm_file(probe)

    def _find(self, name: str) -> dict[str, dict[str, Any]]:
        """Return what fsspec knows of each object under a name, by path."""
        found = self._fs.find(self._full_path(name), detail=True)
        if isinstance(found, list):  # az:// and http:// sometimes list only names
            found = dict.fromkeys(found)
        return {path: info or self._fs.info(path) for path, info in found.items()}

    def _full_path(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    def _name(self, path: str) -> str:
        """Return what follows the address in a path of fsspec's."""
        name = path.removeprefix(self._path).removeprefix("/")
        is_outside = any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name
        if name and (is_outside or (os.name == "nt" and re.search(r"[\\:]", name))):
            raise UserError(f"{self.address}: the object {path!r} has a name that no file can have; rename it")
        return name

    @contextmanager
    def _in_one_line(self, done: str) -> Iterator[None]:
        """Turn what a store raises, its library's own classes too, into a UserError or RunFailed that says so."""
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(f"{self.address}: not found ({_reason(error)})") from None
        except ImportError as error:
            package = PACKAGES.get(self._scheme)
            how = f"install it with `pip install '{package}'`" if package else _reason(error)
            raise UserError(f"{self.address}: {self._scheme}:// needs a package that is missing; {how}") from None
        except NotImplementedError:
            raise UserError(f"{self.address}: cannot be {done}; choose another place") from None
        except Exception as error:
            message = f"{self.address}: cannot be {done} ({_reason(error)})"
            if "Credential" in type(error).__name__:
                message += "; give this store's credentials, for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            is_request = isinstance(error, PermissionError | ValueError) or "Credential" in type(error).__name__
            raise (UserError if is_request else RunFailed)(message) from None


def split_glob(address: str | os.PathLike[str]) -> tuple[str, str]:
    """Return an address without wildcards, and the glob that follows it; an empty one if it names an object.

    Raises UserError for wildcards in the name of the bucket.
    """
    scheme, rest = _split_address(address)
    if not has_magic(rest) or Store(address).has_object():
        return f"{scheme}://{rest}", ""
    parts = rest.split("/")
    first = next(number for number, part in enumerate(parts) if has_magic(part))
    if not first:
        raise UserError(f"{address}: wildcards cannot stand for a bucket; name it")
    return f"{scheme}://{'/'.join(parts[:first])}", "/".join(parts[first:])


def is_hidden(name: str) -> bool:
    """Return whether a name or a folder in it begins with a dot: locks, temporary files, and what is being made."""
    return any(part.startswith(".") for part in name.split("/"))


def _split_address(address: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the scheme and what follows it. Raises UserError for an address that leads out of its bucket."""
    found = ADDRESS.fullmatch(str(address))
    if found is None:
        raise UserError(f"{address}: not an address like s3://bucket/folder")
    rest = found[2].strip("/")
    if not rest or any(part in ("", ".", "..") for part in rest.split("/")):
        raise UserError(f"{address}: give an address like s3://bucket/folder, without empty names, `.` and `..`")
    return found[1].lower(), rest


def _object_info(info: Mapping[str, Any]) -> ObjectInfo:
    """Return size and version from what fsspec knows of an object; stores give a version by different names."""
    version = next((info[key] for key in VERSIONS if info.get(key)), "")
    return ObjectInfo(info["size"], f"{info['size']} {version}")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
