"""Read `openai-gpt` models: a folder that any version of transformers wrote, or a model on the hub."""

import pickle
import re
import warnings
import zipfile
from collections import ChainMap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from gpt1.config import Model
from gpt1.console import say
from gpt1.conversion.external import TOKENS, ExternalCheckpoint, check_vocabulary, checked, tensor_shapes
from gpt1.errors import UserError, first_line, setting
from gpt1.run_folder.hugging_face import CHOICE_HEAD, HEAD, PROBLEMS, TensorFile
from gpt1.run_folder.metadata import RunMetadata, read_json
from gpt1.run_folder.shape import CHOICE_BIAS, from_hf_config
from gpt1.storage import is_utf8
from gpt1.tokenizer.openai import PAIRS, TOKENIZER, read_bpe, vocabulary_files
from gpt1.tokenizer.tokenizer import EXTRACT, START, Tokenizer, bpe_tokenizer

SAFE, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
WANTED = ["config.json", SAFE, INDEX, "model-*.safetensors", TOKENIZER, *(name for pair in PAIRS for name in pair)]
PREFIX, OUTPUT = "transformer.", "lm_head.weight"
HEADS = (HEAD, CHOICE_HEAD, CHOICE_BIAS)
# Constants that old versions of transformers saved beside the weights.
MASK, POSITION_IDS = r"transformer\.h\.\d+\.attn\.bias", "transformer.position_ids"
# The values that transformers assumes if config.json has none.
DROPOUT = {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1}


def read_folder(folder: Path) -> ExternalCheckpoint:
    """Read the model in a folder.

    Raises UserError for a file that is missing or damaged, another architecture, and a tensor that is unknown.
    """
    model = from_hf_config(DROPOUT | read_json(folder / "config.json"), str(folder / "config.json"))
    file, found = _tensors(folder)
    tensors, left_out = _recognised(found, model, file)
    if pair := vocabulary_files(folder):
        vocabulary, (ids, merges) = pair[0], read_bpe(*pair)
        tokens, tokenizer = len(ids), bpe_tokenizer("gpt1", ids, merges)
    elif (vocabulary := folder / TOKENIZER).exists():
        tokenizer = Tokenizer.load(folder)  # which appends end and pad where they are missing, so count before
        tokens = max(tokenizers.Tokenizer.from_str(vocabulary.read_text("utf-8")).get_vocab().values()) + 1
    else:
        known = ", ".join([TOKENIZER, *(f"{a} with {b}" for a, b in PAIRS)])
        raise UserError(f"{folder}: no tokenizer; there must be one of {known}; `tokenizer.save_pretrained` writes one")
    check_vocabulary(vocabulary, tokens, model.vocabulary)
    if HEAD not in left_out or not _marks_texts(folder / TOKENIZER):
        return ExternalCheckpoint(model, tensors, tokenizer, left_out)
    outputs = max([1, *found[HEAD].shape[:1]])
    head_CD = checked(HEAD, found[HEAD], (outputs, model.width), file)
    metadata = _classifier(folder / "config.json", outputs)
    return ExternalCheckpoint(
        model, tensors, tokenizer, tuple(name for name in left_out if name != HEAD), head_CD, metadata
    )


def _marks_texts(tokenizer: Path) -> bool:
    """Return whether a tokenizer adds start before and extract after a text, as those of our fine-tuned runs do."""
    if not tokenizer.exists():
        return False
    found = tokenizers.Tokenizer.from_str(tokenizer.read_text("utf-8"))
    return found.encode("").tokens == [START, EXTRACT]


def _classifier(config: Path, outputs: int) -> RunMetadata:
    """Return the metadata of a classifier with this many outputs.

    Its labels are those that config.json names. What transformers has no place for, config.json has under `gpt1`, if it
    was made of one of our runs; otherwise it is guessed and printed.
    """
    found = read_json(config)
    if not isinstance(names := found.get("id2label") or {}, dict):
        raise UserError(f"{config} is damaged: id2label must be an object, from number to name")
    labels = [str(names.get(str(i), f"LABEL_{i}")) for i in range(outputs)]
    problem = found.get("problem_type") or PROBLEMS["score" if outputs == 1 else "classes"]
    goal = next((goal for goal, name in PROBLEMS.items() if name == problem), None)
    if goal is None or len(set(labels)) < outputs:
        raise UserError(f"{config}: problem_type {problem} with labels {', '.join(labels[:8])} cannot be used here")
    carried = found.get("gpt1")
    if not isinstance(carried, dict) or carried.get("goal") != goal:
        task = {"classes": "classification", "labels": "multi-label", "score": "regression"}[goal]
        say(f"{config} does not say what a row is, so this becomes a run for {setting('task')} {task}")
        carried = {"task": task, "goal": goal, "columns": {"texts": ["text"], "label": ["label"], "choices": []}}
    if goal == "score":
        labels, carried = [], {"mean": 0.0, "scale": 1.0} | carried
    if goal == "labels" and len(carried.get("thresholds") or []) != outputs:
        carried = carried | {"thresholds": [0.5] * outputs}
    required = {"format": 1, "kind": "finetuned", "parameters": 0, "context": 0, "vocabulary": 0, "tokenizer": ""}
    return RunMetadata.from_json(required | carried | {"labels": labels}, config)


