"""Memory that a pre-training run needs and a device has, and whether processes must share the model out for it."""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from gpt1 import torchrun
from gpt1.config import Pretrain
from gpt1.model.gpt import count_parameters
from gpt1.training import parallel

# Files that hold a container's memory limit, of cgroups v2 and v1.
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Fraction of a device that may hold what stays throughout a run; the rest is for the passes of a micro-batch.
ROOM = 0.5


def choose_parallel(settings: Pretrain, dtype: torch.dtype, device: torch.device) -> Literal["ddp", "fsdp"]:
    """Return how several processes train: as asked for, or `fsdp` if all that a run holds takes more than `ROOM`."""
    if settings.parallel != "auto":
        return settings.parallel
    return "ddp" if sum(memory_parts(settings, dtype).values()) <= ROOM * _least_memory(device) else "fsdp"


def can_hold_gradients(settings: Pretrain, dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether, under FSDP, the processes have room for whole gradients."""
    return gradients_fit(memory_parts(settings, dtype), parallel.current().size, _least_memory(device))


def gradients_fit(parts: Mapping[str, int], processes: int, memory: float) -> bool:
    """Return whether whole gradients in each process, beside its share of all else, take at most `ROOM` of a device."""
    shared_out = sum(parts.values()) - parts["weights"]
    return parts["gradients"] + shared_out / processes <= ROOM * memory


def _least_memory(device: torch.device) -> float:
    """Return the bytes of memory of the process that has least: in total, as what is free differs between starts."""
    if device.type == "cuda":
        size = torch.cuda.get_device_properties(device).total_memory
    else:
        size = _machine_memory() // torchrun.processes_here()
    return parallel.current().least(size or math.inf)


def memory_parts(settings: Pretrain, dtype: torch.dtype) -> dict[str, int]:
    """Return the bytes that a run holds throughout, by part; see `training.optimizer`."""
    count, in_matrices = count_parameters(settings.model)
    # Muon keeps one number for each of its weights, Adam two.
    moments = 2 * count - (in_matrices if settings.optim.method == "muon" else 0)
    return {"weights": dtype.itemsize * count, "masters": 4 * count, "gradients": 4 * count, "moments": 4 * moments}


def available_memory(device: torch.device) -> int:
    """Return the bytes of device memory available to this process, including what it holds already; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    if sys.platform == "linux":
        return min(_proc("/proc/meminfo")["MemAvailable"] + _proc("/proc/self/status")["VmRSS"], _machine_memory())
    return _machine_memory()


def _machine_memory() -> int:
    """Return the bytes of the machine's memory, or of its share that a container may use; 0 if unknown."""
    if sys.platform == "win32":
        return 0
    found = (path.read_text().strip() for path in map(Path, MEMORY_LIMITS) if path.exists())
    limits = [int(limit) for limit in found if limit.isdecimal()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def peak_memory(device: torch.device) -> int:
    """Return the peak memory so far, in bytes: that of tensors on a GPU, that of the process on a CPU; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()  # the driver never gives memory back, so this is the peak
    if sys.platform == "linux":
        return _proc("/proc/self/status")["VmHWM"]  # getrusage would include the parent process
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _proc(path: str) -> dict[str, int]:
    """Return the lines `Name:  123 kB` of a file of Linux's /proc, in bytes."""
    rows = (line.split() for line in Path(path).read_text().splitlines())
    return {row[0].rstrip(":"): 1024 * int(row[1]) for row in rows if row[-1:] == ["kB"]}
