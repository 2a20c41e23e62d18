"""The likelihood of a text by windows against one plain pass."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpt1.config import Model
from gpt1.data.windows import Ids
from gpt1.model.gpt import GPT
from gpt1.training.likelihood import Likelihood, likelihood


def model(context: int) -> GPT:
    torch.manual_seed(0)
    return GPT(Model(context=context, width=16, depth=2, heads=2, inner=64, vocabulary=30)).init_weights()


def test_a_text_within_the_context_is_one_pass() -> None:
    body, ids = model(16), [4, 9, 2, 17, 5, 0]
    found = likelihood(body, Ids(ids), end_id=0)
    logits = body.logits(body(torch.tensor([[0, *ids[:-1]]])))[0]
    assert found.tokens == 6
    assert found.nats == pytest.approx(F.cross_entropy(logits, torch.tensor(ids), reduction="sum").item(), rel=1e-5)


def test_a_long_text_is_predicted_token_by_token_with_half_a_context_or_more() -> None:
    body = model(8)
    ids = np.random.default_rng(0).integers(30, size=45).tolist()
    found, expected, line = likelihood(body, Ids(ids), end_id=0), 0.0, [0, *ids]
    for t in range(45):
        start = 0 if t < 8 else (t - 8) // 4 * 4 + 4
        logits = body.logits(body(torch.tensor([line[start : t + 1]])))[0, -1]
        expected -= logits.log_softmax(-1)[ids[t]].item()
    assert found.tokens == 45
    assert found.nats == pytest.approx(expected, rel=1e-5)


def test_units() -> None:
    found = Likelihood(nats=200 * math.log(2), tokens=100)
    assert found.nats_per_token == pytest.approx(2 * math.log(2))
    assert found.perplexity == pytest.approx(4)
    assert found.bits_per_byte(tokens_per_byte=0.5) == pytest.approx(1)
    assert Likelihood(1e6, 1).perplexity == math.inf
