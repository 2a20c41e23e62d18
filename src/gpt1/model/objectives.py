"""Training objectives: L1, L2 and L3 of the paper, as named sums of losses with the number of their terms.

A module here maps a Batch to `{name: sum of losses in nats}`; its `counts` returns, from the batch alone, how many
terms each sum has. The loop divides once, by the counts of the whole update, so neither gradient accumulation nor the
number of processes changes a gradient. L3 = L2 + lambda L1 is `{"task": 1, "lm": lambda}` in that loop.
"""

from collections.abc import Callable, Collection
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.batch import IGNORE, Batch
from gpt1.model.cross_entropy import cross_entropy
from gpt1.model.gpt import GPT, INIT_STD

CrossEntropy = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# What an example is labelled with: one class, any number of labels, a number, or which of its K sequences is right.
LabelKind = Literal["classes", "labels", "score", "choice"]


class LanguageModel(nn.Module):
    """L1: negative log-likelihood of every next token (section 3.1, equation 1)."""

    def __init__(self, body: GPT) -> None:
        super().__init__()
        self.body = body
        self.cross_entropy: CrossEntropy = cross_entropy  # `model.fused_cpu` replaces it with a faster one

    def forward(self, batch: Batch, terms: Collection[str] = ("lm",)) -> dict[str, Tensor]:
        """Return `lm`, the only term: nats summed over all targets."""
        tokens_NT, targets_NT = batch.tokens_NKT.flatten(0, 1), batch.targets_NKT.flatten(0, 1)
        weights_NT = (targets_NT != IGNORE).float()
        return {"lm": self.cross_entropy(self.body(tokens_NT), self.body.tokens.weight, targets_NT, weights_NT)}

    @staticmethod
    def counts(batch: Batch) -> dict[str, int]:
        """Return the number of targets, as `lm`."""
        return {"lm": int((batch.targets_NKT != IGNORE).sum())}


