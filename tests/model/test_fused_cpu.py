"""What `fuse` puts into a model for training on a CPU, against the plain network and the formulas."""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.batch import Batch
from gpt1.config import Model
from gpt1.model import fused_cpu
from gpt1.model import kernels as kernels_module
from gpt1.model.fused_cpu import _attend, fuse, fuse_block, masked_dropout
from gpt1.model.gpt import GPT, Block
from gpt1.model.kernels import Kernels, mask_multipliers, new_seed
from gpt1.model.objectives import LanguageModel

SHAPE = Model(context=24, width=32, depth=2, heads=2, inner=80, vocabulary=50)
DROPPING = Model(context=24, width=32, heads=2, inner=80, attention_dropout=0.2, residual_dropout=0.3)
CONTROL = Kernels(compiled=False)
ALL_KERNELS = {
    "gelu", "gelu_and_backward", "split_heads", "add_and_norm", "add_and_norm_backward", "norm_weight_gradients",
    "drop", "transpose_into",
}  # fmt: skip

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
both = pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])


def a_block(config: Model = DROPPING) -> Block:
    """With weights, biases and gains that are all random, so that none can be left out unseen."""
    torch.manual_seed(0)
    block = Block(config)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
    return block


def fused(block: Block, compiled: bool) -> Block:
    """A copy of the block, fused."""
    block = copy.deepcopy(block)
    fuse_block(block, Kernels(compiled))
    return block


