"""From gradients to weights: fp32 masters, the two recipes' optimizers, and the learning rate's course."""

import functools
import math

import torch
from torch import Tensor, nn

from gpt1.config import Optim
from gpt1.training.muon import Muon


class Optimizer:
    """Adam, or Muon with AdamW beside it, over fp32 masters of a model whose weights may be bfloat16.

    A model in bfloat16 computes fast but cannot add small steps to its weights; the masters can. Gradients of the
    micro-batches are summed in fp32 as each backward pass hands them over, clipped by their global norm and applied
    (`update`). Weights that ask for no gradient stay as they are, weight decay included.
    """

    def __init__(self, model: nn.Module, settings: Optim, steps: int) -> None:
        self.settings, self.steps = settings, steps
        self.weights = dict(model.named_parameters())
        self.masters = {name: _master(weight) for name, weight in self.weights.items()}
        self.gradients = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        self.norms: dict[str, Tensor] = {}
        """norm of every gradient that holds something of this update"""
        for name, master in self.masters.items():
            master.grad = self.gradients[name]
            if self.weights[name].requires_grad:
                self.weights[name].register_post_accumulate_grad_hook(functools.partial(self._take, name))
        learnt = {n: m for n, m in self.masters.items() if self.weights[n].requires_grad}
        hidden = {n: m for n, m in learnt.items() if settings.method == "muon" and _is_hidden_matrix(n, m)}
        rest = {n: m for n, m in learnt.items() if n not in hidden}
        self.muon = Muon(hidden, settings.momentum, settings.weight_decay)
        decayed, plain = ([m for m in rest.values() if (m.dim() > 1) is matrix] for matrix in (True, False))
        self.adam = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=1e-8, fused=True,
        )  # fmt: skip
        self.on_device = not hidden and all(master.is_cuda for master in learnt.values())
        """whether clipping and skipping are left to the kernel, so that nothing waits for the norm"""

    def _take(self, name: str, weight: Tensor) -> None:
        """Move a gradient that a backward pass has just finished to its master, and free it."""
        assert weight.grad is not None, "called once the gradient is there"
        gradient = self.gradients[name]
        if name in self.norms:
            gradient.add_(weight.grad)
        else:
            gradient.copy_(weight.grad)  # one pass fewer than adding to zeros
        flat = gradient.view(-1)
        self.norms[name] = torch.dot(flat, flat).sqrt()  # half the time of vector_norm
        weight.grad = None

    def update(self, step: int) -> Tensor:
        """Make update number `step` (from 0) and return the global gradient norm before clipping, a scalar.

        A norm that is not finite changes nothing: no weight, no moment.
        """
        for name in self.gradients.keys() - self.norms.keys():
            self.gradients[name].zero_()
        norms = list(self.norms.values())
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        self.norms.clear()
        if self.on_device or math.isfinite(norm.item()):
            self._apply(learning_rate(step, self.steps, self.settings), norm)
        return norm

    def _apply(self, share: float, norm: Tensor) -> None:
        """A step at this share of the peak rates, on the gradients clipped to a global `norm` within the limit."""
        for group in self.adam.param_groups:
            group["lr"] = self.settings.lr * share
        divisor = self._divisor(norm)
        # AdamW divides, and skips, as it goes, which saves passes over all gradients; both are made for loss scaling.
        vars(self.adam)["grad_scale"] = divisor
        vars(self.adam)["found_inf"] = (~norm.isfinite()).float() if self.on_device else None
        self.adam.step()
        self.muon.step(self.settings.matrix_lr * share, divisor)
        with torch.no_grad():
            torch._foreach_copy_(list(self.weights.values()), list(self.masters.values()))

    def _divisor(self, norm: Tensor) -> Tensor | None:
        """What clips gradients of this norm; None, which costs nothing, where it is known to be 1."""
        clip = self.settings.clip
        if clip == 0 or (not self.on_device and norm.item() <= clip):
            return None
        return (norm / clip).clamp(min=1)

    def state(self) -> dict[str, Tensor]:
        """Masters and moments as named tensors: all that an exact continuation needs."""
        out = {f"master.{name}": master.detach() for name, master in self.masters.items()}
        out |= {f"muon.{shape}": momentum for shape, momentum in self.muon.state.items()}
        for name, master in self.masters.items():
            out |= {f"adam.{key}.{name}": value for key, value in self.adam.state.get(master, {}).items()}
        return out

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Take up the state another optimizer of the same model left. Raises KeyError for a tensor it lacks."""
        for name, master in self.masters.items():
            master.copy_(state[f"master.{name}"])
            self.weights[name].copy_(master)
            moments = {key: state.get(f"adam.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if moments["step"] is not None:
                self.adam.state[master] = {
                    k: v.to(master.device, copy=True) for k, v in moments.items() if v is not None
                }
        for shape, momentum in self.muon.state.items():
            momentum.copy_(state[f"muon.{shape}"])


def learning_rate(step: int, steps: int, settings: Optim) -> float:
    """Share of the peak rate at update `step` (from 0): linear warm-up, then cosine or linear decay to 0."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    left = (steps - step) / max(1, steps - settings.warmup)
    return left if settings.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))


def _master(weight: nn.Parameter) -> Tensor:
    # In fp32 the weight could be its own master, but then its gradient would be cleared between micro-batches.
    return nn.Parameter(weight.detach().float().clone())


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.dim() == 2 and "blocks." in name
