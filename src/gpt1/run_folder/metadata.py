"""What gpt1 knows about a run beyond the model itself: gpt1.json, typed. Importing this imports no torch.

metadata = read_metadata(folder)        # RunMetadata; UserError if the folder is not a complete run
metadata.kind, metadata.metrics         # one attribute for each key of gpt1.json; None if it does not apply
replace(metadata, seed=2).to_json()     # the JSON object that save_run writes
RunMetadata(kind="pretrained")          # enough for save_run, which fills in what the model and tokenizer decide
"""

import json
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_origin, get_type_hints

from gpt1.config import Columns, Long, Preset, Recipe, Task
from gpt1.errors import UserError
from gpt1.options import without_none
from gpt1.run_folder.starter import find_run

if TYPE_CHECKING:
    from gpt1.data.shards import Manifest, Split

# Version of gpt1.json; a newer one is refused.
FORMAT = 1
# Files that a complete run has.
FILES = ("config.json", "tokenizer.json", "model.safetensors", "gpt1.json")
# Folder inside a run folder for the states of a fine-tuning that is not finished.
STOPPED = "stopped"
# Folder inside a run folder where new files wait to replace the old ones.
STAGED = ".unfinished"
# Keys that every gpt1.json has, and those that a fine-tuned run has besides.
REQUIRED = ("format", "kind", "parameters", "context", "vocabulary", "tokenizer")
REQUIRED_FINETUNED = ("task", "goal", "labels", "columns")
# Keys that config.json repeats, so that a classifier comes back from a program that keeps config.json only.
CARRIED = ("task", "goal", "columns", "long", "mean", "scale", "thresholds")
# What an error calls a JSON value of a type.
NAMES = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "an object",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Section:
    """An object of gpt1.json. Fields without a default are always written, others unless they are None."""

    other: dict[str, Any] = field(default_factory=dict)
    """keys that this version does not know, from a later version of the same format; they are written back"""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object: the fields in order, then `other`."""
        found = {}
        for item in fields(self):
            value, is_required = getattr(self, item.name), item.default is item.default_factory is MISSING
            if item.name != "other" and (is_required or value is not None):
                found[item.name] = _plain(value)
        return found | self.other


@dataclass(frozen=True, kw_only=True)
class SplitSummary(Section):
    """Size and content of one split of prepared data."""

    tokens: int
    """number of tokens, end tokens included"""
    documents: int
    """number of documents"""
    bytes: int
    """UTF-8 bytes of the input text"""
    sha256: list[str]
    """sha256 of each shard"""


@dataclass(frozen=True, kw_only=True)
class PretrainingData(Section):
    """The prepared data of a pre-training."""

    fingerprint: str
    """as in the data's manifest.json"""
    tokenizer: str
    """sha256 of the data's tokenizer.json"""
    train: SplitSummary
    """the training split"""
    val: SplitSummary
    """the validation split"""

    @classmethod
    def of(cls, manifest: "Manifest") -> Self:
        """Summarize prepared data."""

        def summary(split: "Split") -> SplitSummary:
            hashes = [shard.sha256 for shard in split.shards]
            return SplitSummary(tokens=split.tokens, documents=split.documents, bytes=split.bytes, sha256=hashes)

        train, val = summary(manifest.train), summary(manifest.val)
        return cls(fingerprint=manifest.fingerprint, tokenizer=manifest.tokenizer, train=train, val=val)


@dataclass(frozen=True, kw_only=True)
class Source(Section):
    """An input file of a fine-tuning."""

    path: str | None
    """path as given; null for rows passed in memory"""
    sha256: str
    """sha256 of the content"""
    rows: int | None = None
    """number of rows; given for training rows only"""


@dataclass(frozen=True, kw_only=True)
class ReadSummary(Section):
    """Unlabelled text that a model was pre-trained on further, before its fine-tuning."""

    files: list[Source]
    """the files"""
    tokens: int
    """number of tokens trained on, end tokens included"""
    epochs: float
    """passes over them"""
    lr: float
    """peak learning rate"""
    steps: int
    """updates made"""
    val_nats_per_token: float
    """loss at the end, on a hundredth of the documents that was held out"""


