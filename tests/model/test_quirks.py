"""Where OpenAI's released code (finetune-transformer-lm, 2018) and the paper part: each in numbers, and our side.

`train.py` and `opt.py` there are what "the release" means. Its formulas are written out here anew; the blocks are ours,
which `test_parity` compares with transformers. The table in docs/method.md lists the same differences.
"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt1.batch import IGNORE, Batch
from gpt1.config import Model, Optim
from gpt1.data.collate import Epochs, Example, collate
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LanguageModel, TaskModel
from gpt1.run_folder.hugging_face import to_hf, to_hf_config
from gpt1.tasks.inputs import Frame, truncate
from gpt1.training.optimizer import Optimizer, learning_rate

V, C, D, PAD = 40, 16, 32, 39
STILL = {"embedding_dropout": 0.0, "residual_dropout": 0.0, "attention_dropout": 0.0}
SIZE = {"context": C, "width": D, "depth": 2, "heads": 2, "inner": 4 * D, "vocabulary": V}


def body_with(**dropout: float) -> GPT:
    body = GPT(Model(**SIZE, **(STILL | dropout))).init_weights(torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    for parameter in body.parameters():
        if parameter.dim() > 1:
            parameter.data *= 8  # far from a uniform guess
    return body


def drawn(*shape: int) -> Tensor:
    return torch.randint(PAD, shape, generator=torch.Generator().manual_seed(2))


def language_batch(tokens_NT: Tensor) -> Batch:
    targets_NT = F.pad(tokens_NT[:, 1:], (0, 1), value=IGNORE)
    return Batch(tokens_NKT=tokens_NT[:, None], targets_NKT=targets_NT[:, None])


def matrix_of(body: GPT) -> Tensor:
    """The release's one matrix: token rows, special ones included, then position rows."""
    return torch.cat([body.tokens.weight, body.positions.weight])


# The language model


def release_nats(body: GPT, tokens_NT: Tensor) -> Tensor:
    """-log P of every next token, of a softmax over tokens and positions."""
    logits_NTR = body(tokens_NT)[:, :-1] @ matrix_of(body).T
    return F.cross_entropy(logits_NTR.flatten(0, 1), tokens_NT[:, 1:].flatten(), reduction="none")


def test_position_rows_in_the_softmax() -> None:
    """The release gives positions a share of every token's probability. Ours: tokens only, as in the paper."""
    body, tokens_NT = body_with(), drawn(3, 10)
    ours = LanguageModel(body)(language_batch(tokens_NT))["lm"] / 27
    release = release_nats(body, tokens_NT).mean()
    h_MD = body(tokens_NT)[:, :-1].flatten(0, 1)
    lost = (h_MD @ matrix_of(body).T).logsumexp(-1) - (h_MD @ body.tokens.weight.T).logsumexp(-1)
    assert lost.min() > 0
    torch.testing.assert_close(release - ours, lost.mean())
    assert release - ours > 0.1
    (from_ours,) = torch.autograd.grad(ours, body.positions.weight, retain_graph=True)
    (from_release,) = torch.autograd.grad(release, body.positions.weight)
    assert not from_ours[10:].any(), "positions that nothing stood at are not trained"
    assert from_release[10:].abs().sum(1).min() > 0, "in the release they are pushed away from every state"


def test_position_rows_cost_a_guess_what_they_are_many() -> None:
    body, tokens_NT = body_with(), drawn(2, 9)
    for parameter in body.parameters():
        parameter.data.zero_()
    assert LanguageModel(body)(language_batch(tokens_NT))["lm"].item() / 16 == pytest.approx(math.log(V))
    assert release_nats(body, tokens_NT).mean().item() == pytest.approx(math.log(V + C))


