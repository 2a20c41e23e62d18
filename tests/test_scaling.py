"""The formulas of benchmarks/scaling.py, by which docs/scaling-arithmetic.md reckons, against small models."""

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gpt1.config import RECIPES, Model, Recipe
from gpt1.model.gpt import GPT, count_parameters, flops_per_token
from gpt1.model.objectives import LanguageModel
from gpt1.training import parallel
from gpt1.training.device import choose_device
from gpt1.training.loop import train
from gpt1.training.optimizer import Optimizer

ROOT = Path(__file__).resolve().parents[1]
SHAPE = Model(context=64, width=64, depth=4, heads=2, inner=256, vocabulary=512, attention_dropout=0.0)


native_bf16 = pytest.mark.skipif(
    choose_device("cpu", "auto")[1] != torch.bfloat16,
    reason="a CPU without bfloat16 products may copy their factors to fp32, which the formulas leave out",
)


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("scaling_checks")


@pytest.fixture(scope="module")
def scaling(checks: ModuleType) -> ModuleType:
    return sys.modules["scaling"]


def test_arithmetic_is_what_pytorch_counts(checks: ModuleType) -> None:
    assert checks.counted_flops(SHAPE) == pytest.approx(flops_per_token(SHAPE), rel=0.02)


@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_the_state_has_as_many_bytes(recipe: Recipe, scaling: ModuleType, checks: ModuleType) -> None:
    model = LanguageModel(GPT(SHAPE).init_weights())
    optimizer = Optimizer(model, RECIPES[recipe], 2)
    model = model.to(torch.bfloat16)
    for _ in train(model, checks.batches(SHAPE, 1), optimizer, weights={"lm": 1.0}, steps=1):
        pass
    state = {name: tensor for name, tensor in optimizer.state().items() if ".step." not in name}
    held = [*model.parameters(), *state.values(), *optimizer.gradients.values()]
    assert sum(tensor.nbytes for tensor in held) == scaling.state_bytes(SHAPE, recipe)
    assert sum(tensor.nbytes for tensor in state.values()) == scaling.saved_bytes(SHAPE, recipe)


@native_bf16
@pytest.mark.parametrize(("recipe", "rows"), [("paper", 16), ("fast", 1)])
def test_the_peak_is_near(recipe: Recipe, rows: int, scaling: ModuleType, checks: ModuleType) -> None:
    """Of 16 windows activations are the most; of one with Muon, its own tensors."""
    expected = scaling.peak_bytes(SHAPE, rows * SHAPE.context, recipe, mask=2)
    assert checks.measured_peak(SHAPE, rows, recipe) == pytest.approx(expected, rel=0.1)


@pytest.fixture(scope="module")
def one_of_many(checks: ModuleType) -> dict[str, float]:
    """What one of 8 GPUs sends and holds."""
    found: dict[str, float] = checks.sharded(SHAPE, 16, 3, 8)
    return found


def test_one_of_many_sends_its_share(scaling: ModuleType, one_of_many: dict[str, float]) -> None:
    assert one_of_many["sent"] == pytest.approx(scaling.fsdp_sent(SHAPE, 3, 8), rel=1e-9)


@native_bf16
def test_one_of_many_holds_its_share(scaling: ModuleType, one_of_many: dict[str, float]) -> None:
    assert one_of_many["peak"] == pytest.approx(scaling.fsdp_bytes(SHAPE, 16 * SHAPE.context, 8, mask=2), rel=0.1)


def test_an_update_sends_each_gradient_once_in_fp32(checks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides, a few numbers, which are float64."""
    given: list[torch.Tensor] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, *_, **__: given.append(tensor))
    optimizer = Optimizer(model := LanguageModel(GPT(SHAPE).init_weights()), RECIPES["paper"], 3)
    with parallel.within(parallel.World(0, 2)):
        for _ in train(model, checks.batches(SHAPE, 1), optimizer, weights={"lm": 1.0}, steps=3):
            pass
    gradients = [tensor for tensor in given if tensor.dtype == torch.float32]
    assert sum(tensor.nbytes for tensor in gradients) == 3 * 4 * count_parameters(SHAPE)[0]
    assert sum(tensor.nbytes for tensor in given if tensor.dtype == torch.float64) <= 3 * 8 * 5


def test_a_ring_sends_what_it_must(scaling: ModuleType) -> None:
    """Two processes: each gives the other one half of its sums, then of the results."""
    assert scaling.ddp_sent(SHAPE, 2) == 4 * count_parameters(SHAPE)[0]
    assert scaling.ddp_sent(SHAPE, 1) == scaling.fsdp_sent(SHAPE, 3, 1) == 0
    one = scaling.update_seconds(SHAPE, 2**16, 1, "DDP")
    assert one["exchange"] == 0
    assert one == scaling.update_seconds(SHAPE, 2**16, 1, "FSDP")


def test_the_interval_loses_least(scaling: ModuleType) -> None:
    best = scaling.save_interval(3.0, 7200.0)
    assert best == pytest.approx(math.sqrt(2 * 3 * 7200))
    losses = [scaling.lost(3.0, best * factor, 7200.0, 60.0) for factor in (0.8, 1.0, 1.25)]
    assert losses[1] == min(losses)


def test_the_page_holds_the_tables(scaling: ModuleType) -> None:
    """`python benchmarks/scaling.py` prints them."""
    page = (ROOT / "docs" / "scaling-arithmetic.md").read_text(encoding="utf-8")
    missing = [name for name, table in scaling.TABLES.items() if scaling.markdown(table()) not in page]
    assert not missing
