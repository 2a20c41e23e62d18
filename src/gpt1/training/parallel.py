"""Several processes that train or predict together; after `join`, only this module uses ranks.

Every process has the whole model (distributed data parallel; `sharding` shares it out) and takes every n-th row of
each batch. Gradients and losses are summed over the processes once an update, and counts of their terms before it, so
that a sum is divided once by the count of the whole batch, in whatever number of processes. All then make the same
update. Only the first process, rank 0, writes files and messages.

Without `torchrun`, and with a single process, `current()` is a world of one, whose methods do nothing, and nothing
distributed is imported.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gpt1 import resume, torchrun
from gpt1.console import quiet
from gpt1.errors import Gpt1Error, RunFailed, UserError, exit_code, first_line, setting

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# Seconds for which other processes leave it to rank 0 to report an error that all of them have.
REPORT_SECONDS = 1.0
# Words in the errors of torch's backends when a process cannot be reached.
BACKENDS = ("gloo", "nccl", "distbackenderror", "connection", "timed out")
# Seconds for which processes that were started again wait for those before them to end.
RESTART_SECONDS = 60.0
# Numbers in one message of gradients: 100 MB, which fills any network and is a small copy beside a model.
BUCKET = 25_000_000


class ProcessLost(RunFailed):
    """Another process has ended or does not answer; the states that are saved are as good as ever."""


@dataclass(frozen=True)
class World:
    """The processes that work together: this one's number, `rank`, and how many there are."""

    rank: int = 0
    size: int = 1
    group: Any = field(default=None, compare=False)
    """torch's process group that messages go through; None: the one that `join` made"""

    @property
    def part(self) -> slice:
        """This process's part of anything in rows: every `size`-th one, so that sorted rows are shared out evenly."""
        return slice(self.rank, None, self.size)

    def seed(self, seed: int, step: int) -> int:
        """Return the seed of an update's random numbers, which processes must not share."""
        return hash((seed, step, self.rank) if self.size > 1 else (seed, step))

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums of a few numbers over all processes, whole ones exactly."""
        if self.size == 1:
            return list(numbers)
        import torch

        sums = torch.tensor(numbers, dtype=torch.float64)
        with report_lost():
            torch.distributed.all_reduce(sums, group=self.group)
        return sums.tolist()

    def least(self, number: float) -> float:
        """Return the smallest of a number over all processes."""
        if self.size == 1:
            return number
        import torch

        least = torch.tensor(number, dtype=torch.float64)
        with report_lost():
            torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN, group=self.group)
        return least.item()

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self.sum_numbers([flag])[0])

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.any(False)

    def sum_tensors(self, tensors: Sequence["Tensor"]) -> None:
        """Replace tensors of one type and device by their sums over all processes; a GPU works on while we go on."""
        if self.size == 1:
            return
        import torch

        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.view(-1) for tensor in bucket])
            with report_lost():
                torch.distributed.all_reduce(flat, group=self.group)
            parts = flat.split([tensor.numel() for tensor in bucket])
            torch._foreach_copy_(list(bucket), [part.view_as(one) for part, one in zip(parts, bucket, strict=True)])

    def from_main(self, make: Callable[[], T]) -> T:
        """Return what `make()` returns in rank 0, the only process that calls it."""
        if self.size == 1:
            return make()
        import torch

        box = [make() if self.rank == 0 else None]
        with report_lost():
            torch.distributed.broadcast_object_list(box, 0, group=self.group, device=torch.device("cpu"))
        return box[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank, in each of them."""
        if self.size == 1:
            return [value]
        import torch

        values: list[Any] = [None] * self.size
        with report_lost():
            torch.distributed.all_gather_object(values, value, group=self.group)
        return values

    def check_batch(self, batch: int) -> None:
        """Raise UserError if some processes would have no part of any batch."""
        if batch < self.size:
            raise UserError(
                f"{setting('batch')} {batch} is less than the number of processes, {self.size}; start fewer"
            )

    def exchange(
        self, sent: Sequence[Sequence["Tensor"]], shapes: Sequence[Sequence[tuple[int, ...]]], like: "Tensor"
    ) -> list[list["Tensor"]]:
        """Send each process a list of tensors; return the list that comes from each, of these shapes.

        All are of the type and on the device of `like`.
        """
        if self.size == 1:
            return [list(sent[0])]
        import torch

        flat = torch.cat([like.new_empty(0), *(one.reshape(-1) for tensors in sent for one in tensors)])
        sizes = [[math.prod(shape) for shape in one] for one in shapes]
        received = like.new_empty(sum(map(sum, sizes)))
        with report_lost():
            torch.distributed.all_to_all_single(
                received, flat, [sum(one) for one in sizes], [sum(one.numel() for one in tensors) for tensors in sent],
                group=self.group,
            )  # fmt: skip
        parts = iter(received.split([size for one in sizes for size in one]))
        return [[next(parts).view(shape) for shape in one] for one in shapes]

    def with_own_group(self) -> "World":
        """Return the same processes with a group of their own, for messages of another thread; all call it together."""
        if self.size == 1:
            return self
        import torch

        from gpt1.training.rendezvous import PATIENCE

        return replace(self, group=torch.distributed.new_group(backend="gloo", timeout=PATIENCE))


