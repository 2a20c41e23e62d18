"""The loop: golden numbers, gradient accumulation, exact continuation, losses that are left out."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from gpt1.batch import Batch
from gpt1.config import RECIPES, Model, Optim, Recipe
from gpt1.errors import RunFailed
from gpt1.model.fused_cpu import fuse
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LanguageModel, TaskModel
from gpt1.training.loop import SPIKE_WINDOW, LoopState, StepReport, train
from gpt1.training.optimizer import Optimizer

STILL = {"embedding_dropout": 0.0, "residual_dropout": 0.0, "attention_dropout": 0.0}
SIZE = {"context": 8, "width": 16, "depth": 2, "heads": 2, "inner": 64, "vocabulary": 30}
ADAM = Optim(warmup=1, lr=1e-2)


# Losses in nats of six updates, fp32 on a CPU. Where they change, so does every model that is trained from now on.
GOLDEN: dict[Recipe, list[float]] = {
    "paper": [3.399129, 3.427447, 3.387759, 3.393677, 3.398001, 3.443883],
    "fast": [3.399129, 3.427632, 3.387808, 3.394976, 3.396350, 3.440679],
}
GOLDEN_TASK = [1.107305, 1.011283, 0.966941, 0.961939, 0.861473, 0.896119]


def batches(micro_batch: int = 4) -> Callable[[int], list[Batch]]:
    def at(step: int) -> list[Batch]:
        ids = torch.randint(30, (4, 1, 9), generator=torch.Generator().manual_seed(step))
        parts = ids.split(micro_batch)
        return [Batch(part[..., :-1], part[..., 1:].contiguous()) for part in parts]

    return at


def build(**dropout: float) -> tuple[LanguageModel, Optimizer]:
    body = GPT(Model(**SIZE, **dropout)).init_weights(torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    model = LanguageModel(body)
    return model, Optimizer(model, ADAM, steps=20)


def run(model: LanguageModel, optimizer: Optimizer, start: int, stop: int, micro_batch: int = 4) -> list[StepReport]:
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


def test_more_than_ten_bad_updates_in_a_row_end_the_run() -> None:
    model, optimizer = build(**STILL)
    with torch.no_grad():
        model.body.blocks[0].attention_norm.weight.fill_(math.nan)  # type: ignore[union-attr]
    assert len(run(model, optimizer, 0, 10)) == 10
    with pytest.raises(RunFailed, match="not finite in 11 updates"):
        run(model, optimizer, 0, 20)


@pytest.mark.parametrize("recipe", RECIPES)
def test_golden_losses(recipe: Recipe) -> None:
    model = LanguageModel(GPT(Model(**SIZE)).init_weights(torch.Generator().manual_seed(0)))  # type: ignore[arg-type]
    fuse(model, compiled=False)
    optimizer = Optimizer(model, replace(RECIPES[recipe], warmup=2, lr=1e-2), steps=6)
    losses = [report.losses["lm"] for report in run(model, optimizer, 0, 6, micro_batch=2)]
    assert losses == pytest.approx(GOLDEN[recipe], rel=2e-6)


def labelled(step: int) -> list[Batch]:
    """The micro-batches of `batches`, with labels."""
    return [
        replace(
            batch,
            extract_NK=torch.full((2, 1), 7),
            real_NK=torch.ones(2, 1, dtype=torch.bool),
            labels_N=torch.arange(2),
        )
        for batch in batches(2)(step)
    ]


def task_model(seed: int = 0) -> tuple[TaskModel, Optimizer]:
    body = GPT(Model(**SIZE)).init_weights(torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    model = TaskModel(body, 3).init_head(torch.Generator().manual_seed(1))
    fuse(model, compiled=False)
    return model, Optimizer(model, replace(RECIPES["paper"], warmup=2, lr=1e-2), steps=6)


@pytest.mark.parametrize("coef", [0.0, 0.5])
def test_a_loss_of_weight_zero_is_not_computed(coef: float) -> None:
    """Without the auxiliary loss neither its logits nor its gradients exist; the task's numbers stay the same."""
    calls: list[Any] = []
    model, optimizer = task_model()
    real = model.cross_entropy
    model.cross_entropy = lambda *args: calls.append(args) or real(*args)  # type: ignore[func-returns-value]
    weights = {"task": 1.0, "lm": coef}
    reports = list(train(model, labelled, optimizer, weights=weights, steps=6, seed=5))
    assert len(calls) == (12 if coef else 0)
    assert set(reports[0].losses) == ({"task", "lm"} if coef else {"task"})
    if not coef:
        assert [report.losses["task"] for report in reports] == pytest.approx(GOLDEN_TASK, rel=2e-6)


