"""Read the rows of datasets that Hugging Face's `datasets` saved to disk, in bounded memory; no torch.

Their files are Arrow streams: a schema, then batches of (usually 1,000) rows. polars can only read a whole stream, and
`save_to_disk` writes up to 500 MB into one; pyarrow reads it in batches, but would be one more dependency for everyone
who has a saved dataset. So `_messages` splits a stream into its messages, and polars reads the schema with one batch.
"""

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.data.files import INFO, dataset_files, read_key
from gpt1.errors import UserError, first_line

if TYPE_CHECKING:
    import polars

CONTINUATION = b"\xff\xff\xff\xff"  # begins every message
END_OF_STREAM = CONTINUATION + bytes(4)
RECORD_BATCH = 3  # kind of a message that is a batch of rows
UNKNOWN_CLASS = -1  # what `datasets` stores where the class is not known

ToNames = Callable[[Any], Any]  # replaces the class numbers in a value by class names


def dataset_rows(path: Path, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a dataset or Arrow file, with class names in the place of class numbers.

    `only` names the columns that the caller needs, if not all. Raises UserError for a class number without a name.
    """
    info = (path if path.is_dir() else path.parent) / INFO
    features = read_key(info, "features", dict) if info.is_file() else {}
    to_names = {name: found for name, feature in features.items() if (found := _to_names(feature))}
    number = 0
    for frame in arrow_frames(path, only):
        for values in frame.iter_rows(named=True):
            number += 1
            for column in to_names.keys() & values.keys():
                try:
                    values[column] = to_names[column](values[column])
                except UserError as error:
                    raise UserError(f"{path}:{number}: column {column} {error}") from None
            yield values


def arrow_frames(path: Path, only: Sequence[str] = ()) -> Iterator["polars.DataFrame"]:
    """Yield the rows of a dataset or Arrow file one batch at a time, or one empty frame; `only` selects columns.

    Raises UserError, naming the file, if it is damaged or truncated.
    """
    import polars
    from polars.exceptions import PanicException, PolarsError

    def frame(message: bytes) -> "polars.DataFrame":
        return polars.read_ipc_stream(io.BytesIO(schema + message + END_OF_STREAM), columns=list(only) or None)

    for part in dataset_files(path):
        schema, is_empty = b"", True
        try:
            for kind, message in _messages(part):
                if kind == RECORD_BATCH:
                    yield frame(message)
                    is_empty = False
                else:
                    schema += message  # and dictionaries
            if is_empty:
                yield frame(b"")
        except (PolarsError, PanicException, OSError, struct.error, IndexError, EOFError) as error:
            raise UserError(f"{part}: damaged or truncated ({first_line(error)}); save or copy it again") from None


def _messages(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield kind and bytes of each message of an Arrow stream. Raises EOFError if the stream has no end.

    A message is CONTINUATION, the size of its metadata, the metadata, and a body whose size the metadata gives.
    """
    left = path.stat().st_size

    def read(size: int) -> bytes:
        nonlocal left
        left -= size
        if size < 0 or left < 0:  # before reading, since a damaged size may be larger than memory
            raise EOFError("it ends within a batch of rows")
        return file.read(size)

    with path.open("rb") as file:
        while (start := read(8)) != END_OF_STREAM:
            if start[:4] != CONTINUATION:
                raise EOFError("not an Arrow stream, as `save_to_disk` writes it")
            metadata = read(int.from_bytes(start[4:], "little", signed=True))
            kind, body = _message_header(metadata)
            yield kind, start + metadata + read(body)


def _message_header(metadata: bytes) -> tuple[int, int]:
    """Return the kind of a message and the size of its body: fields 1 and 3 of a flatbuffers table (Message.fbs).

    The table starts with the distance back to a list of its fields' offsets, in which 0 means that a field is absent.
    """
    (table,) = struct.unpack_from("<I", metadata)
    fields = table - struct.unpack_from("<i", metadata, table)[0]
    (size,) = struct.unpack_from("<H", metadata, fields)
    offsets = struct.unpack_from(f"<{size // 2 - 2}H", metadata, fields + 4)
    kind_at, body_at = (offsets[field] if field < len(offsets) else 0 for field in (1, 3))
    body = struct.unpack_from("<q", metadata, table + body_at)[0] if body_at else 0
    return metadata[table + kind_at] if kind_at else 0, body


def _to_names(feature: Any) -> ToNames | None:
    """Return what replaces class numbers, or lists of them, by names; None for a column that holds something else."""
    if isinstance(feature, list) and len(feature) == 1:  # how older versions wrote lists
        feature = {"feature": feature[0]}
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        names = [str(name) for name in feature["names"]]

        def name_of(number: int | None) -> str | None:
            if number is None or number == UNKNOWN_CLASS:
                return None
            if 0 <= number < len(names):
                return names[number]
            raise UserError(f"holds the class number {number}, but {INFO} names {len(names)} classes; correct one")

        return name_of
    if one := _to_names(feature.get("feature")):
        return lambda numbers: None if numbers is None else [one(number) for number in numbers]
    return None