@contextmanager
def report_lost() -> Iterator[None]:
    """Convert a backend's error for a lost process to ProcessLost; leave other errors alone."""
    try:
        yield
    except RuntimeError as error:
        if any(word in f"{type(error).__name__} {error}".lower() for word in BACKENDS):
            raise ProcessLost(f"another process has ended or does not answer ({first_line(error)})") from error
        raise


# The world of a process without others, or of work in which others have no part.
ALONE = World()


@dataclass
class _State:
    """What this process knows of the others."""

    current: World = ALONE
    last: World = ALONE
    """the one that was joined last, also `within` another"""
    meetings: int = 0
    """how often this process has joined others"""
    kept: Any = None
    """store that outlives restarts"""


_state = _State()


def current() -> World:
    """Return the processes that this one works with; a world of one outside of `join`."""
    return _state.current


@contextmanager
def within(world: World) -> Iterator[None]:
    """Work with these processes within the block."""
    before, _state.current = _state.current, world
    try:
        yield
    finally:
        _state.current = before


def is_main() -> bool:
    """Return whether this process writes files, also in work in which others have no part."""
    return _state.last.rank == 0


@contextmanager
def hold(place: str | Path, *, file: bool = False) -> Iterator[None]:
    """Lock a job's folder, or the file that it writes, in rank 0 for all processes; see `resume.hold`.

    Processes that were started again wait a while for those before them to end.
    """
    with ExitStack() as stack:
        wait = RESTART_SECONDS if torchrun.restarts() else 0.0
        current().from_main(lambda: stack.enter_context(resume.hold(place, file=file, wait=wait)))
        yield


def remember(name: str, value: int) -> None:
    """Keep a number for the processes that `torchrun` starts in place of these, if it does."""
    if _state.kept is not None:
        _state.kept.set(name, str(value))


def remembered(name: str) -> int:
    """Return a number that the processes before a restart kept; 0 without one."""
    store = _state.kept
    return int(store.get(name)) if store is not None and torchrun.restarts() and store.check([name]) else 0


@contextmanager
def join(device: str) -> Iterator[World]:
    """Meet the other processes that `torchrun` has started, work with them within the block, and yield their world.

    `device` is the setting: each local rank has a GPU, and they exchange data by NCCL; on CPUs, by Gloo. Only rank 0
    says anything, except that the first process to fail says why; then the others end without a word. Raises RunFailed
    if the processes cannot reach each other within `MEETING_SECONDS`.
    """
    if not torchrun.is_launched() or current().size > 1:  # a command may call another
        yield current()
        return
    import torch

    from gpt1.training.rendezvous import choose_gpu, describe, meet

    world, is_gpu = World(torchrun.rank(), torchrun.processes()), choose_gpu(device)
    _state.meetings += 1
    store, _state.kept = meet(_state.meetings, is_gpu)
    _state.last = world
    with within(world):
        try:
            with quiet(world.rank > 0):
                yield world
        except BaseException as error:
            if not _is_first_to_fail(store, world):
                raise SystemExit(exit_code(error)) from error
            if isinstance(error, Gpt1Error) and world.rank > 0:
                error.args = (f"{error.args[0]} [{describe()}]",)
            raise
        torch.distributed.destroy_process_group()


def _is_first_to_fail(store: Any, world: World) -> bool:
    """Return whether no other process has reported an error; rank 0 goes first where all have the same one."""
    key = "failed"
    with suppress(RuntimeError):  # rank 0, which may hold the store, has gone
        until = time.monotonic() + (REPORT_SECONDS if world.rank > 0 else 0.0)
        while time.monotonic() < until and not store.check([key]):  # `wait` would log a warning when it times out
            time.sleep(0.05)
        return store.add(key, 1) == 1
    return False


def _buckets(tensors: Sequence["Tensor"]) -> Iterator[list["Tensor"]]:
    """Yield the tensors in lists of at most `BUCKET` numbers, or of one tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(one.numel() for one in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
