"""Arithmetic of a plan, against the real network and optimizer and against counts by hand."""

import pytest
import torch

from gpt1.config import PRESETS, RECIPES, Model, Pretrain, Recipe
from gpt1.model.gpt import GPT, count_parameters
from gpt1.model.objectives import LanguageModel
from gpt1.pretraining.memory import memory_parts
from gpt1.pretraining.throughput import Throughput
from gpt1.training.optimizer import Optimizer

SIZE = Model(context=16, width=32, depth=2, heads=2, inner=128, vocabulary=300)
SPEED = Throughput(update=1.0, validation=2.0, final_validation=7.0, sample=0.5, save=3.0)


@pytest.mark.parametrize("size", [SIZE, *PRESETS.values()])
def test_parameters_are_those_of_the_network(size: Model) -> None:
    with torch.device("meta"):
        body = GPT(size)
    matrices = sum(p.numel() for p in body.blocks.parameters() if p.dim() == 2)
    assert count_parameters(size) == (sum(p.numel() for p in body.parameters()), matrices)


@pytest.mark.parametrize("recipe", ["paper", "fast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_parts_are_those_of_the_optimizer(recipe: Recipe, dtype: torch.dtype) -> None:
    asked = Pretrain(data="", out="", model=SIZE, optim=RECIPES[recipe])
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
    told = capsys.readouterr().err
    assert f"too short: 10 updates take about {SPEED.seconds(10) / 60:.2g} minutes" in told
