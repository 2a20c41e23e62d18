"""The demo calls the commands of the life cycle in order; their own tests show that they work."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from gpt1.commands import demo as module
from gpt1.commands.demo import SEEDS, demo, show
from gpt1.config import Demo, Finetune


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Replace each command by one that records its settings; with pre-training accuracy is 0.75, without 0.5."""
    found: list[tuple[str, Any]] = []
    results = {
        "prepare": lambda settings: None,
        "pretrain": lambda settings: {"val_bits_per_byte": 2.5},
        "generate": lambda settings: {"samples": [{"text": " sum"}]},
        "finetune": lambda settings: None,
        "evaluate": lambda settings: Accuracy(accuracy=0.5 if "scratch" in settings.run else 0.75),
        "report": lambda settings: SimpleNamespace(page=settings.out),
    }

    def recorded(name: str) -> Any:
        def command(settings: Any) -> Any:
            found.append((name, settings))
            return results[name](settings)

        return command

    for name in results:
        monkeypatch.setattr(module, name, recorded(name))
    monkeypatch.setattr(module, "write_files", lambda folder: folder.mkdir())
    return found


class Accuracy(dict[str, float]):
    """Stands for the result of `evaluate`."""

    def to_json(self) -> dict[str, float]:
        return dict(self)


def test_the_life_cycle(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = demo(Demo(out=str(out), minutes=0.5, device="cpu", threads=1, fresh=True))
    models = ["finetune", "evaluate"] * 2 * SEEDS
    assert [name for name, _ in calls] == ["prepare", "pretrain", "generate", *models, "report"]
    assert all(settings.device == "cpu" and settings.threads == 1 for name, settings in calls[1:-1])
    assert calls[1][1].minutes == 0.5
    tuned = [settings for _, settings in calls if isinstance(settings, Finetune)]
    assert [(one.from_scratch, one.seed) for one in tuned] == [(s, n) for s in (True, False) for n in (1, 2, 3)]
    assert all(one.fresh and one.label == "package" for one in tuned)
    assert json.loads((out / "scratch-2.json").read_text()) == {"accuracy": 0.5}
    assert set(calls[-1][1].runs) == {
        str(out / name) for name in ("model", "pretrained-1", "scratch-1", "pretrained-1.json", "scratch-1.json")
    }
    assert list(result) == [
        "accuracy_pretrained", "accuracy_from_scratch", "accuracies", "val_bits_per_byte", "seconds", "report",
    ]  # fmt: skip
    assert (result.accuracy_pretrained, result.accuracy_from_scratch, result.val_bits_per_byte) == (0.75, 0.5, 2.5)
    assert result.accuracies == {"scratch": [0.5] * SEEDS, "pretrained": [0.75] * SEEDS}
    with (console := Console(width=120)).capture() as shown:
        console.print(show(result))
    assert "75.0 %" in shown.get()
    assert result.report == str(out / "report.html")
