"""Our network in Hugging Face's terms: the configuration, tensor names and layout of `openai-gpt`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from torch import Tensor

from gpt1.config import EPSILON, Model
from gpt1.errors import UserError, setting
from gpt1.model.gpt import GPT, INIT_STD
from gpt1.run_folder.shape import CHOICE_BIAS, MODEL_TYPE
from gpt1.storage import open_tensors

# W_y: (C, D), or for multiple choice (1, D).
HEAD, CHOICE_HEAD = "score.weight", "multiple_choice_head.summary.weight"
# By the goal of `RunMetadata`; the others are OpenAIGPTForSequenceClassification.
ARCHITECTURES = {None: "OpenAIGPTLMHeadModel", "choice": "OpenAIGPTDoubleHeadsModel"}
PROBLEMS = {
    "classes": "single_label_classification", "labels": "multi_label_classification", "score": "regression",
}  # fmt: skip
EMBEDDING_NAMES = {"tokens.weight": "tokens_embed.weight", "positions.weight": "positions_embed.weight"}
BLOCK_NAMES = {
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "attention_norm": "ln_1",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
    "feed_forward_norm": "ln_2",
}
# Hugging Face keeps these as (in, out), as OpenAI's 1-wide convolutions did; nn.Linear keeps (out, in).
TRANSPOSED = ("attention.qkv.weight", "attention.out.weight", "feed_forward.up.weight", "feed_forward.down.weight")


class TensorFile(Mapping[str, Tensor]):
    """A safetensors file as name -> tensor. Each tensor is read on access.

    The file is opened for each tensor and closed again: its memory can then be freed, and Windows, which does not
    replace open files, can replace it.
    """

    def __init__(self, path: Path) -> None:
        """Raise UserError for a file that is missing or damaged: cut short, or with a header that does not fit it."""
        self.path = path
        if not path.is_file():
            raise UserError(f"{path}: no such file; copy the folder again")
        try:
            with open_tensors(path) as file:
                self._names = frozenset(file.keys())
        except SafetensorError as error:
            raise UserError(f"{path} is damaged: {error}") from None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with open_tensors(self.path) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


def hf_name(name: str) -> str:
    """Return Hugging Face's name of a weight: `blocks.3.attention.out.bias` -> `transformer.h.3.attn.c_proj.bias`."""
    if name in EMBEDDING_NAMES:
        return f"transformer.{EMBEDDING_NAMES[name]}"
    _, layer, rest = name.split(".", 2)
    module, _, kind = rest.rpartition(".")
    return f"transformer.h.{layer}.{BLOCK_NAMES[module]}.{kind}"


def to_hf(body: GPT, head: Tensor | None = None, goal: str | None = None) -> dict[str, Tensor]:
    """Return the weights as fp32 CPU tensors by Hugging Face's names; the output matrix is the token embedding."""
    tensors = {hf_name(name): _transposed(name, tensor) for name, tensor in body.state_dict().items()}
    if head is not None and goal == "choice":
        tensors |= {CHOICE_HEAD: head, CHOICE_BIAS: torch.zeros(1)}
    elif head is not None:
        tensors[HEAD] = head
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def from_hf(body: GPT, tensors: Mapping[str, Tensor], source: str) -> Tensor | None:
    """Copy `tensors` into `body` and return W_y if there is one.

    Raises UserError, naming `source` and the tensor, for one that is missing, unknown or of another shape.
    """
    expected = {hf_name(name): _transposed(name, own) for name, own in body.state_dict().items()}
    for name in sorted(expected.keys() | tensors.keys() - {HEAD, CHOICE_HEAD, CHOICE_BIAS}):
        if name not in tensors:
            raise UserError(f"{source}: tensor {name} is missing; the file does not fit its config.json")
        if name not in expected:
            raise UserError(f"{source}: tensor {name} is unknown; the file does not fit its config.json")
        tensor, own = tensors[name], expected[name]
        if (has := tuple(tensor.shape)) != (wants := tuple(own.shape)):
            raise UserError(f"{source}: tensor {name} has shape {has}, config.json asks for {wants}")
        own.copy_(tensor)
    head = tensors.get(HEAD, tensors.get(CHOICE_HEAD))
    return None if head is None else head.clone()


class SpecialIds(TypedDict):
    """Ids of the tokens that begin, end and pad a sequence."""

    first: int
    end: int
    pad: int


def to_hf_config(
    model: Model, special_ids: SpecialIds, goal: str | None = None, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """Return config.json; `labels` are the names of a fine-tuned run's labels.

    Raises UserError for a feed-forward layer that is not 4 times the width, which `openai-gpt` cannot express.
    """
    if model.inner != 4 * model.width:
        raise UserError(
            f"{setting('model.inner')} {model.inner} must be 4 times {setting('model.width')} {model.width}: "
            "a run folder is a Hugging Face openai-gpt model, whose feed-forward layer has that size"
        )
    config: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURES.get(goal, "OpenAIGPTForSequenceClassification")],
        "afn": "gelu",  # in this architecture, gelu means the tanh approximation
        "vocab_size": model.vocabulary,
        "n_positions": model.context,
        "n_ctx": model.context,
        "n_embd": model.width,
        "n_layer": model.depth,
        "n_head": model.heads,
        "embd_pdrop": model.embedding_dropout,
        "resid_pdrop": model.residual_dropout,
        "attn_pdrop": model.attention_dropout,
        "layer_norm_epsilon": EPSILON,
        "initializer_range": INIT_STD,
        "bos_token_id": special_ids["first"],
        "eos_token_id": special_ids["end"],
        "pad_token_id": special_ids["pad"],
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    if goal == "choice":
        head = {"num_labels": 1, "summary_type": "cls_index", "summary_use_proj": True, "summary_proj_to_labels": True}
        return config | head
    if goal is not None:
        names = labels or ["score"]
        config["num_labels"] = len(names)
        config["id2label"] = {str(number): name for number, name in enumerate(names)}
        config["label2id"] = {name: number for number, name in enumerate(names)}
        config["problem_type"] = PROBLEMS[goal]
    return config


def _transposed(name: str, tensor: Tensor) -> Tensor:
    """Return a weight in Hugging Face's layout, as a view."""
    return tensor.T if name.endswith(TRANSPOSED) else tensor
