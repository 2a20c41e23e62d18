"""Muon (Jordan et al. 2024): each matrix's update is the orthogonal matrix that is nearest to its momentum.

`torch.optim.Muon` handles one matrix at a time, and the fused query-key-value matrix as one. Here its three parts are
three matrices, and all matrices of one shape are orthogonalised in one batch; one at a time, small matrices would cost
mostly call overhead.

Where processes share out the rows of the matrices (`training.sharding`), momenta are shared out too. Each matrix
belongs to one process, which receives the rows of the others, orthogonalises it, and sends them the rows of the update.
So no matrix is orthogonalised twice or held whole by two processes, and the numbers are those of one process.

Legend: B matrices of one shape, R rows, C columns (R <= C); I rows of a matrix, O those that this process keeps, J
columns (I may be more than J).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpt1.training.parallel import ALONE, World
from gpt1.training.sharding import rows

# Coefficients of the quintic iteration, chosen for the steepest slope at 0 (Jordan et al. 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


@dataclass(frozen=True)
class _Matrix:
    """A matrix, or a third of a fused query-key-value matrix: this process's rows, and how many each process has."""

    weight_OJ: Tensor
    grad_OJ: Tensor
    rows: tuple[int, ...]

    @property
    def sides(self) -> tuple[int, int]:
        """I and J."""
        return sum(self.rows), self.weight_OJ.shape[1]

    def shape_in(self, process: int) -> tuple[int, int]:
        """Return the shape of the rows that a process keeps."""
        return self.rows[process], self.weight_OJ.shape[1]


class Muon:
    """Muon on named fp32 matrices that own their gradients.

    A matrix whose name ends in `qkv.weight` is treated as three, split by rows. Step sizes are in AdamW's scale
    (`match_rms_adamw`, Liu et al. 2025), so AdamW's weight decay and similar learning rates apply. In a `world` of
    several processes, the matrices are the rows of this one, and `whole_rows` says how many the whole ones have.
    """

    def __init__(
        self, named: Mapping[str, Tensor], momentum: float, weight_decay: float, whole_rows: Mapping[str, int],
        world: World = ALONE,
    ) -> None:  # fmt: skip
        self.momentum, self.weight_decay, self.world = momentum, weight_decay, world
        self.names = list(named)
        self._gradients = [gradient for matrix in named.values() if (gradient := matrix.grad) is not None]
        assert len(self._gradients) == len(named), "masters own their gradients from the start"
        self._momenta = [torch.zeros_like(gradient) for gradient in self._gradients]
        self._matrices: dict[tuple[int, ...], list[_Matrix]] = defaultdict(list)
        for (name, matrix), gradient in zip(named.items(), self._gradients, strict=True):
            thirds = 3 if name.endswith("qkv.weight") else 1
            for found in _split(matrix.detach(), gradient, whole_rows[name], thirds, world):
                self._matrices[tuple(sorted(found.sides))].append(found)

    @torch.no_grad()
    def step(self, lr: float, dtype: torch.dtype, divisor: Tensor | None = None) -> None:
        """Update every matrix once by its gradient, divided by `divisor` if there is one; gradients are overwritten.

        `dtype` is the number format of the iteration, and so of the rows that are sent. bfloat16 is precise enough
        (Jordan et al. 2024), but on a CPU that has to emulate it 4 to 40 times slower than fp32.
        """
        if divisor is not None and self.names:
            torch._foreach_div_(self._gradients, divisor)
        for gradient, momentum in zip(self._gradients, self._momenta, strict=True):
            momentum.lerp_(gradient, 1 - self.momentum)
            gradient.lerp_(momentum, self.momentum)  # Nesterov's look-ahead
        for (_, C), matrices in self._matrices.items():
            for matrix, update_OJ in zip(matrices, self._orthogonalised(matrices, dtype), strict=True):
                matrix.weight_OJ.mul_(1 - lr * self.weight_decay).add_(update_OJ, alpha=-lr * 0.2 * C**0.5)

    def state(self) -> dict[str, Tensor]:
        """Return the momentum of each matrix, by the matrix's name and in its shape."""
        return dict(zip(self.names, self._momenta, strict=True))

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore momenta that `state` returned."""
        for name, momentum in zip(self.names, self._momenta, strict=True):
            momentum.copy_(state[name])

    def _orthogonalised(self, matrices: Sequence[_Matrix], dtype: torch.dtype) -> list[Tensor]:
        """Return this process's rows of the updates of all matrices of one shape; process i mod n owns number i."""
        world, processes = self.world, range(self.world.size)
        by_owner = [matrices[process :: world.size] for process in processes]
        owned, empty = by_owner[world.rank], matrices[0].grad_OJ.new_empty(0, dtype=dtype)
        received = world.exchange(
            [[one.grad_OJ.to(dtype) for one in theirs] for theirs in by_owner],
            [[one.shape_in(process) for one in owned] for process in processes],
            empty,
        )
        updates_IJ = _updates([torch.cat(parts) for parts in zip(*received, strict=True)])
        split = [x_IJ.split(one.rows) for x_IJ, one in zip(updates_IJ, owned, strict=True)]
        returned = world.exchange(
            [[parts[process] for parts in split] for process in processes],
            [[one.shape_in(world.rank) for one in theirs] for theirs in by_owner],
            empty,
        )
        updates_OJ = [iter(updates) for updates in returned]
        return [next(updates_OJ[number % world.size]) for number in range(len(matrices))]


def _split(weight: Tensor, gradient: Tensor, whole_rows: int, parts: int, world: World) -> Iterator[_Matrix]:
    """Yield the matrices in one parameter, `parts` of equal size; this process may hold no rows of some of them."""
    kept = [rows(whole_rows, replace(world, rank=process)) for process in range(world.size)]
    size, here = whole_rows // parts, kept[world.rank]
    for start in range(0, whole_rows, size):
        overlaps = [slice(max(one.start, start), min(one.stop, start + size)) for one in kept]
        counts = tuple(max(0, one.stop - one.start) for one in overlaps)
        first = overlaps[world.rank].start - here.start
        mine = slice(first, first + counts[world.rank])
        yield _Matrix(weight[mine], gradient[mine], counts)


def _updates(momenta_IJ: Sequence[Tensor]) -> list[Tensor]:
    """Orthogonalise a batch of matrices of one shape; some may be transposed."""
    if not momenta_IJ:
        return []
    are_tall = [x_IJ.shape[0] > x_IJ.shape[1] for x_IJ in momenta_IJ]
    x_BRC = torch.stack([x_IJ.T if is_tall else x_IJ for x_IJ, is_tall in zip(momenta_IJ, are_tall, strict=True)])
    return [x_RC.T if is_tall else x_RC for x_RC, is_tall in zip(orthogonalise(x_BRC), are_tall, strict=True)]


def orthogonalise(x_BRC: Tensor) -> Tensor:
    """Return a stack of matrices (R <= C) with all singular values moved close to 1."""
    a, b, c = NEWTON_SCHULZ
    x_BRC = x_BRC / x_BRC.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram_BRR = x_BRC @ x_BRC.mT
        x_BRC = torch.baddbmm(x_BRC, torch.baddbmm(gram_BRR, gram_BRR, gram_BRR, beta=b, alpha=c), x_BRC, beta=a)
    return x_BRC