@dataclass(frozen=True, kw_only=True)
class FinetuningData(Section):
    """The inputs of a fine-tuning."""

    model: Source | None = None
    """the pre-trained weights"""
    train: Source | None = None
    """training rows"""
    valid: Source | None = None
    """validation rows, if they were given separately"""
    read: ReadSummary | None = None
    """unlabelled text that was read first"""
    pretraining: PretrainingData | None
    """the data that the fine-tuned model was pre-trained on; null if unknown"""


@dataclass(frozen=True, kw_only=True)
class WordsSummary(Section):
    """What words alone, in `words.json`, add to the scores of the network: (network + weight * words) / temperature."""

    weight: float
    """0: nothing, they are only compared with it"""
    temperature: float
    """calibrates the sum"""


@dataclass(frozen=True, kw_only=True)
class Versions(Section):
    """Versions of the software that wrote the run."""

    python: str
    """Python"""
    torch: str
    """PyTorch"""
    gpt1: str
    """gpt1"""


@dataclass(frozen=True, kw_only=True)
class RunMetadata(Section):
    """gpt1.json of a run: one field for each key; None means that it does not apply or is unknown."""

    format: int = FORMAT
    """version of this file's format: 1; a newer one is refused"""
    kind: Literal["pretrained", "finetuned"]
    """`pretrained` or `finetuned`"""
    task: Task | None = None
    """fine-tuned: the [task](tasks.md)"""
    goal: Literal["classes", "labels", "score", "choice"] | None = None
    """fine-tuned: the type of the label, `classes`, `labels`, `score` or `choice`"""
    labels: list[str] | None = None
    """fine-tuned: the label names, empty for a score or a choice; row i of W_y belongs to label i"""
    mean: float | None = None
    """score: mean of the training rows, added to the scaled output"""
    scale: float | None = None
    """score: standard deviation of the training rows, by which the output is multiplied"""
    thresholds: list[float] | None = None
    """several labels: the lowest probability at which each label is predicted"""
    majority: list[str] | None = None
    """fine-tuned: the most common label of the training rows: a class, a set of labels, or the number of an answer"""
    columns: Columns | None = None
    """fine-tuned: the columns it was trained on, `texts`, `label` and `choices`"""
    long: Long | None = None
    """fine-tuned: which part of a text longer than the context is read, `head`, `tail`, `head+tail` or `windows`"""
    lm_coef: float | None = None
    """fine-tuned: lambda, the weight of the auxiliary language-model loss"""
    lr: float | None = None
    """fine-tuned: the learning rate"""
    from_scratch: bool | None = None
    """fine-tuned: whether it started from random weights"""
    words: WordsSummary | None = None
    """fine-tuned: how words alone are used; left out where there is no `words.json`"""
    preset: Preset | None = None
    """the size preset of pre-training"""
    recipe: Recipe | None = None
    """the recipe of pre-training"""
    seed: int | None = None
    """the seed"""
    steps: int | None = None
    """updates made"""
    of_steps: int | None = None
    """pre-trained: updates planned; a run with fewer `steps` is still training"""
    tokens_seen: int | None = None
    """pre-trained: tokens trained on"""
    init: str | None = None
    """pre-trained: the run whose weights it started from, as given; the tokens that run had seen are not counted"""
    converted_from: str | None = None
    """converted by `gpt1 convert`: the kind of source and where it was"""
    data: PretrainingData | FinetuningData | None = None
    """hashes and sizes of the data; for a fine-tuned run, also of the data its base was pre-trained on"""
    selected_by: str | None = None
    """fine-tuned: the metric that selected the epoch, learning rate and seed; `last epoch` if too few rows validate to
    select an epoch and no other rate or seed was tried"""
    metrics: dict[str, Any] = field(default_factory=dict)
    """results of the last validation"""
    learning_rates: dict[str, float] | None = None
    """if several learning rates were tried: the metric at each"""
    seeds: dict[str, dict[str, Any]] | None = None
    """if several seeds were run: `mean`, `deviation` and `values` of each metric"""
    label_type: str | None = None
    """saved by an estimator: the Python type of the labels"""
    parameters: int = 0
    """number of parameters"""
    context: int = 0
    """context length in tokens"""
    vocabulary: int = 0
    """number of token ids"""
    tokenizer: str = ""
    """sha256 of tokenizer.json"""
    tokenizer_kind: str | None = None
    """`bytes`, `gpt1`, `openai2018` or `custom`, see [tokenizers](#tokenizers)"""
    versions: Versions | None = None
    """`python`, `torch` and `gpt1`: the versions that wrote the run"""

    def to_json(self) -> dict[str, Any]:
        """Return the object that gpt1.json holds."""
        found = super().to_json()
        if self.converted_from is None:  # other runs have always had these two keys, null if there is no value
            found |= {"preset": self.preset, "recipe": self.recipe}
        # The order of keys is part of the format: preset, recipe, seed; in a fine-tuned run seed, preset, recipe.
        order = [item.name for item in fields(self)]
        if self.kind == "finetuned":
            order.remove("seed")
            order.insert(order.index("preset"), "seed")
        return {name: found[name] for name in order if name in found} | self.other

    def carried(self) -> dict[str, Any]:
        """Return what config.json repeats of a fine-tuned run."""
        return {name: value for name, value in self.to_json().items() if name in CARRIED}

    @classmethod
    def from_json(cls, value: Any, source: str | Path = "gpt1.json") -> Self:
        """Return the metadata of a JSON object.

        Raises UserError, naming `source` and the key, for a newer format, a missing required key or a wrong type.
        Unknown keys are kept in `other`.
        """
        if isinstance(value, dict):
            check_format(value, source)
        kind = value.get("kind") if isinstance(value, dict) else None
        required = REQUIRED + (REQUIRED_FINETUNED if kind == "finetuned" else ())
        data = FinetuningData if kind == "finetuned" else PretrainingData
        found: Self = _object(cls, value, source, "", required, {"data": data | None})
        return found


