"""Signals: what they do within the blocks, and that earlier handlers come back."""

import signal
import threading
from collections.abc import Iterator

import pytest

from gpt1.training import interrupt
from gpt1.training.interrupt import Stopped, sigterm_as_ctrl_c, stop_requested


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
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c(), stop_requested() as is_stopping:
        assert not is_stopping()
        signal.raise_signal(number)
        assert is_stopping()
        assert capsys.readouterr().err == "stopping after this update; Ctrl-C again stops at once\n"
        signal.raise_signal(number)


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_the_second_may_be_the_other_signal(first: signal.Signals, second: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, sigterm_as_ctrl_c(), stop_requested() as stop:
        signal.raise_signal(first)
        assert stop()
        signal.raise_signal(second)
    assert not isinstance(caught.value, Stopped)


def test_where_nothing_can_be_lost_a_stop_comes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with stop_requested() as stop:
        with stop.at_once():
            pass
        with pytest.raises(Stopped), stop.at_once():
            signal.raise_signal(signal.SIGTERM)
        assert not capsys.readouterr().err, "there is nothing to wait for"
        with pytest.raises(Stopped), stop.at_once():
            pytest.fail("it has arrived before")


def test_a_long_update_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_requested() as stop:
        assert not stop.is_urgent()
        signal.raise_signal(signal.SIGTERM)
        assert not stop.is_urgent()
        monkeypatch.setattr(interrupt, "PATIENCE", -1.0)
        assert stop.is_urgent()


def test_other_threads_change_nothing() -> None:
    found: list[bool] = []

    def work() -> None:
        with sigterm_as_ctrl_c(), stop_requested() as is_stopping:
            found.append(is_stopping())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