class TaskModel(nn.Module):
    """L2 and L1: the network, and W_y applied to the hidden state at the extract token (section 3.2)."""

    def __init__(
        self,
        body: GPT,
        outputs: int,
        label_kind: LabelKind = "classes",
        head_dropout: float = 0.1,
        class_weights_C: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.body, self.label_kind = body, label_kind
        self.cross_entropy: CrossEntropy = cross_entropy
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(body.config.width, outputs, bias=False)
        self.class_weights_C = class_weights_C  # not a buffer, so that it stays in fp32 when the model becomes bfloat16

    @torch.no_grad()
    def init_head(self, generator: torch.Generator | None = None) -> "TaskModel":
        """Draw W_y from N(0, 0.02), as the released code does; return self."""
        self.head.weight.normal_(0.0, INIT_STD, generator=generator)
        return self

    def forward(self, batch: Batch, terms: Collection[str] = ("task", "lm")) -> dict[str, Tensor]:
        """Return the losses named in `terms`; the others are not computed.

        `task`: L2, summed over the examples. `lm`: the auxiliary loss, the mean nats per token of each
        sequence, summed over the sequences; as in OpenAI's train.py, it counts every next token of the transformed
        sequence, delimiter and extract included. With weights, an example's terms in both are multiplied by its weight.
        """
        assert batch.labels_N is not None, "stage two needs labels"
        tokens_MT, targets_MT = batch.tokens_NKT.flatten(0, 1), batch.targets_NKT.flatten(0, 1)
        h_MTD = self.body(tokens_MT)
        sums = {}
        if "task" in terms:
            scores_NC = self._scores(h_MTD, batch)
            sums["task"] = task_loss(self.label_kind, scores_NC, batch.labels_N, self.class_weights_C, batch.weights_N)
        if "lm" in terms:
            wide = torch.promote_types(h_MTD.dtype, torch.float32)
            real_MT = (targets_MT != IGNORE).to(wide)
            weights_MT = real_MT / real_MT.sum(1, keepdim=True).clamp(min=1)
            if batch.weights_N is not None:  # the K sequences of an example have its weight
                weights_MT *= batch.weights_N.to(wide).repeat_interleave(batch.tokens_NKT.shape[1])[:, None]
            sums["lm"] = self.cross_entropy(h_MTD, self.body.tokens.weight, targets_MT, weights_MT)
        return sums

    @staticmethod
    def counts(batch: Batch) -> dict[str, float]:
        """Return the number of examples as `task`, and of sequences with a target as `lm`; or their sums of weights."""
        has_target_NK = (batch.targets_NKT != IGNORE).any(-1)
        if batch.weights_N is None:
            return {"task": len(batch.tokens_NKT), "lm": int(has_target_NK.sum())}
        weights_N = batch.weights_N.double()
        return {"task": weights_N.sum().item(), "lm": (weights_N @ has_target_NK.sum(1).double()).item()}

    def scores(self, batch: Batch) -> Tensor:
        """Return scores_NC of the classes, the labels or the one score; for choices scores_NK, -inf for no answer."""
        return self._scores(self.body(batch.tokens_NKT.flatten(0, 1)), batch)

    def states(self, batch: Batch) -> Tensor:
        """Return h_NKD, the hidden state at the extract token of each sequence."""
        return self._states(self.body(batch.tokens_NKT.flatten(0, 1)), batch)

    def _states(self, h_MTD: Tensor, batch: Batch) -> Tensor:
        assert batch.extract_NK is not None, "stage two reads the hidden state at the extract token"
        h_MD = h_MTD[torch.arange(len(h_MTD), device=h_MTD.device), batch.extract_NK.flatten()]
        # bfloat16 has three digits: the scores of similar rows would tie, and predicted numbers would come in steps.
        return h_MD.unflatten(0, batch.extract_NK.shape).to(torch.promote_types(h_MD.dtype, torch.float32))

    def _scores(self, h_MTD: Tensor, batch: Batch) -> Tensor:
        h_NKD = self._states(h_MTD, batch)
        head_CD = self.head.weight.to(h_NKD.dtype)
        if self.label_kind == "choice":
            assert batch.real_NK is not None, "rows may have different numbers of answers"
            return F.linear(self.head_dropout(h_NKD), head_CD).squeeze(-1).masked_fill(~batch.real_NK, -torch.inf)
        return F.linear(self.head_dropout(h_NKD.sum(1)), head_CD)


def task_loss(
    label_kind: LabelKind,
    scores_NC: Tensor,
    labels_N: Tensor,
    weights_C: Tensor | None = None,
    weights_N: Tensor | None = None,
) -> Tensor:
    """Return L2 (section 3.2, equation 4): -log P of the labels in nats, summed over the examples.

    `weights_N` multiplies the terms of each example, `weights_C` those of each class; for independent labels, of the
    rows that have the label. Scores are standardised, and their loss is the squared error: -log P under a
    normal distribution, up to constants.
    """
    if weights_N is not None:
        return task_losses(label_kind, scores_NC, labels_N, weights_C) @ weights_N.to(scores_NC)
    return _nats(label_kind, scores_NC, labels_N, weights_C, "sum")


def task_losses(label_kind: LabelKind, scores_NC: Tensor, labels_N: Tensor, weights_C: Tensor | None = None) -> Tensor:
    """Return the terms nats_N of the sum that `task_loss` returns, one for each example."""
    return _nats(label_kind, scores_NC, labels_N, weights_C, "none").view(len(scores_NC), -1).sum(1)


def _nats(
    label_kind: LabelKind, scores_NC: Tensor, labels_N: Tensor, weights_C: Tensor | None, reduction: str
) -> Tensor:
    weights_C = None if weights_C is None else weights_C.to(scores_NC)
    if label_kind == "classes" or label_kind == "choice":
        return F.cross_entropy(scores_NC, labels_N, weight=weights_C, reduction=reduction)
    wanted_NC = labels_N.to(scores_NC.dtype).view_as(scores_NC)
    if label_kind == "labels":
        return F.binary_cross_entropy_with_logits(scores_NC, wanted_NC, pos_weight=weights_C, reduction=reduction)
    return F.mse_loss(scores_NC, wanted_NC, reduction=reduction)
