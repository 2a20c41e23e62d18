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
    """Replace each command by one that records its settings; its accuracy is that of its kind of model."""
    found: list[tuple[str, Any]] = []
    results = {
        "prepare": lambda settings: None,
        "pretrain": lambda settings: {"val_bits_per_byte": 2.5},
        "generate": lambda settings: {"samples": [{"text": " sum"}]},
        "finetune": lambda settings: None,
        "evaluate": lambda settings: Evaluated(Path(settings.run).name.rpartition("-")[0]),
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


ACCURACIES = {"scratch": 0.5, "pretrained": 0.75, "with_words": 0.875}


class Evaluated(dict[str, Any]):
    """Stands for the result of `evaluate`."""

    def __init__(self, start: str) -> None:
        super().__init__(accuracy=ACCURACIES[start], words_alone={"accuracy": 0.625})

    def to_json(self) -> dict[str, Any]:
        return dict(self)


def test_the_life_cycle(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = demo(Demo(out=str(out), minutes=0.5, device="cpu", threads=1, fresh=True))
    models = ["finetune", "evaluate"] * 3 * SEEDS
    assert [name for name, _ in calls] == ["prepare", "pretrain", "generate", *models, "report"]
    assert all(settings.device == "cpu" and settings.threads == 1 for name, settings in calls[1:-1])
    assert calls[1][1].minutes == 0.5
    tuned = [settings for _, settings in calls if isinstance(settings, Finetune)]
    kinds = [(True, False), (False, False), (False, True)]
    assert [(one.from_scratch, one.with_words, one.seed) for one in tuned] == [
        (*k, n) for k in kinds for n in (1, 2, 3)
    ]
    assert all(one.fresh and one.label == "package" for one in tuned)
    assert json.loads((out / "scratch-2.json").read_text())["accuracy"] == 0.5
    assert set(calls[-1][1].runs) == {
        str(out / name)
        for name in (
            "model",
            "pretrained-1",
            "with_words-1",
            "scratch-1",
            "pretrained-1.json",
            "with_words-1.json",
            "scratch-1.json",
        )
    }
    assert list(result) == [
        "accuracy_pretrained", "accuracy_from_scratch", "accuracy_words_alone", "accuracy_with_words", "accuracies",
        "val_bits_per_byte", "seconds", "report",
    ]  # fmt: skip
    assert (result.accuracy_pretrained, result.accuracy_from_scratch, result.val_bits_per_byte) == (0.75, 0.5, 2.5)
    assert (result.accuracy_words_alone, result.accuracy_with_words) == (0.625, 0.875)
    assert result.accuracies == {kind: [value] * SEEDS for kind, value in (ACCURACIES | {"words_alone": 0.625}).items()}
    with (console := Console(width=120)).capture() as shown:
        console.print(show(result))
    assert [f"{value} %" in shown.get() for value in (50.0, 62.5, 75.0, 87.5)] == [True] * 4
    assert result.report == str(out / "report.html")
