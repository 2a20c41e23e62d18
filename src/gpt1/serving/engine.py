"""The engine: one thread that owns the networks and answers all requests.

Texts are generated with continuous batching: at every step each text in the batch gets a token; those that have ended
leave, and those that wait take their places. Rows to predict or embed are batched across requests, a few at a time
between two steps, so that a long list does not hold up the streams.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.run_folder.generation import FinishReason, Generation, GenerationBatch, TokenLogprob

# Tokens, with padding, of the prompts that are read between two steps; at least one prompt is.
PROMPT_TOKENS = 2048
# Rows that are predicted or embedded between two steps, together.
ROWS_AT_ONCE = 16
logger = logging.getLogger("gpt1.serving")


class Busy(Exception):
    """Too many requests wait already."""


class Closing(Exception):
    """The server is shutting down."""


@dataclass(frozen=True)
class Piece:
    """What a step added to a text of a request."""

    number: int
    """of the text in its request"""
    text: str
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason | None


@dataclass(eq=False)
class _Texts:
    """A request for texts."""

    events: asyncio.Queue[Any]
    """what has happened, for the event loop: pieces, then None; results; or an exception"""
    texts: list[Generation]
    stream: bool
    """whether every step is reported, or only the end"""
    left: int
    """texts that have not ended"""
    is_cancelled: bool = False


@dataclass(eq=False)
class _Rows:
    """A request for the results of rows."""

    events: asyncio.Queue[Any]
    work: Callable[[Sequence[Any]], Sequence[Any]]
    """a bound method of a model; requests with the same one are batched"""
    rows: Sequence[Any]
    results: list[Any] = field(default_factory=list)
    is_cancelled: bool = False


class Engine:
    """One thread that generates, predicts and embeds; its methods are called from an event loop."""

    def __init__(
        self, bodies: Mapping[str, GPT], concurrency: int, queue: int, rows_at_once: int = ROWS_AT_ONCE
    ) -> None:
        """Serve networks by name: `concurrency` texts at once, while `queue` more texts and requests for rows wait.

        `rows_at_once` rows are computed between two steps.
        """
        self.bodies, self.concurrency, self.queue, self.rows_at_once = dict(bodies), concurrency, queue, rows_at_once
        self.tokens = 0
        """tokens generated so far"""
        self._batches = {name: GenerationBatch(body) for name, body in bodies.items()}
        self._owners: dict[Generation, _Texts] = {}  # of the texts that are being generated
        self._waiting: dict[str, deque[tuple[_Texts, Generation]]] = {name: deque() for name in bodies}
        self._rows = deque[_Rows]()
        self._events: list[tuple[asyncio.Queue[Any], Any]] = []
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="gpt1-engine", daemon=True)

    def start(self) -> None:
        """Start the thread; the running event loop is the one that waits for results."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and self._closing_at is None

    @property
    def generating(self) -> int:
        """Number of texts that are being generated."""
        return len(self._owners)

    @property
    def waiting(self) -> int:
        """Number of texts, and of requests for rows, that wait."""
        return sum(map(len, self._waiting.values())) + len(self._rows)

    async def generate(self, model: str, texts: list[Generation]) -> None:
        """Generate texts to their ends. Raises Busy or Closing."""
        async for _ in self._follow(model, texts, stream=False):
            pass

    def stream(self, model: str, texts: list[Generation]) -> AsyncIterator[Piece]:
        """Generate texts and yield each addition to them as soon as it is there. Raises Busy or Closing."""
        return self._follow(model, texts, stream=True)

    async def compute(self, work: Callable[[Sequence[Any]], Sequence[Any]], rows: Sequence[Any]) -> list[Any]:
        """Return the results of `work`, a bound method of a model, one for each row. Raises Busy or Closing."""
        job = _Rows(asyncio.Queue[Any](), work, rows)
        with self._changed:
            self._check_open()
            if len(self._rows) > self.queue:  # the first one is being computed
                raise Busy
            self._rows.append(job)
            self._changed.notify()
        try:
            results: list[Any] = await _next(job.events)
            return results
        finally:
            job.is_cancelled = True

    def close(self, seconds: float) -> None:
        """Keep answering requests for the given seconds, then refuse new ones and end those in progress."""
        with self._changed:
            self._closing_at = min(self._closing_at or float("inf"), time.monotonic() + seconds)
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, for at most the given seconds."""
        self._thread.join(seconds)

    async def _follow(self, model: str, texts: list[Generation], stream: bool) -> AsyncIterator[Piece]:
        job = _Texts(asyncio.Queue[Any](), texts, stream, len(texts))
        with self._changed:
            self._check_open()
            if self.generating + self.waiting + len(texts) > self.concurrency + self.queue:
                raise Busy
            self._waiting[model] += [(job, text) for text in texts]
            self._changed.notify()
        try:
            while (piece := await _next(job.events)) is not None:
                yield piece
        finally:
            job.is_cancelled = True

    def _check_open(self) -> None:
        if self._is_over():
            raise Closing

    def _is_over(self) -> bool:
        return self._closing_at is not None and time.monotonic() >= self._closing_at

    # The engine's thread.

    def _run(self) -> None:
        while self._wait_for_work():
            self._drop_cancelled()
            for model in self.bodies:
                self._generate(model)
            self._compute()
            self._deliver()

    def _wait_for_work(self) -> bool:
        """Wait for work and return True; when the engine's time is up, end all work and return False."""
        with self._changed:
            while not self._is_over():
                if self._owners or self._rows or any(self._waiting.values()):
                    return True
                self._changed.wait(self._closing_at and self._closing_at - time.monotonic())
            jobs = set[_Texts | _Rows](self._owners.values()) | {*self._rows}
            jobs |= {job for waiting in self._waiting.values() for job, _ in waiting}
            self._owners.clear()
            self._rows.clear()
            for waiting in self._waiting.values():
                waiting.clear()
        self._events += [(job.events, Closing()) for job in jobs]
        self._deliver()
        return False

    def _drop_cancelled(self) -> None:
        """Free the places of clients that have left."""
        with self._changed:
            for waiting in self._waiting.values():
                kept = [entry for entry in waiting if not entry[0].is_cancelled]
                waiting.clear()
                waiting.extend(kept)
            self._rows = deque(job for job in self._rows if not job.is_cancelled)
        for batch in self._batches.values():
            for text in [text for text in batch.texts if self._owners[text].is_cancelled]:
                batch.leave(text)
                del self._owners[text]

    def _generate(self, model: str) -> None:
        """Let waiting texts join the batch of a model, then add a token to each of its texts."""
        batch, joining = self._batches[model], self._next_texts(model)
        try:
            if joining:
                batch.join(joining)
                self._report(joining)
            if batch.texts:
                advanced = list(batch.texts)
                batch.step()
                self._report(advanced)
        except Exception as error:
            logger.exception("generation failed")
            self._batches[model] = GenerationBatch(self.bodies[model])
            broken = {id(text) for text in (*batch.texts, *joining)}
            jobs = {self._owners.pop(text) for text in list(self._owners) if id(text) in broken}
            for job in jobs:
                job.is_cancelled = True
                self._events.append((job.events, error))

    def _next_texts(self, model: str) -> list[Generation]:
        """Return the texts that join now, limited by the free places and by the number of tokens to read at once."""
        chosen, longest = list[Generation](), 0
        with self._changed:
            waiting = self._waiting[model]
            while waiting and len(self._owners) < self.concurrency:
                job, text = waiting[0]
                longest = max(longest, len(text.ids))
                if chosen and longest * (len(chosen) + 1) > PROMPT_TOKENS:
                    break
                waiting.popleft()
                self._owners[text] = job
                chosen.append(text)
        return chosen

    def _report(self, texts: Sequence[Generation]) -> None:
        """Tell the requests of these texts what the step has added, and which have ended."""
        self.tokens += len(texts)
        for text in texts:
            job = self._owners[text]
            if job.stream:
                piece, logprobs = text.next_piece(whole_words=False), text.next_logprobs()
                if piece or logprobs or text.finish_reason:
                    number = job.texts.index(text)
                    self._events.append((job.events, Piece(number, piece, logprobs, text.finish_reason)))
            if text.finish_reason:
                del self._owners[text]
                job.left -= 1
                if not job.left:
                    self._events.append((job.events, None))

    def _compute(self) -> None:
        """Compute some rows of the first request for rows, together with those of others that want the same."""
        with self._changed:
            jobs = [job for job in self._rows if job.work == self._rows[0].work] if self._rows else []
        shares, left = list[tuple[_Rows, Sequence[Any]]](), self.rows_at_once
        for job in jobs:
            rows = job.rows[len(job.results) : len(job.results) + left]
            shares.append((job, rows))
            left -= len(rows)
            if not left:
                break
        if not shares:
            return
        ended: list[tuple[_Rows, Any]]
        try:
            results = iter(jobs[0].work([row for _, rows in shares for row in rows]))
            for job, rows in shares:
                job.results += [next(results) for _ in rows]
            ended = [(job, job.results) for job, _ in shares if len(job.results) == len(job.rows)]
        except UserError as error:
            ended = [(job, error) for job, _ in shares]
        except Exception as error:
            logger.exception("computing rows failed")
            ended = [(job, error) for job, _ in shares]
        with self._changed:
            for job, event in ended:
                self._rows.remove(job)
                self._events.append((job.events, event))

    def _deliver(self) -> None:
        """Hand the events of this turn to the event loop, in one call: each would wake it up."""
        if self._events and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_put_all, self._events)
        self._events = []


def _put_all(events: list[tuple[asyncio.Queue[Any], Any]]) -> None:
    for queue, event in events:
        queue.put_nowait(event)


async def _next(events: asyncio.Queue[Any]) -> Any:
    """Return the next event; raise it if it is an exception."""
    event = await events.get()
    if isinstance(event, BaseException):
        raise event
    return event
