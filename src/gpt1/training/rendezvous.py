"""Connect the processes that `torchrun` started: reach one store, then form torch's process group."""

import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from gpt1 import torchrun
from gpt1.errors import RunFailed, UserError, first_line, setting

# Seconds in which all processes must have met, and their first sum must have arrived.
MEETING_SECONDS = 60.0
# How long a process waits for the others later on: rank 0 may be writing, or measuring the speed.
PATIENCE = timedelta(minutes=30)


def choose_gpu(device: str) -> bool:
    """Make the GPU of this process's local rank the current one; return False if it works on a CPU.

    Raises UserError if there are fewer GPUs than processes, or for a device that processes cannot share out.
    """
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return False
    if device not in ("auto", "cuda"):
        raise UserError(f"{setting('device')} {device}: several processes need auto, cpu or cuda, one GPU for each")
    here, found = torchrun.processes_here(), torch.cuda.device_count()
    if found < here:
        raise UserError(
            f"{here} processes on {socket.gethostname()}, which has {found} GPUs; start torchrun with "
            f"--nproc-per-node {max(1, found)}, or give {setting('device')} cpu"
        )
    torch.cuda.set_device(torchrun.local_rank())
    return True


def meet(number: int, is_gpu: bool) -> tuple[Any, Any]:
    """Form the process group and make a first sum, in these processes' meeting `number`.

    Return two stores that all processes reach: one of this meeting, and one that outlives restarts. Raises RunFailed,
    naming what to look at, if that takes more than `MEETING_SECONDS`.
    """
    import torch
    import torch.distributed as dist

    # Its default arguments are the process group that exists when it is first imported, which torch.compile may do. A
    # group that is never freed leaves threads behind, which can crash the interpreter as it ends.
    import torch.distributed.nn.functional

    limit, who, rank, size = timedelta(seconds=MEETING_SECONDS), describe(), torchrun.rank(), torchrun.processes()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # Processes meet through a store, which torchrun hosts, or rank 0 if torchrun was told not to.
    is_holder = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        if not is_holder:
            _wait_for(host, port)  # the store would print pages on standard error
        whole = dist.TCPStore(host, port, None, is_holder, limit, wait_for_workers=False, multi_tenant=True)
        store = dist.PrefixStore(f"gpt1/{torchrun.restarts()}/{number}", whole)
        missing = _missing(store, rank, size)
    except (RuntimeError, OSError) as error:
        raise RunFailed(
            f"{who}, cannot reach MASTER_ADDR:MASTER_PORT, {host}:{port} ({first_line(error)}); check that both are "
            "right, that no firewall blocks the port, and that rank 0, or torchrun there, is running"
        ) from None
    if missing:
        raise RunFailed(
            f"{who}, waited {MEETING_SECONDS:g} seconds at {host}:{port} for rank {_listed(missing)}; check that all "
            "were started with the same number of processes, and that none has ended"
        )
    try:
        backend = "cpu:gloo,cuda:nccl" if is_gpu else "gloo"
        # The first group has a short time limit. The one that works waits longer.
        dist.init_process_group(backend, store=dist.PrefixStore("meet", store), rank=rank, world_size=size,
                                timeout=limit)  # fmt: skip
        one = torch.ones((), device="cuda" if is_gpu else "cpu")
        dist.all_reduce(one)
        assert one.item() == size, "every process adds one"
        dist.destroy_process_group()
        dist.init_process_group(backend, store=dist.PrefixStore("work", store), rank=rank, world_size=size,
                                timeout=PATIENCE)  # fmt: skip
    except RuntimeError as error:
        name, variable = ("NCCL", "NCCL_SOCKET_IFNAME") if is_gpu else ("Gloo", "GLOO_SOCKET_IFNAME")
        raise RunFailed(
            f"{who}, has met the others at {host}:{port}, but they cannot exchange data by {name} "
            f"({first_line(error)}); check that all ports are open between the machines, and name the network "
            f"interface by {variable}"
        ) from None
    return store, dist.PrefixStore("gpt1/kept", whole)


def _wait_for(host: str, port: int) -> None:
    """Wait until something listens at a port. Raises OSError if nothing does for `MEETING_SECONDS`."""
    until = time.monotonic() + MEETING_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=MEETING_SECONDS).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.2)


def _missing(store: Any, rank: int, size: int) -> list[int]:
    """Tell the others that this process is here, wait for them, and return the ranks that have not come in time."""
    until = time.monotonic() + MEETING_SECONDS
    store.set(f"here/{rank}", socket.gethostname())
    store.add("here", 1)
    while store.add("here", 0) < size:
        if time.monotonic() > until:
            return [other for other in range(size) if not store.check([f"here/{other}"])]
        time.sleep(0.05)
    return []


def describe() -> str:
    """Return which process this is, for messages."""
    return f"rank {torchrun.rank()} of {torchrun.processes()} processes, on {socket.gethostname()}"


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
