"""What kind of model `gpt1 convert` is given; no torch."""

import re
from pathlib import Path
from typing import Literal

from gpt1.errors import UserError
from gpt1.run_folder.metadata import other_program
from gpt1.run_folder.starter import find_run

HUB_ID = r"[\w.-]+/[\w.-]+"
# Files of OpenAI's release: the weights, cut into ten, and their shapes.
PARTS = tuple(f"params_{number}.npy" for number in range(10))
SHAPES = "params_shapes.json"


def is_hub_id(source: str) -> bool:
    """Return whether `source` can only be a model on Hugging Face's hub: ORGANISATION/NAME, and no local folder."""
    return bool(re.fullmatch(HUB_ID, source)) and not Path(source).parent.exists()


def is_release(folder: Path) -> bool:
    """Return whether a folder holds a part of a release."""
    return any((folder / name).exists() for name in (SHAPES, *PARTS))


def kind_of(source: str | Path) -> Literal["run", "openai", "huggingface"]:
    """Return the kind of model in a folder. Raises UserError if it holds none."""
    folder = find_run(source)
    if not folder.is_dir():
        what = "this is a file; give the folder it is in" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}")
    if (folder / "gpt1.json").exists():
        return "run"
    if is_release(folder):
        return "openai"
    if (folder / "config.json").exists():
        return "huggingface"
    if advice := other_program(folder):
        raise UserError(advice)
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    raise UserError(
        f"{folder}: neither OpenAI's release (params_shapes.json), nor a Hugging Face model (config.json), nor a run "
        f"(gpt1.json); it holds {held}"
    )
