"""From gradients to weights: fp32 master weights, the optimizers of the two recipes, the learning-rate schedule.

Muon (Jordan et al. 2024) replaces each matrix's momentum by the nearest orthogonal matrix. `torch.optim.Muon` handles
one matrix at a time, and the fused query-key-value matrix as one. Here its three parts are three matrices, and all
matrices of one shape are orthogonalised in one batch; one at a time, small matrices would cost mostly call overhead.

Legend: B matrices of one shape, R rows, C columns (R <= C).
"""

import functools
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gpt1.config import Optim
from gpt1.errors import UserError, setting
from gpt1.training import parallel

# Coefficients of the quintic iteration, chosen for the steepest slope at 0 (Jordan et al. 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Optimizer:
    """Adam, or Muon with AdamW beside it, on fp32 masters of a model whose weights may be bfloat16.

    bfloat16 weights make the model fast, but are too coarse to accumulate small steps, which the masters do. Gradients
    of the micro-batches are summed in fp32 as each backward pass finishes them, then clipped by their global norm and
    applied by `update`. Weights that need no gradient are left unchanged, also by weight decay.

    Several processes sum their gradients, and each then makes the same update. Muon's matrices are not shared out among
    them: that would save little time below 100 million weights, and one more exchange is one more thing to go wrong.
    """

    def __init__(self, model: nn.Module, settings: Optim, steps: int) -> None:
        self.settings, self.steps = settings, steps
        self.weights = dict(model.named_parameters())
        # An fp32 weight cannot be its own master: its gradient is cleared after each micro-batch.
        self.masters = {name: nn.Parameter(weight.detach().float().clone()) for name, weight in self.weights.items()}
        self.gradients = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        self.norms: dict[str, Tensor] = {}
        """norm of each gradient accumulated so far in this update"""
        for name, master in self.masters.items():
            master.grad = self.gradients[name]
            if self.weights[name].requires_grad:
                self.weights[name].register_post_accumulate_grad_hook(functools.partial(self._accumulate, name))
        trained = {n: m for n, m in self.masters.items() if self.weights[n].requires_grad}
        hidden = {n: m for n, m in trained.items() if settings.method == "muon" and m.dim() == 2 and "blocks." in n}
        rest = {n: m for n, m in trained.items() if n not in hidden}
        self.muon = Muon(hidden, settings.momentum, settings.weight_decay)
        matrices, vectors = ([m for m in rest.values() if (m.dim() > 1) is matrix] for matrix in (True, False))
        self.adam = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=1e-8, fused=True,
        )  # fmt: skip
        self.on_device = not hidden and all(master.is_cuda for master in trained.values())
        """whether AdamW's kernel clips and skips updates, so the program need not wait for the norm"""

    def _accumulate(self, name: str, weight: Tensor) -> None:
        """Add a gradient that a backward pass has just finished to its master's, and free it."""
        assert weight.grad is not None, "the hook runs once the gradient is complete"
        gradient = self.gradients[name]
        if name in self.norms:
            gradient.add_(weight.grad)
        else:
            gradient.copy_(weight.grad)  # saves a pass over memory compared with adding to zeros
        flat = gradient.view(-1)
        self.norms[name] = torch.dot(flat, flat).sqrt()  # half the time of vector_norm
        weight.grad = None

    def reserve_moments(self) -> list[Tensor]:
        """Return as much memory as the moments take that the first update creates."""
        masters = [master for group in self.adam.param_groups for master in group["params"]]
        return [torch.empty_like(master) for master in masters if master not in self.adam.state for _ in range(2)]

    def drop_gradients(self) -> None:
        """Forget what backward passes have accumulated since the last update."""
        self.norms.clear()
        for weight in self.weights.values():
            weight.grad = None

    def update(self, step: int, loss: Tensor | None = None, limit: float = math.inf) -> Tensor:
        """Make update number `step` (from 0) and return the global gradient norm before clipping, a scalar.

        If the norm is not finite, weights and moments stay as they are. So they do, and the norm is NaN, if the `loss`
        of the update is given and is not finite or above the `limit`.
        """
        for name in self.gradients.keys() - self.norms.keys():
            self.gradients[name].zero_()
        norms = self._sum_over_processes()
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        if loss is not None:
            norm = torch.where(loss.isfinite() & (loss <= limit), norm.to(loss.device), math.nan)
        self.norms.clear()
        if self.on_device or math.isfinite(norm.item()):
            self._apply(learning_rate(step, self.steps, self.settings), norm)
        return norm

    def _sum_over_processes(self) -> list[Tensor]:
        """Sum the gradients over all processes; return the norm of each."""
        world = parallel.current()
        if world.size == 1:
            return list(self.norms.values())
        trained = [gradient for name, gradient in self.gradients.items() if self.weights[name].requires_grad]
        world.sum_tensors(trained)
        return list(torch._foreach_norm(trained))

    def _apply(self, rate: float, norm: Tensor) -> None:
        """Clip the gradients, whose global norm is `norm`, and update at `rate` times the peak learning rates."""
        for group in self.adam.param_groups:
            group["lr"] = self.settings.lr * rate
        clip = self.settings.clip
        is_unclipped = clip == 0 or (not self.on_device and norm.item() <= clip)
        divisor = None if is_unclipped else (norm / clip).clamp(min=1)
        # AdamW's fused kernel divides gradients by `grad_scale` and skips the update on `found_inf` as it reads them,
        # which saves passes over all gradients. Both attributes are meant for loss scaling.
        vars(self.adam)["grad_scale"] = divisor
        vars(self.adam)["found_inf"] = (~norm.isfinite()).float() if self.on_device else None
        self.adam.step()
        self.muon.step(self.settings.matrix_lr * rate, divisor)
        with torch.no_grad():
            torch._foreach_copy_(list(self.weights.values()), list(self.masters.values()))

    def state(self) -> dict[str, Tensor]:
        """Return all that is needed to resume exactly, by name.

        `master.NAME` is a parameter's fp32 value, `muon.NAME` its momentum, and `adam.exp_avg.NAME`,
        `adam.exp_avg_sq.NAME` and `adam.step.NAME` are Adam's moments and step count.
        """
        out = {f"master.{name}": master.detach() for name, master in self.masters.items()}
        out |= {f"muon.{name}": momentum for name, momentum in self.muon.state().items()}
        for name, master in self.masters.items():
            out |= {f"adam.{key}.{name}": value for key, value in self.adam.state.get(master, {}).items()}
        return out

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned for the same model.

        Raises UserError, and changes nothing, if a tensor is missing, as in states of earlier versions of gpt1.
        """
        needed = [*(f"master.{name}" for name in self.masters), *(f"muon.{name}" for name in self.muon.names)]
        if missing := [name for name in needed if name not in state]:
            raise UserError(
                f"the training state has no tensor {missing[0]}: it is from another model or an earlier version of "
                f"gpt1; start over with {setting('fresh')}"
            )
        for name, master in self.masters.items():
            master.copy_(state[f"master.{name}"])
            self.weights[name].copy_(master)
            moments = {key: state.get(f"adam.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if moments["step"] is not None:
                self.adam.state[master] = {
                    k: v.to(master.device, copy=True) for k, v in moments.items() if v is not None
                }
        self.muon.load({name: state[f"muon.{name}"] for name in self.muon.names})


class _Matrix(NamedTuple):
    """A view of a named matrix, or of a third of a fused query-key-value matrix, with no more rows than columns."""

    name: str
    weight_RC: Tensor
    grad_RC: Tensor
    is_transposed: bool


class Muon:
    """Muon on named fp32 matrices that own their gradients.

    A matrix whose name ends in `qkv.weight` is treated as three, split by rows. Step sizes are in AdamW's scale
    (`match_rms_adamw`, Liu et al. 2025), so AdamW's weight decay and similar learning rates apply.
    """

    def __init__(self, named: Mapping[str, Tensor], momentum: float, weight_decay: float) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        self.names = list(named)
        self._matrices: dict[tuple[int, ...], list[_Matrix]] = defaultdict(list)
        for name, matrix in named.items():
            assert matrix.grad is not None, "masters own their gradients from the start"
            parts = 3 if name.endswith("qkv.weight") else 1
            for weight, grad in zip(matrix.detach().chunk(parts), matrix.grad.chunk(parts), strict=True):
                is_tall = weight.shape[0] > weight.shape[1]
                found = _Matrix(name, weight.T, grad.T, True) if is_tall else _Matrix(name, weight, grad, False)
                self._matrices[tuple(found.weight_RC.shape)].append(found)
        self._momenta = {
            shape: torch.zeros_like(torch.stack([one.grad_RC for one in found]))
            for shape, found in self._matrices.items()
        }

    @torch.no_grad()
    def step(self, lr: float, divisor: Tensor | None = None) -> None:
        """Update every matrix once by its gradient, divided by `divisor` if there is one."""
        for shape, matrices in self._matrices.items():
            grad_BRC = torch.stack([matrix.grad_RC for matrix in matrices])
            if divisor is not None:
                grad_BRC.div_(divisor)
            momentum_BRC = self._momenta[shape].lerp_(grad_BRC, 1 - self.momentum)
            update_BRC = orthogonalise(grad_BRC.lerp_(momentum_BRC, self.momentum))  # Nesterov's look-ahead
            scale = 0.2 * max(shape) ** 0.5
            for matrix, update_RC in zip(matrices, update_BRC, strict=True):
                matrix.weight_RC.mul_(1 - lr * self.weight_decay).add_(update_RC, alpha=-lr * scale)

    def state(self) -> dict[str, Tensor]:
        """Return the momentum of each matrix, by the matrix's name and in its shape."""
        parts = self._parts()
        return {name: torch.cat(parts[name]) if len(parts[name]) > 1 else parts[name][0] for name in self.names}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Restore momenta that `state` returned."""
        for name, parts in self._parts().items():
            for part, value in zip(parts, state[name].chunk(len(parts)), strict=True):
                part.copy_(value)

    def _parts(self) -> dict[str, list[Tensor]]:
        """Return views of the momenta by name, in the orientation of their matrices; three for query-key-value."""
        found: dict[str, list[Tensor]] = defaultdict(list)
        for shape, matrices in self._matrices.items():
            for matrix, momentum_RC in zip(matrices, self._momenta[shape], strict=True):
                found[matrix.name].append(momentum_RC.T if matrix.is_transposed else momentum_RC)
        return found


def orthogonalise(x_BRC: Tensor) -> Tensor:
    """Return a stack of matrices (R <= C) with all singular values moved close to 1, in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x_BRC = x_BRC.bfloat16()
    x_BRC = x_BRC / x_BRC.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram_BRR = x_BRC @ x_BRC.mT
        x_BRC = torch.baddbmm(x_BRC, torch.baddbmm(gram_BRR, gram_BRR, gram_BRR, beta=b, alpha=c), x_BRC, beta=a)
    return x_BRC


def learning_rate(step: int, steps: int, settings: Optim) -> float:
    """Return the fraction of the peak rate at update `step` (from 0).

    A linear warm-up, a constant rate, then a cosine or linear fall to 0 over the last `cooldown` of the updates.
    """
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    falling = settings.cooldown * (steps - settings.warmup)
    remaining = min(1.0, (steps - step) / falling) if falling > 0 else 1.0  # from 1 to 0
    if settings.decay == "linear":
        return remaining
    assert settings.decay == "cosine", f"unknown schedule {settings.decay}"
    return 0.5 * (1 - math.cos(math.pi * remaining))
