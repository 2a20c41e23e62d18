"""GPT-1's forward pass and its BPE on plain arrays: what a conversion is compared with, so it shares no code with it.

The arrays come in the order of OpenAI's release, which is the network's. After the paper, sections 3.1 and 4.1.

Legend: T tokens, P places, D width, H heads, d = D / H, V vocabulary.
"""

import json
import math
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

Array = np.ndarray
PLACES = 32
"""Of a sequence, the last positions whose logits are compared; they depend on every position before them."""
EPSILON = 1e-5


def logits(arrays: Iterator[Array], heads: int, ids_T: Array) -> Array:
    """logits_PV of the last `PLACES` of a sequence, in fp32; one block's arrays are held at a time."""
    positions, tokens_VD = next(arrays), next(arrays)
    T = len(ids_T)
    h_TD = tokens_VD[ids_T] + positions[:T]
    future_TT = np.triu(np.full((T, T), -np.inf, np.float32), 1)
    while block := [np.squeeze(array) for array in islice(arrays, 12)]:
        h_TD = _block(h_TD, block, heads, future_TT)
    return h_TD[-PLACES:] @ tokens_VD.T


def released(folder: Path) -> Iterator[Array]:
    """The arrays of OpenAI's folder: the ten files are one row of numbers, cut where the list of shapes says."""
    parts = (np.load(folder / f"params_{number}.npy", mmap_mode="r") for number in range(10))
    row = np.empty(0, np.float32)
    for shape in json.loads((folder / "params_shapes.json").read_text(encoding="utf-8")):
        pieces, wanted = [], math.prod(shape)
        while wanted:
            if not len(row):
                row = next(parts)
            pieces.append(row[:wanted])
            wanted, row = wanted - len(row[:wanted]), row[wanted:]
        yield np.concatenate(pieces).reshape(shape)


def bpe(word: str, ids: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """The ids of one word: the neighbours that training merged first are merged, until there are none."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
        first, second = min(pairs, key=ranks.__getitem__)
        merged: list[str] = []
        for symbol in symbols:
            if merged and (merged[-1], symbol) == (first, second):
                merged[-1] += symbol
            else:
                merged.append(symbol)
        symbols = merged
    return [ids.get(symbol, ids["<unk>"]) for symbol in symbols]


def _block(x_TD: Array, arrays: list[Array], heads: int, future_TT: Array) -> Array:
    w_qkv, b_qkv, w_out, b_out, gain_1, bias_1, w_up, b_up, w_down, b_down, gain_2, bias_2 = arrays
    T, D = x_TD.shape
    q_HTd, k_HTd, v_HTd = (x_TD @ w_qkv + b_qkv).reshape(T, 3, heads, D // heads).transpose(1, 2, 0, 3)
    s_HTT = q_HTd @ k_HTd.transpose(0, 2, 1) / np.float32(math.sqrt(D // heads)) + future_TT
    e_HTT = np.exp(s_HTT - s_HTT.max(-1, keepdims=True))
    a_HTd = e_HTT / e_HTT.sum(-1, keepdims=True) @ v_HTd
    n_TD = _norm(x_TD + a_HTd.transpose(1, 0, 2).reshape(T, D) @ w_out + b_out, gain_1, bias_1)
    u = n_TD @ w_up + b_up
    u = 0.5 * u * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (u + 0.044715 * u * u * u)))
    return _norm(n_TD + u @ w_down + b_down, gain_2, bias_2)


def _norm(x_TD: Array, gain_D: Array, bias_D: Array) -> Array:
    centred_TD = x_TD - x_TD.mean(-1, keepdims=True)
    return centred_TD / np.sqrt((centred_TD**2).mean(-1, keepdims=True) + EPSILON) * gain_D + bias_D
