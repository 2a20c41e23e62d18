"""Ctrl-C and SIGTERM: end a program cleanly, or let the update in progress finish so that its state can be saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C or SIGTERM has arrived; a second one ends the program at once."""
    arrived: list[int] = []

    def note(number: int) -> None:
        arrived.append(number)
        restore(number)

    with on_signals(signal.SIGINT, signal.SIGTERM, handler=note) as restore:
        yield lambda: bool(arrived)
