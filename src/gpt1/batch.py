"""Batch: what the data side passes to training, and the only type both sides share.

Legend (used throughout the package): N examples, K sequences per example, T tokens, D width, H heads, V vocabulary,
C classes.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

# Target that every loss skips: padding, or a token that is only context.
IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """N examples of K sequences each; pre-training and classification have K = 1."""

    tokens_NKT: Tensor
    """int64 ids, right-padded: under causal attention no real token sees the padding"""
    targets_NKT: Tensor
    """int64, the next token at each position, or IGNORE"""
    extract_NK: Tensor | None = None
    """int64, position of the extract token in each sequence (fine-tuning)"""
    real_NK: Tensor | None = None
    """bool, which of the K sequences exist (multiple choice is ragged)"""
    labels_N: Tensor | None = None
    """int64 classes (N,), or float targets (N,) or (N, C)"""
    weights_N: Tensor | None = None
    """float32, weight of each example in the losses; None: equal weights"""

    def split(self, rows: int) -> list["Batch"]:
        """Return parts of at most `rows` examples."""
        tensors = self._tensors()
        starts = range(0, len(self.tokens_NKT), rows)
        return [replace(self, **{name: tensor[n : n + rows] for name, tensor in tensors.items()}) for n in starts]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device; CUDA copies from pinned memory while the program continues."""
        # Elsewhere that is not safe: Apple's GPUs may read memory that is free already (pytorch/pytorch#189690).
        tensors, pinned = self._tensors(), device.type == "cuda"
        if pinned:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return replace(self, **{name: tensor.to(device, non_blocking=pinned) for name, tensor in tensors.items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
