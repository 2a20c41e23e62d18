"""Messages, progress bars and tables. Progress goes to standard error, so standard output stays machine-readable."""

import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from gpt1.errors import DataWarning, spell

# Begins the paths of our own files; a warning shows the first line outside of them.
PACKAGE = f"{Path(__file__).parent}{os.sep}"
# Seconds between two lines of progress in a log.
LOG_SECONDS = 30.0


def plain_console(stderr: bool = False) -> Console:
    """Return a console that shows every string as it is, also in tables and titles: no markup, no emoji codes."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


stderr = plain_console(stderr=True)
_mode = {"flags": False, "warnings": False}


def say(message: str) -> None:
    """Print a line to standard error. `message` is plain text, never markup; it names settings by `errors.setting`."""
    stderr.print(spell(message, flags=_mode["flags"]), soft_wrap=True)


def warn(message: str) -> None:
    """Warn of what makes a result misleading: print `warning: ...`, or see `python_warnings`."""
    if not _mode["warnings"]:
        say(f"warning: {message}")
        return
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(spell(message), DataWarning, stacklevel=level)


@contextmanager
def settings_as_flags() -> Iterator[None]:
    """While a command line runs, messages name settings as flags (`--top-p`), not as Python does (`top_p`)."""
    with _switched_on("flags"):
        yield


@contextmanager
def python_warnings() -> Iterator[None]:
    """Within the block, `warn` issues Python warnings of the category DataWarning, also while `say` is silent."""
    with _switched_on("warnings"):
        yield


@contextmanager
def _switched_on(mode: str) -> Iterator[None]:
    before, _mode[mode] = _mode[mode], True
    try:
        yield
    finally:
        _mode[mode] = before


@contextmanager
def quiet(silent: bool = True) -> Iterator[None]:
    """Silence `say` and progress bars within the block; `silent=False` enables them again inside a silenced block."""
    before, stderr.quiet = stderr.quiet, silent
    try:
        yield
    finally:
        stderr.quiet = before


class LogProgress(Progress):
    """Progress for a log file or pipe: every `LOG_SECONDS`, print a line for each unfinished task.

    A thread prints the lines, so they also appear during an update, or a whole epoch, that takes longer than that.
    """

    def start(self) -> None:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write_lines, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _write_lines(self) -> None:
        while not self._is_over.wait(LOG_SECONDS):
            for task in self.tasks:
                if task.visible and not task.finished:
                    say(log_line(task))


def log_line(task: Task) -> str:
    """Return what a task has done as a line of a log: `pretrain: 30 of 100 (30%), loss 3.2, 0:05 so far, 0:12 left`."""
    elapsed = task.elapsed or 0.0
    if task.total:
        parts = [f"{task.description}: {task.completed:,.0f} of {task.total:,.0f} ({task.percentage:.0f}%)"]
    else:
        parts = [f"{task.description}: {task.completed:,.0f}" if task.completed else task.description]
    parts += [str(value) for value in task.fields.values() if isinstance(value, str) and value]
    parts.append(f"{duration(elapsed)} so far")
    done = task.completed - task.fields.get("done_before", 0)
    if task.total and done > 0:
        parts.append(f"{duration(elapsed * (task.total - task.completed) / done)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Format a duration as `1:02:03`."""
    return str(timedelta(seconds=round(seconds)))


def bar(*columns: str) -> Progress:
    """Return a progress bar with elapsed and remaining time; `columns` are further texts, `{task.fields[loss]}`.

    If standard error is not a terminal, return a LogProgress. A resumed task passes the field `done_before`, what was
    completed earlier, so that the remaining time is estimated from the rest.
    """
    title, *texts = (TextColumn(text, markup=False) for text in ("{task.description}", *columns))
    kind = Progress if stderr.is_terminal else LogProgress
    return kind(
        title, BarColumn(), MofNCompleteColumn(), *texts, TimeElapsedColumn(), TimeRemainingColumn(), console=stderr
    )


def table(rows: Mapping[str, Any], title: str = "") -> Table:
    """Return a table of two columns, name and value."""
    out = Table(title=title or None, show_header=False, title_justify="left")
    for name, value in rows.items():
        out.add_row(name, formatted(value))
    return out


def formatted(value: Any) -> str:
    """Format a value for people: thousands separated, fractions to four digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)
