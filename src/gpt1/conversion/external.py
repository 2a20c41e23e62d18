"""A model written by another program, to be converted to a run folder: what all layouts have in common."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gpt1.config import Model
from gpt1.errors import UserError
from gpt1.run_folder.hugging_face import BLOCK_NAMES
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tokenizer.tokenizer import END, PAD, Tokenizer

TOKENS, POSITIONS = "transformer.tokens_embed.weight", "transformer.positions_embed.weight"


@dataclass(frozen=True)
class ExternalCheckpoint:
    """A model as it was found."""

    model: Model
    tensors: dict[str, Tensor]
    """of the network, fp32, by Hugging Face's names"""
    tokenizer: Tokenizer
    """with end and pad, which the model may not know yet"""
    left_out: tuple[str, ...] = ()
    """names of tensors that have no place in the run: heads for other tasks"""
    head: Tensor | None = None
    """W_y (C, D), fp32, of a classifier that reads texts as ours do"""
    metadata: RunMetadata | None = None
    """of that classifier"""

    @property
    def new_tokens(self) -> list[str]:
        """Those of end and pad that the model has no embedding for."""
        special = ((END, self.tokenizer.end_id), (PAD, self.tokenizer.pad_id))
        return [name for name, i in special if i >= self.model.vocabulary]

    def take_tensors(self) -> tuple[Model, dict[str, Tensor]]:
        """Return the network over the tokenizer's whole vocabulary, with rows of their own for end and pad.

        Empties `tensors`, so that no tensor is held twice.
        """
        tensors = {name: self.tensors.pop(name) for name, _ in tensor_shapes(self.model)}
        if number := self.tokenizer.vocabulary - self.model.vocabulary:
            rows_VD = tensors.pop(TOKENS)
            tensors[TOKENS] = torch.cat([rows_VD, new_rows(rows_VD, number)])
        return replace(self.model, vocabulary=self.tokenizer.vocabulary), tensors


def tensor_shapes(model: Model) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every tensor of the network, in the order of OpenAI's release."""
    D = model.width
    sizes = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, 4 * D), "mlp.c_proj": (4 * D, D)}
    yield POSITIONS, (model.context, D)
    yield TOKENS, (model.vocabulary, D)
    for layer in range(model.depth):
        for module in BLOCK_NAMES.values():
            shape = sizes.get(module, (D,))
            yield f"transformer.h.{layer}.{module}.weight", shape
            yield f"transformer.h.{layer}.{module}.bias", shape[-1:]


def new_rows(rows_VD: Tensor, number: int) -> Tensor:
    """Return embeddings for tokens that a model does not know yet: the mean of all others, the same on every machine.

    The logit of a new token is then the mean logit, so by Jensen's inequality its probability is at most 1 / V, which
    hardly affects what the model writes or scores. A random row, much shorter than a trained one, would get a logit
    near 0, which may be far above the others.
    """
    mean_D = rows_VD.numpy().mean(0, dtype=np.float64).astype(np.float32)
    return torch.from_numpy(mean_D).expand(number, -1)


def check_vocabulary(file: object, tokens: int, rows: int) -> None:
    """Raise UserError if a vocabulary is not as large as the token embedding."""
    if tokens != rows:
        raise UserError(
            f"{file} has {tokens:,} tokens, but the token embedding has {rows:,} rows; they do not belong together"
        )


def checked(name: str, tensor: Tensor, shape: tuple[int, ...], source: object) -> Tensor:
    """Return `tensor` in fp32.

    Raises UserError, naming `source` and `name`, for another shape, integers, NaN and infinity.
    """
    if tuple(tensor.shape) != shape:
        raise UserError(f"{source}: tensor {name} has shape {tuple(tensor.shape)}; it must be {shape}")
    if not tensor.is_floating_point():
        raise UserError(f"{source}: tensor {name} holds {tensor.dtype}, not floating-point numbers")
    found = tensor.float().contiguous()  # before the check: float8 has no aminmax, and fp32 may not hold a float64
    if not all(torch.isfinite(end) for end in found.aminmax()):  # NaN is in both; isfinite of all would be a copy
        place = tuple((~torch.isfinite(found)).nonzero()[0].tolist())
        raise UserError(f"{source}: tensor {name} holds {tensor[place].item()} at {place}; such a model cannot be used")
    return found
