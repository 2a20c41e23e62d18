"""OpenAI's 2018 release: ten files of plain float32, a list of shapes, and the vocabulary as two files.

The ten `params_N.npy` are one row of numbers, cut in ten wherever it came; `params_shapes.json` says how it falls into
tensors: positions, tokens, then twelve a block. Matrices are convolutions, (1, in, out). Format: docs/formats.md.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpt1.config import Model
from gpt1.conversion.external import POSITIONS, TOKENS, Foreign, check_vocabulary, layout, new_rows, parameters, usable
from gpt1.errors import UserError
from gpt1.run_folder.hugging_face import TensorFile
from gpt1.run_folder.metadata import parsed
from gpt1.storage import atomic, write_text
from gpt1.tokenizer.bpe_files import read_bpe, write_bpe
from gpt1.tokenizer.openai import RELEASED
from gpt1.tokenizer.tokenizer import Tokenizer, blank

PARTS = tuple(f"params_{number}.npy" for number in range(10))
SHAPES = "params_shapes.json"
VOCABULARY, MERGES = RELEASED
A_BLOCK = 12
"""Tensors of a block."""
HEAD_WIDTH = 64
"""Width of a head in the release; the files do not say it."""


def is_release(folder: Path) -> bool:
    """Whether a folder holds a part of a release."""
    return any((folder / name).exists() for name in (SHAPES, *PARTS))


def read_release(folder: Path, heads: int = 0) -> Foreign:
    """The model of a release; `heads` 0 makes them `HEAD_WIDTH` wide.

    Raises UserError for a file that is missing, damaged or does not fit the others.
    """
    model = _model(folder, heads)
    sizes = [len(_part(folder / name)) for name in PARTS]
    if (extra := folder / f"params_{len(PARTS)}.npy").exists():
        raise UserError(f"{extra} has no place: a release has {len(PARTS)} such files")
    if sum(sizes) != parameters(model):
        raise UserError(
            f"{folder}: {SHAPES} asks for {parameters(model):,} numbers, but {PARTS[0]} to {PARTS[-1]} hold "
            f"{sum(sizes):,}; one of them is not of this release, or cut short"
        )
    ids, merges = read_bpe(folder / VOCABULARY, folder / MERGES)
    check_vocabulary(folder / VOCABULARY, len(ids), model.vocabulary)
    bounds, start, tensors = list(accumulate(sizes, initial=0)), 0, {}
    for name, shape in layout(model):
        end = start + math.prod(shape)
        tensor = torch.from_numpy(_numbers(folder, bounds, start, end)).view(shape)
        tensors[name] = usable(name, tensor, shape, folder)
        start = end
    return Foreign(model, tensors, blank("gpt1", ids, merges))


def write_release(folder: Path, model: Model, tensors: TensorFile, tokenizer: Tokenizer) -> Model:
    """Write a release and return the network as written: end and pad are among its tokens only if they were trained.

    Raises UserError for a tokenizer that is not of GPT-1's kind, and for weights that are not finite.
    """
    written = replace(model, vocabulary=_tokens(tensors[TOKENS], tokenizer))
    write_bpe(tokenizer, written.vocabulary, folder / VOCABULARY, folder / MERGES)
    _write_row(folder, _pieces(tensors, model, written.vocabulary), parameters(written))
    write_text(folder / SHAPES, json.dumps([listed(name, shape) for name, shape in layout(written)]))
    return written


def _pieces(tensors: TensorFile, model: Model, tokens: int) -> Iterator[np.ndarray]:
    """All numbers, tensor after tensor, those of the first `tokens` tokens only."""
    for name, shape in layout(model):
        tensor = usable(name, tensors[name], shape, tensors.path)
        yield (tensor[:tokens] if name == TOKENS else tensor).numpy().reshape(-1)


def _write_row(folder: Path, pieces: Iterator[np.ndarray], size: int) -> None:
    """Write `size` numbers, which come in pieces, into the ten files, as evenly as numpy.array_split would."""
    piece = np.empty(0, np.float32)
    for number, name in enumerate(PARTS):
        wanted = size // len(PARTS) + (number < size % len(PARTS))
        with atomic(folder / name) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (wanted,)}
            np.lib.format.write_array_header_1_0(file, header)
            while wanted:
                if not len(piece):
                    piece = next(pieces)
                np.asarray(piece[:wanted], "<f4").tofile(file)
                wanted, piece = wanted - len(piece[:wanted]), piece[wanted:]


def _tokens(rows_VD: Tensor, tokenizer: Tokenizer) -> int:
    """How many rows the release gets: all but end and pad where those are what reading it again would append."""
    plain = len(rows_VD) - 2
    ours = sorted([tokenizer.end_id, tokenizer.pad_id]) == [plain, plain + 1]
    untrained = plain > 0 and torch.equal(rows_VD[plain:], new_rows(rows_VD[:plain], 2))
    return plain if ours and untrained else len(rows_VD)


def listed(name: str, shape: tuple[int, ...]) -> list[int]:
    """A tensor's shape as the release lists it."""
    is_matrix = len(shape) == 2 and name not in (TOKENS, POSITIONS)
    return [1, *shape] if is_matrix else list(shape)


def _model(folder: Path, heads: int) -> Model:
    """The network that the list of shapes describes."""
    path = folder / SHAPES
    shapes = _shapes(path)
    if len(shapes) < 2 + A_BLOCK or (len(shapes) - 2) % A_BLOCK or {len(shape) for shape in shapes[:2]} != {2}:
        raise UserError(f"{path}: {len(shapes)} shapes; there must be 2 of embeddings and {A_BLOCK} for each block")
    (context, width), (vocabulary, _) = shapes[:2]
    if not heads and width % HEAD_WIDTH:
        raise UserError(f"{path}: a width of {width} is no multiple of {HEAD_WIDTH}, as wide as a head; give --heads")
    heads = heads or width // HEAD_WIDTH
    if width % heads:
        raise UserError(f"--heads {heads} does not divide the width of {width} that {path} says")
    depth = (len(shapes) - 2) // A_BLOCK
    model = Model(
        context=context, width=width, depth=depth, heads=heads, inner=4 * width, vocabulary=vocabulary,
    )  # fmt: skip
    for number, (shape, (name, plain)) in enumerate(zip(shapes, layout(model), strict=True)):
        if shape != (wanted := listed(name, plain)):
            raise UserError(f"{path}: shape {number} ({name}) is {shape}, but a width of {width} asks for {wanted}")
    return model


def _shapes(path: Path) -> list[list[int]]:
    try:
        shapes = parsed(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    if not isinstance(shapes, list) or not all(
        isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape) for shape in shapes
    ):
        raise UserError(f"{path} is damaged: it must be a list of shapes, each a list of numbers above 0")
    return shapes


def _part(path: Path) -> np.ndarray:
    try:
        part = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; a release has {PARTS[0]} to {PARTS[-1]}") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged or cut short: {error}") from None
    if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype != np.dtype("<f4"):
        raise UserError(f"{path} is not of a release: it must hold one row of float32")
    return part


def _numbers(folder: Path, bounds: list[int], start: int, end: int) -> np.ndarray:
    """Numbers `start` to `end` of the ten files, copied: nothing of a file stays in memory."""
    out = np.empty(end - start, np.float32)
    for name, (low, high) in zip(PARTS, pairwise(bounds), strict=True):
        if low < end and start < high:
            first, last = max(start, low), min(end, high)
            out[first - start : last - start] = _part(folder / name)[first - low : last - low]
    return out
