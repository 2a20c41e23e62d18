"""metrics.jsonl: one JSON object a line, each with the `step` it was measured after."""

import json
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.storage import write_text

NAME = "metrics.jsonl"


class Log:
    """Appends rows to a run's metrics. Opened at step s, it first drops the rows after s, which will come again."""

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / NAME
        kept = [row for row in read(run) if row["step"] <= step]
        write_text(self.path, "".join(map(_line, kept)))
        self.file = self.path.open("a", encoding="utf-8", newline="\n")

    def add(self, step: int, **values: Any) -> None:
        """Append a row."""
        self.file.write(_line({"step": step, **values}))

    def flush(self) -> None:
        """Hand the rows so far to the system, so that other programs see them."""
        self.file.flush()


def read(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics; a last line that a crash cut short is left out."""
    path = run / NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [_row(path, number, line) for number, line in enumerate(lines, 1) if line.endswith("\n")]


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        row["step"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}:{number}: damaged, no measurement with its step; drop the line") from None
    return row


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
