"""Rank and world size, from the environment variables that `torchrun` sets."""

import os


def is_launched() -> bool:
    """Return whether `torchrun` has started this process with others."""
    needed = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    return needed <= os.environ.keys() and int(os.environ["WORLD_SIZE"]) > 1


def rank() -> int:
    """Return the number of this process; a single one is number 0."""
    return _number("RANK", 0)


def processes() -> int:
    """Return the number of processes on all machines."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Return the number of this process among those on this machine."""
    return _number("LOCAL_RANK", 0)


def processes_here() -> int:
    """Return the number of processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def restarts() -> int:
    """Return how often these processes have been started again."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def _number(name: str, single: int) -> int:
    """Return the number in a variable, or `single` for a process without others."""
    return int(os.environ.get(name, single)) if is_launched() else single
