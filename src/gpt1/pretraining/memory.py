"""How much memory there is for a job, and the most that this process has held."""

import os
import sys
from pathlib import Path

import torch

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""What a container may take, where Linux says it."""


def available(device: torch.device) -> int:
    """Bytes that this process can have on the device, those it already holds included; 0 where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    if sys.platform == "linux":
        told = (path.read_text().strip() for path in map(Path, LIMITS) if path.exists())
        limits = [int(limit) for limit in told if limit.isdecimal()]
        return min([_lines("/proc/meminfo")["MemAvailable"] + _lines("/proc/self/status")["VmRSS"], *limits])
    return 0 if sys.platform == "win32" else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak(device: torch.device) -> int:
    """The most bytes held so far: tensors on a GPU, the whole process on a CPU; 0 where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()  # never given back, so what it holds is the most it held
    if sys.platform == "linux":
        return _lines("/proc/self/status")["VmHWM"]  # getrusage would tell that of the process that started this one
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _lines(path: str) -> dict[str, int]:
    """The lines `Name:  123 kB` of one of Linux's own files, in bytes."""
    rows = (line.split() for line in Path(path).read_text().splitlines())
    return {row[0].rstrip(":"): 1024 * int(row[1]) for row in rows if row[-1:] == ["kB"]}
