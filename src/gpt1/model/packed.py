"""Inference on a CPU with weights in oneDNN's own layout.

A step of generation reads every weight once and computes little with it, so memory bandwidth limits its speed. oneDNN
reaches that limit with its own blocked layout, and stays a third below it with the layout that training needs. It also
applies GELU to results that are still in registers, which for long texts is several times cheaper than a separate pass.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gpt1.model.gpt import GPT, Block

MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]

# Rows of x that the layout is made for; this one is as good as any for 16 rows, and better for 512.
ROWS = 1


class InferenceGPT(GPT):
    """A GPT whose linear layers, the output included, are replaced by faster ones; it cannot be trained."""

    def __init__(self, body: GPT, make_linear: MakeLinear) -> None:
        """Take over `body`: its linear layers are replaced one by one, everything else is shared.

        `make_linear` (weight (out, in), bias (out) or None) returns a module like nn.Linear.
        """
        nn.Module.__init__(self)
        self.config, self.tokens, self.positions = body.config, body.tokens, body.positions
        self.dropout, self.blocks = body.dropout, body.blocks
        for parent in list(self.blocks.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, make_linear(child.weight.detach(), child.bias.detach()))
        self.output = make_linear(body.tokens.weight.detach(), None)
        self.eval()

    def logits(self, h_NTD: Tensor) -> Tensor:
        """Return scores of the next token over the vocabulary, as `GPT.logits` does."""
        return self.output(h_NTD)


class PackedLinear(nn.Module):
    """x W^T + b with W in oneDNN's layout, optionally followed by GELU (tanh form)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        self.bias = bias
        self.activation = ("gelu", "tanh") if gelu else ("none", "")

    def forward(self, x: Tensor) -> Tensor:
        name, form = self.activation
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], form)


def pack(body: GPT) -> GPT:
    """Take over `body` and return it with packed weights where possible (bfloat16 on a CPU that supports it).

    One that has packed weights already is returned as it is.
    """
    weight = body.tokens.weight
    is_packable = (weight.device.type, weight.dtype) == ("cpu", torch.bfloat16) and can_pack()
    if isinstance(body, InferenceGPT) or not is_packable:
        return body
    for block in list(body.modules()):
        if isinstance(block, Block):
            up, down = block.feed_forward.up, block.feed_forward.down
            packed = nn.Sequential(PackedLinear(up.weight, up.bias, gelu=True), PackedLinear(down.weight, down.bias))
            block.register_module("feed_forward", packed)
    return InferenceGPT(body, PackedLinear)


def can_pack() -> bool:
    """Return whether this CPU and this PyTorch have the bfloat16 product of PackedLinear."""
    ops = torch.ops.mkldnn
    return hasattr(ops, "_linear_pointwise") and bool(ops._is_mkldnn_bf16_supported())
