"""What `gpt1 pretrain` settles before its first update: sizes, the number of steps, and whether a run may go on."""

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path

from gpt1.config import Model, Pretrain, with_vocabulary
from gpt1.data.shards import Manifest, TokenStream, read_manifest
from gpt1.errors import UserError
from gpt1.options import flat
from gpt1.run_folder.folder import read_metadata, read_shape
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import checkpoint

MICRO_BATCH_TOKENS = 4096
DEFAULT_EPOCHS = 1.0
LENGTHS = ("steps", "epochs", "minutes")
LEAST = {"model.context": 2, "model.width": 1, "model.depth": 1, "model.heads": 1, "batch": 1, "micro_batch": 0}
SHARES = {f"model.{where}_dropout" for where in ("embedding", "residual", "attention")}
SHARES |= {"optim.beta1", "optim.beta2", "optim.momentum"}
"""Settings that are at least 0 and less than 1."""
FREE = {"data", "out", "fresh", "device", "threads", "eval_every", "save_every", "sample", "compile", *LENGTHS}
"""Settings that may differ when a run goes on: they do not change its weights, or were fixed when it began."""


@dataclass(frozen=True)
class Data:
    """What `gpt1 prepare` left."""

    manifest: Manifest
    tokenizer: Tokenizer
    train: TokenStream
    val: TokenStream


def open_data(folder: Path) -> Data:
    """Prepared data. Raises UserError if it is missing, incomplete or of a newer format."""
    manifest = read_manifest(folder)
    return Data(manifest, Tokenizer.load(folder), TokenStream(folder, "train"), TokenStream(folder, "val"))


def settle(settings: Pretrain, data: Data) -> Pretrain:
    """The settings with all filled in that only the data or a starting model tells; UserError if they cannot work."""
    _check_ranges(settings)
    model = with_vocabulary(settings.model, data.tokenizer.vocabulary)
    if settings.init:
        model = _shape_of(Path(settings.init), model, data, settings.data)
    micro_batch = settings.micro_batch or max(1, MICRO_BATCH_TOKENS // model.context)
    settings = replace(settings, model=model, micro_batch=min(micro_batch, settings.batch))
    _check(settings)
    if len(data.train) <= model.context:
        raise UserError(
            f"{settings.data} has {len(data.train):,} training tokens, not enough for a window of {model.context}; "
            "prepare more text, or lower --model.context"
        )
    return settings


def recorded(settings: Pretrain, data: Data, state: Path) -> Pretrain:
    """The settings the run with this training state began with.

    Raises UserError if the settings or the data given now would make another run.
    """
    path = Path(settings.out) / "settings.json"
    try:
        began: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}); start over with --fresh") from None
    for key, value in dataclasses.asdict(settings).items():
        if key not in FREE and began.get(key) != value:
            raise UserError(
                f"{settings.out} was begun with {_difference(key, began.get(key), value)}; "
                "repeat that to go on, or give --fresh to start over"
            )
    if checkpoint.read_notes(state)["data"] != data.manifest.fingerprint:
        raise UserError(
            f"{settings.data} was prepared anew since {settings.out} was begun, from other text or in another way; "
            "give --fresh to start over"
        )
    if settings.steps and settings.steps != began["steps"]:
        raise UserError(
            f"{settings.out} was begun with --steps {began['steps']}, and its learning rate falls to 0 there; "
            f"to train further, --init {settings.out} with another --out"
        )
    return replace(settings, steps=began["steps"], compile=began.get("compile", "off"))  # type: ignore[arg-type]


def steps_of_epochs(settings: Pretrain, data: Data) -> int:
    """Updates that make the given passes over the training tokens (one, if nothing was given)."""
    per_epoch = len(data.train) / (settings.batch * settings.model.context)
    return max(1, round((settings.epochs or DEFAULT_EPOCHS) * per_epoch))


def _shape_of(run: Path, asked: Model, data: Data, folder: str) -> Model:
    if read_metadata(run).tokenizer != data.tokenizer.hash:
        raise UserError(
            f"--init {run}: its tokenizer is not the one {folder} was prepared with; "
            f"prepare the text with --tokenizer {run}"
        )
    return replace(
        read_shape(run),
        embedding_dropout=asked.embedding_dropout,
        residual_dropout=asked.residual_dropout,
        attention_dropout=asked.attention_dropout,
    )


def _check_ranges(settings: Pretrain) -> None:
    for key, value in flat(settings).items():
        if key in LEAST and value < LEAST[key]:
            raise UserError(f"--{key.replace('_', '-')} {value} must be at least {LEAST[key]}")
        if key in SHARES and not 0 <= value < 1:
            raise UserError(f"--{key.replace('_', '-')} {value} must be at least 0 and less than 1")


def _check(settings: Pretrain) -> None:
    model = settings.model
    if model.width % model.heads:
        raise UserError(f"--model.width {model.width} is not a multiple of --model.heads {model.heads}")
    if model.inner != 4 * model.width:
        raise UserError(f"--model.inner {model.inner} must be 4 x --model.width ({4 * model.width}), as in the paper")
    given = [name for name in LENGTHS if getattr(settings, name) is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(f'--{name}' for name in given)} contradict each other; give one of them")
    for name in given:
        if not getattr(settings, name) > 0:
            raise UserError(f"--{name} {getattr(settings, name)} must be more than 0")


def _difference(key: str, before: object, now: object) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        key, before, now = next((f"{key}.{k}", before.get(k), v) for k, v in now.items() if before.get(k) != v)
    flag = f"--{key.replace('_', '-')}"
    return f"no {flag}, not {now}" if before is None else f"{flag} {before}, not {'without it' if now is None else now}"
