"""The settings of a dataclass: their names, types and help, and conversion of values into them.

Everything is read from the type hints and the string under each field, so `config.py` is the only description.
"""

import ast
import difflib
import inspect
import math
import os
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from gpt1 import config
from gpt1.errors import UserError, flag, setting

T = TypeVar("T")
METAVARS = {int: "N", float: "X"}

# Names that other programs use -> ours; if there are several, the first that the command, or the estimator, has.
OTHER_NAMES = {
    "learning-rate": ("lr", "optim.lr"), "lr": ("optim.lr",), "max-lr": ("lr", "optim.lr"),
    "body-learning-rate": ("lr",), "lr-scheduler-type": ("optim.decay",), "lr-schedule": ("optim.decay",),
    "weight-decay": ("optim.weight_decay",), "warmup-steps": ("optim.warmup",), "warmup-iters": ("optim.warmup",),
    "warmup-ratio": ("warmup",), "lr-warmup": ("warmup",), "adam-beta1": ("optim.beta1",),
    "adam-beta2": ("optim.beta2",), "max-grad-norm": ("optim.clip",), "grad-clip": ("optim.clip",),
    "optimizer": ("optim.method",),
    "output": ("out", "html"), "output-dir": ("out",), "output-file": ("out", "html"), "out-dir": ("out",),
    "out": ("html",), "o": ("out",),
    "model": ("run", "preset"), "model-name": ("run", "init", "preset"), "model-name-or-path": ("run", "init"),
    "base-model": ("run", "init"), "pretrained": ("run", "init"), "init": ("run",), "models": ("runs",),
    "checkpoint": ("run", "init"), "init-from": ("init",), "size": ("preset",),
    "data": ("train", "inputs", "input", "files"), "dataset": ("train", "data", "inputs", "input", "files"),
    "input": ("inputs", "data", "files"), "input-file": ("input", "inputs", "files"), "file": ("input", "files"),
    "train-file": ("train", "inputs"), "train-data": ("train", "inputs"), "train-dataset": ("train", "inputs"),
    "validation": ("valid", "val"), "valid-file": ("valid", "val"), "validation-file": ("valid", "val"),
    "val": ("valid",), "valid": ("val",), "dev": ("valid", "val"), "dev-file": ("valid", "val"),
    "eval-file": ("valid", "val"), "eval-dataset": ("valid", "val"),
    "val-split": ("val_fraction", "valid"), "val-size": ("val_fraction", "valid"),
    "val-ratio": ("val_fraction", "valid"), "validation-split": ("val_fraction", "valid"),
    "test": ("files", "input"), "test-file": ("test", "files", "input"), "column": ("text",),
    "unlabelled": ("read",), "unlabeled": ("read",), "text-column": ("text",), "label-column": ("label",),
    "target-column": ("label",), "sep": ("delimiter",), "separator": ("delimiter",), "split-on": ("documents",),
    "max-length": ("max_new_tokens", "model.context", "long"), "max-seq-length": ("model.context", "long"),
    "block-size": ("model.context", "long"), "seq-length": ("model.context",), "context-length": ("model.context",),
    "n-positions": ("model.context",), "n-ctx": ("model.context",), "chunk-long-sequences": ("long",),
    "max-tokens": ("max_new_tokens",), "num-tokens": ("max_new_tokens",), "length": ("max_new_tokens",),
    "num-samples": ("num",), "nsamples": ("num",), "n": ("num",), "num-return-sequences": ("num",),
    "prompt": ("prompts",), "start": ("prompts",), "prefix": ("prompts",), "temp": ("temperature",),
    "stop-token": ("stop",), "stop-sequences": ("stop",), "truncate": ("stop",),
    "batch-size": ("batch",), "train-batch-size": ("batch",), "per-device-train-batch-size": ("batch",),
    "micro-batch-size": ("micro_batch",), "num-epochs": ("epochs",), "num-train-epochs": ("epochs",),
    "n-epochs": ("epochs",), "max-steps": ("steps",), "max-iters": ("steps",), "num-steps": ("steps",),
    "max-time": ("minutes",), "hours": ("minutes",), "early-stopping": ("patience",),
    "early-stopping-patience": ("patience",), "early-stopping-steps": ("patience",), "metric": ("select",),
    "metric-for-best-model": ("select",), "lm-loss-coef": ("lm_coef",), "lambda": ("lm_coef",),
    "oversample": ("class_weights",), "num-layers-frozen": ("freeze",),
    "vocab-size": ("vocabulary", "model.vocabulary"), "n-layer": ("model.depth",), "num-layers": ("model.depth",),
    "n-head": ("model.heads",), "n-embd": ("model.width",), "hidden-size": ("model.width",),
    "d-model": ("model.width",), "d-ff": ("model.inner",), "n-inner": ("model.inner",),
    "dropout": ("model.residual_dropout",), "resid-pdrop": ("model.residual_dropout", "dropout"),
    "embd-pdrop": ("model.embedding_dropout", "dropout"), "attn-pdrop": ("model.attention_dropout", "dropout"),
    "clf-pdrop": ("head_dropout",),
    "eval-interval": ("eval_every",), "eval-steps": ("eval_every",), "save-steps": ("save_every",),
    "save-total-limit": ("keep",), "report-to": ("track",), "wandb": ("track",), "wandb-log": ("track",),
    "num-workers": ("threads",), "workers": ("threads",), "num-threads": ("threads",), "num-proc": ("threads",),
    "jobs": ("threads",), "precision": ("dtype",), "fp16": ("dtype",), "bf16": ("dtype",), "random-seed": ("seed",),
    "seed": ("random_state",), "overwrite": ("fresh",), "overwrite-output-dir": ("fresh",), "force": ("fresh",),
    "bind": ("host",), "address": ("host",), "api-key": ("token",), "cors": ("allow_origin",),
}  # fmt: skip