def run(block: Block, x: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of the input and of every parameter; dropout from one seed."""
    torch.manual_seed(5)
    x = x.detach().requires_grad_()
    y = block(x)
    grad = torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype)
    return y, *torch.autograd.grad(y, (x, *block.parameters()), grad)


def gradients(y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, inputs, torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype))


# Blocks


@both
def test_without_dropout_a_fused_block_is_the_plain_one(compiled: bool) -> None:
    block, x = a_block().eval(), torch.randn(3, 12, 32)
    for found, expected in zip(run(fused(block, compiled), x), run(block, x), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@needs_compiler
@pytest.mark.parametrize("rates", [(0.2, 0.3), (0.2, 0.0), (0.0, 0.3), (0.0, 0.0)])
def test_compiled_and_uncompiled_draw_the_same_masks(rates: tuple[float, float]) -> None:
    block, x = a_block(), torch.randn(3, 12, 32)
    block.attention.dropout.p, block.dropout.p = rates
    for found, expected in zip(run(fused(block, True), x), run(fused(block, False), x), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@needs_compiler
def test_a_gradient_of_a_gradient_is_refused() -> None:
    block, x = fused(a_block(), True), torch.randn(3, 12, 32, requires_grad=True)
    (grad,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiated Tensor|differentiate twice"):
        torch.autograd.grad(grad.sum(), x)


@needs_compiler
def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_one() -> None:
    block, x = a_block().eval(), torch.randn(3, 12, 32).bfloat16()
    exact = run(block, x.float())
    block = block.bfloat16()
    for fast, plain, truth in zip(run(fused(block, True), x), run(block, x), exact, strict=True):
        assert fast.dtype == torch.bfloat16
        assert (fast - truth).norm() <= 1.25 * (plain - truth).norm() + 1e-3 * truth.norm()


@both
def test_a_context_too_long_for_products_takes_pytorchs_attention(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, x = a_block().eval(), torch.randn(2, 12, 32)
    expected = run(block, x)
    monkeypatch.setattr(fused_cpu, "_products", None)
    monkeypatch.setattr(fused_cpu, "LONGEST", 8)
    for found, wanted in zip(run(fused(block, compiled), x), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


# Models


@both
def test_models_in_one_process_do_not_share_a_switch(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain, an uncompiled and a compiled model, used in turn, compute the same; only the asked one is changed."""
    plain = LanguageModel(GPT(SHAPE).init_weights(torch.Generator().manual_seed(1))).eval()
    other = copy.deepcopy(plain)
    names = list(other.state_dict())
    fuse(other, compiled)
    assert list(other.state_dict()) == names
    assert "forward" not in vars(plain.body.blocks[0])
    assert ("forward" in vars(other.body.blocks[0])) is compiled
    ids = torch.randint(50, (3, 1, 13), generator=torch.Generator().manual_seed(2))
    batch = Batch(tokens_NKT=ids[..., :-1], targets_NKT=ids[..., 1:])
    results = []
    for model in (plain, other, plain):
        model.zero_grad()
        loss = model(batch)["lm"]
        loss.backward()
        results.append((loss.detach(), [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(results[2][0], results[0][0])


@both
def test_validation_and_generation_run_the_plain_network(compiled: bool) -> None:
    model = LanguageModel(GPT(SHAPE).init_weights(torch.Generator().manual_seed(1)))
    expected = copy.deepcopy(model).eval().body(torch.arange(12)[None])
    fuse(model, compiled)
    with torch.inference_mode():
        assert torch.equal(model.eval().body(torch.arange(12)[None]), expected)


def dropping_model() -> LanguageModel:
    shape = replace(SHAPE, embedding_dropout=0.1, attention_dropout=0.2, residual_dropout=0.3)
    model = LanguageModel(GPT(shape).init_weights(torch.Generator().manual_seed(1)))
    for parameter in model.parameters():
        parameter.data.mul_(8)
    return model


def loss_and_gradients(model: LanguageModel, seed: int) -> list[Tensor]:
    ids = torch.randint(50, (3, 1, 13), generator=torch.Generator().manual_seed(2))
    torch.manual_seed(seed)
    loss = model(Batch(tokens_NKT=ids[..., :-1], targets_NKT=ids[..., 1:]))["lm"]
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@needs_compiler
def test_each_model_trains_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, taking turns in one thread: bit for bit what each gives alone, and only one runs compiled code."""
    alone = {}
    for name in ("plain", "uncompiled", "compiled"):
        model = dropping_model()
        if name != "plain":
            fuse(model, name == "compiled")
        alone[name] = [loss_and_gradients(model, seed) for seed in range(2)]
    calls: list[str] = []
    real = kernels_module._compiled

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        compiled = real(function)
        return lambda *args: calls.append(function.__name__) or compiled(*args)

    monkeypatch.setattr(kernels_module, "_compiled", counted)
    models = {name: dropping_model() for name in alone}
    fuse(models["uncompiled"], compiled=False)
    fuse(models["compiled"], compiled=True)
    for seed in range(2):
        for name in ("compiled", "plain", "uncompiled", "plain", "compiled"):
            calls.clear()
            found = loss_and_gradients(models[name], seed)
            assert all(torch.equal(a, b) for a, b in zip(found, alone[name][seed], strict=True)), name
            assert set(calls) == (ALL_KERNELS if name == "compiled" else set()), name


@both
def test_with_dropout_the_mean_is_that_of_the_plain_network(compiled: bool) -> None:
    """Over many masks; the difference is measured in its own standard error."""
    torch.manual_seed(1)
    block, x = a_block(), torch.randn(1, 6, 32, requires_grad=True)
    ours, theirs = (torch.stack([made(x).detach() for _ in range(1500)]) for made in (fused(block, compiled), block))
    z = (ours.mean(0) - theirs.mean(0)) / ((ours.var(0) + theirs.var(0)) / 1500).sqrt()
    assert z.abs().max() < 5
    assert z.square().mean().sqrt().item() == pytest.approx(1, abs=0.5)


TRANSPOSE = """
import torch
from gpt1.model.kernels import Kernels

x = torch.arange(512 * 64.0).view(512, 64)
assert torch.equal(Kernels(compiled=True).transpose_contiguous(x), x.T)
"""


@needs_compiler
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="stands for two kinds of CPU")
def test_code_that_another_cpu_compiled_is_not_reused(tmp_path: Path) -> None:
    """PyTorch finds it in the folder of its cache, which machines may share."""
    for cpu in ("avx512", "avx2"):
        environment = os.environ | {"ATEN_CPU_CAPABILITY": cpu, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", TRANSPOSE], env=environment, check=True, timeout=300)


@needs_compiler
def test_many_shapes_are_compiled_and_dynamos_settings_stay() -> None:
    limit = torch._dynamo.config.recompile_limit
    block = fused(a_block(), True)
    torch._dynamo.utils.counters.clear()
    for tokens in range(2, 2 + limit + 3):
        block(torch.randn(1, tokens, 32, requires_grad=True)).sum().backward()
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["ok"] == frames["total"] > limit
    assert torch._dynamo.config.recompile_limit == limit


# Kernels


@both
def test_gelu_and_its_gradient_are_pytorchs_tanh_form(compiled: bool) -> None:
    x, bias, grad = torch.linspace(-9, 9, 999)[None], torch.full((999,), 0.25), torch.linspace(-1, 1, 999)[None]
    sum_ = (x + bias).requires_grad_()
    expected = F.gelu(sum_, approximate="tanh")
    expected.backward(grad)
    kernels = Kernels(compiled)
    y, grad_x = kernels.gelu_and_backward(grad, x, bias)
    torch.testing.assert_close(y, expected.detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(kernels.gelu(x, bias), y)
    torch.testing.assert_close(grad_x, sum_.grad, atol=2e-6, rtol=1e-5)


@both
def test_dropout_keeps_the_share_and_the_mean(compiled: bool) -> None:
    torch.manual_seed(1)
    x = torch.ones(1000, 1000, requires_grad=True)
    y = masked_dropout(Kernels(compiled), x, 0.1)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(0.9, abs=2e-3)
    assert y.max().item() == pytest.approx(1 / 0.9)
    # Neighbours, in a row and in a column, are independent: both kept in 81 %.
    for pair in (kept[:, 1:] & kept[:, :-1], kept[1:] & kept[:-1]):
        assert pair.float().mean().item() == pytest.approx(0.81, abs=3e-3)
    # So are the corners of a rectangle, whose keys cancel out: an odd number of them in (1 - 0.8^4) / 2.
    odd = kept[1:, 1:] ^ kept[:-1, 1:] ^ kept[1:, :-1] ^ kept[:-1, :-1]
    assert odd.float().mean().item() == pytest.approx(0.2952, abs=3e-3)
    # Nor do rows and columns differ by more than chance: 1,000 draws have a deviation of 0.0095.
    for mean in (kept.float().mean(0), kept.float().mean(1)):
        assert mean.std().item() == pytest.approx(0.0095, rel=0.15)
    # The backward pass uses the forward's mask.
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y.detach())


@both
def test_every_call_draws_its_own_mask_and_a_seed_repeats_it(compiled: bool) -> None:
    x, drop = torch.ones(64, 64, requires_grad=True), partial(masked_dropout, Kernels(compiled))
    torch.manual_seed(3)
    first, second = drop(x, 0.5), drop(x, 0.5)
    assert (first != second).float().mean().item() == pytest.approx(0.5, abs=0.05)
    torch.manual_seed(3)
    assert torch.equal(drop(x, 0.5), first)


def test_a_kept_mask_is_the_one_drawn_again() -> None:
    seed, x = new_seed(33, 65, 0.3), torch.randn(33, 65)
    torch.testing.assert_close(CONTROL.drop(seed, x)[0], x * mask_multipliers(seed, x.dtype))


def test_no_dropout_while_evaluating() -> None:
    model = LanguageModel(GPT(DROPPING)).eval()
    fuse(model, compiled=False)
    x = torch.randn(5, 5)
    assert isinstance(model.body.dropout, nn.Dropout)
    assert model.body.dropout(x) is x


# Attention


@both
def test_attention_with_dropout_is_the_formula(compiled: bool) -> None:
    kernels = Kernels(compiled)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 10, 4, requires_grad=True) for _ in range(3))
    torch.manual_seed(5)
    found = _attend(kernels, q, k, v, None, 0.4)
    torch.manual_seed(5)
    scores = (q @ k.mT / 2).masked_fill(torch.ones(10, 10, dtype=torch.bool).triu(1), float("-inf"))
    expected = masked_dropout(kernels, scores.softmax(-1), 0.4) @ v
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, q, k, v), gradients(expected, q, k, v))


def test_attention_by_products_is_pytorchs() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, 9, 8, generator=generator, dtype=torch.double).requires_grad_() for _ in range(3))
    ours, theirs = _attend(CONTROL, q, k, v, None, 0.0), F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, q, k, v), gradients(theirs, q, k, v))


def test_attention_dropout_keeps_the_mean() -> None:
    q, k, v = torch.zeros(1, 1, 4, 8, requires_grad=True), torch.zeros(1, 1, 4, 8), torch.ones(1, 1, 4, 8)
    mean = torch.stack([_attend(CONTROL, q, k, v, None, 0.5) for _ in range(4000)]).mean(0)
    assert mean.detach().numpy() == pytest.approx(1.0, abs=0.1)