def test_dropout_on_the_embedding_matrix() -> None:
    """The release drops elements of the matrix, so of token and position apart, everywhere alike, in the output too."""
    body, p = body_with(embedding_dropout=0.5).train(), 0.5
    tokens_NT = torch.cat([drawn(200, 7), torch.full((200, 1), 5)], dim=1)
    seen: list[Tensor] = []
    body.dropout.register_forward_hook(lambda *call: seen.append(call[2]))
    torch.manual_seed(0)
    body(tokens_NT)
    ours_NTD = seen[0]
    dropped = F.dropout(matrix_of(body), p)
    release_NTD = dropped[tokens_NT] + dropped[V + torch.arange(8)]
    assert (ours_NTD == 0).float().mean().item() == pytest.approx(p, abs=0.01)
    assert (release_NTD == 0).float().mean().item() == pytest.approx(p * p, abs=0.05)
    assert (release_NTD[:, 7] == release_NTD[0, 7]).all(), "one token at one place: the same in the whole batch"
    assert not (ours_NTD[1:, 7] == ours_NTD[0, 7]).all(-1).any(), "ours draws anew for every row"
    h_1D = torch.randn(1, D)
    assert not torch.allclose(h_1D @ dropped[:V].T, h_1D @ body.tokens.weight.T)
    assert torch.equal(body.logits(h_1D), F.linear(h_1D, body.tokens.weight)), (
        "the output matrix is whole, in training too"
    )


# Fine-tuning


def examples(*lengths: int) -> list[Example]:
    return [Example([drawn(2, length)[k].tolist() for k in range(2)], 0) for length in lengths]


def test_one_dropout_mask_for_both_choices() -> None:
    """In the release two equal answers always score the same; in the paper's form, ours, each has a mask of its own."""
    model = TaskModel(body_with(), 1, "choice", head_dropout=0.5).init_head().train()
    ids = drawn(9).tolist()
    batch = collate([Example([ids, ids], 0)] * 50, PAD, C)
    ours_NK = model.scores(batch)
    assert ((ours_NK[:, 0] - ours_NK[:, 1]).abs() > 1e-3).float().mean() > 0.9
    h_NKD = model.body(batch.tokens_NKT.flatten(0, 1))[:, len(ids) - 1].unflatten(0, (50, 2))
    release_NK = model.head(h_NKD * F.dropout(torch.ones(50, 1, D), 0.5))[..., 0]
    torch.testing.assert_close(release_NK[:, 0], release_NK[:, 1])
    assert release_NK.std() > 1e-3


def test_the_auxiliary_loss_is_a_mean_of_means() -> None:
    """Ours is the release's: within a sequence, then over sequences. transformers takes the mean over all tokens."""
    transformers = pytest.importorskip("transformers")
    model, found = TaskModel(body_with(), 1, "choice", 0.0).init_head().eval(), examples(3, 15)
    batch = collate(found, PAD, C)
    ours = model(batch)["lm"] / model.counts(batch)["lm"]
    each = [
        F.cross_entropy(model.body.logits(model.body(torch.tensor([ids]))[0, :-1]), torch.tensor(ids[1:]))
        for example in found
        for ids in example.sequences
    ]
    torch.testing.assert_close(ours, torch.stack(each).mean())
    config = to_hf_config(model.body.config, {"first": 0, "end": 0, "pad": PAD}, "choice")
    theirs = transformers.OpenAIGPTDoubleHeadsModel(transformers.OpenAIGPTConfig(**config)).eval()
    theirs.load_state_dict(to_hf(model.body, model.head.weight, "choice"), strict=False)
    labels_NKT = batch.tokens_NKT.where(F.pad(batch.targets_NKT[..., :-1] != IGNORE, (1, 0), value=True), IGNORE)
    told = theirs(batch.tokens_NKT, mc_token_ids=batch.extract_NK, labels=labels_NKT).loss
    tokens = torch.stack([nats * n for nats, n in zip(each, (2, 2, 14, 14), strict=True)]).sum() / 32
    torch.testing.assert_close(told, tokens)
    assert abs(told - ours) > 0.05


def test_a_bias_beside_w_y() -> None:
    """The release has one, the paper and ours have none. For a choice it could not matter: it is the same for each."""
    model = TaskModel(body_with(), 3).init_head()
    assert model.head.bias is None
    scores_NC, bias_C = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([0.0, 0.0, 1.0])
    assert not torch.allclose(scores_NC.softmax(-1), (scores_NC + bias_C).softmax(-1))
    torch.testing.assert_close(scores_NC.softmax(-1), (scores_NC + 0.7).softmax(-1))


