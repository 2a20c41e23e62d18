"""Muon: momentum whose every matrix step is replaced by the nearest orthogonal matrix (Jordan et al. 2024).

Matrices of one shape are orthogonalised together, in one batch of bfloat16 products: many small matrices would
otherwise spend their time on call overhead. `torch.optim.Muon` takes one matrix at a time and the fused query-key-
value matrix as a whole; here its three parts are three matrices, as they are in the model.
"""

from collections import defaultdict

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, chosen for the steepest slope at 0 (Jordan et al. 2024)."""
ITERATIONS = 5


class Muon:
    """Muon over named fp32 matrices; step sizes are in AdamW's scale (`match_rms_adamw`, Liu et al. 2025).

    `named` maps names to matrices (rows, columns) with fp32 gradients; a name that ends in `qkv.weight` is split in
    three by rows. Momentum lives in `state`, one stack a shape.
    """

    def __init__(self, named: dict[str, Tensor], momentum: float, weight_decay: float) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        self.groups: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for name, matrix in named.items():
            assert matrix.grad is not None, "masters own their gradients from the start"
            parts = 3 if name.endswith("qkv.weight") else 1
            for part, grad in zip(matrix.detach().chunk(parts), matrix.grad.chunk(parts), strict=True):
                wide = part.shape[0] <= part.shape[1]
                view = (part, grad) if wide else (part.T, grad.T)
                self.groups["x".join(map(str, view[0].shape))].append(view)
        self.state = {shape: torch.zeros_like(torch.stack([g for _, g in v])) for shape, v in self.groups.items()}

    @torch.no_grad()
    def step(self, lr: float, divisor: Tensor | None = None) -> None:
        """Update every matrix once, by its gradient, over `divisor` if there is one."""
        for shape, views in self.groups.items():
            grad_BRC = torch.stack([grad for _, grad in views])
            if divisor is not None:
                grad_BRC.div_(divisor)
            momentum_BRC = self.state[shape].lerp_(grad_BRC, 1 - self.momentum)
            update_BRC = orthogonalise(grad_BRC.lerp_(momentum_BRC, self.momentum))
            scale = 0.2 * max(update_BRC.shape[1:]) ** 0.5
            for (matrix, _), update in zip(views, update_BRC, strict=True):
                matrix.mul_(1 - lr * self.weight_decay).add_(update, alpha=-lr * scale)


def orthogonalise(x_BRC: Tensor) -> Tensor:
    """A stack of wide matrices (R <= C) with their singular values moved to about 1, in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x_BRC = x_BRC.bfloat16()
    x_BRC = x_BRC / x_BRC.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram_BRR = x_BRC @ x_BRC.mT
        x_BRC = torch.baddbmm(x_BRC, torch.baddbmm(gram_BRR, gram_BRR, gram_BRR, beta=b, alpha=c), x_BRC, beta=a)
    return x_BRC
