"""The network made over for reading, beside the one it was made from."""

import random

import pytest
import torch
import torch.nn.functional as F

from conftest import generate_ids
from gpt1.config import Model
from gpt1.model.gpt import GPT
from gpt1.model.packed import InferenceGPT, PackedLinear, can_pack, pack
from gpt1.model.sampling import Sampling

TINY = Model(context=24, width=64, depth=2, heads=4, inner=128, vocabulary=50)
IDS = torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(1))


def body() -> GPT:
    return GPT(TINY).init_weights(torch.Generator().manual_seed(3)).eval()


@torch.inference_mode()
def test_packed_products_are_the_plain_ones() -> None:
    plain, fast = body().bfloat16(), pack(body().bfloat16())
    h, h_fast = plain(IDS), fast(IDS)
    assert torch.allclose(h, h_fast, atol=0.06)
    assert torch.allclose(plain.logits(h), fast.logits(h), atol=0.06)


def test_only_bfloat16_on_a_cpu_is_packed() -> None:
    plain = body()
    assert pack(plain) is plain
    if can_pack():
        assert isinstance(pack(body().bfloat16()), InferenceGPT)


@pytest.mark.skipif(not can_pack(), reason="this PyTorch has no oneDNN")
@torch.inference_mode()
def test_float32_products_in_the_packed_layout_are_exact() -> None:
    plain, fast = body(), InferenceGPT(body(), PackedLinear)
    assert torch.allclose(plain.logits(plain(IDS)), fast.logits(fast(IDS)), atol=1e-5)
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(2))
    up = body().blocks[0].feed_forward.up
    assert torch.allclose(PackedLinear(up.weight, up.bias, gelu=True)(x), F.gelu(up(x), approximate="tanh"), atol=1e-5)
    prompts = [[5], [9, 8, 7, 6, 5, 4, 3]]
    both = [
        list(generate_ids(model, prompts, Sampling(top_p=0.9), [random.Random(row) for row in range(2)], 15))
        for model in (plain, fast)
    ]
    assert both[0] == both[1]
