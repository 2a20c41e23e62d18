"""Which token comes next: logits -> the tokens that may be drawn -> one of them.

Legend: N sequences, V vocabulary, K candidates, most probable first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn; the defaults draw from the model's own distribution."""

    temperature: float = 1.0
    """divides the logits; 0 takes the most probable token (greedy decoding)"""
    top_k: int = 0
    """keep the k most probable tokens; 0 keeps all"""
    top_p: float = 1.0
    """keep the fewest most probable tokens that together reach this probability (Holtzman et al. 2020)"""
    repetition_penalty: float = 1.0
    """above 1: tokens already seen become less likely (Keskar et al. 2019)"""


def penalised(logits_NV: Tensor, seen_NV: Tensor, penalty: float) -> Tensor:
    """Logits of seen tokens divided by the penalty if positive, multiplied by it if negative."""
    lowered_NV = torch.where(logits_NV < 0, logits_NV * penalty, logits_NV / penalty)
    return torch.where(seen_NV, lowered_NV, logits_NV)


def candidates(logits_NV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(ids_NK, p_NK): tokens in falling order, and their probabilities after temperature, top-k, then top-p.

    A token that top-p drops has probability 0; each row sums to 1. Of equal logits the lower id counts as larger.
    """
    sorted_NV, ids_NV = logits_NV.double().sort(dim=-1, descending=True, stable=True)
    K = sampling.top_k or logits_NV.shape[-1]
    sorted_NK, ids_NK = sorted_NV[:, :K], ids_NV[:, :K]
    # The largest logit is taken off first, since a small temperature would make it infinite.
    p_NK = ((sorted_NK - sorted_NK[:, :1]) / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        before_NK = p_NK.cumsum(-1) - p_NK
        p_NK = p_NK.masked_fill(before_NK >= sampling.top_p, 0.0)
    return ids_NK, p_NK / p_NK.sum(-1, keepdim=True)


def draw(logits_NV: Tensor, sampling: Sampling, uniform_N: Tensor) -> Tensor:
    """One id a row: the most probable at temperature 0, else the candidate that `uniform_N`, in [0, 1), falls on.

    One number a row decides, so a row's token depends on no other row.
    """
    if sampling.temperature == 0:
        return logits_NV.argmax(-1)
    ids_NK, p_NK = candidates(logits_NV, sampling)
    index_N1 = torch.searchsorted(p_NK.cumsum(-1), uniform_N[:, None].to(p_NK), right=True)
    last_N1 = (p_NK > 0).sum(-1, keepdim=True) - 1  # the sum may round to just below a number next to 1
    return ids_NK.gather(-1, torch.minimum(index_N1, last_N1))[:, 0]
