"""The demo calls the commands of the life cycle in order; their own tests show that they work."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from conftest import one_line
from gpt1.commands import demo as module
from gpt1.commands.demo import SEEDS, demo, show
from gpt1.config import Demo, Evaluate, Finetune
from gpt1.resume import hold
from gpt1.run_folder.places import DEMO_FILE


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Replace each command by one that records its settings; its accuracy is that of its kind of model."""
    found: list[tuple[str, Any]] = []
    results = {
        "prepare": lambda settings: None,
        "pretrain": lambda settings: {"val_bits_per_byte": 2.5},
        "generate": lambda settings: {"samples": [{"text": " sum"}]},
        "finetune": lambda settings: None,
        "evaluate": lambda settings: Evaluated(Path(settings.run).name),
        "report": lambda settings: SimpleNamespace(page=settings.out),
    }

    def recorded(name: str) -> Any:
        def command(settings: Any) -> Any:
            found.append((name, settings))
            return results[name](settings)

        return command

    for name in results:
        monkeypatch.setattr(module, name, recorded(name))
    monkeypatch.setattr(module, "write_files", lambda folder: None)
    return found


ACCURACIES = {"scratch": 0.5, "pretrained": 0.875}
NETWORK_ALONE = 0.75
ENDINGS = {"endings-scratch": 0.505, "endings-pretrained": 0.61, "model": 0.59}


class Evaluated(dict[str, Any]):
    """Stands for the result of `evaluate`."""

    def __init__(self, start: str) -> None:
        scores = ACCURACIES | ENDINGS
        accuracy = scores[start] if start in scores else ACCURACIES[start.rpartition("-")[0]]
        super().__init__(accuracy=accuracy, words_alone={"accuracy": 0.625}, n=300)
        if start.startswith("pretrained-"):
            self["network_alone"] = {"accuracy": NETWORK_ALONE}

    def to_json(self) -> dict[str, Any]:
        return dict(self)


def test_the_life_cycle(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = demo(Demo(out=str(out), minutes=0.5, device="cpu", threads=1, fresh=True))
    models, ends = ["finetune", "evaluate"] * 2 * SEEDS, ["evaluate", *["finetune", "evaluate"] * 2]
    assert [name for name, _ in calls] == ["prepare", "pretrain", "generate", *models, *ends, "report"]
    assert all(settings.device == "cpu" and settings.threads == 1 for name, settings in calls[1:-1])
    assert calls[1][1].minutes == 0.5
    tuned = [settings for _, settings in calls if isinstance(settings, Finetune)]
    tuned, (scratch, pretrained) = tuned[:-2], tuned[-2:]
    assert (scratch.from_scratch, pretrained.from_scratch) == (True, False)
    assert scratch.task == pretrained.task == "multiple-choice"
    asked = [settings for _, settings in calls if isinstance(settings, Evaluate)][-3]
    assert (asked.as_, asked.run, asked.files) == ("choices", str(out / "model"), [str(out / "endings-test.jsonl")])
    kinds = [(True, False), (False, True)]
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
            "scratch-1",
            "pretrained-1.json",
            "scratch-1.json",
        )
    }
    assert list(result) == [
        "accuracy_pretrained", "accuracy_from_scratch", "accuracy_words_alone", "accuracy_with_words", "accuracies",
        "endings", "endings_n", "val_bits_per_byte", "seconds", "report",
    ]  # fmt: skip
    assert (result.accuracy_pretrained, result.accuracy_from_scratch, result.val_bits_per_byte) == (0.75, 0.5, 2.5)
    assert (result.accuracy_words_alone, result.accuracy_with_words) == (0.625, 0.875)
    found = {"scratch": 0.5, "words_alone": 0.625, "pretrained": NETWORK_ALONE, "with_words": 0.875}
    assert result.accuracies == {kind: [value] * SEEDS for kind, value in found.items()}
    with (console := Console(width=120)).capture() as shown:
        console.print(show(result))
    assert all(f"{value} %" in shown.get() for value in (50.0, 62.5, 75.0, 87.5, 50.5, 61.0, 59.0))
    assert result.endings == {"scratch": 0.505, "pretrained": 0.61, "zero_shot": 0.59, "words_alone": 0.625}
    assert "best: words alone (TF-IDF)" in shown.get(), "it says so where the GPT does not win"
    assert result.report == str(out / "report.html")


def test_a_folder_that_holds_something_else_is_refused(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("mine")
    with one_line("holds something other than a demo (train.csv); choose an empty or a new folder"):
        demo(out=tmp_path)
    (tmp_path / DEMO_FILE).touch()
    with hold(tmp_path), one_line(f"{tmp_path} is in use by process"):
        demo(out=tmp_path)
    assert (tmp_path / "train.csv").read_text() == "mine"
    assert not calls
    demo(out=tmp_path)
    assert calls[-1][0] == "report"