def read_arrays(folder: Path, model: Model) -> Iterator[Tensor]:
    """Yield the network's tensors as they are in the folder's file, in the order of OpenAI's release."""
    _, found = _tensors(folder, quiet=True)
    known = {_full(name): name for name in found}
    for name, _ in tensor_shapes(model):
        yield found[known.get(name, OUTPUT)]


def download(name: str) -> Path:
    """Download a model from the hub and return its folder. Raises UserError if that fails."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{name}: no such folder; to download it from Hugging Face's hub, pip install gpt1[hf]"
        ) from None
    say(f"{name}: no local folder; downloading it from Hugging Face's hub")
    try:
        folder = Path(snapshot_download(name, allow_patterns=WANTED))
        if not (folder / SAFE).exists() and not (folder / INDEX).exists():
            folder = Path(snapshot_download(name, allow_patterns=[*WANTED, PICKLE]))
    except Exception as error:  # from the hub or any HTTP library beneath it
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{name}: no such folder, and Hugging Face's hub does not provide it ({reason})") from None
    return folder


def _tensors(folder: Path, quiet: bool = False) -> tuple[Path, Mapping[str, Tensor]]:
    """Return the file of the weights, and the tensors by the names they have there."""
    if (folder / SAFE).exists():
        return folder / SAFE, TensorFile(folder / SAFE)
    if (folder / INDEX).exists():
        if not isinstance(where := read_json(folder / INDEX).get("weight_map"), dict):
            raise UserError(f"{folder / INDEX} is damaged: it has no weight_map, from tensor to file")
        files = set(map(str, where.values()))
        parts: list[Any] = [TensorFile(folder / Path(file).name) for file in sorted(files)]
        return folder / INDEX, ChainMap(*parts)
    if (folder / PICKLE).exists():
        if not quiet:
            say(f"{folder / PICKLE} is a pickle; it is read with weights_only=True, which runs no code")
        return folder / PICKLE, _unpickled(folder / PICKLE)
    raise UserError(f"{folder}: no weights; there must be {SAFE} or {PICKLE}")


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles of other versions of PyTorch
            # Before 2020 the format was not a zip file, and cannot be mapped into memory.
            mmap = zipfile.is_zipfile(path) and is_utf8(path)  # PyTorch maps no file of another name
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        calls = re.search(r"GLOBAL (\S+)", str(error))
        more = "holds more than tensors"
        what = f"{more} (it asks for {calls[1]})" if calls else f"is damaged, only a pointer of Git LFS, or {more}"
        raise UserError(f"{path}: refused, and not run: it {what}; use safetensors") from None
    except OSError:
        raise
    except Exception as error:  # of any kind, since the pickle is read as instructions
        raise UserError(f"{path} is damaged: {first_line(error)}") from None
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise UserError(f"{path}: not a model's weights; it must hold a dictionary of tensors by name")
    return found


def _recognised(found: Mapping[str, Tensor], model: Model, file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the network's tensors by their full names, and the names of heads; anything else must be known."""
    shapes, tensors, heads = dict(tensor_shapes(model)), {}, []
    for name in sorted(found):
        full = _full(name)
        if full in tensors:
            raise UserError(f"{file}: tensor {full} occurs twice, with and without {PREFIX}")
        if full in shapes:
            tensors[full] = checked(name, found[name], shapes[full], file)
        elif name in HEADS:
            heads.append(name)
        elif name != OUTPUT:
            _check_constant(full, found[name], model, f"{file}: tensor {name}")
    if OUTPUT in found and TOKENS not in tensors:  # tied tensors are saved under either name
        tensors[TOKENS] = checked(OUTPUT, found[OUTPUT], shapes[TOKENS], file)
    if missing := [name for name in shapes if name not in tensors]:
        raise UserError(f"{file}: tensor {missing[0]} is missing")
    if OUTPUT in found and not torch.equal(found[OUTPUT].float(), tensors[TOKENS]):
        raise UserError(f"{file}: tensor {OUTPUT} differs from {TOKENS}; GPT-1's output matrix is its token embedding")
    return tensors, tuple(heads)


def _full(name: str) -> str:
    """Return a tensor's name with the prefix, which transformers leaves out for models without an output layer."""
    return name if name.startswith(PREFIX) or name in (OUTPUT, *HEADS) else PREFIX + name


def _check_constant(name: str, tensor: Tensor, model: Model, where: str) -> None:
    """Raise UserError unless the tensor is a constant that old versions saved, with the value it must have."""
    T = model.context
    if name == POSITION_IDS:
        expected = torch.arange(T)
    elif re.fullmatch(MASK, name):
        expected = torch.ones(T, T).tril()
    else:
        raise UserError(f"{where} is unknown; an {model.depth}-layer openai-gpt has no such tensor")
    if tensor.numel() != expected.numel() or not torch.equal(
        tensor.reshape(expected.shape).to(expected.dtype), expected
    ):
        raise UserError(f"{where} is not the constant that openai-gpt must have there")
