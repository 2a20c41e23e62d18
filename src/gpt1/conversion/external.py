"""A model of other people's, on its way to a run folder: what all layouts have in common."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gpt1.config import Model
from gpt1.errors import UserError
from gpt1.run_folder.hugging_face import INNER
from gpt1.tokenizer.tokenizer import END, PAD, Tokenizer

TOKENS, POSITIONS = "transformer.tokens_embed.weight", "transformer.positions_embed.weight"


@dataclass(frozen=True)
class Foreign:
    """A model as it was found."""

    model: Model
    tensors: dict[str, Tensor]
    """the network's, fp32, under Hugging Face's names"""
    tokenizer: Tokenizer
    """with end and pad, which the model may not know yet"""
    left_out: tuple[str, ...] = ()
    """tensors that have no place in a pre-trained run: heads of other people's tasks"""


def layout(model: Model) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of the network, in the order of OpenAI's release."""
    D = model.width
    sizes = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, 4 * D), "mlp.c_proj": (4 * D, D)}
    yield POSITIONS, (model.context, D)
    yield TOKENS, (model.vocabulary, D)
    for layer in range(model.depth):
        for module in INNER.values():
            shape = sizes.get(module, (D,))
            yield f"transformer.h.{layer}.{module}.weight", shape
            yield f"transformer.h.{layer}.{module}.bias", shape[-1:]


def parameters(model: Model) -> int:
    """Numbers that the network has."""
    return sum(math.prod(shape) for _, shape in layout(model))


def adopted(found: Foreign) -> tuple[Model, dict[str, Tensor]]:
    """The network over the tokenizer's whole vocabulary: end and pad get rows of their own where they had none.

    `found.tensors` is emptied on the way, so that no tensor is held twice.
    """
    tensors = {name: found.tensors.pop(name) for name, _ in layout(found.model)}
    if more := found.tokenizer.vocabulary - found.model.vocabulary:
        rows = tensors.pop(TOKENS)
        tensors[TOKENS] = torch.cat([rows, new_rows(rows, more)])
    return replace(found.model, vocabulary=found.tokenizer.vocabulary), tensors


def new_rows(rows_VD: Tensor, number: int) -> Tensor:
    """Embeddings of tokens that a model does not know yet: the mean of those it knows, the same on every machine.

    The logit of a new token is then the mean logit, so that it is never more probable than the average token: no text
    that the model writes or scores is disturbed. Random rows, far shorter than trained ones, would get a logit near 0.
    """
    mean_D = rows_VD.numpy().mean(0, dtype=np.float64).astype(np.float32)
    return torch.from_numpy(mean_D).expand(number, -1)


def check_vocabulary(file: object, tokens: int, rows: int) -> None:
    """Raises UserError if a vocabulary is not as large as the token embedding."""
    if tokens != rows:
        raise UserError(
            f"{file} has {tokens:,} tokens, but the token embedding has {rows:,} rows; they do not belong together"
        )


def usable(name: str, tensor: Tensor, shape: tuple[int, ...], source: object) -> Tensor:
    """`tensor` in fp32. Raises UserError, naming `source` and `name`, for another shape, type, or a value of no use."""
    if tuple(tensor.shape) != shape:
        raise UserError(f"{source}: tensor {name} has shape {tuple(tensor.shape)}; it must be {shape}")
    if not tensor.is_floating_point():
        raise UserError(f"{source}: tensor {name} holds {tensor.dtype}, not floating-point numbers")
    if not all(torch.isfinite(end) for end in tensor.aminmax()):  # NaN is both; isfinite of all would be a copy
        place = tuple((~torch.isfinite(tensor)).nonzero()[0].tolist())
        raise UserError(f"{source}: tensor {name} holds {tensor[place].item()} at {place}; such a model says nothing")
    return tensor.float().contiguous()


def unknown_tokens(tokenizer: Tokenizer, rows: int) -> list[str]:
    """Those of end and pad that a model of `rows` tokens has no embedding for."""
    return [name for name, i in ((END, tokenizer.end_id), (PAD, tokenizer.pad_id)) if i >= rows]


def check_complete(tensors: Mapping[str, Tensor], model: Model, source: object) -> None:
    """Raises UserError if a tensor of the network is missing, naming `source` and the first such tensor."""
    for name, _ in layout(model):
        if name not in tensors:
            raise UserError(f"{source}: tensor {name} is missing")
