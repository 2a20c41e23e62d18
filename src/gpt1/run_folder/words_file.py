"""Words alone in a run folder: vocabulary and settings in words.json, numbers in words.safetensors.

Format: docs/formats.md.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt1.errors import UserError
from gpt1.run_folder.hugging_face import TensorFile
from gpt1.run_folder.metadata import RunMetadata, check_format, read_json
from gpt1.storage import atomic, save_file, write_json
from gpt1.tasks.labels import from_metadata
from gpt1.tasks.words import GRAM_KINDS, Grams, WordsModel, width

# Version of words.json; a newer one is refused.
FORMAT = 1
SETTINGS, NUMBERS = "words.json", "words.safetensors"


def save_words(folder: Path, words: WordsModel) -> None:
    """Write the two files."""
    tensors = {"weight": words.weights_CF, "bias": words.bias_C} | {f"idf.{one.kind}": one.idf_G for one in words.grams}
    with atomic(folder / NUMBERS) as temporary:
        given = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}
        save_file(given, temporary, metadata={"format": "pt"})
    thresholds = {} if words.thresholds is None else {"thresholds": words.thresholds}
    settings = {"format": FORMAT, "task": words.task, "goal": words.kind, "strength": words.strength} | thresholds
    write_json(folder / SETTINGS, settings | {"ngrams": {one.kind: one.names for one in words.grams}})


def load_words(folder: Path, metadata: RunMetadata) -> WordsModel | None:
    """Return the model that `save_words` wrote, or None if `metadata` have no `words`.

    Raises UserError if a file is missing, damaged, of another run or of a newer format.
    """
    if metadata.words is None:
        return None
    weight, temperature = metadata.words.weight, metadata.words.temperature
    if not (0 <= weight < math.inf and 0 < temperature < math.inf):
        raise UserError(f"{folder / 'gpt1.json'} is damaged: words has {weight} and {temperature}; fine-tune again")
    path = folder / SETTINGS
    found = read_json(path)
    check_format(found, path, FORMAT)
    ngrams = found.get("ngrams")
    for key, is_right in (
        ("task", found.get("task") == metadata.task),
        ("goal", found.get("goal") == metadata.goal),
        ("strength", type(found.get("strength")) in (int, float)),
        ("thresholds", _are_thresholds(found.get("thresholds"), metadata)),
        ("ngrams", isinstance(ngrams, dict) and _are_names(ngrams)),
    ):
        if not is_right:
            raise UserError(f"{path} is damaged: {key} is {json.dumps(found.get(key))[:40]}; fine-tune again")
    numbers = TensorFile(folder / NUMBERS)
    grams = [Grams(kind, names, _array(numbers, f"idf.{kind}", len(names))) for kind, names in found["ngrams"].items()]
    outputs = from_metadata(metadata.to_json()).outputs
    weights_CF = _array(numbers, "weight", outputs, width(found["task"], grams))
    bias_C, thresholds = _array(numbers, "bias", outputs), found.get("thresholds")
    return WordsModel(found["task"], found["goal"], found["strength"], grams, weights_CF, bias_C, thresholds)


def _are_names(ngrams: dict[str, Any]) -> bool:
    """Return whether these are n-grams by their kind, each of them once."""
    if not ngrams or not ngrams.keys() <= set(GRAM_KINDS):
        return False
    lists = [names for names in ngrams.values() if isinstance(names, list)]
    are_texts = len(lists) == len(ngrams) and all(isinstance(name, str) for names in lists for name in names)
    return are_texts and all(len(names) == len(set(names)) > 0 for names in lists)


def _are_thresholds(value: Any, metadata: RunMetadata) -> bool:
    if value is None:
        return True
    is_list = isinstance(value, list) and all(type(one) in (int, float) for one in value)
    return is_list and metadata.goal == "labels" and len(value) == len(metadata.labels or ())


def _array(numbers: TensorFile, name: str, *shape: int) -> np.ndarray:
    """Return a tensor. Raises UserError if it is missing or is not float32 of this shape."""
    if name not in numbers:
        raise UserError(f"{numbers.path} is damaged: tensor {name} is missing; fine-tune again")
    tensor = numbers[name]
    if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
        raise UserError(
            f"{numbers.path} is damaged: tensor {name} has shape {tuple(tensor.shape)}, {SETTINGS} asks for {shape}; "
            "fine-tune again"
        )
    return tensor.numpy()
