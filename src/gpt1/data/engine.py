"""Engines: process a job's items in threads of this process, or on the nodes of a Ray cluster; no torch.

An engine is a context manager that yields an ordered `Map`. The items are a stream: a map takes a bounded number of
them ahead and returns results in the order of the items, so the engine changes no result, and memory does not grow
with the stream.
"""

import logging
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from gpt1 import __version__
from gpt1.config import EngineName
from gpt1.errors import Gpt1Error, RunFailed, UserError, first_line, setting

Item = TypeVar("Item")
Value = TypeVar("Value")
Pending = TypeVar("Pending")

# How often Ray repeats an item whose worker or node died, or ran out of memory.
RETRIES = 5
# Items under way for each worker of a cluster: one more than it works on, so that it need not wait.
AHEAD = 2
# What to do about an error that only some nodes have.
ON_ALL_NODES = "all nodes need the same files, under the same paths, and devices"
# Defaults of Ray's environment variables.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing over the network
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # gives up on a cluster that does not answer after half a minute, not after ten
}


class Map(Protocol):
    """Yields `function(item)` of each item, in order."""

    def __call__(self, function: Callable[[Item], Value], items: Iterable[Item], /) -> Iterator[Value]: ...


Engine = AbstractContextManager[Map]


def map_ahead(function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
    """Map in two threads: one can hold the GIL while the other works without it."""
    with ThreadPoolExecutor(2) as threads:
        yield from _in_order(lambda item: threads.submit(function, item), Future.result, items, lambda: 1)


def engine_of(name: EngineName, local: Map, threads: int = 0, gpu: bool = False) -> Engine:
    """Return an engine by its name: `local` itself, or a map over a Ray cluster.

    A worker of the cluster takes `threads` CPUs, and one GPU if the cluster has any and `gpu`. Raises UserError if Ray
    is not installed.
    """
    if name == "local":
        return nullcontext(local)
    if find_spec("ray") is None:
        raise UserError(f"{setting('engine')} ray needs Ray: pip install 'gpt1[ray]'")
    return _ray(max(1, threads), gpu)


def _in_order(
    submit: Callable[[Item], Pending],
    result: Callable[[Pending], Value],
    items: Iterable[Item],
    ahead: Callable[[], int],
) -> Iterator[Value]:
    """Submit items, at most `ahead()` before the one whose result is yielded next."""
    waiting: deque[Pending] = deque()
    try:
        for item in items:
            waiting.append(submit(item))
            while len(waiting) > ahead():
                yield result(waiting.popleft())
        while waiting:
            yield result(waiting.popleft())
    finally:
        waiting.clear()  # an error's traceback keeps this frame, and Ray must not end before its references do


# Ray


@contextmanager
def _ray(threads: int, gpu: bool) -> Iterator[Map]:
    """Yield a map over the tasks of a Ray cluster: the one in use, that of RAY_ADDRESS, a running one, or a new one."""
    for name, value in RAY_ENVIRONMENT.items():  # Ray reads them when it is imported
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield partial(_ray_map, threads, gpu)
        return
    # Else Ray prints the death of a node on standard output, which is for results.
    ray._private.worker._worker_logs_enabled = False
    try:
        _connect()
        yield partial(_ray_map, threads, gpu)
    finally:
        ray.shutdown()
        ray._private.worker._worker_logs_enabled = True


def _connect() -> None:
    """Connect to the cluster of RAY_ADDRESS, else to a running one, else start one on the cores of this process."""
    import ray

    quiet: dict[str, Any] = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Tip: ", FutureWarning)
            try:
                ray.init(num_cpus=cores, **quiet)
            except ValueError:  # a running cluster knows its cores
                ray.init(**quiet)
    except (ConnectionError, RuntimeError) as error:
        place = os.environ.get("RAY_ADDRESS") or "this machine"
        raise RunFailed(
            f"no Ray cluster at {place}: {first_line(error)}; start one with `ray start --head`, or set RAY_ADDRESS"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm or signal.SIG_DFL)  # ray.init replaces it


def _ray_map(threads: int, gpu: bool, function: Callable[[Item], Value], items: Iterable[Item], /) -> Iterator[Value]:
    """Map with Ray tasks. The unfinished and undelivered work of a dead worker or node is repeated elsewhere."""
    import ray

    most = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if most < threads:
        raise UserError(f"{setting('threads')} {threads}: no node of the Ray cluster has more than {most:g} CPUs")
    wants = {"GPU": 1, "CPU": threads} if gpu and ray.cluster_resources().get("GPU") else {"CPU": threads}
    # max_calls 0: a process that has a GPU also works on further items.
    task: Any = ray.remote(num_cpus=threads, num_gpus=wants.get("GPU", 0), max_calls=0, max_retries=RETRIES)(_work)
    shared = ray.put(function)

    def submit(item: Item) -> tuple[Any, Any]:
        held = ray.put(item)  # until its result has come, so that the work can be repeated
        return task.remote([shared], held, threads, __version__), held

    def result(pending: tuple[Any, Any]) -> Any:
        return ray.get(pending[0])

    def ahead() -> int:
        found = ray.cluster_resources()  # of the nodes that are alive
        return AHEAD * max(1, int(min(found.get(name, 0) / count for name, count in wants.items())))

    try:
        yield from _in_order(submit, result, items, ahead)
    except ray.exceptions.RayTaskError as error:  # raised by the function, not by Ray
        if "failed to import on the worker" in str(error.cause):
            reason = str(error.cause).splitlines()[-1]
            raise UserError(
                f"a Ray node cannot import gpt1 ({reason}); install gpt1 {__version__} on all nodes"
            ) from None
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise RunFailed(f"Ray failed, though it tries everything {RETRIES + 1} times: {first_line(error)}") from None


def _work(shared: list[Any], item: Item, threads: int, version: str) -> Any:
    """Process one item in a worker. `shared` holds a reference to the function, which Ray does not resolve."""
    import ray

    where = f"on the Ray node {ray.util.get_node_ip_address()}"
    if version != __version__:
        raise UserError(f"gpt1 {__version__} is installed {where}, {version} here; install the same on all nodes")
    # Read when the function, and polars with it, is imported.
    os.environ |= {"POLARS_MAX_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
    try:
        return _function(shared[0])(item)
    except Gpt1Error as error:
        remedy = f"; {ON_ALL_NODES}" if isinstance(error, UserError) else ""
        raise type(error)(f"{error.args[0]} ({where}{remedy})") from None
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: {error.strerror} ({where}; {ON_ALL_NODES})") from None


@lru_cache(maxsize=1)
def _function(reference: Any) -> Callable[[Any], Any]:
    """Return the function of this map, unpickled once in each process, so that what it loads and caches stays."""
    import ray

    return ray.get(reference)
