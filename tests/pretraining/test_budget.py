"""The size that a time budget chooses, and how such a run resumes."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt1.commands.pretrain import pretrain
from gpt1.config import Model, Pretrain, pretrain_defaults
from gpt1.data.windows import Ids
from gpt1.pretraining import budget, run
from gpt1.pretraining.defaults import resolve_defaults
from gpt1.run_folder.shape import read_shape

CPU = torch.device("cpu")


def asked(**changes: Any) -> Pretrain:
    return replace(resolve_defaults(pretrain_defaults(data="", out=""), None), **({"minutes": 10.0} | changes))


def chosen(monkeypatch: pytest.MonkeyPatch, minutes: float, tokens_per_second: float) -> Model:
    """Return the size chosen on a machine that trains the tried size at a speed."""
    seconds = 16 * 128 / tokens_per_second
    monkeypatch.setattr(budget, "seconds_per_update", lambda *_: seconds)
    monkeypatch.setattr(budget, "build", lambda *_: (None, None))
    monkeypatch.setattr(budget, "update_pairs", lambda *_: None)
    settings, why = budget.fit_to_minutes(asked(minutes=minutes), Ids([0]), CPU, torch.float32)
    assert f"{settings.model.width} wide and {settings.model.depth} deep" in why
    return settings.model


def test_more_time_or_a_faster_machine_takes_a_larger_network(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = [chosen(monkeypatch, minutes, 10_000).width for minutes in (1, 10, 100, 1_000, 10_000, 10**6)]
    assert widths == sorted(widths)
    assert len(set(widths)) >= 4
    assert (widths[0], widths[-1]) == (64, 768)
    assert chosen(monkeypatch, 10, 1_000_000) == chosen(monkeypatch, 1_000, 10_000)


def test_the_tokens_that_each_weight_is_trained_on_are_near_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    for minutes in (10, 30, 100, 300, 1_000):
        model = chosen(monkeypatch, minutes, 10_000)
        tried = budget.weights_in_products(budget.sized(asked(), budget.SIZES[3]).model)
        weights = budget.weights_in_products(model)
        tokens = 60 * minutes * 10_000 * tried / weights
        assert 1 / 3 < tokens / weights / budget.TOKENS_PER_WEIGHT < 3


@pytest.mark.parametrize(
    "changes",
    [{"preset": "small"}, {"minutes": None}, {"init": "starter"}, {"model": Model(width=64, heads=1, inner=256)}],
)
def test_whatever_says_how_large_is_kept(changes: dict[str, Any]) -> None:
    assert budget.is_open(asked())
    assert not budget.is_open(asked(**changes))


def test_a_run_of_a_budget_is_stopped_continued_and_complete(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, real = tmp_path / "run", run.train

    def train(*args: Any, **kwargs: Any) -> Any:
        for report in real(*args, **kwargs):
            if report.step == 2:
                signal.raise_signal(signal.SIGTERM)
            yield report

    monkeypatch.setattr(budget, "SIZES", tuple(size for size in budget.SIZES if size[0] <= 192))
    wanted = replace(pretrain_defaults(data=str(data), out=str(out)), minutes=0.02, threads=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "train", train)
        pretrain(wanted)
    assert "0.02 minutes are about" in capsys.readouterr().err
    result = pretrain(wanted)
    assert "continuing after update 2" in capsys.readouterr().err
    settings = json.loads((out / "settings.json").read_text())
    shape = read_shape(out)
    assert (shape.width, shape.depth) in {(width, depth) for width, depth, _ in budget.SIZES}
    assert (settings["model"]["width"], settings["preset"]) == (shape.width, "auto")
    assert pretrain(wanted).steps == result.steps
    assert "is complete" in capsys.readouterr().err
