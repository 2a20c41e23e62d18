"""The sums that L1 is made of, against the paper's formulas written out plainly, in double precision."""

import pytest
import torch
import torch.nn.functional as F

from gpt1.batch import IGNORE, Batch
from gpt1.config import Model
from gpt1.model import cross_entropy as sliced
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LanguageModel, TaskModel

TINY = Model(
    context=16, width=32, depth=2, heads=4, inner=64, vocabulary=53,
    embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliced, "SLICE_BYTES", 10_000)
    monkeypatch.setattr(sliced, "MULTIPLE", 7)


def random_batch(N: int = 5, T: int = 11) -> Batch:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(53, (N, 1, T), generator=generator)
    targets = torch.randint(53, (N, 1, T), generator=generator)
    lengths = torch.tensor([11, 4, 7, 9, 2])[:N]
    targets[torch.arange(T) >= lengths[:, None, None] - 1] = IGNORE
    return Batch(tokens, targets, extract_NK=lengths[:, None] - 1, labels_N=torch.arange(N) % 3)


def test_sliced_loss_equals_the_whole_one() -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2, 50, 16, dtype=torch.double, generator=generator, requires_grad=True)
    matrix = torch.randn(101, 16, dtype=torch.double, generator=generator, requires_grad=True)
    targets = torch.randint(101, (2, 50), generator=generator)
    targets[0, 3:9] = IGNORE
    weights = torch.rand(2, 50, dtype=torch.double, generator=generator)
    ours = 3 * sliced.cross_entropy(h, matrix, targets, weights)
    nats = F.cross_entropy((h @ matrix.T).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none")
    theirs = 3 * (nats * weights.flatten()).sum()
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, (h, matrix)), torch.autograd.grad(theirs, (h, matrix)), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(sliced.token_nats(h, matrix, targets).flatten(), nats.float())


def test_l1_is_the_sum_over_next_tokens() -> None:
    model = LanguageModel(GPT(TINY).init_weights(torch.Generator().manual_seed(1)).double())
    batch = random_batch()
    expected = torch.zeros((), dtype=torch.double)
    for n in range(5):
        logits = model.body.logits(model.body(batch.tokens_NKT[n]))[0]
        for t in range(11):
            if batch.targets_NKT[n, 0, t] != IGNORE:
                expected = expected - logits[t].log_softmax(-1)[batch.targets_NKT[n, 0, t]]
    torch.testing.assert_close(model(batch)["lm"], expected)
    assert model.counts(batch) == {"lm": 10 + 3 + 6 + 8 + 1}


def test_scores_keep_float32_though_the_body_is_bfloat16() -> None:
    model = TaskModel(GPT(TINY).init_weights(torch.Generator().manual_seed(1)), 3).init_head().bfloat16().eval()
    batch = random_batch()
    h_ND = model.body(batch.tokens_NKT[:, 0])[torch.arange(5), batch.extract_NK[:, 0]]  # type: ignore[index]
    torch.testing.assert_close(model.scores(batch), h_ND.float() @ model.head.weight.float().T, atol=1e-6, rtol=1e-6)