# Updates that go wrong


class Faulty(LanguageModel):
    """A language model whose sums pass through a function of the number of the forward pass."""

    def __init__(self, body: GPT, change: Callable[[int, Any], Any]) -> None:
        super().__init__(body)
        self.change, self.passes = change, 0

    def forward(self, batch: Batch, terms: Any = ("lm",)) -> dict[str, torch.Tensor]:
        self.passes += 1
        return {name: self.change(self.passes, value) for name, value in super().forward(batch, terms).items()}


def faulty(change: Callable[[int, Any], Any], **optim: Any) -> tuple[Faulty, Optimizer]:
    body = GPT(Model(**SIZE, **STILL)).init_weights(torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    model = Faulty(body, change)
    return model, Optimizer(model, replace(ADAM, **optim), steps=400)


def snapshot(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in optimizer.state().items()}


@pytest.mark.parametrize("recipe", ["paper", "fast"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_skipped_bit_for_bit(
    what: str, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """An infinite loss whose gradient is finite counts too."""

    def change(number: int, value: torch.Tensor) -> torch.Tensor:
        if number != 3:
            return value
        return value + math.inf if what == "loss" else value * math.nan

    model, optimizer = faulty(change, method=RECIPES[recipe].method, matrix_lr=1e-2)
    before: dict[str, torch.Tensor] = {}
    for report in train(model, batches(), optimizer, weights={"lm": 1.0}, steps=5):
        assert report.is_skipped == (report.step == 3)
        after = snapshot(optimizer)
        same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in after)
        assert same == report.is_skipped
        before = after
    assert "update 3: the loss or the gradient is not finite; this update is skipped (1 in a row)" in flat_err(capsys)


def flat_err(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("skip", [False, True])
def test_a_spike_is_reported_and_skipped_if_asked(skip: bool, capsys: pytest.CaptureFixture[str]) -> None:
    spike = SPIKE_WINDOW + 5
    model, optimizer = faulty(lambda number, value: value * (3 if number == spike else 1), lr=1e-5, skip_spikes=skip)
    before = {}
    for report in train(model, batches(), optimizer, weights={"lm": 1.0}, steps=spike + 3):
        if report.step == spike:
            changed = any(not torch.equal(before[name], value) for name, value in snapshot(optimizer).items())
            assert changed != skip
            assert report.is_skipped == skip
        before = snapshot(optimizer)
    said = flat_err(capsys)
    assert said.count("more than 6 standard deviations above the mean of the 128 updates before") == 1
    assert f"update {spike}: the loss, " in said
    assert ("this update is skipped (1 in a row)" in said) == skip


def test_spikes_are_the_same_after_a_stop() -> None:
    """The losses before an update are part of the state that a run continues from."""

    def change(number: int, value: torch.Tensor) -> torch.Tensor:
        return value * (1.5 if number % 50 == 0 else 1)

    steps, stop = 300, 149
    whole, one = faulty(change, lr=1e-5, skip_spikes=True)
    skipped = [r.step for r in train(whole, batches(), one, weights={"lm": 1.0}, steps=steps) if r.is_skipped]
    assert skipped
    first, two = faulty(change, lr=1e-5, skip_spikes=True)
    state = LoopState()
    list(train(first, batches(), two, weights={"lm": 1.0}, steps=stop, state=state))
    second, three = faulty(change, lr=1e-5, skip_spikes=True)
    three.load(two.state())
    second.passes = stop
    state = LoopState(**json.loads(json.dumps(asdict(state))))
    again = train(second, batches(), three, weights={"lm": 1.0}, steps=steps, start=stop, state=state)
    assert [report.step for report in again if report.is_skipped] == [step for step in skipped if step > stop]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


# Memory


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


def cramped(rows: int, error: Exception, during: str = "forward") -> tuple[LanguageModel, Optimizer, list[int]]:
    """A model that runs out of memory with more than `rows` examples; the sizes of its passes are noted."""
    model, optimizer = build(**STILL)
    real, sizes = model.body.forward, []  # type: ignore[var-annotated]

    def fail(_: Any) -> None:
        raise error

    def forward(tokens_NT: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tokens_NT))
        h_NTD = real(tokens_NT)
        if len(tokens_NT) > rows:
            if during == "forward":
                raise error
            h_NTD.register_hook(fail)  # in the middle of the backward pass, when some gradients are done
        return h_NTD

    model.body.forward = forward  # type: ignore[method-assign]
    return model, optimizer, sizes


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("during", ["forward", "backward"])
def test_out_of_memory_halves_the_micro_batch_and_changes_only_rounding(
    error: Exception, during: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, one = build(**STILL)
    expected = run(whole, one, 0, 3)
    model, optimizer, sizes = cramped(1, error, during)
    found = run(model, optimizer, 0, 3)
    assert sizes == [4, 2, *[1] * 12], "once halved, it stays so"
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"out of memory: continuing with micro-batches of {rows}; the batch of an update stays the same"
        for rows in (2, 1)
    ]
    for a, b in zip(expected, found, strict=True):
        assert (a.tokens, a.counts) == (b.tokens, b.counts)
        assert a.losses["lm"] == pytest.approx(b.losses["lm"], rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
    for weight, other in zip(whole.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(weight, other, atol=1e-5, rtol=0)


def test_one_example_that_does_not_fit_is_an_error() -> None:
    model, optimizer, sizes = cramped(0, OUT_OF_MEMORY[0])
    with pytest.raises(torch.OutOfMemoryError):
        run(model, optimizer, 0, 3)
    assert sizes == [4, 2, 1]


def test_other_errors_are_not_taken_for_it() -> None:
    model, optimizer, sizes = cramped(0, RuntimeError("shapes"))
    with pytest.raises(RuntimeError, match="shapes"):
        run(model, optimizer, 0, 3)
    assert sizes == [4]


def test_the_largest_batch_is_tried_first_and_changes_nothing() -> None:
    whole, one = build()
    run(whole, one, 0, 3)
    model, optimizer = build()
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0].tokens_NKT)))
    largest = [Batch(torch.zeros(7, 1, 8, dtype=torch.int64), torch.zeros(7, 1, 8, dtype=torch.int64))]
    list(train(model, batches(), optimizer, weights={"lm": 1.0}, steps=3, seed=5, largest=largest))
    assert sizes == [7, 4, 4, 4]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))
    model, optimizer, sizes = cramped(3, OUT_OF_MEMORY[0])
    list(train(model, batches(), optimizer, weights={"lm": 1.0}, steps=1, seed=5, largest=largest))
    assert sizes == [7, 3, 3, 1, 3, 1], "halved before the first update"


def test_an_update_that_is_given_up_leaves_no_trace() -> None:
    whole, one = build()
    run(whole, one, 0, 4)
    model, optimizer = build()
    looks = iter([False] * 12 + [True] * 9)  # in the middle of the third update
    reports = list(
        train(
            model, batches(1), optimizer, weights={"lm": 1.0}, steps=4, seed=5, give_up=lambda: next(looks)
        )
    )  # fmt: skip
    assert len(reports) == 2
    same, two = build()
    run(same, two, 0, 2, micro_batch=1)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), model.parameters(), strict=True))
    run(model, optimizer, 2, 4, micro_batch=1)
    run(same, two, 2, 4, micro_batch=1)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), model.parameters(), strict=True))
