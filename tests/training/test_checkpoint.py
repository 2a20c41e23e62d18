"""Training state and the metrics log on disk."""

import json
from pathlib import Path

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
