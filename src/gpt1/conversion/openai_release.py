"""OpenAI's 2018 release: ten files of plain float32, a list of shapes, and the vocabulary as two files.

The ten `params_N.npy` are one row of numbers, cut into ten regardless of tensors; `params_shapes.json` divides it into
tensors: positions, tokens, then twelve for each block. Matrices are 1-wide convolutions, (1, in, out). Format:
docs/formats.md.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpt1.config import Model
from gpt1.conversion.external import (
    POSITIONS,
    TOKENS,
    ExternalCheckpoint,
    check_vocabulary,
    checked,
    new_rows,
    tensor_shapes,
)  # fmt: skip
from gpt1.conversion.source import PARTS, SHAPES
from gpt1.errors import UserError, setting
from gpt1.model.gpt import count_parameters
from gpt1.run_folder.hugging_face import TensorFile
from gpt1.run_folder.metadata import parse_json
from gpt1.storage import atomic, write_text
from gpt1.tokenizer.openai import RELEASED, read_bpe, write_bpe
from gpt1.tokenizer.tokenizer import Tokenizer, bpe_tokenizer

VOCABULARY, MERGES = RELEASED
TENSORS_PER_BLOCK = 12
# Width of a head in the release, which no file records.
HEAD_WIDTH = 64


def read_release(folder: Path, heads: int = 0) -> ExternalCheckpoint:
    """Read a release; with `heads` 0 a head is `HEAD_WIDTH` wide.

    Raises UserError for a file that is missing, damaged or does not fit the others.
    """
    model = _model(folder, heads)
    found = sum(len(_part(folder / name)) for name in PARTS)
    if (extra := folder / f"params_{len(PARTS)}.npy").exists():
        raise UserError(f"{extra} is one too many: a release has {len(PARTS)} such files")
    if found != (expected := count_parameters(model)[0]):
        raise UserError(
            f"{folder}: {SHAPES} asks for {expected:,} numbers, but {PARTS[0]} to {PARTS[-1]} hold {found:,}; "
            "one of them is not of this release, or cut short"
        )
    ids, merges = read_bpe(folder / VOCABULARY, folder / MERGES)
    check_vocabulary(folder / VOCABULARY, len(ids), model.vocabulary)
    arrays = zip(tensor_shapes(model), read_arrays(folder, model), strict=True)
    tensors = {name: checked(name, array, shape, folder) for (name, shape), array in arrays}
    return ExternalCheckpoint(model, tensors, bpe_tokenizer("gpt1", ids, merges))


def read_arrays(folder: Path, model: Model) -> Iterator[Tensor]:
    """Yield the arrays of a release in its order. Each is a copy, so no file stays open or in memory."""
    parts, rest = (_part(folder / name) for name in PARTS), np.empty(0, np.float32)
    for _, shape in tensor_shapes(model):
        array, filled = np.empty(math.prod(shape), np.float32), 0
        while filled < len(array):
            if not len(rest):
                rest = next(parts)
            piece = rest[: len(array) - filled]
            array[filled : filled + len(piece)] = piece
            filled, rest = filled + len(piece), rest[len(piece) :]
        yield torch.from_numpy(array).view(shape)


def write_release(folder: Path, model: Model, tensors: TensorFile, tokenizer: Tokenizer) -> Model:
    """Write a release and return the network as written: end and pad are among its tokens only if they were trained.

    Raises UserError for a tokenizer that is not of GPT-1's kind, and for weights that are not finite.
    """
    written = replace(model, vocabulary=_kept_tokens(tensors[TOKENS], tokenizer))
    write_bpe(tokenizer, written.vocabulary, folder / VOCABULARY, folder / MERGES)
    size, piece = count_parameters(written)[0], np.empty(0, np.float32)
    pieces = (
        checked(name, tensors[name], shape, tensors.path)[: written.vocabulary if name == TOKENS else None]
        for name, shape in tensor_shapes(model)
    )
    for number, name in enumerate(PARTS):
        wanted = size // len(PARTS) + (number < size % len(PARTS))  # as numpy.array_split divides
        with atomic(folder / name) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (wanted,)}
            np.lib.format.write_array_header_1_0(file, header)
            while wanted:
                if not len(piece):
                    piece = next(pieces).numpy().reshape(-1)
                np.asarray(piece[:wanted], "<f4").tofile(file)
                wanted, piece = wanted - len(piece[:wanted]), piece[wanted:]
    write_text(folder / SHAPES, json.dumps([release_shape(name, shape) for name, shape in tensor_shapes(written)]))
    return written


def release_shape(name: str, shape: tuple[int, ...]) -> list[int]:
    """Return a tensor's shape as the release lists it: a matrix is a convolution of width 1."""
    is_matrix = len(shape) == 2 and name not in (TOKENS, POSITIONS)
    return [1, *shape] if is_matrix else list(shape)


def _kept_tokens(rows_VD: Tensor, tokenizer: Tokenizer) -> int:
    """Return how many rows to write: without end and pad if reading the release would append the same two again."""
    plain = len(rows_VD) - 2
    are_last = sorted([tokenizer.end_id, tokenizer.pad_id]) == [plain, plain + 1]
    untrained = plain > 0 and torch.equal(rows_VD[plain:], new_rows(rows_VD[:plain], 2))
    return plain if are_last and untrained else len(rows_VD)


def _model(folder: Path, heads: int) -> Model:
    """Return the network that the list of shapes describes."""
    path = folder / SHAPES
    try:
        shapes = parse_json(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    if not isinstance(shapes, list) or not all(
        isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape) for shape in shapes
    ):
        raise UserError(f"{path} is damaged: it must be a list of shapes, each a list of numbers above 0")
    depth, rest = divmod(len(shapes) - 2, TENSORS_PER_BLOCK)
    if depth < 1 or rest or {len(shape) for shape in shapes[:2]} != {2}:
        raise UserError(
            f"{path}: {len(shapes)} shapes; there must be 2 for embeddings and {TENSORS_PER_BLOCK} for each block"
        )
    (context, width), (vocabulary, _) = shapes[:2]
    if not heads and width % HEAD_WIDTH:
        raise UserError(
            f"{path}: the width {width} is not a multiple of {HEAD_WIDTH}, the usual width of a head; "
            f"give {setting('heads')}"
        )
    heads = heads or width // HEAD_WIDTH
    if width % heads:
        raise UserError(f"{setting('heads')} {heads} does not divide the width of {width} that {path} says")
    model = Model(
        context=context, width=width, depth=depth, heads=heads, inner=4 * width, vocabulary=vocabulary,
    )  # fmt: skip
    for number, (shape, (name, plain)) in enumerate(zip(shapes, tensor_shapes(model), strict=True)):
        if shape != (wanted := release_shape(name, plain)):
            raise UserError(f"{path}: shape {number} ({name}) is {shape}, but a width of {width} asks for {wanted}")
    return model


def _part(path: Path) -> np.ndarray:
    """Return one of the ten files, mapped into memory."""
    try:
        part = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; a release has {PARTS[0]} to {PARTS[-1]}") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged or cut short: {error}") from None
    if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype != np.dtype("<f4"):
        raise UserError(f"{path} is not of a release: it must hold one row of float32")
    return part
