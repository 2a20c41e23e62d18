"""Attention weights against transformers, which computes them itself, and against what attention does with them."""

from pathlib import Path

import pytest
import torch

from conftest import save_random_run
from gpt1.config import Model
from gpt1.model.attention_weights import attention_weights
from gpt1.run_folder.folder import load_run

SHAPE = Model(context=16, width=32, depth=3, heads=4, inner=128)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_run(tmp_path_factory.mktemp("run"), ["the cat sat on the mat " * 9], 265, SHAPE)


def test_the_weights_are_those_of_transformers(run: Path) -> None:
    transformers = pytest.importorskip("transformers")
    other = transformers.AutoModelForCausalLM.from_pretrained(run, attn_implementation="eager")
    body, ids = load_run(run).body, torch.randint(0, 250, (16,), generator=torch.Generator().manual_seed(1))
    for parameter in (*body.parameters(), *other.parameters()):
        assert parameter.dtype == torch.float32
    with torch.no_grad():
        wanted = other(ids[None], output_attentions=True).attentions
    assert len(wanted) == SHAPE.depth
    for layer, wanted_1HTS in enumerate(wanted):
        torch.testing.assert_close(attention_weights(body, ids, layer), wanted_1HTS[0], atol=1e-6, rtol=1e-5)


def test_the_future_is_masked_and_rows_add_up_to_1(run: Path) -> None:
    weights_HTS = attention_weights(load_run(run).body, torch.arange(9), 1)
    assert weights_HTS.shape == (4, 9, 9)
    assert weights_HTS.triu(1).abs().max() == 0
    torch.testing.assert_close(weights_HTS.sum(-1), torch.ones(4, 9))
    assert weights_HTS[0, 3, :4].std() > 0
