"""The network for reading and writing only: its weights lie as the processor takes them in fastest.

A step of generation reads every weight once and does little with it, so its speed is the speed of memory. oneDNN comes
up to it from its own blocked layout, and stays a third below it from the layout that training needs. It also applies
GELU while a product's results are at hand, which for long texts is several times cheaper than a pass of its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gpt1.model.gpt import GPT, Block

Product = Callable[[Tensor, Tensor | None], nn.Module]
"""weight (out, in), bias (out) or None -> a module like nn.Linear"""
ROWS = 1
"""Rows of x that the layout is meant for; this one is also as good as any at 16 rows, and better at 512."""


class Reading(GPT):
    """A GPT whose matrix products, that of the output too, are modules of another make; it cannot be trained."""

    def __init__(self, body: GPT, product: Product) -> None:
        """Takes `body` over: what is not a product is shared, and its products are replaced one by one."""
        nn.Module.__init__(self)
        self.config, self.tokens, self.positions = body.config, body.tokens, body.positions
        self.dropout, self.blocks = body.dropout, body.blocks
        for parent in list(self.blocks.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, product(child.weight.detach(), child.bias.detach()))
        self.output = product(body.tokens.weight.detach(), None)
        self.eval()

    def logits(self, h_NTD: Tensor) -> Tensor:
        """Scores of the next token over the vocabulary, as `GPT.logits`."""
        return self.output(h_NTD)


class Packed(nn.Module):
    """x W^T + b with W in oneDNN's layout, or GELU (tanh form) of it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        self.bias = bias
        self.then = ("gelu", "tanh") if gelu else ("none", "")

    def forward(self, x: Tensor) -> Tensor:
        name, form = self.then
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], form)


def packed(body: GPT) -> GPT:
    """`body` made over for fast reading, where that is possible: in bfloat16 on a CPU that has it; else as it is."""
    weight = body.tokens.weight
    if (weight.device.type, weight.dtype) != ("cpu", torch.bfloat16) or not has_packed():
        return body
    for block in list(body.modules()):
        if isinstance(block, Block):
            up, down = block.feed_forward.up, block.feed_forward.down
            fed = nn.Sequential(Packed(up.weight, up.bias, gelu=True), Packed(down.weight, down.bias))
            block.register_module("feed_forward", fed)
    return Reading(body, Packed)


def has_packed() -> bool:
    """Whether this CPU and this PyTorch have the product of a Packed in bfloat16."""
    ops = torch.ops.mkldnn
    return hasattr(ops, "_linear_pointwise") and bool(ops._is_mkldnn_bf16_supported())
