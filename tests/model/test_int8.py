"""8-bit products against the same integers multiplied exactly, and a whole network against its own float32 self."""

import random

import pytest
import torch
import torch.nn.functional as F

from conftest import generate_ids
from gpt1.config import Model
from gpt1.model.gpt import GPT
from gpt1.model.int8 import Int8Linear, has_int8, quantize_int8
from gpt1.model.sampling import Sampling

pytestmark = pytest.mark.skipif(not has_int8(), reason="this CPU has no 8-bit product")
TINY = Model(context=24, width=64, depth=2, heads=4, inner=128, vocabulary=50)


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def body() -> GPT:
    return GPT(TINY).init_weights(torch.Generator().manual_seed(3)).eval()


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_the_formula(rows: int) -> None:
    weight, bias, x = normal(37, 70, seed=1), normal(37, seed=2), normal(rows, 70, seed=3)
    q, scale = rounded(weight)
    p, step = rounded(x)
    assert torch.allclose(Int8Linear(weight, bias)(x).double(), p @ q.T * step * scale.T + bias, atol=1e-4)


def rounded(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    top = matrix.abs().amax(1, keepdim=True)
    return (matrix / top * 127).round().double(), top.double() / 127


def test_the_largest_integers_do_not_overflow() -> None:
    weight, x = torch.ones(32, 3072), torch.ones(2, 3072)
    for left, right in ((weight, x), (-weight, x), (weight, -x), (-weight, -x)):
        assert torch.allclose(Int8Linear(left, None)(right), F.linear(right, left))


def test_a_row_depends_on_no_other_row_and_zeros_are_zeros() -> None:
    product, x = Int8Linear(normal(16, 32), normal(16, seed=2)), normal(3, 5, 32, seed=3)
    x[0, 0], x[2] = 0, x[2] * 1e4
    together = product(x)
    assert torch.equal(together[0, 0], product.bias_O)
    for rows in range(1, 6):
        assert torch.allclose(together[1:2, :rows], product(x[1:2, :rows]), rtol=1e-6, atol=1e-5)


def test_number_formats_pass_through() -> None:
    product, x = Int8Linear(normal(16, 32), None), normal(4, 32).bfloat16()
    assert torch.equal(product(x), product(x.float()).bfloat16())


@torch.no_grad()
def test_a_network_stays_close_to_itself() -> None:
    plain, small = body(), quantize_int8(body())
    ids = torch.randint(50, (4, 20), generator=torch.Generator().manual_seed(1))
    log_p, log_q = (model.logits(model(ids)).log_softmax(-1) for model in (plain, small))
    assert F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") < 1e-3
    assert not any(isinstance(module, torch.nn.Linear) for module in small.modules())


def test_batched_is_single() -> None:
    small = quantize_int8(body())
    prompts = [[5], [9, 8, 7, 6, 5, 4, 3], [2, 2, 40]]

    def written(rows: list[list[int]]) -> list[tuple[int, ...]]:
        streams = [random.Random(repr(row)) for row in rows]
        return list(zip(*generate_ids(small, rows, Sampling(top_p=0.9), streams, 12), strict=True))

    assert written(prompts) == [written([prompt])[0] for prompt in prompts]
