"""Training state on disk: a safetensors file for the newest update, without pickle, separate from the model."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt1.errors import UserError, setting
from gpt1.storage import atomic, open_tensors, save_file

# Folder inside a run folder.
FOLDER = "checkpoints"


def save(folder: Path, step: int, state: dict[str, Tensor], notes: dict[str, Any]) -> Path:
    """Write the state after update `step` and a few JSON values, then remove earlier states; return the file."""
    path = folder / FOLDER / f"step-{step:08d}.safetensors"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"gpt1": json.dumps({"step": step, **notes})})
    for old in path.parent.glob("step-*.safetensors"):
        if old != path:
            old.unlink()
    return path


def clear(folder: Path) -> None:
    """Remove every training state of a run."""
    for old in (folder / FOLDER).glob("step-*.safetensors"):
        old.unlink()


def latest(folder: Path) -> Path | None:
    """Return the file of a run's newest training state, or None without one."""
    return max((folder / FOLDER).glob("step-*.safetensors"), default=None)


def read_notes(path: Path) -> dict[str, Any]:
    """Return the `step` of a state and the values saved with it. Raises UserError if the file is unreadable."""
    try:
        with open_tensors(path) as file:
            notes: dict[str, Any] = json.loads(file.metadata()["gpt1"])
    except Exception as error:
        raise UserError(f"{path} is damaged ({error}); start over with {setting('fresh')}") from None
    return notes


def load(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state, on the CPU. They are mapped from the file: copy what must outlive it."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
