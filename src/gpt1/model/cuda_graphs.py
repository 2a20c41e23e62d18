"""Generation on a GPU: a step is recorded once, as a CUDA graph, and then repeated.

A step is some 160 kernels that run for a microsecond or two each; launched one by one they take several times as long
as they run. A recorded step does the same work at the same addresses, so it reads a fixed number of columns: one graph
reads 128, and where the texts grow beyond, the next reads twice as many. Recording takes a fraction of
a second where compiling takes half a minute, so graphs are recorded here and nothing is compiled; blocks that were
compiled before are recorded as they are. What was recorded is kept with the body, for the next texts.

The host stays one step behind the GPU: while it looks at a token, the next one is already being made.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gpt1.model.gpt import GPT
from gpt1.model.kv_cache import Writing
from gpt1.model.sampling import Sampling

FEWEST_COLUMNS = 128
KEPT = 4
"""How many a body keeps for later; each holds the keys and values of all its columns."""
WARM_UPS = 2
"""Steps made before one is recorded, since libraries set themselves up in their first calls."""


class Recorded:
    """A Writing, and its step as it was recorded for each number of columns that were read so far."""

    def __init__(self, body: GPT, rows: int, columns: int, sampling: Sampling) -> None:
        self.made_for = _made_for(body, rows, columns, sampling)
        self.writing = Writing(body, rows, columns, sampling)
        self.steps: dict[int, Callable[[], None]] = {}
        # Graphs of one Writing never run at once, so they share the memory of what lives only during a step.
        self.pool = torch.cuda.graph_pool_handle() if body.tokens.weight.is_cuda else None

    def step(self, body: GPT, columns: int) -> None:
        """One token more of every text; it makes `columns` of them full."""
        read = rounded_up(columns)
        if read not in self.steps:
            self.steps[read] = _graph(self.writing, partial(self.writing.step, body, read, masked=True), self.pool)
        self.steps[read]()


def rounded_up(columns: int) -> int:
    """Columns that a graph reads, at least so many: a power of two."""
    return max(FEWEST_COLUMNS, 1 << (columns - 1).bit_length())


_idle: WeakKeyDictionary[GPT, list[Recorded]] = WeakKeyDictionary()


def replayed(
    body: GPT, prompts: Sequence[Sequence[int]], sampling: Sampling, streams: Sequence[random.Random], steps: int
) -> Iterator[list[int]]:
    """The ids that `decode.decode` yields, `steps` times."""
    N, longest = len(prompts), max(map(len, prompts))
    missing = (1 << (N - 1).bit_length()) - N  # rows are a power of two as well, or each number would be recorded
    prompts = [*prompts, *[min(prompts, key=len)] * missing]
    streams = [*streams, *[random.Random(0)] * missing]
    recorded = _take(body, len(prompts), rounded_up(longest + steps - 1), sampling)
    tokens_N = recorded.writing.tokens_N1[:N, 0]
    try:
        recorded.writing.begin(body, prompts, streams, steps)
        yield tokens_N.tolist()
        yield from _one_behind(_made(recorded, body, tokens_N, range(longest + 1, longest + steps)))
    finally:
        _idle.setdefault(body, []).append(recorded)
        del _idle[body][:-KEPT]


def _made(recorded: Recorded, body: GPT, tokens_N: Tensor, columns: range) -> Iterator[Callable[[], list[int]]]:
    for full in columns:
        recorded.step(body, full)
        yield _fetched(tokens_N)


def _one_behind(steps: Iterator[Callable[[], list[int]]]) -> Iterator[list[int]]:
    """What the steps return, each waited for once the next has begun."""
    before = next(steps, None)
    for now in steps:
        if before:
            yield before()
        before = now
    if before:
        yield before()


def _take(body: GPT, rows: int, columns: int, sampling: Sampling) -> Recorded:
    """One that nobody else is using."""
    wanted, idle = _made_for(body, rows, columns, sampling), _idle.get(body, [])
    for i, recorded in enumerate(idle):
        if recorded.made_for == wanted:
            return idle.pop(i)
    return Recorded(body, rows, columns, sampling)


def _made_for(body: GPT, rows: int, columns: int, sampling: Sampling) -> tuple[object, ...]:
    """What a graph depends on; it reads the weights where they lay when it was recorded."""
    return rows, columns, sampling, body.tokens.weight.data_ptr(), body.tokens.weight.dtype


def _graph(writing: Writing, step: Callable[[], None], pool: Any) -> Callable[[], None]:
    """What repeats a step of `writing`: a CUDA graph. Elsewhere the step itself, so that the rest can be tested."""
    if pool is None:
        return step
    changed = [x for x in (writing.tokens_N1, writing.column_1, writing.seen_NV) if x is not None]
    kept = [x.clone() for x in changed]
    with torch.cuda.device(writing.tokens_N1.device):
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                step()
                for x, old in zip(changed, kept, strict=True):
                    x.copy_(old)
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
            step()
    return graph.replay


def _fetched(tokens_N: Tensor) -> Callable[[], list[int]]:
    """Begin to copy the tokens to the host; what is returned waits for them."""
    host_N = tokens_N.to("cpu", non_blocking=True, copy=True)
    if tokens_N.device.type != "cuda":
        return host_N.tolist
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tokens_N.device))

    def tokens() -> list[int]:
        copied.synchronize()
        ids: list[int] = host_N.tolist()
        return ids

    return tokens
