"""Datasets that Hugging Face's `datasets` saved to disk, read without that library and as a stream; no torch.

A dataset is a folder: `state.json` lists its Arrow files, `dataset_info.json` names the classes that numbers stand
for. A dataset of several splits is a folder of such folders, with `dataset_dict.json` in it. An Arrow file is a stream
of messages: a schema, then batches of (usually 1,000) rows. The schema and one batch are a stream of their own, and
that is what polars gets, so no more than one batch is held.
"""

import io
import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError

if TYPE_CHECKING:
    import polars

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
TRAIN, VALIDATION = "train", ("validation", "valid", "val", "dev")
"""Usual names of splits."""
CONTINUATION, RECORD_BATCH = b"\xff\xff\xff\xff", 3
"""What every message begins with; the kind of a message that is a batch of rows."""
END_OF_STREAM = CONTINUATION + bytes(4)
NO_CLASS = -1
"""Where a class is not known, `datasets` keeps this number."""
Naming = Callable[[Any], Any]
"""A value with numbers -> the same with the names of the classes."""


def is_dataset(path: Path) -> bool:
    """Whether `path` is the folder of a dataset, of one split or of several."""
    return (path / STATE).is_file() or (path / SPLITS).is_file()


def splits(path: Path) -> list[str]:
    """The names of a dataset's splits; none if it is not of several. Raises UserError if `path` says what cannot be."""
    return [str(name) for name in _json(path / SPLITS, "splits", list)] if (path / SPLITS).is_file() else []


def several(path: Path) -> UserError:
    """What to say where one split is needed and `path` has several."""
    names = splits(path)
    example = f", such as {path / names[0]}" if names else ""
    return UserError(f"{path}: a dataset of {len(names)} splits ({', '.join(names)}); name the folder of one{example}")


def usual_splits(path: str) -> tuple[str, str | None] | None:
    """Of a dataset of several splits the folders to train on and, if there is one, to validate on; else None.

    Raises UserError, naming its splits, if none is called train.
    """
    if not (names := splits(Path(path))):
        return None
    if TRAIN not in names:
        raise several(Path(path))
    validation = next((name for name in VALIDATION if name in names), None)
    return str(Path(path) / TRAIN), None if validation is None else str(Path(path) / validation)


def parts(path: Path) -> list[Path]:
    """The Arrow files of a dataset's folder, in order; of an Arrow file, itself. Raises UserError if one is missing."""
    if not path.is_dir():
        return [path]
    try:
        found = [path / entry["filename"] for entry in _json(path / STATE, "_data_files", list)]
    except (TypeError, KeyError):
        raise UserError(f"{path / STATE}: damaged, its _data_files name no files; save the dataset again") from None
    for part in found:
        if not part.is_file():
            raise UserError(f"{part}: missing, though {STATE} names it; copy the whole folder again")
    return found


def frames(path: Path, only: Sequence[str] = ()) -> Iterator["polars.DataFrame"]:
    """The rows of a dataset or Arrow file, a batch at a time, or an empty frame; `only` names the columns wanted.

    Raises UserError, naming the file, for one that is damaged or cut short.
    """
    from polars.exceptions import PanicException, PolarsError  # loads in half a second, which only tables should cost

    for part in parts(path):
        try:
            yield from _frames(part, list(only) or None)
        except (PolarsError, PanicException, OSError, struct.error, IndexError, EOFError) as error:
            first_line = str(error).split("\n")[0]
            raise UserError(f"{part}: damaged or cut short ({first_line}); save or copy it again") from None


def namings(path: Path) -> dict[str, Naming]:
    """For each column that holds classes (or lists of them) as numbers, what puts their names in place."""
    info = (path if path.is_dir() else path.parent) / INFO
    features = _json(info, "features", dict) if info.is_file() else {}
    found = {name: _naming(feature) for name, feature in features.items()}
    return {name: naming for name, naming in found.items() if naming}


def _naming(feature: Any) -> Naming | None:
    if isinstance(feature, list) and len(feature) == 1:  # how lists were written once
        feature = {"feature": feature[0]}
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        names = [str(name) for name in feature["names"]]
        return lambda number: None if number is None or number == NO_CLASS else _name(names, number)
    if one := _naming(feature.get("feature")):
        return lambda numbers: None if numbers is None else [one(number) for number in numbers]
    return None


def _name(names: list[str], number: int) -> str:
    if not 0 <= number < len(names):
        raise UserError(f"holds the class number {number}, but {INFO} names {len(names)} classes; mend one of them")
    return names[number]


def _frames(path: Path, only: list[str] | None) -> Iterator["polars.DataFrame"]:
    import polars

    head, empty = b"", True
    for kind, message in _messages(path):
        if kind == RECORD_BATCH:
            yield polars.read_ipc_stream(io.BytesIO(head + message + END_OF_STREAM), columns=only)
            empty = False
        else:
            head += message
    if empty:
        yield polars.read_ipc_stream(io.BytesIO(head + END_OF_STREAM), columns=only)


def _messages(path: Path) -> Iterator[tuple[int, bytes]]:
    """The kind and the bytes of each message of an Arrow stream. Raises EOFError if the stream has no end."""
    with path.open("rb") as file:
        while (start := _exactly(file, 8)) != END_OF_STREAM:
            if start[:4] != CONTINUATION:
                raise EOFError("not an Arrow stream, as `save_to_disk` writes it")
            (size,) = struct.unpack("<i", start[4:])
            meta = _exactly(file, size)
            kind, body = _kind_and_body(meta)
            yield kind, start + meta + _exactly(file, body)


def _kind_and_body(meta: bytes) -> tuple[int, int]:
    """The kind of a message and the bytes that follow it: fields 1 and 3 of a flatbuffers table (Arrow's Message.fbs).

    A table begins with the distance back to a list of its fields' places; 0 stands for a field that is not there.
    """
    (table,) = struct.unpack_from("<I", meta)
    fields = table - struct.unpack_from("<i", meta, table)[0]
    (listed,) = struct.unpack_from("<H", meta, fields)
    places = struct.unpack_from(f"<{listed // 2 - 2}H", meta, fields + 4)
    kind_at, body_at = (places[field] if field < len(places) else 0 for field in (1, 3))
    body = struct.unpack_from("<q", meta, table + body_at)[0] if body_at else 0
    return meta[table + kind_at] if kind_at else 0, body


def _exactly(file: io.BufferedReader, size: int) -> bytes:
    # A damaged size may be larger than any memory.
    if not 0 <= size <= os.fstat(file.fileno()).st_size or len(found := file.read(size)) < size:
        raise EOFError("it ends within a batch of rows")
    return found


def _json(path: Path, key: str, kind: type) -> Any:
    """The list or object, as `kind` says, that a JSON file of a dataset has under `key`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))[key]
    except FileNotFoundError:
        raise UserError(f"{path}: missing; save the dataset again") from None
    except (ValueError, KeyError, TypeError):
        value = None
    if not isinstance(value, kind):
        raise UserError(f"{path}: damaged, it holds no {key}; save the dataset again")
    return value