# Settings of other programs that have no counterpart here -> what to do instead.
DONE_OTHERWISE = {
    "resume": "to resume a stopped run, repeat its command",
    "gradient-accumulation-steps": "a batch is a whole update, and is split into micro-batches automatically",
    "test": "`gpt1 evaluate` scores a model on test rows",
    "out": "on the command line, `--json > FILE` saves the result",
}
DONE_OTHERWISE["resume-from-checkpoint"] = DONE_OTHERWISE["resume"]
DONE_OTHERWISE["test-file"] = DONE_OTHERWISE["test"]
DONE_OTHERWISE["output"] = DONE_OTHERWISE["output-file"] = DONE_OTHERWISE["out"]


def check_threads_and_seed(threads: int, seed: int) -> None:
    """Raise UserError for a number of threads or a seed outside its range."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if not 0 <= threads <= most:
        raise UserError(f"{setting('threads')} {threads} must be from 0 (every core) to {most}")
    if not 0 <= seed < 2**63:
        raise UserError(f"{setting('seed')} {seed} must be from 0 to 2^63 - 1")


@dataclass(frozen=True)
class Option:
    """One setting: a field of a settings dataclass, or of a section of it."""

    key: str
    """full name, `optim.lr`"""
    kind: Any
    """type hint"""
    default: Any
    """default value; MISSING if the setting is required"""
    help: str
    """the text under the field"""
    group: str
    """first line of the docstring of the class that declares it"""
    path: config.PathTo | None = None
    """of a path: what must be there; None for other settings"""

    @property
    def path_kind(self) -> str:
        """What must be at a path; empty for other settings."""
        return self.path.what if self.path else ""

    @property
    def flag(self) -> str:
        """`--optim.matrix-lr` for `optim.matrix_lr`."""
        return flag(self.key)

    @property
    def is_list(self) -> bool:
        """Whether the setting is a list."""
        return get_origin(self.kind) is list

    @property
    def metavar(self) -> str:
        """The placeholder for its value in the help: `DATA`, `INPUT`, `{paper,fast}`."""
        kind = get_args(self.kind)[0] if self.is_list else without_none(self.kind)
        if get_origin(kind) is Literal:
            return "{" + ",".join(map(str, get_args(kind))) + "}"
        if kind in METAVARS:
            return METAVARS[kind]
        name = self.key.rpartition(".")[2].rstrip("_").upper()
        return name.removesuffix("S") if self.is_list else name


def options(settings: type, prefix: str = "") -> dict[str, Option]:
    """Return every setting of a dataclass by full name, sections flattened."""
    hints, marked = get_type_hints(settings), get_type_hints(settings, include_extras=True)
    found: dict[str, Option] = {}
    for field in fields(settings):
        kind, key = hints[field.name], prefix + field.name
        if is_dataclass(kind):
            found |= options(kind, key + ".")  # type: ignore[arg-type]
        else:
            owner = next(c for c in settings.__mro__ if field.name in inspect.get_annotations(c))
            default = field.default if field.default_factory is MISSING else field.default_factory()
            path = _path_to(marked[field.name])
            found[key] = Option(key, kind, default, _documented(owner)[field.name], summary(owner), path)
    return found


def _path_to(kind: Any) -> config.PathTo | None:
    """Return the PathTo of a type hint, of a list's items or of a union's members; None without one."""
    marks = [mark for mark in getattr(kind, "__metadata__", ()) if isinstance(mark, config.PathTo)]
    return next(iter([*marks, *filter(None, map(_path_to, get_args(kind)))]), None)


def summary(settings: type) -> str:
    """Return the first line of a settings dataclass's docstring."""
    return (settings.__doc__ or "").partition("\n")[0]


