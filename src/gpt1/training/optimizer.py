"""From gradients to weights: fp32 master weights, the optimizers of the two recipes, the learning-rate schedule."""

import functools
import math
import weakref

import torch
from torch import Tensor, nn

from gpt1.config import Optim
from gpt1.errors import UserError, setting
from gpt1.training import parallel
from gpt1.training.muon import Muon
from gpt1.training.sharding import Sharding, local


class Optimizer:
    """Adam, or Muon with AdamW, on fp32 master weights of a model whose own weights may be bfloat16.

    bfloat16 weights make the model fast, but are too coarse to accumulate small steps, which the masters do. Gradients
    of the micro-batches are summed in fp32 as each backward pass finishes them, then clipped by their global norm and
    applied by `update`. Weights that need no gradient are left unchanged, also by weight decay.

    Several processes sum their gradients, and each then makes the same update. Muon's matrices are not shared out among
    them: that would save little time below 100 million weights, and one more exchange is one more thing to go wrong.

    With a `sharding` they share out everything here: masters, gradients and moments are this process's rows. The
    masters are then the memory from which the weights are gathered, so there is nothing to copy after an update.
    """

    def __init__(self, model: nn.Module, settings: Optim, steps: int, sharding: Sharding | None = None) -> None:
        self.settings, self.steps, self.sharding = settings, steps, sharding
        self.weights = dict(model.named_parameters())
        # An fp32 weight cannot be its own master: its gradient is cleared after each micro-batch.
        masters = {name: local(one.detach()).float() for name, one in self.weights.items()}
        self.masters = {name: nn.Parameter(one if sharding else one.clone()) for name, one in masters.items()}
        self.gradients = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        self.norms: dict[str, Tensor] = {}
        """norm of each gradient accumulated so far in this update"""
        # A weight holds its hook where the garbage collector does not look, so the hook must not hold the optimizer.
        accumulate = functools.partial(Optimizer._accumulate, weakref.proxy(self))
        for name, master in self.masters.items():
            master.grad = self.gradients[name]
            if self.weights[name].requires_grad:
                self.weights[name].register_post_accumulate_grad_hook(functools.partial(accumulate, name))
        trained = {n: m for n, m in self.masters.items() if self.weights[n].requires_grad}
        hidden = {n: m for n, m in trained.items() if settings.method == "muon" and m.dim() == 2 and "blocks." in n}
        rest = {n: m for n, m in trained.items() if n not in hidden}
        self.muon = Muon(
            hidden, settings.momentum, settings.weight_decay, {name: len(self.weights[name]) for name in hidden},
            parallel.current() if sharding else parallel.ALONE,
        )  # fmt: skip
        matrices, vectors = ([m for m in rest.values() if (m.dim() > 1) is matrix] for matrix in (True, False))
        self.adam = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=1e-8, fused=True,
        )  # fmt: skip
        self.on_device = not hidden and all(master.is_cuda for master in trained.values())
        """whether AdamW's kernel clips and skips updates, so the program need not wait for the norm"""
        self.kernel_divides = all(master.device.type in ("cpu", "cuda") for master in trained.values())
        """whether AdamW's kernel divides gradients; on Apple's GPUs it does not (pytorch/pytorch#186360)"""

    def _accumulate(self, name: str, weight: Tensor) -> None:
        """Add a gradient that a backward pass has just finished to its master's, and free it."""
        assert weight.grad is not None, "the hook runs once the gradient is complete"
        gradient, found = self.gradients[name], local(weight.grad)
        if name in self.norms:
            gradient.add_(found)
        else:
            gradient.copy_(found)  # saves a pass over memory compared with adding to zeros
        flat = gradient.view(-1)
        self.norms[name] = torch.dot(flat, flat).sqrt()  # half the time of vector_norm
        weight.grad = None

    def reserve_moments(self) -> list[Tensor]:
        """Allocate and return as much memory as the moments take that the first update creates."""
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
        norm = self._global_norm()
        if loss is not None:
            norm = torch.where(loss.isfinite() & (loss <= limit), norm.to(loss.device), math.nan)
        self.norms.clear()
        if self.on_device or math.isfinite(norm.item()):
            self._apply(learning_rate(step, self.steps, self.settings), norm)
        return norm

    def _global_norm(self) -> Tensor:
        """Return the norm of all gradients, which several processes first replace by their sums."""
        norms, world = list(self.norms.values()), parallel.current()
        if world.size > 1:
            trained = [gradient for name, gradient in self.gradients.items() if self.weights[name].requires_grad]
            if not self.sharding:
                world.sum_tensors(trained)
            norms = list(torch._foreach_norm(trained))
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        if not self.sharding:
            return norm
        square = norm.double().square()
        world.sum_tensors([square])
        return square.sqrt().float()

    def _apply(self, rate: float, norm: Tensor) -> None:
        """Clip the gradients, whose global norm is `norm`, and update at `rate` times the peak learning rates."""
        for group in self.adam.param_groups:
            group["lr"] = self.settings.lr * rate
        clip = self.settings.clip
        is_unclipped = clip == 0 or (not self.on_device and norm.item() <= clip)
        divisor = None if is_unclipped else (norm / clip).clamp(min=1)
        if divisor is not None and not self.kernel_divides:
            torch._foreach_div_([one.grad for group in self.adam.param_groups for one in group["params"]], divisor)
        # AdamW's fused kernel divides gradients by `grad_scale` and skips the update on `found_inf` as it reads them,
        # which saves passes over all gradients. Both attributes are meant for loss scaling.
        vars(self.adam)["grad_scale"] = divisor if self.kernel_divides else None
        vars(self.adam)["found_inf"] = (~norm.isfinite()).float() if self.on_device else None
        self.adam.step()
        products = self.sharding.dtype if self.sharding else next(iter(self.weights.values())).dtype
        self.muon.step(self.settings.matrix_lr * rate, products, divisor)
        if not self.sharding:
            with torch.no_grad():
                torch._foreach_copy_(list(self.weights.values()), list(self.masters.values()))

    def state(self) -> dict[str, Tensor]:
        """Return all that is needed to resume exactly, by name.

        `master.NAME` is a parameter's fp32 value, `muon.NAME` its momentum, and `adam.exp_avg.NAME`,
        `adam.exp_avg_sq.NAME` and `adam.step.NAME` are Adam's moments and step count. With a sharding, this process's
        rows of each.
        """
        out = {f"master.{name}": master.detach() for name, master in self.masters.items()}
        out |= {f"muon.{name}": momentum for name, momentum in self.muon.state().items()}
        for name, master in self.masters.items():
            out |= {f"adam.{key}.{name}": value for key, value in self.adam.state.get(master, {}).items()}
        return out

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned for the same model, or this process's rows of it (`Sharding.rows`).

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
            if not self.sharding:
                self.weights[name].copy_(master)
            moments = {key: state.get(f"adam.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if moments["step"] is not None:
                self.adam.state[master] = {
                    k: v.to(master.device, copy=True) for k, v in moments.items() if v is not None
                }
        self.muon.load({name: state[f"muon.{name}"] for name in self.muon.names})


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