def read_metadata(folder: Path) -> RunMetadata:
    """Read gpt1.json of a run folder, or of the installed `starter`.

    Raises UserError if the folder is missing, not a run, incomplete, of another architecture or a newer format.
    """
    folder = find_run(folder)
    if folder.is_file():
        raise UserError(f"{folder} is a file, not a run; give the folder that `gpt1 pretrain` or `gpt1 finetune` wrote")
    if not folder.is_dir():
        is_hub_id = len(folder.parts) == 2 and not folder.parent.exists()
        hint = f"; `gpt1 convert {folder.as_posix()} --out RUN` fetches a model of the Hugging Face hub"
        raise UserError(f"{folder}: no such run folder{hint if is_hub_id else ''}")
    if (folder / "manifest.json").exists() and not (folder / "config.json").exists():
        raise UserError(f"{folder} is prepared data, not a run; `gpt1 pretrain {folder} --out RUN` makes a run")
    missing = [name for name in FILES if not (folder / name).exists()]
    if "gpt1.json" in missing and (advice := other_program(folder)):
        raise UserError(advice)
    if "gpt1.json" in missing and (folder / "config.json").exists():
        from gpt1.run_folder.shape import read_shape  # here, since it reads JSON by this file

        read_shape(folder)  # "another architecture" is a clearer error than "gpt1.json is missing"
        if not (folder / "settings.json").exists():  # which every job of ours writes first
            raise UserError(f"{folder} is a Hugging Face model, not a run; `gpt1 convert {folder} --out RUN` makes one")
    if (folder / STOPPED).exists() and "gpt1.json" in missing:
        raise UserError(f"{folder}: a fine-tuning was stopped here; repeat its command to continue")
    if len(missing) == len(FILES) and not (folder / "settings.json").exists():
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise UserError(
            f"{folder} is not a run, it holds {held}; give a folder that `gpt1 pretrain` or `gpt1 finetune` wrote"
        )
    if missing:
        raise UserError(
            f"{folder} is not a complete run: {missing[0]} is missing; wait for the first validation of the job that "
            "writes it, or for its end"
        )
    return RunMetadata.from_json(read_json(folder / "gpt1.json"), folder / "gpt1.json")


