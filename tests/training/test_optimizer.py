"""The optimizers against PyTorch's own, and the promises the loop relies on."""

import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from conftest import one_line
from gpt1.config import Optim
from gpt1.training.muon import orthogonalise
from gpt1.training.optimizer import Optimizer, learning_rate


class Net(nn.Module):
    """Names as in the real network: hidden matrices lie under `blocks`."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, width)
        self.blocks = nn.ModuleList(
            [nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "up": nn.Linear(width, 4 * width)})]
        )
        self.blocks[0]["down"] = nn.Linear(4 * width, width)


def give(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    """A backward pass whose gradient is `gradient`."""
    (parameter * gradient).sum().backward()


def steps(model: nn.Module, optimizer: Optimizer, count: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(7)
    for step in range(count):
        for parameter in model.parameters():
            give(parameter, scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
        optimizer.update(step)


def test_paper_recipe_is_adamw_on_weights_and_adam_on_the_rest() -> None:
    settings = Optim(lr=1e-2, weight_decay=0.1, warmup=1, clip=0, decay="linear")
    torch.manual_seed(0)
    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())
    optimizer = Optimizer(ours, settings, steps=10)
    matrices, vectors = ([p for p in theirs.parameters() if (p.dim() > 1) is wide] for wide in (True, False))
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=1e-2
    )
    generator = torch.Generator().manual_seed(7)
    for step in range(5):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.grad = torch.randn(a.shape, generator=generator)
            give(a, b.grad)
        for group in reference.param_groups:
            group["lr"] = 1e-2 * learning_rate(step, 10, settings)
        reference.step()
        optimizer.update(step)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_muon_is_torch_muon_with_qkv_in_three() -> None:
    settings = Optim(method="muon", lr=0.0, matrix_lr=1e-2, warmup=1, clip=0, weight_decay=0.1, decay="linear")
    torch.manual_seed(0)
    model = Net()
    block = model.blocks[0]
    parts = [p.detach().clone().requires_grad_() for p in block["qkv"].weight.chunk(3)]  # type: ignore[index]
    reference = torch.optim.Muon(parts, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    optimizer = Optimizer(model, settings, steps=10**9)
    for step in range(3):
        gradient = torch.randn(36, 12)
        give(block["qkv"].weight, gradient)  # type: ignore[index]
        for part, grad in zip(parts, gradient.chunk(3), strict=True):
            part.grad = grad.clone()
        optimizer.update(step)
        reference.step()
    # PyTorch's iterates in bfloat16.
    torch.testing.assert_close(block["qkv"].weight.detach(), torch.cat(parts).detach(), atol=3e-3, rtol=0)  # type: ignore[index]


def test_orthogonalise_flattens_the_spectrum() -> None:
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert values.min() > 0.5
    assert values.max() < 1.4


@pytest.mark.parametrize("kernel_divides", [True, False])
@pytest.mark.parametrize("method", ["adam", "muon"])
def test_gradients_are_clipped_by_their_global_norm(method: str, kernel_divides: bool) -> None:
    """Two updates of large gradients are those of gradients that PyTorch clipped; small ones stay as they are."""
    torch.manual_seed(0)
    clipped, reference = Net(), Net()
    reference.load_state_dict(clipped.state_dict())
    optimizers = [
        Optimizer(model, Optim(method=method, lr=1e-2, matrix_lr=1e-2, warmup=1, clip=clip), steps=10)  # type: ignore[arg-type]
        for model, clip in ((clipped, 0.5), (reference, 0.0))
    ]
    optimizers[0].kernel_divides = kernel_divides
    for step, scale in enumerate((3.0, 1e-4)):
        gradients = [scale * torch.randn(p.shape) for p in clipped.parameters()]
        for parameter, gradient in zip(clipped.parameters(), gradients, strict=True):
            give(parameter, gradient)
        norm = optimizers[0].update(step)
        assert norm == pytest.approx(torch.nn.utils.get_total_norm(gradients).item())
        for parameter, gradient in zip(reference.parameters(), gradients, strict=True):
            give(parameter, gradient * min(1.0, 0.5 / norm))
        optimizers[1].update(step)
    for name, value in optimizers[0].state().items():
        torch.testing.assert_close(
            value, optimizers[1].state()[name], rtol=2e-5, atol=2e-5 if method == "muon" else 1e-7
        )


def test_accumulated_gradients_are_summed_in_fp32() -> None:
    model = Net().bfloat16()
    optimizer = Optimizer(model, Optim(), steps=10)
    for value in (256.0, 1.0):  # bfloat16 cannot hold 257
        for parameter in model.parameters():
            give(parameter, torch.full_like(parameter, value))
    assert all((m.grad == 257).all() for m in optimizer.masters.values() if m.grad is not None)


@pytest.mark.parametrize("method", ["adam", "muon"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_changes_nothing(method: str, bad: float) -> None:
    model = Net()
    optimizer = Optimizer(model, Optim(method=method, matrix_lr=1e-2, warmup=1), steps=10)  # type: ignore[arg-type]
    steps(model, optimizer, 2)
    before = {name: value.clone() for name, value in optimizer.state().items()}
    steps(model, optimizer, 1, scale=bad)
    assert all(torch.equal(before[name], value) for name, value in optimizer.state().items())


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_the_kernel_clips_and_skips_as_the_program_does(clip: float) -> None:
    """What a GPU does, so that nothing waits for the norm; PyTorch's fused Adam for a CPU takes the same orders."""
    models = []
    for on_device in (False, True):
        torch.manual_seed(0)
        models.append(model := Net())
        optimizer = Optimizer(model, Optim(lr=1e-2, warmup=1, clip=clip), steps=10)
        optimizer.on_device = on_device
        for scale in (1.0, 1e-6, math.nan, 1.0):
            steps(model, optimizer, 1, scale)
        assert all(state["step"] == 3 for state in optimizer.adam.state.values())
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("method", ["adam", "muon"])
def test_state_is_all_a_continuation_needs(method: str) -> None:
    settings = Optim(method=method, matrix_lr=1e-2, warmup=1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    first = Net().bfloat16()
    optimizer = Optimizer(first, settings, steps=10)
    steps(first, optimizer, 2)
    state = {name: value.clone() for name, value in optimizer.state().items()}
    second = Net().bfloat16()
    successor = Optimizer(second, settings, steps=10)
    successor.load(state)
    steps(first, optimizer, 3)
    steps(second, successor, 3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(value, successor.state()[name]) for name, value in optimizer.state().items())


MUON = Optim(method="muon", matrix_lr=1e-2, warmup=1)


def test_muons_momentum_is_named_and_shaped_as_its_matrices() -> None:
    model = Net()
    optimizer = Optimizer(model, MUON, steps=10)
    steps(model, optimizer, 2)
    state = optimizer.state()
    hidden = {name: p for name, p in model.named_parameters() if "blocks." in name and p.dim() == 2}
    assert {name for name in state if name.startswith("muon.")} == {f"muon.{name}" for name in hidden}
    for name, matrix in hidden.items():
        assert state[f"muon.{name}"].shape == matrix.shape
    # After two updates of gradients g and h the momentum is 0.05 (0.95 g + h), whatever matrix it is of.
    again = Net()
    again.load_state_dict(model.state_dict())
    optimizer = Optimizer(again, replace(MUON, clip=0), steps=10)
    gradients = [{name: torch.randn(matrix.shape) for name, matrix in hidden.items()} for _ in range(2)]
    for step, given in enumerate(gradients):
        for name, matrix in again.named_parameters():
            if name in hidden:
                give(matrix, given[name])
        optimizer.update(step)
    for name in hidden:
        expected = 0.05 * (0.95 * gradients[0][name] + gradients[1][name])
        torch.testing.assert_close(optimizer.state()[f"muon.{name}"], expected)


class Shuffled(Net):
    """The same parameters, registered in another order."""

    def __init__(self) -> None:
        super().__init__()
        (block,) = self.blocks
        self.blocks = nn.ModuleList([nn.ModuleDict({name: block[name] for name in ("down", "up", "qkv")})])  # type: ignore[index]


def test_the_order_of_parameters_does_not_matter_to_a_state() -> None:
    torch.manual_seed(0)
    first, second = Net(), Shuffled()
    assert list(dict(first.named_parameters())) != list(dict(second.named_parameters()))
    before, after = Optimizer(first, MUON, steps=10), Optimizer(second, MUON, steps=10)
    steps(first, before, 2)
    after.load(before.state())
    assert before.state().keys() == after.state().keys()
    assert all(torch.equal(value, after.state()[name]) for name, value in before.state().items())
    for name, weight in first.named_parameters():
        give(weight, torch.ones_like(weight))
        give(second.get_parameter(name), torch.ones_like(weight))
    before.update(2)
    after.update(2)
    for name, weight in first.named_parameters():
        torch.testing.assert_close(weight, second.get_parameter(name))


def test_a_state_of_an_earlier_version_is_refused_whole() -> None:
    model = Net()
    optimizer = Optimizer(model, MUON, steps=10)
    state = {name: value.clone() + 1 for name, value in optimizer.state().items() if not name.startswith("muon.")}
    before = {name: value.clone() for name, value in optimizer.state().items()}
    with one_line("muon.blocks.0.qkv.weight", "earlier version", "start over with fresh"):
        optimizer.load(state | {"muon.12x12": torch.zeros(3, 12, 12), "muon.12x48": torch.zeros(2, 12, 48)})
    assert all(torch.equal(before[name], value) for name, value in optimizer.state().items())


def test_a_finished_training_frees_its_memory() -> None:
    model = Net()
    optimizer = Optimizer(model, Optim(), steps=2)
    steps(model, optimizer, 2)
    alive = [weakref.ref(one) for one in (optimizer, optimizer.masters["tokens.weight"], model.tokens.weight)]
    del optimizer, model
    gc.collect()
    assert [one() for one in alive] == [None] * 3


def test_learning_rate() -> None:
    paper = Optim(warmup=2000)
    assert learning_rate(0, 10_000, paper) == pytest.approx(1 / 2000)
    assert learning_rate(1999, 10_000, paper) == 1.0
    assert learning_rate(6000, 10_000, paper) == pytest.approx(0.5)
    assert learning_rate(9_999, 10_000, paper) < 1e-6
    assert learning_rate(60, 100, Optim(warmup=20, decay="linear")) == pytest.approx(0.5)
    late = Optim(warmup=20, decay="linear", cooldown=0.25)
    assert [learning_rate(step, 100, late) for step in (19, 20, 80, 90)] == pytest.approx([1, 1, 1, 0.5])
    assert {learning_rate(step, 100, Optim(warmup=20, cooldown=0)) for step in range(20, 100)} == {1.0}
