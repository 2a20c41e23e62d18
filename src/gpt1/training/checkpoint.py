"""Training state on disk: one file, written whole, without pickle; apart from the model, which anyone may load."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from gpt1.errors import UserError
from gpt1.storage import atomic, save_file

FOLDER = "checkpoints"


def save(run: Path, step: int, state: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Write the state after update `step`; once it is on the disk, the one before it goes."""
    path = run / FOLDER / f"step-{step:08d}.safetensors"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"gpt1": json.dumps({"step": step, **facts})})
    for old in path.parent.glob("step-*.safetensors"):
        if old != path:
            old.unlink()
    return path


def clear(run: Path) -> None:
    """Remove every training state of a run."""
    for old in (run / FOLDER).glob("step-*.safetensors"):
        old.unlink()


def latest(run: Path) -> Path | None:
    """The newest training state in a run folder, if there is one."""
    return max((run / FOLDER).glob("step-*.safetensors"), default=None)


def facts(path: Path) -> dict[str, Any]:
    """What was noted beside the state: its step and whatever `save` was given. Raises UserError if unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            noted: dict[str, Any] = json.loads(file.metadata()["gpt1"])
    except Exception as error:
        raise UserError(f"{path}: not readable as training state ({error}); start over with --fresh") from None
    return noted


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a state, on the CPU."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
