"""The network's shape, read from a folder's config.json; no torch."""

from pathlib import Path
from typing import Any

from gpt1.config import EPSILON, Model
from gpt1.errors import UserError
from gpt1.run_folder.metadata import read_json
from gpt1.run_folder.starter import find_run

MODEL_TYPE = "openai-gpt"
# Of Hugging Face's class for multiple choice. Our network has no such parameter, so it is 0.
CHOICE_BIAS = "multiple_choice_head.summary.bias"


def from_hf_config(config: dict[str, Any], source: str) -> Model:
    """Return the network that a config.json describes. Raises UserError, naming `source`, for another architecture."""
    if (kind := config.get("model_type")) != MODEL_TYPE:
        why = ": it is pre-LN (it normalises before each layer), GPT-1 post-LN" if kind == "gpt2" else ""
        raise UserError(f"{source}: model_type {kind} cannot be used here or converted{why}; it must be {MODEL_TYPE}")
    fixed = {"afn": "gelu", "layer_norm_epsilon": EPSILON}
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise UserError(f"{source}: {key} {config[key]} cannot be used here; it must be {value}")
    try:
        for key in ("n_positions", "n_embd", "n_layer", "n_head", "vocab_size"):
            if type(config[key]) is not int or config[key] < 1:
                raise UserError(f"{source}: {key} {config[key]!r} must be a whole number above 0")
        if config["n_embd"] % config["n_head"]:
            raise UserError(f"{source}: n_head {config['n_head']} does not divide n_embd {config['n_embd']}")
        return Model(
            context=config["n_positions"], width=config["n_embd"], depth=config["n_layer"], heads=config["n_head"],
            inner=4 * config["n_embd"], vocabulary=config["vocab_size"],
            embedding_dropout=config["embd_pdrop"], residual_dropout=config["resid_pdrop"],
            attention_dropout=config["attn_pdrop"],
        )  # fmt: skip
    except KeyError as error:
        raise UserError(f"{source}: {error.args[0]} is missing") from None


def read_shape(folder: Path) -> Model:
    """Return the network's shape, from config.json of a folder. Raises UserError for another architecture."""
    path = find_run(folder) / "config.json"
    return from_hf_config(read_json(path), str(path))
