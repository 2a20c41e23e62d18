"""Training state and the metrics log on disk."""

import itertools
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import one_line
from gpt1.errors import UserError
from gpt1.training import checkpoint, log


def test_round_trip_keeps_only_the_newest(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    for step in (1, 2):
        checkpoint.save(
            tmp_path, step, {"master.a": torch.full((3,), float(step)), "adam.step.a": torch.tensor(2.0)}, {}
        )
    path = checkpoint.latest(tmp_path)
    assert path is not None
    assert [p.name for p in path.parent.iterdir()] == ["step-00000002.safetensors"]
    assert checkpoint.read_notes(path)["step"] == 2
    assert torch.equal(checkpoint.load(path)["master.a"], torch.full((3,), 2.0))


def test_a_failed_save_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = checkpoint.save(tmp_path, 1, {"a": torch.ones(3)}, {})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 2, {"a": torch.zeros(3)}, {})
    assert list(old.parent.iterdir()) == [old]


def test_an_unreadable_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step-00000001.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="step-00000001"):
        checkpoint.read_notes(path)


def test_log_drops_what_comes_again(tmp_path: Path) -> None:
    with log.Log(tmp_path, 0) as first:
        for step in range(1, 5):
            first.add(step, lm=1.0 / step)
    with (tmp_path / log.NAME).open("a") as file:
        file.write('{"step": 5, "l')  # a crash in the middle of a line
    with log.Log(tmp_path, 2) as second:
        second.add(3, lm=9.0)
        second.flush()
        assert len(log.read(tmp_path)) == 3, "other programs see the rows while the run goes on"
    rows = [json.loads(line) for line in (tmp_path / log.NAME).read_text().splitlines()]
    assert rows == log.read(tmp_path) == [{"step": 1, "lm": 1.0}, {"step": 2, "lm": 0.5}, {"step": 3, "lm": 9.0}]


