"""What `gpt1 finetune` settles before its first update: whether it may and needs to run, and the settings left open."""

import dataclasses
import math
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from gpt1.config import Finetune
from gpt1.data.journal import sha256_of
from gpt1.data.tables import table
from gpt1.errors import UserError
from gpt1.run_folder.folder import STAGED, read_metadata, read_shape
from gpt1.run_folder.metadata import STOPPED, read_json
from gpt1.storage import check_folder
from gpt1.tasks import splits

PAPER_LR, PAPER_WIDTH, PAPER_BATCH, PAPER_EPOCHS = 6.25e-5, 768, 32, 3
LARGEST_LR = 1e-3
FEW_ROWS, SMALL_BATCH, FEWEST_UPDATES = 1_000, 8, 120
OWN = {STOPPED, STAGED}
FREE = {"out", "fresh", "device", "threads", "run", "train", "valid"}
"""Settings that do not change the result; of files the content counts, not the name."""

AsGiven = TypeVar("AsGiven", bound=Finetune)


def with_splits(settings: AsGiven) -> AsGiven:
    """The settings with a saved dataset of several splits replaced by those to train and validate on, said aloud.

    Raises UserError if no split is called train.
    """
    train, valid = splits.chosen(settings.train, validate=not settings.valid)
    return replace(settings, train=train, valid=settings.valid or valid)


def check(settings: Finetune) -> None:
    """Raise UserError for settings that cannot work, a base that is no pre-trained run, or a place that is taken."""
    for name in ("epochs", "batch", "micro_batch", "lr", "lm_coef", "patience", "freeze"):
        _check_range(settings, name, math.inf, "0 or more")
    for name in ("dropout", "head_dropout", "warmup"):
        _check_range(settings, name, 1, "at least 0 and less than 1")
    if settings.seeds < 1:
        raise UserError(f"--seeds {settings.seeds} must be 1 or more")
    if read_metadata(Path(settings.run))["kind"] != "pretrained":
        raise UserError(f"{settings.run} is fine-tuned already; start from the pre-trained run it came from")
    _check_layers(settings, read_shape(Path(settings.run)).depth)
    out = Path(settings.out)
    if out.resolve() == Path(settings.run).resolve():
        raise UserError(f"--out {out} is the run to start from, which must stay; choose another folder")
    check_place(out)


def settle(settings: Finetune, rows: int, width: int) -> Finetune:
    """The settings with every 0 that means "choose" filled in.

    The paper's values; but where rows are few, smaller and more updates, since three passes would teach nothing, and
    for a narrower network a higher rate.
    """
    batch = settings.batch or (PAPER_BATCH if rows >= FEW_ROWS else SMALL_BATCH)
    epochs = settings.epochs or max(PAPER_EPOCHS, -(-FEWEST_UPDATES // -(-rows // batch)))
    # 0 stays where the rate is searched for.
    lr = settings.lr or (0.0 if settings.from_scratch else usual_lr(width))
    return replace(settings, batch=batch, epochs=epochs, micro_batch=min(settings.micro_batch, batch), lr=lr)


def usual_lr(width: int) -> float:
    """The paper's learning rate, higher for a narrower network: measured best at 384 on SST-2 and SNLI."""
    return min(LARGEST_LR, PAPER_LR * (PAPER_WIDTH / width) ** 4)


def sources(settings: Finetune) -> dict[str, dict[str, Any]]:
    """path and sha256 of the files that the result is made from: `model`, `train` and, if given, `valid`."""
    files = {"model": Path(settings.run) / "model.safetensors", "train": table(settings.train).path}
    if settings.valid:
        files["valid"] = table(settings.valid).path
    return {name: {"path": str(path), "sha256": sha256_of(path)} for name, path in files.items()}


def is_done(settings: Finetune, made_from: dict[str, dict[str, Any]]) -> bool:
    """Whether the run folder holds what these settings make of these files. Raises UserError if it holds another's."""
    out = Path(settings.out)
    if settings.fresh or not (out / "gpt1.json").exists():
        return False
    recorded = read_metadata(out)["data"]
    width = read_shape(Path(settings.run)).width
    settled = settle(settings, recorded["train"]["rows"], width)
    check_same(settled, made_from, read_json(out / "settings.json"), recorded, "made")
    return True


def check_same(
    settings: Finetune,
    made_from: dict[str, dict[str, Any]],
    began: dict[str, Any],
    recorded: dict[str, dict[str, Any]],
    verb: str,
    free: Set[str] = FREE,
) -> None:
    """Raise UserError if these settings and files are not those that `settings.out` was made, or begun, with.

    `free` are the settings that may differ.
    """
    remedy = "choose another --out, or --fresh to replace it"
    for name, what in (("model", "RUN"), ("train", "--train"), ("valid", "--valid"), ("test", "--test")):
        before, now = (data.get(name, {}).get("sha256") for data in (recorded, made_from))
        if before != now:
            raise UserError(f"{settings.out} was {verb} from another {what}; {remedy}")
    for name, value in dataclasses.asdict(settings).items():
        if name not in free and began.get(name) != value:
            raise UserError(f"{settings.out} was {verb} with {_flag(name)} {began.get(name)}, not {value}; {remedy}")


def _check_range(settings: Finetune, name: str, end: float, words: str) -> None:
    value = getattr(settings, name)
    if value is not None and not 0 <= value < end:
        raise UserError(f"{_flag(name)} {value} must be {words}")


def _check_layers(settings: Finetune, depth: int) -> None:
    layers = depth if settings.transfer_layers is None else settings.transfer_layers
    if not 0 <= layers <= depth:
        raise UserError(f"--transfer-layers {layers} must be from 0 to {depth}, the blocks of {settings.run}")
    known = 0 if settings.from_scratch else layers
    if settings.freeze > known:
        raise UserError(f"--freeze {settings.freeze}: only {known} blocks start from pre-trained weights")


def check_place(out: Path) -> None:
    """Raise UserError if a fine-tuned run may not be written to the folder: something else is there."""
    check_folder(out)
    if (out / "gpt1.json").exists():
        if read_json(out / "gpt1.json").get("kind") != "finetuned":
            raise UserError(f"{out} holds a pre-trained run; choose another --out")
    elif there := sorted(path.name for path in out.iterdir() if path.name not in OWN) if out.exists() else []:
        raise UserError(f"{out} holds {there[0]}, which `gpt1 finetune` did not write; choose another --out")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
