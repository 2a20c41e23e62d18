"""A fine-tuning that is not finished: what the same command goes on from, in the run folder, apart from any model."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt1.config import Finetune
from gpt1.errors import RunFailed, UserError
from gpt1.finetuning.defaults import check_same
from gpt1.run_folder.metadata import STOPPED, read_json
from gpt1.storage import write_json

BEGUN = "begun.json"
"""What the states beside it are of."""


def is_unfinished(run: Path) -> bool:
    """Whether a fine-tuning in this folder was stopped, and left something to go on from."""
    return (run / STOPPED / BEGUN).exists() and _has_states(run / STOPPED)


@contextmanager
def unfinished(settings: Finetune, made_from: dict[str, dict[str, Any]]) -> Iterator[Path]:
    """Yield the folder for the states of the models to make, which may hold some of an earlier call.

    A stop, a crash or a full disk leaves them there; once all is written they go, and so they do if training fails.
    Raises UserError if they are of other settings or data, or the folder is not of a fine-tuning.
    """
    out = Path(settings.out)
    folder = out / STOPPED
    if folder.exists() and any(folder.iterdir()) and not (folder / BEGUN).exists():
        raise UserError(f"{folder} holds something that `gpt1 finetune` did not write; choose another --out")
    is_new = not out.exists()
    if is_unfinished(out) and not settings.fresh:
        is_new = _check_begun(settings, made_from, folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    is_over = True
    try:
        begun = {"settings": dataclasses.asdict(settings), "data": made_from, "is_new": is_new}
        write_json(folder / BEGUN, begun)
        yield folder
    except BaseException as error:
        is_over = isinstance(error, RunFailed) or not _has_states(folder)
        if isinstance(error, KeyboardInterrupt) and not is_over:
            how = "the same command" + (" without --fresh" if settings.fresh else "")
            raise KeyboardInterrupt(f"{error or 'stopped'}; {how} goes on from there") from None
        raise
    finally:
        if is_over:
            shutil.rmtree(folder, ignore_errors=True)
            if is_new and out.exists() and not any(out.iterdir()):
                out.rmdir()


def _has_states(folder: Path) -> bool:
    return any(folder.rglob("step-*.safetensors"))


def _check_begun(settings: Finetune, made_from: dict[str, dict[str, Any]], folder: Path) -> bool:
    """Whether the fine-tuning made the run folder. Raises UserError if it is not the one that is asked for now."""
    try:
        found = read_json(folder / BEGUN)
        began, recorded, is_new = found["settings"], found["data"], bool(found["is_new"])
    except UserError as error:
        raise UserError(f"{error}; start over with --fresh") from None
    except KeyError as error:
        raise UserError(f"{folder / BEGUN} is damaged: {error} is missing; start over with --fresh") from None
    check_same(settings, made_from, began, recorded, "begun")
    return is_new
