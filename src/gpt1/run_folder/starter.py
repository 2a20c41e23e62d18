"""The starter model: a pre-trained run that is installed as a package of its own, `gpt1-starter`."""

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gpt1.console import say
from gpt1.errors import UserError
from gpt1.object_store import is_address
from gpt1.remote import local_copy

# Stands for the installed run wherever a run folder is asked for.
STARTER = "starter"
PACKAGE = "gpt1_starter"


@cache
def _say_it_hides_the_model(folder: Path) -> None:
    say(f"{STARTER} is the run in {folder}, which hides the starter model; rename that folder to use the starter")


def find_run(run: str | Path) -> Path:
    """Return the folder of a run: `run` itself, the copy of an address, or the starter model for the name `starter`.

    A run folder of that name has precedence, and a line says so once. Raises UserError if the starter is asked for and
    not installed, TypeError for anything but a path.
    """
    if not isinstance(run, str | os.PathLike):
        raise TypeError(f"run must be the path of a folder, not {repr(run)[:40]} ({type(run).__name__})")
    folder = Path(run)
    if is_address(run):
        return local_copy(run)
    if str(run) != STARTER:
        return folder
    if (folder / "gpt1.json").exists():
        _say_it_hides_the_model(folder.resolve())
        return folder
    if (spec := find_spec(PACKAGE)) is None or spec.origin is None:
        raise UserError(
            f"{STARTER}: the starter model is not installed; get it with `pip install 'gpt1[starter]'`, or in a "
            f"checkout of gpt1 with `pip install ./starter`"
        )
    model = Path(spec.origin).parent / "model"
    if not (model / "gpt1.json").exists():
        raise UserError(f"{STARTER}: {model} holds no model; `python starter/build.py RUN` puts one there")
    return model
