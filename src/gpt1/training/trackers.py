"""TensorBoard, Weights & Biases and Trackio: the rows of metrics.jsonl, under the same names and steps.

A tracker is started, continued and fed by `training.log.Log`. Its package is imported here alone, when a training
begins. What each tracker has of a run is kept in the run's tracking.json, so that a resumed run continues there.
"""

import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt1.config import TrackerName
from gpt1.console import say
from gpt1.errors import UserError, setting
from gpt1.storage import write_json

# In the folder of metrics.jsonl: for each tracker, the run's id there and the last step of each name.
NAME = "tracking.json"
# In the run folder, TensorBoard's event files.
EVENTS = "tensorboard"
# Project in which Weights & Biases and Trackio show the runs.
PROJECT = "gpt1"
# Seconds after which the end of a run no longer waits for an upload. What was not uploaded stays on the disk.
UPLOAD_SECONDS = 60.0


@dataclass(frozen=True)
class Tracking:
    """Which trackers follow a training, and what they are sent."""

    trackers: Sequence[TrackerName]
    run: Path
    """run folder, whose name names the run"""
    config: Mapping[str, Any]
    """settings by full name"""
    part: str = ""
    """which training it is, if there are several for a run"""

    def of_part(self, part: str, **changes: Any) -> "Tracking":
        """Return the same for one of several trainings, whose settings differ by `changes`."""
        return replace(self, part=part, config={**self.config, **changes})

    @property
    def title(self) -> str:
        """The run's name in a tracker."""
        name = self.run.resolve().name
        return f"{name}/{self.part}" if self.part else name


def check_trackers(trackers: Iterable[TrackerName]) -> None:
    """Raise UserError if the package of a tracker is not installed."""
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{setting('track')} {name} needs {name}: pip install 'gpt1[{name}]'")


class TensorBoard:
    """Event files in the run folder, which `tensorboard --logdir RUN` shows."""

    def __init__(self, tracking: Tracking, run_id: str, step: int, is_new: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = tracking.run / EVENTS / tracking.part
        for path in folder.glob("events.out.tfevents.*") if is_new else ():  # of a run that is started over
            path.unlink()
        # Readers drop what earlier files hold of this step and later ones.
        self._writer = SummaryWriter(str(folder), purge_step=None if is_new else step)
        if is_new:
            settings = json.dumps(dict(tracking.config), indent=2, ensure_ascii=False)
            self._writer.add_text("settings", "\n".join(f"    {line}" for line in settings.splitlines()), step)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a row."""
        for name, value in values.items():
            if isinstance(value, str):
                self._writer.add_text(name, value, step)
            else:
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what was added."""
        self._writer.flush()

    def close(self) -> None:
        """Write what was added and close the file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases; what its own variables say (WANDB_MODE, WANDB_PROJECT, WANDB_DIR) holds."""

    def __init__(self, tracking: Tracking, run_id: str, step: int, is_new: bool) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=tracking.title, id=run_id,
            resume=None if is_new else "allow", config=dict(tracking.config),
            settings=wandb.Settings(console="off", finish_timeout=UPLOAD_SECONDS),
        )  # fmt: skip
        # Its own step only ever rises, while a resumed run may still owe the validation of its last update.
        self._run.define_metric("*", step_metric="step")

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a row."""
        self._run.log({"step": step, **values})

    def flush(self) -> None:
        """Do nothing: a separate process writes each row at once."""

    def close(self) -> None:
        """End the run, after its upload."""
        self._run.finish()


class Trackio:
    """A run of Trackio, in its local database unless its own variables name a server."""

    def __init__(self, tracking: Tracking, run_id: str, step: int, is_new: bool) -> None:
        import trackio

        self._run = trackio.init(
            project=PROJECT, name=f"{tracking.title}-{run_id}", resume="never" if is_new else "allow",
            config=dict(tracking.config), embed=False,
        )  # fmt: skip

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a row."""
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """Do nothing: a thread of its own writes every half second."""

    def close(self) -> None:
        """Write what was added and end the run."""
        import trackio

        trackio.finish()  # a run that is ended by its own method is ended again at exit, on standard output


