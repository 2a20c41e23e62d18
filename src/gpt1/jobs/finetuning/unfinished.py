"""A fine-tuning that is not finished: what the same command goes on from, in the run folder, apart from any model."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt1.config import Finetune
from gpt1.errors import RunFailed
from gpt1.jobs.finetuning.settings import check_same
from gpt1.jobs.run.facts import read_json
from gpt1.storage import write_json
from gpt1.train import checkpoint

NAME = "begun.json"


def is_unfinished(run: Path) -> bool:
    """Whether a fine-tuning in this folder was stopped."""
    return (run / checkpoint.FOLDER / NAME).exists()


@contextmanager
def states(settings: Finetune, made_from: dict[str, dict[str, Any]]) -> Iterator[Path]:
    """Yield the folder for the states of the models to make, which may hold some of an earlier call.

    A stop, a crash or a full disk leaves them there; once all is written they go, and so they do if training fails.
    Raises UserError if they are of other settings or data.
    """
    out = Path(settings.out)
    folder, is_new = out / checkpoint.FOLDER, not out.exists()
    if settings.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if is_unfinished(out):
        began = read_json(folder / NAME)
        check_same(settings, made_from, began["settings"], began["data"], "begun")
    else:
        write_json(folder / NAME, {"settings": dataclasses.asdict(settings), "data": made_from})
    is_over = True
    try:
        yield folder
    except BaseException as error:
        is_over = isinstance(error, RunFailed)
        if isinstance(error, KeyboardInterrupt) and str(error):
            raise KeyboardInterrupt(f"{error}; the same command goes on from there") from None
        raise
    finally:
        if is_over or not any(folder.rglob("*.safetensors")):
            shutil.rmtree(folder)
            if is_new and not any(out.iterdir()):
                out.rmdir()