def other_program(folder: Path) -> str:
    """Return what to do with a folder without config.json that peft or transformers' Trainer wrote; else nothing."""
    if (folder / "config.json").exists():
        return ""
    if (adapter := folder / "adapter_config.json").exists():
        found = read_json(adapter)
        base, kind = found.get("base_model_name_or_path") or "BASE", found.get("task_type")
        auto = "AutoModelForSequenceClassification" if kind == "SEQ_CLS" else "AutoModelForCausalLM"
        return (
            f"{folder} is an adapter of peft, not a model. In Python, merge it first: "
            f'PeftModel.from_pretrained({auto}.from_pretrained("{base}"), "{folder}").merge_and_unload()'
            f'.save_pretrained("MERGED"); then AutoTokenizer.from_pretrained("{base}").save_pretrained("MERGED"), '
            f"and `gpt1 convert MERGED --out RUN`"
        )
    numbers = [path.name.partition("-")[2] for path in folder.glob("checkpoint-*")]
    if steps := [int(number) for number in numbers if number.isdecimal()]:
        last = folder / f"checkpoint-{max(steps)}"
        return other_program(last) or (
            f"{folder} holds checkpoints of transformers' Trainer, not a run; `gpt1 convert {last} --out RUN` makes "
            f"the last a run"
        )
    return ""


def check_format(value: dict[str, Any], source: str | Path, known: int = FORMAT) -> None:
    """Raise UserError if a JSON object says that it is of a newer format than is known."""
    if type(number := value.get("format")) is int and number > known:
        raise UserError(f"{source}: format {number} is newer than {known}; update gpt1")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run folder. Raises UserError if it is missing or damaged."""
    try:
        value = parse_json(path)
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a complete run: {path.name} is missing; copy the folder again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return value


def parse_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError if it is damaged, FileNotFoundError if it is missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_json()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _object(
    cls: Any, value: Any, source: str | Path, key: str, required: tuple[str, ...], types: dict[str, Any]
) -> Any:
    """Return `value`, a JSON object, as the dataclass `cls`; `types` overrides annotations."""
    if not isinstance(value, dict):
        raise _wrong(source, key or "the file", "an object", value)
    prefix, found, other = key and f"{key}.", {}, {}
    for name in required:
        if name not in value:
            raise UserError(f"{source} is damaged: {prefix}{name} is missing")
    types = get_type_hints(cls) | types
    known = {item.name for item in fields(cls)} - {"other"}
    for name, one in value.items():
        if name in known:
            found[name] = _typed(types[name], one, source, prefix + name)
        else:
            other[name] = one
    if other and not issubclass(cls, Section):
        raise UserError(f"{source}: {prefix}{next(iter(other))} is unknown; update gpt1")
    return cls(**found, **({"other": other} if other else {}))


def _typed(kind: Any, value: Any, source: str | Path, key: str) -> Any:
    """Return `value` as the type `kind`. Raises UserError if it has another."""
    if value is None and kind is not without_none(kind):
        return None
    kind = without_none(kind)
    if is_dataclass(kind):
        required = tuple(f.name for f in fields(kind) if f.default is f.default_factory is MISSING)
        return _object(kind, value, source, key, required, {})
    origin = get_origin(kind) or kind
    if origin is Literal:
        if value not in get_args(kind):
            raise _wrong(source, key, f"one of {', '.join(get_args(kind))}", value)
    elif origin is float:
        if type(value) not in (int, float):
            raise _wrong(source, key, NAMES[float], value)
    elif type(value) is not origin:
        raise _wrong(source, key, NAMES[origin], value)
    if origin is list:
        return [_typed(get_args(kind)[0], one, source, f"{key}[{number}]") for number, one in enumerate(value)]
    if origin is dict and get_args(kind)[1] is not Any:
        return {name: _typed(get_args(kind)[1], one, source, f"{key}.{name}") for name, one in value.items()}
    return value


def _wrong(source: str | Path, key: str, expected: str, value: Any) -> UserError:
    shown = json.dumps(value)
    return UserError(f"{source} is damaged: {key} must be {expected}, not {shown[:40]}")
