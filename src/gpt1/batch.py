"""Batch: what data hands to training, and all that the two know of each other.

Legend (used everywhere in this package): N examples, K sequences per example, T tokens, D width, H heads,
V vocabulary, C classes.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

IGNORE = -100
"""A target that is no target: padding, or a token that no loss may count."""


@dataclass(frozen=True)
class Batch:
    """N examples of K sequences each; pre-training and classification have K = 1."""

    tokens_NKT: Tensor
    """int64 ids, right-padded: under causal attention padding reaches no real token"""
    targets_NKT: Tensor
    """int64, the next token at each position, or IGNORE"""
    extract_NK: Tensor | None = None
    """int64, where the extract token stands in each sequence (stage two)"""
    real_NK: Tensor | None = None
    """bool, which of the K sequences exist (multiple choice is ragged)"""
    labels_N: Tensor | None = None
    """int64 classes (N,), or float targets (N,) or (N, C)"""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device; a GPU copies it while the program goes on, which needs pinned memory."""
        there = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        if device.type == "cuda":
            there = {name: tensor.pin_memory() for name, tensor in there.items()}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in there.items()})
