"""Sampling: from logits to the probabilities of the tokens that may be drawn, to one token.

Legend: N sequences, V vocabulary, K tokens in falling order of probability.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# A bound on what rounding adds to, or takes from, a sum of probabilities.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn; the defaults draw from the model's own distribution."""

    temperature: float = 1.0
    """divides the logits; 0 takes the most probable token (greedy decoding)"""
    top_k: int = 0
    """keep the k most probable tokens; 0 keeps all"""
    top_p: float = 1.0
    """keep the fewest most probable tokens whose probabilities add up to this (Holtzman et al. 2020)"""
    repetition_penalty: float = 1.0
    """above 1: tokens already in the text become less likely (Keskar et al. 2019)"""


def sampling_device(device: torch.device) -> torch.device:
    """Return where to draw tokens of a network on a device: there, but on the CPU for Apple's GPUs, without float64."""
    return torch.device("cpu") if device.type == "mps" else device


def penalised(logits_NV: Tensor, seen_NV: Tensor, penalty: float) -> Tensor:
    """Return the logits, those of seen tokens divided by the penalty if positive and multiplied by it if negative."""
    lowered_NV = torch.where(logits_NV < 0, logits_NV * penalty, logits_NV / penalty)
    return torch.where(seen_NV, lowered_NV, logits_NV)


def probabilities(logits_NV: Tensor, sampling: Sampling) -> Tensor:
    """Return p_NV after temperature, top-k and top-p, in this order; 0 for a dropped token, each row sums to 1.

    Tokens as probable as the last one kept are kept too, so the result does not depend on the vocabulary's order.
    """
    # Subtract the largest logit first, since dividing it by a small temperature would give infinity.
    wide_NV = logits_NV.double().sub_(logits_NV.amax(-1, keepdim=True))
    p_NV = wide_NV.div_(sampling.temperature).softmax(-1)
    if 0 < sampling.top_k < p_NV.shape[-1]:
        p_NV = _at_least(p_NV, p_NV.topk(sampling.top_k).values[:, -1:])
    if sampling.top_p < 1:
        floor = nucleus_floor if p_NV.device.type == "cpu" else sorted_nucleus_floor
        p_NV = _at_least(p_NV, floor(p_NV, sampling.top_p))
    return p_NV


def draw(logits_NV: Tensor, sampling: Sampling, uniform_N: Tensor) -> Tensor:
    """Return one id for each row: at temperature 0 the most probable, else the one that `uniform_N`, in [0, 1), hits.

    One random number decides each row, so a row's token does not depend on the other rows.
    """
    if sampling.temperature == 0:
        return logits_NV.max(-1).indices  # the first of equals, as argmax, in a third of its time
    sum_NV = probabilities(logits_NV, sampling).cumsum(-1)
    total_N1 = sum_NV[:, -1:]
    # Rounding may leave the last sum different from 1; a number close to 1 would then fall beyond every token.
    below_N1 = total_N1.nextafter(torch.zeros_like(total_N1))
    target_N1 = (uniform_N[:, None] * total_N1).minimum(below_N1)
    return torch.searchsorted(sum_NV, target_N1, right=True)[:, 0]


def _at_least(p_NV: Tensor, floor_N1: Tensor) -> Tensor:
    p_NV = p_NV.masked_fill(p_NV < floor_N1, 0.0)
    return p_NV.div_(p_NV.sum(-1, keepdim=True))


def sorted_nucleus_floor(p_NV: Tensor, top_p: float) -> Tensor:
    """Return floor_N1, the probability of the last token that top-p keeps: the sum before it is less than `top_p`."""
    sorted_NV = p_NV.sort(-1, descending=True).values
    before_NV = sorted_NV.cumsum(-1) - sorted_NV
    return sorted_NV.gather(-1, (before_NV < top_p).sum(-1, keepdim=True) - 1)


def nucleus_floor(p_NV: Tensor, top_p: float) -> Tensor:
    """Return the same as `sorted_nucleus_floor`, for rows that sum to 1; several times faster on a CPU.

    NumPy sorts numbers with vector instructions, torch does not. Only tokens that may be in the nucleus are sorted:
    all that are less probable than (1 - top_p) / V add up to less than 1 - top_p.
    """
    least = max(0.0, (1 - top_p - ROUNDING) / p_NV.shape[-1])
    floor_N1 = torch.empty_like(p_NV[:, :1])
    for row, p_V in enumerate(p_NV.numpy()):
        sorted_K = np.sort(p_V[p_V >= least])[::-1]
        before_K = np.cumsum(sorted_K) - sorted_K
        floor_N1[row] = sorted_K[np.count_nonzero(before_K < top_p) - 1]
    return floor_N1
