"""Other people's `openai-gpt` models: a folder as transformers writes it, or wrote it once, or a hub id."""

import pickle
import re
import warnings
import zipfile
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from gpt1.config import Model
from gpt1.console import say
from gpt1.conversion.external import TOKENS, Foreign, check_complete, check_vocabulary, layout, usable
from gpt1.errors import UserError
from gpt1.run_folder.hugging_face import CHOICE_BIAS, CHOICE_HEAD, HEAD, TensorFile, from_hf_config
from gpt1.run_folder.metadata import read_json
from gpt1.tokenizer.bpe_files import read_bpe
from gpt1.tokenizer.openai import PAIRS, TOKENIZER, vocabulary_files
from gpt1.tokenizer.tokenizer import Tokenizer, blank

HUB_ID = r"[\w.-]+/[\w.-]+"
SAFE, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
WANTED = ["config.json", SAFE, INDEX, "model-*.safetensors", TOKENIZER, *(name for pair in PAIRS for name in pair)]
PREFIX, OUTPUT = "transformer.", "lm_head.weight"
HEADS = (HEAD, CHOICE_HEAD, CHOICE_BIAS)
MASK, POSITION_IDS = r"transformer\.h\.\d+\.attn\.bias", "transformer.position_ids"
"""Constants that old versions of transformers saved beside the weights."""
DROPOUT = {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1}
"""What transformers takes where config.json does not say."""


def read_folder(folder: Path) -> Foreign:
    """The model in a folder. Raises UserError for what is missing, damaged, of another architecture or unknown."""
    model = from_hf_config(DROPOUT | read_json(folder / "config.json"), str(folder / "config.json"))
    file, found = _tensors(folder)
    tensors, left_out = _recognised(found, model, file)
    vocabulary, tokens, tokenizer = _tokenizer(folder)
    check_vocabulary(vocabulary, tokens, model.vocabulary)
    return Foreign(model, tensors, tokenizer, left_out)


def in_order(folder: Path, model: Model) -> list[Tensor]:
    """The network's tensors as they stand in the folder's file, in the order of OpenAI's release."""
    _, found = _tensors(folder, quiet=True)
    known = {_full(name): name for name in found}
    return [found[known.get(name, OUTPUT)] for name, _ in layout(model)]


def is_hub_id(source: str) -> bool:
    """Whether `source` can only mean a model on Hugging Face's hub: ORGANISATION/NAME, and no folder here."""
    return bool(re.fullmatch(HUB_ID, source)) and not Path(source).parent.exists()


def download(name: str) -> Path:
    """The folder where a model of the hub now lies. Raises UserError if it cannot be had."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"{name}: no such folder; to ask Hugging Face's hub for it, pip install gpt1[hf]") from None
    say(f"{name}: no folder here, so Hugging Face's hub is asked")
    try:
        folder = Path(snapshot_download(name, allow_patterns=WANTED))
        if not (folder / SAFE).exists() and not (folder / INDEX).exists():
            folder = Path(snapshot_download(name, allow_patterns=[*WANTED, PICKLE]))
    except Exception as error:  # the hub's own errors, or of whatever carries its requests
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{name}: no such folder, nor does Hugging Face's hub give it ({reason})") from None
    return folder


def _tensors(folder: Path, quiet: bool = False) -> tuple[Path, Mapping[str, Tensor]]:
    """The file of the weights, and the tensors as it names them."""
    if (folder / SAFE).exists():
        return folder / SAFE, TensorFile(folder / SAFE)
    if (folder / INDEX).exists():
        if not isinstance(where := read_json(folder / INDEX).get("weight_map"), dict):
            raise UserError(f"{folder / INDEX} is damaged: it has no weight_map, tensor -> file")
        files = set(map(str, where.values()))
        parts: list[Any] = [TensorFile(folder / Path(file).name) for file in sorted(files)]
        return folder / INDEX, ChainMap(*parts)
    if (folder / PICKLE).exists():
        if not quiet:
            say(f"{folder / PICKLE} is a pickle: its tensors are read with weights_only=True, which runs nothing in it")
        return folder / PICKLE, _unpickled(folder / PICKLE)
    raise UserError(f"{folder}: no weights; there must be {SAFE} or {PICKLE}")


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles older or newer than PyTorch's own
            # The format of before 2020 is no zip file, and cannot be mapped.
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        calls = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {calls[1]}" if calls else str(error).partition("\n")[0][:100]
        raise UserError(
            f"{path}: refused, and not run: not a file of tensors alone ({what}); use safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged: {str(error).partition(chr(10))[0]}") from None
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise UserError(f"{path}: not a model's weights; it must hold a dictionary of tensors")
    return found


def _recognised(found: Mapping[str, Tensor], model: Model, file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The network's tensors under their full names, and the names of heads; all else must be known."""
    shapes, tensors, heads = dict(layout(model)), {}, []
    for name in sorted(found):
        full = _full(name)
        if full in tensors:
            raise UserError(f"{file}: tensor {full} is there twice, with and without {PREFIX}")
        if full in shapes:
            tensors[full] = usable(name, found[name], shapes[full], file)
        elif name in HEADS:
            heads.append(name)
        elif name != OUTPUT:
            _check_constant(full, found[name], model, f"{file}: tensor {name}")
    if OUTPUT in found and TOKENS not in tensors:  # of two names of one tensor, transformers saves either
        tensors[TOKENS] = usable(OUTPUT, found[OUTPUT], shapes[TOKENS], file)
    check_complete(tensors, model, file)
    if OUTPUT in found and not torch.equal(found[OUTPUT].float(), tensors[TOKENS]):
        raise UserError(f"{file}: tensor {OUTPUT} differs from {TOKENS}; GPT-1's output matrix is its token embedding")
    return tensors, tuple(heads)


def _full(name: str) -> str:
    """A tensor's name in a model with an output; one without was saved without the prefix."""
    return name if name.startswith(PREFIX) or name in (OUTPUT, *HEADS) else PREFIX + name


def _check_constant(name: str, tensor: Tensor, model: Model, where: str) -> None:
    """Raises UserError unless it is one of the constants that a network of this shape has anyway."""
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
        raise UserError(f"{where} is not the constant that openai-gpt has there")


def _tokenizer(folder: Path) -> tuple[Path, int, Tokenizer]:
    """The file that defines the ids, how many it has, and the tokenizer, end and pad appended where they lack."""
    if pair := vocabulary_files(folder):
        ids, merges = read_bpe(*pair)
        return pair[0], len(ids), blank("gpt1", ids, merges)
    if not (folder / TOKENIZER).exists():
        known = ", ".join([TOKENIZER, *(f"{a} with {b}" for a, b in PAIRS)])
        raise UserError(f"{folder}: no tokenizer; there must be one of {known}")
    tokenizer = Tokenizer.load(folder)
    as_it_is = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER)).get_vocab()
    return folder / TOKENIZER, max(as_it_is.values()) + 1, tokenizer
