"""Training state and the metrics log on disk."""

import json
from pathlib import Path

import pytest
import torch

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
    assert checkpoint.facts(path)["step"] == 2
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
        checkpoint.facts(path)


def test_log_drops_what_comes_again(tmp_path: Path) -> None:
    first = log.Log(tmp_path, 0)
    for step in range(1, 5):
        first.add(step, lm=1.0 / step)
    first.flush()
    with (tmp_path / log.NAME).open("a") as file:
        file.write('{"step": 5, "l')  # a crash in the middle of a line
    second = log.Log(tmp_path, 2)
    second.add(3, lm=9.0)
    second.flush()
    rows = [json.loads(line) for line in (tmp_path / log.NAME).read_text().splitlines()]
    assert rows == log.read(tmp_path) == [{"step": 1, "lm": 1.0}, {"step": 2, "lm": 0.5}, {"step": 3, "lm": 9.0}]