def build(settings: type[T], positionals: Sequence[str], values: dict[str, Any]) -> T:
    """Build settings from `values` by full name. Raises UserError if a required one is missing or empty."""
    for key, option in options(settings).items():
        if option.default is MISSING and not any(values.get(key, "")):  # texts and lists of texts
            name = option.metavar if key in positionals else option.flag
            problem = f"{name} is empty" if key in values else f"missing {name}"
            raise UserError(f"{problem}: {option.help}")
    return _nested(settings, "", values)


def preset_defaults(settings: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults, by full name, that depend on other settings of a pre-training command.

    These are the preset and the recipe; the feed-forward layer follows the width. Beside a starting run, a size that is
    not given is 0: that of the run.
    """
    if not issubclass(settings, config.Pretrain):
        return {}
    chosen = config.pretrain_defaults(given.get("preset", "auto"), given.get("recipe"), data="", out="")
    defaults = {key: value for key, value in flat(chosen).items() if key not in ("data", "out")}
    if given.get("init"):
        defaults |= {f"model.{name}": 0 for name in config.SHAPE}
    return defaults | {"model.inner": 4 * given.get("model.width", defaults["model.width"])}


def flat(settings: Any) -> dict[str, Any]:
    """Return the values of a settings dataclass by full name, the inverse of `build`."""
    return flatten(asdict(settings))


def flatten(settings: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by full name: `{"optim": {"lr": 1}}` -> `{"optim.lr": 1}`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean X?`, or an empty string if no name is close."""
    known, plain = {one.lstrip("-"): one for one in names}, name.lstrip("-")  # dashes would make all flags alike
    grouped = [one for one in known if one.endswith(f".{plain}")]  # someone wrote --lr for --optim.lr
    found = grouped or difflib.get_close_matches(plain, known, 1)
    return f"; did you mean {known[found[0]]}?" if found else ""


def unknown_name(name: str, names: Iterable[str]) -> str:
    """Return the end of the message about an unknown setting: what to do instead, or the nearest of `names`."""
    how = DONE_OTHERWISE.get(name.lstrip("-").replace("_", "-"))
    return f"; {how}" if how else nearest(name, names)


def named_elsewhere(name: str, known: Container[str]) -> str:
    """Return the one of our names that other programs call `name`, be it in a section; empty if none of them is."""
    name = name.lstrip("-").replace("_", "-")
    ours = OTHER_NAMES.get(name) or OTHER_NAMES.get(name.rpartition(".")[2], ())
    return next((key for key in ours if key in known), "")


def convert(kind: Any, value: Any, name: str) -> Any:
    """Convert `value`, a string or a YAML value, to the type hint `kind`. Raises UserError naming `name`.

    Negative numbers are refused, since no setting can be negative.
    """
    if kind is not without_none(kind):
        return None if value is None else convert(without_none(kind), value, name)
    if get_origin(kind) is list:
        return [convert(get_args(kind)[0], item, name) for item in (value if isinstance(value, list) else [value])]
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        # YAML reads 2018 as a number, and on and off as true and false.
        value = ("on" if value else "off") if isinstance(value, bool) else str(value)
        if value not in choices:
            hint = nearest(str(value), choices) or f"; the choices are {', '.join(choices)}"
            raise UserError(f"{name}: unknown value {value!r}{hint}")
        return value
    try:
        return _CONVERTERS[kind](value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name}: expected {_EXPECTED[kind]}, not {value!r}") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool | float) or int(value) < 0:
        raise ValueError
    return int(value)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= float(value) < math.inf:
        raise ValueError
    return float(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError
    return str(value)


_CONVERTERS: dict[Any, Callable[[Any], Any]] = {int: _whole, float: _finite, bool: _switch, str: _string}
_EXPECTED = {int: "a whole number, 0 or more", float: "a number, 0 or more", bool: "true or false", str: "text"}


def _nested(settings: type[T], prefix: str, values: dict[str, Any]) -> T:
    hints, made = get_type_hints(settings), {}
    for field in fields(settings):  # type: ignore[arg-type]
        key = prefix + field.name
        if is_dataclass(hints[field.name]):
            made[field.name] = _nested(hints[field.name], key + ".", values)
        elif key in values:
            made[field.name] = values[key]
    return settings(**made)


def without_none(kind: Any) -> Any:
    """Return X for `X | None`, and any other type unchanged."""
    rest = [part for part in get_args(kind) if part is not NoneType]
    return rest[0] if NoneType in get_args(kind) else kind


@cache
def _documented(settings: type) -> dict[str, str]:
    """Map each field name to the string literal under it."""
    (declared,) = (
        n for n in _source(settings.__module__).body if isinstance(n, ast.ClassDef) and n.name == settings.__name__
    )
    found = {}
    for field, after in zip(declared.body, declared.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return found


@cache
def _source(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[module]))
