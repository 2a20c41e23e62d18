"""Fully sharded data parallel (FSDP): weights, gradients and moments are sharded by rows over the processes.

`shard` applies PyTorch's `fully_shard` to a model from outside. Each process then keeps its rows of each fp32 weight,
which are the optimizer's masters, with their gradients and moments. A block's weights are gathered whole, in the
number format of its products, when its forward or backward pass begins, and freed when it ends; the embeddings, which
are the output matrix too, stay from the beginning of a forward pass to the end of its backward pass. Gradients are
summed in fp32, and each process gets the sums of its rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpt1.model.objectives import LanguageModel
from gpt1.training import parallel


@dataclass(frozen=True)
class Sharding:
    """A model whose weights are shared out, and when its gradients are summed."""

    model: Any
    """the FSDPModule"""
    weights: Mapping[str, Any]
    """the fp32 weights by name, as DTensors"""
    dtype: torch.dtype
    """number format in which weights are gathered"""
    hold_gradients: bool
    """whether each process adds up whole gradients of its micro-batches in fp32, and sends them once an update; else
    they are sent after each micro-batch"""

    def rows(self, count: int) -> slice:
        """Return this process's rows of `count`."""
        return rows(count, parallel.current())

    def before_pass(self, is_last: bool) -> None:
        """Say whether the next micro-batch is the last of its update; its backward pass sums what is held."""
        self.model.set_requires_gradient_sync(is_last or not self.hold_gradients)

    @torch.no_grad()
    def whole(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a whole weight in every process; all call this together."""
        with parallel.report_lost():
            found: Tensor = self.weights[name].to(dtype).full_tensor()
        return found


def shard(model: LanguageModel, device: torch.device, dtype: torch.dtype, hold_gradients: bool) -> Sharding:
    """Share out a model's fp32 weights over all processes, in place, block by block; move them to the device.

    A model that is still in the CPU's memory never needs that of a device as a whole.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (parallel.current().size,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    # The root holds what is in no block: the embeddings, whose matrix its forward pass reads first and last.
    units: list[Any] = [fully_shard(module, mesh=mesh, mp_policy=policy) for module in (*model.body.blocks, model)]
    for unit in units:
        unit.set_gradient_divide_factor(1.0)  # losses are divided by the counts of the whole batch already
        unit.set_force_sum_reduction_for_comms(True)
    return Sharding(model, dict(model.named_parameters()), dtype, hold_gradients)


def rows(count: int, world: parallel.World) -> slice:
    """Return which of `count` rows a process keeps, as FSDP divides them: equal blocks, the last may be shorter."""
    each = -(-count // world.size)
    return slice(min(count, world.rank * each), min(count, (world.rank + 1) * each))


def local(tensor: Tensor) -> Tensor:
    """Return this process's rows of a sharded tensor, in the same memory; any other tensor unchanged."""
    rows_of: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return rows_of() if rows_of else tensor
