"""Planning: its arithmetic against the real network and optimizer, its promises against a real run, wrong input."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt1.cli.main import main
from gpt1.commands import plan as job
from gpt1.commands.plan import plan, show
from gpt1.commands.prepare import prepare
from gpt1.commands.pretrain import pretrain
from gpt1.config import PRESETS, Model, Plan, Prepare, pretrain_defaults
from gpt1.data.docstrings import topics
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LanguageModel
from gpt1.options import flat
from gpt1.pretraining import throughput
from gpt1.pretraining.defaults import count_parameters
from gpt1.pretraining.throughput import Throughput, memory_parts
from gpt1.training.optimizer import Optimizer

SIZE = Model(context=16, width=32, depth=2, heads=2, inner=128, vocabulary=300)
SPEED = Throughput(update=1.0, validation=2.0, final_validation=7.0, sample=0.5, save=3.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    text = folder / "topics.txt"
    text.write_text("\n".join(topics()[:12]), encoding="utf-8")
    prepare(Prepare(inputs=[str(text)], out=str(folder / "data"), vocabulary=300, val_fraction=0.1))
    return folder / "data"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SECONDS", 0.0)


def settings(data: Path | str = "", **changes: Any) -> Plan:
    base = pretrain_defaults("tiny", data=str(data), out="")
    values = {field: getattr(base, field) for field in ("data", "preset", "recipe", "optim")}
    return Plan(**(values | {"model": SIZE, "batch": 4, "micro_batch": 2, "threads": 1} | changes))


@pytest.mark.parametrize("size", [SIZE, *PRESETS.values()])
def test_parameters_are_those_of_the_network(size: Model) -> None:
    with torch.device("meta"):
        body = GPT(size)
    matrices = sum(p.numel() for p in body.blocks.parameters() if p.dim() == 2)
    assert count_parameters(size) == (sum(p.numel() for p in body.parameters()), matrices)


@pytest.mark.parametrize("recipe", ["paper", "fast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_parts_are_those_of_the_optimizer(recipe: str, dtype: torch.dtype) -> None:
    asked = settings(optim=pretrain_defaults("tiny", recipe, data="", out="").optim)  # type: ignore[arg-type]
    model = LanguageModel(GPT(SIZE).init_weights())
    optimizer = Optimizer(model, asked.optim, 10)
    model.to(dtype)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.update(0)
    held = {name: t for name, t in optimizer.state().items() if not name.startswith("adam.step.")}
    moments = sum(t.nbytes for name, t in held.items() if not name.startswith("master."))
    assert memory_parts(asked, dtype) == {
        "weights": sum(p.nbytes for p in model.parameters()),
        "masters": sum(t.nbytes for name, t in held.items() if name.startswith("master.")),
        "gradients": sum(t.nbytes for t in optimizer.gradients.values()),
        "moments": moments,
    }


def test_seconds_of_a_run_counted_by_hand() -> None:
    # 10 updates, a look after each but the last: 10 + 9 (2 + 0.5) + 9 x 3, then 7 + 0.5 + 3.
    assert SPEED.seconds(10) == 10 + 22.5 + 27 + 10.5
    # 100 updates, looks after 50 and saves after 40 and 80.
    assert SPEED.seconds(100, eval_every=50, save_every=40) == 100 + 2.5 + 6 + 10.5


def test_updates_in_a_time_are_the_most_that_fit() -> None:
    steps = SPEED.steps(600, eval_every=50)
    assert SPEED.seconds(steps, eval_every=50) <= 600 < SPEED.seconds(steps + 1, eval_every=50)


def test_however_short_the_time_a_few_updates_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert SPEED.steps(0.6) == 10
    assert "0.01 minutes are too short; 10 updates will be made" in capsys.readouterr().err


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


def test_nothing_is_left_behind(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan(settings(data, out="run"))
    assert not list(tmp_path.iterdir())


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
    monkeypatch.setattr(job, "available_memory", lambda device: 8 * 2**20)
    assert main("plan --preset tiny --model.depth 1 --model.vocabulary 300 --steps 1 --threads 1".split()) == 0
    out, err = capsys.readouterr()
    assert "of the 8 MiB available" in out
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
