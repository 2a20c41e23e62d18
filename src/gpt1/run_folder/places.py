"""Checks of the paths that commands are given: can a command start from this run, or write to this place? No torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt1.errors import UserError, readable, setting
from gpt1.resume import LOCK
from gpt1.run_folder.metadata import STAGED, STOPPED, check_format, read_json, read_metadata
from gpt1.storage import check_folder, is_temporary

# The first file that `gpt1 demo` writes into its folder.
DEMO_FILE = "endings-train.jsonl"


def check_pretrained(run: str | Path) -> None:
    """Raise UserError if `run` is not a pre-trained run."""
    if read_metadata(Path(run)).kind != "pretrained":
        raise UserError(f"{run} is already fine-tuned; start from the pre-trained run it came from")


def check_finetuned(run: str | Path) -> None:
    """Raise UserError if `run` is not a fine-tuned run."""
    if read_metadata(Path(run)).kind != "finetuned":
        raise UserError(
            f"{run} is pre-trained, not fine-tuned: it knows no classes; "
            f"make a classifier with `gpt1 finetune {run} --train FILE --out RUN2`"
        )


def check_pretrained_place(out: Path) -> None:
    """Raise UserError if a pre-trained run may not be written to the folder, because it holds something else."""
    check_folder(out)
    if (out / "gpt1.json").exists() and read_metadata(out).kind != "pretrained":
        raise UserError(f"{setting('out')} {out} holds a fine-tuned run; choose another folder")
    if (out / "settings.json").exists() or not out.exists():
        return
    if (out / "config.json").exists():
        raise UserError(f"{setting('out')} {out} holds a model that was not pre-trained here; choose another folder")
    if any(path.name != LOCK and not is_temporary(path) for path in out.iterdir()):
        raise UserError(f"{setting('out')} {out} is not empty and holds no run; choose another folder")


def check_finetuned_place(out: Path) -> None:
    """Raise UserError if a fine-tuned run may not be written to the folder, because it holds something else."""
    from gpt1.training.trackers import EVENTS  # here, since no other check is about trackers

    check_folder(out)
    if (out / "gpt1.json").exists():
        if read_json(out / "gpt1.json").get("kind") != "finetuned":
            raise UserError(f"{out} holds a pre-trained run; choose another folder")
        return
    if not out.exists() or (out / STAGED).exists():  # where a process was killed while it moved a model's files
        return
    own = {STOPPED, STAGED, LOCK, EVENTS}  # what `gpt1 finetune` leaves there before there is a model
    if others := sorted(path.name for path in out.iterdir() if path.name not in own):
        raise UserError(f"{out} holds {others[0]}, which `gpt1 finetune` did not write; choose another folder")


def check_new_folder(out: Path) -> None:
    """Raise UserError unless the folder is new or empty."""
    check_folder(out)
    if out.is_dir() and (held := sorted(path.name for path in out.iterdir())):
        raise UserError(
            f"{setting('out')} {out} holds something else ({', '.join(held[:3])}); choose an empty or a new folder"
        )


def check_demo_place(out: Path) -> None:
    """Raise UserError if the folder holds something, and that is no earlier demo."""
    check_folder(out)
    there = out.iterdir() if out.is_dir() else ()
    held = sorted(path.name for path in there if path.name != LOCK and not is_temporary(path))
    if held and DEMO_FILE not in held:
        raise UserError(
            f"{setting('out')} {out} holds something other than a demo ({', '.join(held[:3])}); choose an empty or a "
            "new folder"
        )


def read_ablation(out: Path) -> dict[str, Any]:
    """Return the JSON object that `gpt1 ablate` wrote. Raises UserError for any other file or a newer format."""
    found = read_json(out)
    if not {"cells", "data", "settings"} <= found.keys():
        raise UserError(f"{out} was not written by `gpt1 ablate`; choose another {setting('out')}")
    check_format(found, out)
    return found


def named_runs(runs: Iterable[str]) -> dict[str, str]:
    """Return the folder of each run by name: that of the folder, or NAME for `NAME=RUN`.

    Raises UserError for two runs with one name.
    """
    found: dict[str, str] = {}
    for run in runs:
        name, equals, folder = run.partition("=")
        if not equals or Path(run).exists():
            name, folder = readable(Path(run).resolve().name), run  # it stands in JSON, so it must be Unicode
        if not name or not folder:
            raise UserError(f"{run}: give a run as its folder, or as NAME=RUN")
        if name in found:
            raise UserError(f"two runs are named {name}, {found[name]} and {folder}; rename one: NAME={folder}")
        found[name] = folder
    return found
