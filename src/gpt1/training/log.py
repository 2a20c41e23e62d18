"""metrics.jsonl: a run's measurements, one JSON object per line, each with the `step` after which it was made.

Trackers, if any are asked for, get the same rows.
"""

import json
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.storage import UNENCODABLE, write_text
from gpt1.training import parallel
from gpt1.training.trackers import Trackers, Tracking

NAME = "metrics.jsonl"


class Log:
    """Append measurements to a run's metrics.jsonl, and send them to trackers, as a context manager.

    Opening it at update `step` drops the rows of later updates, which will be made again. Unless that update is
    `validated`, its validation is dropped too. Close the log before its folder is moved or removed, which Windows
    refuses while a file in it is open. With several processes, only rank 0 writes.
    """

    def __init__(self, folder: Path, step: int, validated: bool = True, tracking: Tracking | None = None) -> None:
        self._is_writer = parallel.is_main()
        if not self._is_writer:
            return
        path, last, rows = folder / NAME, step if validated else step - 1, read(folder)
        kept = [row for row in rows if row["step"] <= (step if "tokens" in row else last)]
        self._trackers = Trackers(folder, step, rows, kept, tracking)
        write_text(path, "".join(map(_line, kept)))
        self._file = path.open("a", encoding="utf-8", errors=UNENCODABLE, newline="\n")

    def add(self, step: int, **values: Any) -> None:
        """Append a row."""
        if self._is_writer:
            self._file.write(_line({"step": step, **values}))
            self._trackers.add(step, values)

    def flush(self) -> None:
        """Make the rows added so far visible to other programs."""
        if self._is_writer:
            self._file.flush()
            self._trackers.flush()

    def close(self) -> None:
        """Write the rows added so far and close the file; end the trackers' runs."""
        if self._is_writer:
            self._file.close()
            self._trackers.close()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl, without a last line that a crash cut short.

    Raises UserError if another line is damaged.
    """
    path = folder / NAME
    rows = []
    # Split as bytes: str.splitlines would also split at U+2028, which a sample may contain.
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            continue
        try:
            rows.append(row := json.loads(line))
            row["step"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number} is damaged: not a JSON object with a step; delete the line") from None
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