@pytest.mark.parametrize("validated", [True, False])
def test_log_drops_a_validation_that_is_made_again(tmp_path: Path, validated: bool) -> None:
    rows = [
        {"step": 1, "tokens": 3},
        {"step": 1, "val_loss": 2.0},
        {"step": 2, "tokens": 3},
        {"step": 2, "val_loss": 1.0},
    ]
    (tmp_path / log.NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    log.Log(tmp_path, 2, validated).close()
    assert log.read(tmp_path) == rows[: 4 if validated else 3]


@pytest.mark.parametrize("text", ["a\u2028b", "\x85", "a\nb\r", "\x0c\x1c"])
def test_a_sample_may_hold_any_line_separator(tmp_path: Path, text: str) -> None:
    with log.Log(tmp_path, 0) as rows:
        rows.add(1, sample=text)
    assert log.read(tmp_path) == [{"step": 1, "sample": text}]


def test_a_character_that_a_crash_cut_is_left_out(tmp_path: Path) -> None:
    (tmp_path / log.NAME).write_bytes('{"step": 1}\n{"step": 2, "sample": "é'.encode()[:-1])
    assert log.read(tmp_path) == [{"step": 1}]


@pytest.mark.parametrize("line", ["{", "3", '{"lm": 1.0}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / log.NAME).write_text(f'{{"step": 1}}\n{line}\n', encoding="utf-8")
    with one_line(f"{log.NAME}:2 is damaged"):
        log.read(tmp_path)


# In the background


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / checkpoint.FOLDER).iterdir())


def test_what_training_changes_meanwhile_is_not_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training waits for the copy only, and for the write before."""
    release, real = threading.Event(), checkpoint.save_file

    def slow(*args: Any, **kwargs: Any) -> None:
        release.wait(30)
        real(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save_file", slow)
    weight, losses = torch.arange(6.0).reshape(2, 3), {"task": 0.5}
    with checkpoint.Checkpoints(tmp_path, keep=2) as states:
        states.save(1, {"a": weight.T}, {"losses": losses})
        weight.zero_()
        losses.clear()
        assert checkpoint.latest(tmp_path) is None
        release.set()
        states.save(2, {"a": weight.T}, {})
    first, second = checkpoint.states(tmp_path)
    assert torch.equal(checkpoint.load(first)["a"], torch.arange(6.0).reshape(2, 3).T)
    assert torch.equal(checkpoint.load(second)["a"], torch.zeros(3, 2))
    assert checkpoint.read_notes(first) == {"step": 1, "losses": {"task": 0.5}}


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    with checkpoint.Checkpoints(tmp_path, keep=2) as states:
        for step in range(1, 6):
            states.save(step, {"a": torch.ones(1)}, {})
            states.best = 2
        states.wait()
        assert names(tmp_path) == [f"step-0000000{step}.safetensors" for step in (2, 4, 5)]
        states.discard(5)
    latest = checkpoint.latest(tmp_path)
    assert latest is not None and latest.name == "step-00000004.safetensors"


@pytest.mark.parametrize("required", [False, True])
def test_a_full_disk_is_an_error_only_if_the_state_is_needed(
    tmp_path: Path, required: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with checkpoint.Checkpoints(tmp_path) as states:
        if required:
            with pytest.raises(OSError, match="No space"):
                states.save(1, {"a": torch.ones(1)}, {}, required=True)
        else:
            states.save(1, {"a": torch.ones(1)}, {})
    said = "could not save a state (No space left on device); training continues"
    assert (said in " ".join(capsys.readouterr().err.split())) != required
    assert names(tmp_path) == []


def test_a_mistake_in_the_background_is_raised(tmp_path: Path) -> None:
    with pytest.raises(TypeError), checkpoint.Checkpoints(tmp_path) as states:
        states.save(1, {"a": torch.ones(1)}, {"notes": object()})


def test_a_second_ctrl_c_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(checkpoint, "save_file", lambda *args, **kwargs: release.wait(30))
    try:
        with pytest.raises(KeyboardInterrupt), checkpoint.Checkpoints(tmp_path) as states:
            states.save(1, {"a": torch.ones(1)}, {})
            raise KeyboardInterrupt
        assert not release.is_set()
    finally:
        release.set()
        states.wait()


@pytest.mark.parametrize("event", ["os.open", "os.fsync", "os.close", "Path.chmod", "Path.replace"])
def test_an_error_anywhere_in_a_save_leaves_the_earlier_state(
    tmp_path: Path, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each call of each operation in turn, until a save gets through."""
    checkpoint.save(tmp_path, 1, {"a": torch.ones(3)}, {})
    owner: Any = os if event.startswith("os.") else Path
    name, failures = event.partition(".")[2], 0
    for failing in itertools.count(1):
        calls, real = itertools.count(1), getattr(owner, name)

        def fail(*args: Any, calls: Any = calls, real: Any = real, failing: int = failing, **kwargs: Any) -> Any:
            if next(calls) == failing:
                raise OSError(5, "Input/output error")
            return real(*args, **kwargs)

        with monkeypatch.context() as patch, suppress(OSError):
            patch.setattr(owner, name, fail)
            checkpoint.save(tmp_path, 2, {"a": torch.zeros(3)}, {})
            break
        failures += 1
        found = checkpoint.latest(tmp_path)
        assert found is not None and set(names(tmp_path)) <= {f"step-0000000{step}.safetensors" for step in (1, 2)}
        step = checkpoint.read_notes(found)["step"]
        assert torch.equal(checkpoint.load(found)["a"], torch.ones(3) if step == 1 else torch.zeros(3))
        if step == 2:  # the last sync failed, after the rename
            found.unlink()
            checkpoint.save(tmp_path, 1, {"a": torch.ones(3)}, {})
    assert failures
    assert names(tmp_path) == ["step-00000002.safetensors"]


def test_a_damaged_state_names_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2):
        path = checkpoint.save(tmp_path, step, {"a": torch.ones(3)}, {}, keep=2)
    path.write_bytes(path.read_bytes()[:-1])
    with one_line("step-00000002.safetensors is damaged", "remove it to continue from step-00000001.safetensors, or"):
        checkpoint.read_notes(path)
