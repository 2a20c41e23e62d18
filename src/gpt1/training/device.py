"""Set up the device, number format, threads, seed and allocator, and prepare models for training on the device.

Only `setup_device` changes the state of the process: commands call it once, when they start. Code that runs inside
another program wraps it in `preserve_torch_state`. A process that was forked computes with one thread.
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gpt1 import torchrun
from gpt1.config import Command
from gpt1.errors import RunFailed, UserError, setting
from gpt1.options import check_threads_and_seed

if TYPE_CHECKING:
    from gpt1.model.objectives import LanguageModel, TaskModel

CGROUPS = Path("/sys/fs/cgroup")
DEVICE_TYPES = ("cpu", "cuda", "mps")
# Attention of earlier versions reads beyond the keys on Apple's GPUs (pytorch/pytorch#169222, #174861).
APPLE_SINCE = "2.11"
# glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD, in bytes.
MALLOPT = {-1: 2**31 - 1, -2: 2**26, -3: 2**30}
# Messages of allocators that raise a plain RuntimeError.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "MPS backend out of memory")
_process = {"forked": False}


def setup_device(settings: Command) -> tuple[torch.device, torch.dtype]:
    """Set torch's threads and seed and the allocator's options; return the device and number format to use.

    Raises UserError for a device that does not exist, and for threads or a seed out of range.
    """
    check_threads_and_seed(settings.threads, settings.seed)
    keep_freed_memory()
    _set_threads(settings.threads)
    torch.manual_seed(settings.seed)
    return choose_device(settings.device, settings.dtype)


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Set torch's number of threads within the block (0: every available core); None changes nothing."""
    before = torch.get_num_threads()
    if threads is not None:
        check_threads_and_seed(threads, 0)
        _set_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def preserve_torch_state() -> Iterator[None]:
    """Restore torch's number of threads and the state of its random number generators.

    The allocator's options, which a process sets once, stay (see `keep_freed_memory`).
    """
    threads = torch.get_num_threads()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() and torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads(threads)


def choose_device(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Return the device and number format that two settings ask for; nothing is changed.

    `device` is auto, cpu, cuda, cuda:1 or mps; `dtype` is auto (bf16 where the hardware supports it), bf16 or fp32.
    Raises UserError for anything else and for a device that does not exist.
    """
    if device == "auto":
        has_apple = torch.backends.mps.is_available() and torch.__version__ >= APPLE_SINCE
        device = "cuda" if torch.cuda.is_available() else "mps" if has_apple else "cpu"
    if (kind := device.partition(":")[0]) not in DEVICE_TYPES:
        raise UserError(f"{setting('device')} {device}: give auto, cpu, cuda, cuda:1 or mps")
    if kind == "mps" and torch.__version__ < APPLE_SINCE:
        raise UserError(
            f"{setting('device')} mps: torch {torch.__version__} computes attention wrongly there; update it"
        )
    if kind == "mps" and dtype == "bf16":  # pytorch/pytorch#195910
        raise UserError(f"{setting('dtype')} bf16: on Apple's GPUs torch then lets tokens see later ones; use fp32")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # torch's message is several lines long
        raise UserError(f"{setting('device')} {device}: this machine has no such device ({reason})") from None
    chosen = torch.device(device)
    formats = {"bf16": torch.bfloat16, "fp32": torch.float32}
    formats["auto"] = formats["bf16" if _has_bf16(chosen) else "fp32"]
    if dtype not in formats:
        raise UserError(f"{setting('dtype')} {dtype}: give auto, bf16 or fp32")
    return chosen, formats[dtype]


def prepare_for_training(model: "LanguageModel | TaskModel", device: torch.device, compile: bool) -> None:
    """Make a model train fast on `device`, in place; its parameters and the names in its state dict stay the same.

    On a CPU, `model.fused_cpu` replaces parts of the network, with compiled kernels if `compile`; elsewhere `compile`
    compiles each block. Compiling takes seconds at the first update of each shape.
    """
    if device.type == "cpu":
        from gpt1.model import fused_cpu  # here, since most programs that set up a device train nothing

        fused_cpu.fuse(model, compile)
    elif compile:
        for block in model.body.blocks:
            block.compile()


def compiler_error(device: torch.device) -> str:
    """Return why torch.compile does not work for this device, in one line; empty if it does. The first call is slow."""
    try:
        torch.compile(torch.neg)(torch.zeros(64, device=device))
    except Exception as error:  # a missing or broken toolchain can raise anything
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


@contextmanager
def out_of_memory(remedy: str) -> Iterator[None]:
    """Turn running out of memory, on a GPU or the CPU, into RunFailed: one line that ends with `remedy`.

    `remedy` names what to lower: `f"lower {setting('batch')}"`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise RunFailed(f"out of memory; {remedy}") from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator, of a GPU or the CPU, raised the error."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in OUT_OF_MEMORY)


def available_cores() -> int:
    """Return the number of cores that this process may use.

    That is the least of its affinity, its cgroup's (container's) limit and OMP_NUM_THREADS, by which joblib shares the
    cores among its workers. Processes that `torchrun` started share the cores of their machine; it sets
    OMP_NUM_THREADS to 1 unless that is given, so then 1 is no limit.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "2,1": the rest is for nested loops
    processes = torchrun.processes_here()
    is_limit = share.isdecimal() and int(share) > (0 if processes == 1 else 1)
    limits = [min([cores, *_cgroup_limits()]) / processes, *([int(share)] if is_limit else [])]
    return max(1, (math.ceil if processes == 1 else math.floor)(min(limits)))


def _set_threads(threads: int) -> None:
    torch.set_num_threads(1 if _process["forked"] else threads or available_cores())


def _after_fork() -> None:
    """Leave OpenMP alone: its threads do not survive a fork, and a loop would wait for them for ever."""
    _process["forked"] = True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _cgroup_limits() -> Iterator[float]:
    """Yield the CPU limits, in cores, of this process's cgroup and of the root that a container sees."""
    own = Path("/proc/self/cgroup")
    lines = [line.split(":", 2) for line in own.read_text().splitlines()] if own.exists() else []
    names = {name.strip("/") for _, kinds, name in lines if "cpu" in kinds.split(",") or not kinds} | {""}
    for name in names:
        files = [CGROUPS / name / "cpu.max"]  # cgroups v2: quota and period in one file
        if not files[0].exists():
            files = [CGROUPS / "cpu" / name / f"cpu.cfs_{what}_us" for what in ("quota", "period")]
        if all(file.exists() for file in files):
            quota, period = " ".join(file.read_text() for file in files).split()[:2]
            if quota.isdecimal():  # "max" or -1 is no limit
                yield float(quota) / float(period)


def keep_freed_memory() -> None:
    """Tell glibc to keep the memory of freed tensors, for the whole process and until it ends.

    A training step frees and allocates the same large tensors. By default glibc returns their pages to the kernel in
    between, which clears them again for every step; keeping them saves a third of the time.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in MALLOPT.items():
            libc.mallopt(ctypes.c_int(option), ctypes.c_int(value))


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False