def test_what_is_cut() -> None:
    """The release cuts every text to half the context less two; ours only what does not fit beside the other."""
    context = 512
    for lengths, ours in (((300, 10), [300, 10]), ((600, 600), [254, 255]), ((600, 20), [489, 20])):
        texts = [[7] * length for length in lengths]
        ((first, second),) = truncate(texts, Frame(1, 2, 3, context))
        assert [len(first), len(second)] == ours
        release = [min(length, context // 2 - 2) for length in lengths]
        assert sum(release) <= sum(ours) <= context - 3


def test_the_last_batch_of_an_epoch() -> None:
    """The release leaves out what does not fill a batch; ours reads every row in every epoch."""
    found = Epochs(examples(*[5] * 70), 32, 0, PAD, seed=1)
    assert found.per_epoch == 3 == 70 // 32 + 1
    assert sum(len(batch.tokens_NKT) for step in range(3) for batch in found(step)) == 70


# Updates


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(1, 2))


def updated(settings: Optim, a: list[float], b: list[float]) -> tuple[Two, Optimizer]:
    """Two matrices of ones after one update at the full rate with these gradients."""
    model = Two()
    optimizer = Optimizer(model, settings, steps=10)
    ((model.a * torch.tensor(a)).sum() + (model.b * torch.tensor(b)).sum()).backward()
    optimizer.update(0)
    return model, optimizer


def test_clipping_is_global() -> None:
    """Ours is the release's. Hugging Face's port of 2018 clips each tensor, which turns the gradient."""
    _, optimizer = updated(Optim(warmup=1, clip=1.0), [3.0, 4.0], [0.6, 0.8])
    found = [gradient[0] for gradient in optimizer.gradients.values()]
    whole = math.sqrt(26)
    torch.testing.assert_close(torch.cat(found), torch.tensor([3.0, 4.0, 0.6, 0.8]) / whole)
    each = [
        F.normalize(torch.tensor(g), dim=0) if math.hypot(*g) > 1 else torch.tensor(g) for g in ([3.0, 4], [0.6, 0.8])
    ]
    assert torch.allclose(each[0], each[1]), "clipped apart, a gradient five times the other comes out as large"


def release_adam(p: float, g: float, lr: float, t: int = 1, l2: float = 0.01, eps: float = 1e-8) -> float:
    """The weight after the release's update number t, its moments starting from 0."""
    m, v = 0.1 * g, 0.001 * g * g
    rate = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return p - rate * (m / (math.sqrt(v) + eps) + l2 * p)


def test_adams_correction_stands_elsewhere() -> None:
    """The release multiplies decay by Adam's bias correction, 0.32 at first, and adds epsilon before it. Not ours.

    Both go away: the correction is 1 after some thousand updates, and epsilon only counts beside gradients of its size.
    """
    settings = Optim(lr=0.1, warmup=1, clip=0.0, weight_decay=0.01)
    model, _ = updated(settings, [0.0, 1.0], [1e-8, 1.0])
    still, usual = model.a[0].tolist()
    assert still == pytest.approx(1 - 0.1 * 0.01)
    assert release_adam(1, 0, 0.1) == pytest.approx(1 - 0.1 * 0.01 * math.sqrt(0.001) / 0.1)
    assert usual == pytest.approx(1 - 0.1 * (1 + 0.01))
    assert release_adam(1, 1, 0.1) == pytest.approx(1 - 0.1 * (1 + 0.01 * 0.3162), abs=1e-5)
    assert model.b[0, 0].item() == pytest.approx(1 - 0.1 * (0.5 + 0.01), abs=1e-4), "epsilon beside the corrected root"
    assert release_adam(1, 1e-8, 0.1) == pytest.approx(1 - 0.1 * (0.0307 + 0.01 * 0.3162), abs=1e-4)
    assert math.sqrt(1 - 0.999**5000) / (1 - 0.9**5000) == pytest.approx(1, abs=0.004)


def release_share(t: int, steps: int, warmup: float = 0.002) -> float:
    """Share of the peak rate at update t, from 0, by the release's `warmup_linear`."""
    x = t / steps
    return (x / warmup if x <= warmup else 1.0) * (1 - x)


def test_the_first_update_moves_something() -> None:
    """The release's first update has the rate 0, and its decay begins in the warm-up. Ours warms up from 1/n to 1."""
    steps, settings = 5000, Optim(warmup=10, decay="linear")
    assert release_share(0, steps) == 0 < learning_rate(0, steps, settings) == 0.1
    ours = [learning_rate(t, steps, settings) for t in range(steps)]
    release = [release_share(t, steps) for t in range(steps)]
    assert max(ours) == 1 > max(release) > 0.997
    assert max(abs(a - b) for a, b in zip(ours[10:], release[10:], strict=True)) < 0.003, "after it they are as one"
