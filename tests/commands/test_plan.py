"""Planning: its arithmetic against the real network and optimizer, its promises against a real run, wrong input."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import is_open, temporary_folders
from gpt1.cli.main import main
from gpt1.commands import plan as job
from gpt1.commands.plan import LONGEST_HOURS, plan, show
from gpt1.commands.pretrain import pretrain
from gpt1.config import PRESETS, Model, Plan, pretrain_defaults
from gpt1.errors import UserError
from gpt1.options import flat
from gpt1.pretraining import throughput

SIZE = Model(context=16, width=32, depth=2, heads=2, inner=128, vocabulary=300)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SECONDS", 0.0)


def settings(data: Path | str = "", **changes: Any) -> Plan:
    base = pretrain_defaults("tiny", data=str(data), out="")
    values = {field: getattr(base, field) for field in ("data", "preset", "recipe", "optim")}
    return Plan(**(values | {"model": SIZE, "batch": 4, "micro_batch": 2, "threads": 1} | changes))


def test_an_update_is_extrapolated_from_one_and_two_micro_batches(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an update takes 2 seconds and each window of it 3, one of 10 windows takes 32."""
    real = throughput.train

    def train(*args: Any, **kwargs: Any) -> Any:
        for report in real(*args, **kwargs):
            vars(report)["seconds"] = 2 + 3 * report.tokens / SIZE.context
            yield report

    monkeypatch.setattr(throughput, "train", train)
    for micro_batch in (2, 5, 7, 10):
        assert plan(settings(batch=10, micro_batch=micro_batch))["seconds_per_update"] == pytest.approx(32)


def test_what_is_planned_is_what_pretrain_then_does(data: Path, tmp_path: Path) -> None:
    asked = replace(pretrain_defaults("tiny", data=str(data), out=str(tmp_path)), model=SIZE, threads=1, epochs=0.1)
    planned, done = plan(Plan(**{f: getattr(asked, f) for f in asked.__dataclass_fields__})), pretrain(asked)
    assert planned["steps"] == done["steps"]
    assert planned["parameters"] == done["parameters"]
    assert planned["tokens"] == done["steps"] * asked.batch * SIZE.context
    assert planned["tokens_per_update"] == asked.batch * SIZE.context
    assert planned["memory_bytes"] > sum(planned["memory_parts"].values())
    assert planned["hours"] > 0
    assert planned["fits"]


def test_a_run_of_years_is_not_said_to_fit(capsys: pytest.CaptureFixture[str]) -> None:
    planned = plan(settings(steps=10**12))
    assert planned["fits"], "into memory"
    assert planned["hours"] > LONGEST_HOURS
    err = capsys.readouterr().err
    assert "fits into memory, but it would take" in err
    assert " years; choose a smaller one of steps, batch, preset" in err
    assert "this run fits:" not in err


def test_nothing_is_left_behind(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan(settings(data, out="run"))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which files are open")
def test_no_file_stays_open(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows removes no file that is open or mapped: of a temporary folder, of the data."""
    closed = temporary_folders(monkeypatch)
    shutil.copytree(data, tmp_path / "data")
    plan(settings(tmp_path / "data"))
    assert closed == [True]
    assert not is_open(tmp_path)


def test_without_data_a_starting_model_gives_the_shape(data: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    pretrain(replace(pretrain_defaults("tiny", data=str(data), out=run), model=SIZE, threads=1, steps=1))
    result = plan(settings(init=run, model=replace(PRESETS["tiny"], vocabulary=0)))
    assert (result.context, result.vocabulary) == (SIZE.context, SIZE.vocabulary)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError()])
def test_running_out_of_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(throughput, "train", fail)
    assert main("plan --preset tiny --model.depth 1 --model.vocabulary 300 --steps 1 --threads 1".split()) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("gpt1 plan: out of memory; lower --micro-batch, --model.context or")


def test_without_data_a_thousand_updates_of_the_asked_vocabulary() -> None:
    result = plan(settings())
    assert (result["vocabulary"], result["steps"]) == (300, 1000)
    show(result)


def test_a_line_for_pretrain_is_a_line_for_plan(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{data} --out run --preset tiny --model.width 32 --model.heads 2 --model.inner 128 --steps 3 --threads 1"
    assert main(["plan", *line.split(), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["context"]) == (3, PRESETS["tiny"].context)
    assert set(flat(Plan())) == set(flat(pretrain_defaults(data="", out="")))


def test_more_than_there_is_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(job, "available_memory", lambda device: 10 * 2**20)
    line = "plan --preset tiny --model.depth 1 --model.vocabulary 300 --steps 1 --threads 1 --dtype fp32"
    assert main(line.split()) == 0
    out, err = capsys.readouterr()
    assert "of the 10 MiB available" in out
    assert err.startswith("this run does not fit")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nowhere", "manifest.json"),
        ("--epochs 2", "--epochs needs"),
        ("--steps 5 --minutes 2", "--steps and --minutes"),
        ("--model.vocabulary 1", "--model.vocabulary"),
        ("--model.width 100", "--model.heads"),
        ("--model.inner 100", "--model.inner"),
        ("--model.context 0", "--model.context"),
        ("--batch 0", "--batch"),
        ("--model.depth 1000000000", "cannot fit"),
        ("--model.vocabulary 1000000000000", "cannot fit"),
        ("--model.width 30000000 --model.inner 120000000", "cannot fit"),
        ("--model.context 1000000000000", "cannot fit"),
        ("--preste tiny", "--preset"),
    ],
)
def test_a_wrong_request_is_one_line(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_steps_and_epochs_contradict_each_other(data: Path) -> None:
    with pytest.raises(UserError, match="steps and epochs contradict"):
        plan(settings(data, steps=3, epochs=1.0))