KINDS: dict[TrackerName, type[TensorBoard | WandB | Trackio]] = {
    "tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio,
}  # fmt: skip


@dataclass
class _Followed:
    """A tracker's run: what tracking.json says of it."""

    id: str = field(default_factory=lambda: secrets.token_hex(4))
    sent: dict[str, int] = field(default_factory=dict)
    """the last step of each name; as it was at the start of a process that was killed"""
    is_current: bool = True
    """whether later rows of metrics.jsonl were sent too, as far as the process logged any"""


class Trackers:
    """The trackers of one training. If one fails, a warning says so and training continues without it."""

    def __init__(
        self,
        folder: Path,
        step: int,
        rows: Sequence[Mapping[str, Any]],
        kept: Sequence[Mapping[str, Any]],
        tracking: Tracking | None,
    ) -> None:
        """Start or continue the trackers of a training that continues after update `step`.

        `rows` are those of metrics.jsonl; those that are not `kept` will be made again. A tracker gets the kept ones
        that it lacks; it makes a new run for a training that has only begun.
        """
        self._path = folder / NAME
        self._open: dict[TrackerName, TensorBoard | WandB | Trackio] = {}
        known = _read(self._path) if step else {}
        if not known and tracking is None:
            self._path.unlink(missing_ok=True)
            return
        for followed in known.values():
            if followed.is_current:  # the process may have been killed: all that it logged was sent
                for row in rows:
                    followed.sent |= {key: max(row["step"], followed.sent.get(key, 0)) for key in row if key != "step"}
        self._known = known
        wanted: dict[TrackerName, None] = dict.fromkeys(tracking.trackers) if tracking else {}
        for name, followed in known.items():
            followed.is_current = name in wanted
        for name in wanted:
            is_new = name not in known
            followed = known.setdefault(name, _Followed())
            if name == "tensorboard":  # what it has from this step on is replaced
                followed.sent = {key: min(last, step - 1) for key, last in followed.sent.items()}
            assert tracking is not None
            with redirect_stdout(sys.stderr):  # standard output is for the result
                try:
                    self._open[name] = KINDS[name](tracking, followed.id, step, is_new)
                except Exception as error:
                    self._give_up(name, error)
        self._write()
        for row in kept if self._open else ():
            self.add(row["step"], {key: value for key, value in row.items() if key != "step"})

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Send a row to each tracker, without what it has already."""
        for name in list(self._open):
            sent = self._known[name].sent
            if fresh := {key: value for key, value in values.items() if step > sent.get(key, -1)}:
                self._call(name, "add", step, fresh)
                if name in self._open:
                    sent |= dict.fromkeys(fresh, step)

    def flush(self) -> None:
        """Make the rows sent so far visible to other programs."""
        for name in list(self._open):
            self._call(name, "flush")

    def close(self) -> None:
        """End the trackers' runs."""
        for name in list(self._open):
            self._call(name, "close")
        if self._open:
            self._write()
        self._open = {}

    def _call(self, name: TrackerName, method: str, *args: Any) -> None:
        try:
            with redirect_stdout(sys.stderr):
                getattr(self._open[name], method)(*args)
        except Exception as error:
            self._give_up(name, error)

    def _give_up(self, name: TrackerName, error: Exception) -> None:
        self._open.pop(name, None)
        self._known[name].is_current = False  # so that the next process sends what is missing
        self._write()
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"warning: {setting('track')} {name} failed ({reason[:300]}); training goes on without it")

    def _write(self) -> None:
        write_json(self._path, {name: vars(followed) for name, followed in self._known.items()})


def _read(path: Path) -> dict[TrackerName, _Followed]:
    """Return the content of tracking.json; empty if it is missing or damaged, so that the trackers begin new runs."""
    try:
        return {name: _Followed(**found) for name, found in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
