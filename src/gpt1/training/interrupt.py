"""Ctrl-C and SIGTERM: end a program cleanly, or let the update in progress finish so that its state can be saved."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gpt1.console import say
from gpt1.training import parallel

# Seconds for which a stop waits for the update in progress; a longer one is given up and made again. Services are often
# killed ten seconds after SIGTERM, and the state must be written in the rest of the time.
PATIENCE = 3.0


@contextmanager
def on_signals(*numbers: int, handler: Callable[[int], None]) -> Iterator[Callable[[int], None]]:
    """Call `handler` with the number of each of these signals that arrives within the block.

    Yields a function that restores the earlier handler of one signal; at the end all are restored. Outside the main
    thread, where Python allows no handlers, nothing is changed.
    """
    earlier: dict[int, Any] = {}

    def restore(number: int) -> None:
        signal.signal(number, earlier[number] if earlier[number] is not None else signal.SIG_DFL)

    if threading.current_thread() is threading.main_thread():
        earlier = {number: signal.signal(number, lambda number, frame: handler(number)) for number in numbers}
    try:
        yield restore
    finally:
        for number in earlier:
            restore(number)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, so that a stopped program removes its temporary files."""

    def stop(number: int) -> None:
        raise KeyboardInterrupt

    with on_signals(signal.SIGTERM, handler=stop):
        yield


class Stopped(KeyboardInterrupt):
    """A requested stop, at a point where nothing is lost; a second request must end the program at once instead."""


class StopRequest:
    """A request to stop, by Ctrl-C or SIGTERM; `stop()` returns whether one has arrived.

    Several processes must stop at the same update, so a request counts in none of them before `agree`, and waits for
    the update or the validation in progress.
    """

    def __init__(self) -> None:
        self._arrived: float | None = None
        self._at_once = False
        self._is_shared = parallel.current().size > 1
        self._agreed = False

    def __call__(self) -> bool:
        return self._agreed if self._is_shared else self._arrived is not None

    def agree(self) -> None:
        """Let a request that any process has received count in all; every process calls this after each update."""
        if self._is_shared:
            self._agreed = parallel.current().any(self._arrived is not None)

    def is_urgent(self) -> bool:
        """Return whether the request has waited long enough for the update in progress."""
        return not self._is_shared and self._arrived is not None and time.monotonic() - self._arrived > PATIENCE

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block, where nothing can be lost, a request raises Stopped as soon as it arrives."""
        if self():
            raise Stopped
        self._at_once = not self._is_shared
        try:
            yield
        finally:
            self._at_once = False

    def arrive(self) -> None:
        """Note a request, and say so if it must wait."""
        is_first, self._arrived = self._arrived is None, self._arrived or time.monotonic()
        if self._at_once:
            raise Stopped
        if is_first and parallel.is_main():
            # If the signal came while a line was being written, Python refuses to write another one.
            with suppress(RuntimeError):
                say("stopping after this update" + ("" if self._is_shared else "; Ctrl-C again stops at once"))


@contextmanager
def stop_requested() -> Iterator[StopRequest]:
    """Yield a StopRequest for Ctrl-C and SIGTERM in the block; a second signal ends the program at once.

    Several processes ignore the second one, since a terminal and `torchrun` both pass Ctrl-C on.
    """
    stop, numbers = StopRequest(), (signal.SIGINT, signal.SIGTERM)

    def note(number: int) -> None:
        for one in numbers if parallel.current().size == 1 else ():
            restore(one)
        stop.arrive()

    with on_signals(*numbers, handler=note) as restore:
        yield stop
