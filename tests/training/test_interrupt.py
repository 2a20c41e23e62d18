"""Signals: what they do within the blocks, and that earlier handlers come back."""

import signal
import threading
from collections.abc import Iterator

import pytest

from gpt1.training.interrupt import sigterm_as_ctrl_c, stop_requested


@pytest.fixture(autouse=True)
def handlers_are_restored() -> Iterator[None]:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with Ctrl-C ignored
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_sigterm_ends_a_program_as_ctrl_c_does() -> None:
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c(), stop_requested() as is_stopping:
        assert not is_stopping()
        signal.raise_signal(number)
        assert is_stopping()
        signal.raise_signal(number)


def test_other_threads_change_nothing() -> None:
    found: list[bool] = []

    def work() -> None:
        with sigterm_as_ctrl_c(), stop_requested() as is_stopping:
            found.append(is_stopping())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
