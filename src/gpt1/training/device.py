"""Where the work happens: device, number format, threads, and what the allocator does with freed pages."""

import ctypes
import os
import sys

import torch
from torch import nn

from gpt1.config import Command
from gpt1.errors import UserError
from gpt1.model import kernels
from gpt1.options import check_command

DEVICES = ("cpu", "cuda", "mps")
MALLOPT = {-1: 2**31 - 1, -2: 2**26, -3: 2**30}
"""glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD, in bytes."""


def machine(settings: Command) -> tuple[torch.device, torch.dtype]:
    """The device and number format that the settings and this machine call for; sets threads and the seed.

    Nothing is compiled until `fuse`.
    Raises UserError for a device that is not there, and more threads than a machine has.
    """
    check_command(settings)
    keep_pages()
    torch.set_num_threads(settings.threads or len(_cores()))
    torch.manual_seed(settings.seed)
    kernels.compiled(False)  # whatever the last job in this process asked for
    device = _device(settings.device)
    if settings.dtype == "auto":
        return device, torch.bfloat16 if _has_bf16(device) else torch.float32
    return device, torch.bfloat16 if settings.dtype == "bf16" else torch.float32


def compiler_error(device: torch.device) -> str:
    """Why torch.compile does not work for this device, in one line; empty if it does. Takes seconds, the first time."""
    try:
        torch.compile(torch.neg)(torch.zeros(64, device=device))
    except Exception as error:  # whatever a missing or broken toolchain brings up
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def fuse(blocks: nn.ModuleList, device: torch.device) -> None:
    """Compile what training goes through: on a CPU the functions of `model.kernels`, elsewhere whole blocks."""
    if device.type == "cpu":
        kernels.compiled(True)
        return
    for block in blocks:
        block.compile()


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.partition(":")[0] not in DEVICES:
        raise UserError(f"--device {name}: give auto, cpu, cuda, cuda:1 or mps")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # torch goes on for pages
        raise UserError(f"--device {name}: this machine has no such device ({reason})") from None
    return torch.device(name)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(has.get("amx_bf16") or has.get("avx512_bf16"))
    return False


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def keep_pages() -> None:
    # A training step frees and asks again for the same large tensors; glibc gives their pages back to the kernel
    # in between, and every step would pay for clearing them anew. Keeping them is worth a third of the time.
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in MALLOPT.items():
            libc.mallopt(ctypes.c_int(option), ctypes.c_int(value))
