"""The loop: accumulation changes nothing, a seed fixes everything, a stop is invisible."""

import math

import pytest
import torch

from gpt1.batch import Batch
from gpt1.config import Model, Optim
from gpt1.errors import RunFailed
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LanguageModel
from gpt1.training.loop import Report, train
from gpt1.training.optimizer import Optimizer

STILL = {"embedding_dropout": 0.0, "residual_dropout": 0.0, "attention_dropout": 0.0}
SIZE = {"context": 8, "width": 16, "depth": 2, "heads": 2, "inner": 64, "vocabulary": 30}
ADAM = Optim(warmup=1, lr=1e-2)


def batches(micro_batch: int = 4):  # type: ignore[no-untyped-def]
    def at(step: int) -> list[Batch]:
        ids = torch.randint(30, (4, 1, 9), generator=torch.Generator().manual_seed(step))
        parts = ids.split(micro_batch)
        return [Batch(part[..., :-1], part[..., 1:].contiguous()) for part in parts]

    return at


def build(**dropout: float) -> tuple[LanguageModel, Optimizer]:
    body = GPT(Model(**SIZE, **dropout)).init_weights(torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    model = LanguageModel(body)
    return model, Optimizer(model, ADAM, steps=20)


def run(model: LanguageModel, optimizer: Optimizer, start: int, stop: int, micro_batch: int = 4) -> list[Report]:
    return list(train(model, batches(micro_batch), optimizer, weights={"lm": 1.0}, steps=stop, start=start, seed=5))


def test_loss_goes_down_on_one_batch() -> None:
    model, optimizer = build(**STILL)
    reports = list(train(model, lambda _: batches()(0), optimizer, weights={"lm": 1.0}, steps=20))
    assert reports[0].losses["lm"] == pytest.approx(math.log(30), rel=0.02)
    assert reports[-1].losses["lm"] < 0.7 * reports[0].losses["lm"]
    assert reports[0].tokens == 32


def test_accumulation_changes_nothing_but_rounding() -> None:
    (whole, one), (cut, two) = build(**STILL), build(**STILL)
    for a, b in zip(run(whole, one, 0, 5), run(cut, two, 0, 5, micro_batch=1), strict=True):
        assert a.losses["lm"] == pytest.approx(b.losses["lm"], rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stop_is_invisible_with_dropout_on(stop: int) -> None:
    (whole, one), (first, two) = build(), build()
    run(whole, one, 0, 6)
    run(first, two, 0, stop)
    second, three = build()
    three.load(two.state())
    torch.manual_seed(999)
    run(second, three, stop, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_ten_bad_updates_in_a_row_end_the_run() -> None:
    model, optimizer = build(**STILL)
    with torch.no_grad():
        model.body.blocks[0].attention_norm.weight.fill_(math.nan)  # type: ignore[union-attr]
    with pytest.raises(RunFailed, match="not finite in 10 updates"):
        run(model, optimizer, 0, 20)
