"""Engines: results in the order of the items, a bounded number read ahead, the death of workers and nodes, errors."""

import os
import threading
from copy import copy
from pathlib import Path

import numpy as np
import pytest

from conftest import RayNodes, one_line
from gpt1 import __version__
from gpt1.data import engine
from gpt1.data.engine import AHEAD, engine_of, map_ahead
from gpt1.errors import RunFailed, UserError


def test_threads_give_back_results_in_order() -> None:
    later = threading.Event()

    def wait_for_the_next(n: int) -> int:
        if n == 0:
            assert later.wait(10), "the second item is worked on beside the first"
        later.set()
        return -n

    assert list(map_ahead(wait_for_the_next, range(9))) == [-n for n in range(9)]


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt1.data.engine.find_spec", lambda name: None)
    with one_line("engine ray needs Ray: pip install 'gpt1[ray]'"):
        engine_of("ray", map)


# On a real cluster. Functions are defined inside the tests, so that they are pickled by value.


def test_a_function_is_unpickled_once_in_a_process(ray_nodes: RayNodes) -> None:
    """So a model that it loads is loaded once; also where each process has a GPU, which Ray would end after an item."""
    ray_nodes(1)

    class Counting:
        calls = 0

        def __call__(self, _: int) -> tuple[int, int]:
            self.calls += 1
            return os.getpid(), self.calls

    with engine_of("ray", map, gpu=True) as mapped:
        found = list(mapped(Counting(), range(6)))
    assert len({process for process, _ in found}) == 1
    assert sorted(calls for _, calls in found) == [1, 2, 3, 4, 5, 6]


def test_a_worker_that_dies_and_one_that_always_dies(
    ray_nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray_nodes(1)
    monkeypatch.setattr(engine, "RETRIES", 1)

    def die_once(n: int) -> int:
        mark = tmp_path / str(n)
        if n == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), 9)
        return n

    with engine_of("ray", map) as mapped:
        assert list(mapped(die_once, range(4))) == [0, 1, 2, 3]
        with pytest.raises(RunFailed, match="Ray failed, though it tries everything 2 times: The worker died"):
            list(mapped(lambda _: os.kill(os.getpid(), 9), [1]))


def test_errors_name_the_node(ray_nodes: RayNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    ray_nodes(1)

    def fail(error: Exception) -> None:
        raise error

    with (
        engine_of("ray", map, threads=2) as mapped,
        one_line("threads 2: no node of the Ray cluster has more than 1 CPUs"),
    ):
        list(mapped(fail, []))
    with engine_of("ray", map) as mapped:
        with one_line("runs/x: no such folder (on the Ray node ", "; all nodes need the same files, under the same"):
            list(mapped(fail, [UserError("runs/x: no such folder")]))
        with one_line("/no/a.txt: No such file or directory (on the Ray node "):
            list(mapped(lambda path: open(path), ["/no/a.txt"]))  # noqa: PTH123, SIM115
        with pytest.raises(RunFailed, match=r"^out of memory; lower batch \(on the Ray node [0-9.]+\)$"):
            list(mapped(fail, [RunFailed("out of memory; lower \x1fbatch\x1f")]))
        with pytest.raises(ZeroDivisionError):
            list(mapped(lambda n: 1 / n, [0]))
        monkeypatch.setattr(engine, "__version__", "99")
        with one_line(f"gpt1 {__version__} is installed on the Ray node ", ", 99 here; install the same on all nodes"):
            list(mapped(fail, [None]))


def test_items_come_back_in_order_from_all_nodes_and_few_are_read_ahead(ray_nodes: RayNodes) -> None:
    ray_nodes(2)

    def where(n: int) -> tuple[int, str]:
        import time

        import ray

        time.sleep(0.05 * (n % 3))
        return n, ray.get_runtime_context().get_node_id()

    unread = iter(range(24))
    with engine_of("ray", map) as mapped:
        found = [(*one, len(list(copy(unread)))) for one in mapped(where, unread)]
    assert [n for n, _, _ in found] == list(range(24))
    assert len({node for _, node, _ in found}) == 2
    assert all(24 - left - (n + 1) <= 2 * AHEAD for n, _, left in found), "no more items wait than the nodes need"


def test_a_node_that_dies_with_items_taken_and_done(ray_nodes: RayNodes) -> None:
    """Results of 400 kB stay on the node that made them until they are asked for."""
    kill_one = ray_nodes(2)

    def slow(n: int) -> np.ndarray:
        import time

        time.sleep(0.3)
        return np.full(50_000, n)

    with engine_of("ray", map) as mapped:
        found = mapped(slow, range(12))
        first = [next(found) for _ in range(2)]
        kill_one()
        rest = list(found)
    assert [int(one[0]) for one in first + rest] == list(range(12))
    assert all((one == one[0]).all() for one in first + rest)
