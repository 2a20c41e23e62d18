"""The network: its size, its initialisation, what may look at what."""

from pathlib import Path

import pytest
import torch

from gpt1.config import PRESETS, Model
from gpt1.model import gpt
from gpt1.model.gpt import GPT, Attention

TINY = Model(context=16, width=32, depth=2, heads=4, inner=128, vocabulary=50)


def parameters(config: Model) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in GPT(config).parameters())


def test_the_paper_size_is_exact() -> None:
    assert parameters(PRESETS["gpt1"]) == 116_534_784


@pytest.mark.parametrize(("preset", "low", "high"), [("small", 10e6, 15e6), ("tiny", 1e6, 3e6)])
def test_small_presets_keep_their_promise(preset: str, low: float, high: float) -> None:
    for vocabulary in (1_024, 8_192):
        config = Model(**{**vars(PRESETS[preset]), "vocabulary": vocabulary})  # type: ignore[index]
        assert low <= parameters(config) <= high * (1.15 if preset == "tiny" else 1)


def test_initialisation() -> None:
    model = GPT(PRESETS["tiny"]).init_weights(torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        else:
            assert (parameter == (1.0 if name.endswith("norm.weight") else 0.0)).all(), name


def test_no_token_sees_the_future() -> None:
    """The gradient of an output with respect to any later input is exactly zero."""
    model = GPT(TINY).init_weights().double()
    for block in model.blocks:
        block.dropout.p = 0.0
    embedded = model.tokens(torch.randint(50, (1, 12))).detach().requires_grad_()
    model.tokens.forward = lambda _: embedded  # type: ignore[method-assign]
    model.eval()
    h_NTD = model(torch.zeros(1, 12, dtype=torch.long))
    (gradient_NTD,) = torch.autograd.grad(h_NTD[:, 5].square().sum(), embedded)
    assert (gradient_NTD[:, 6:] == 0).all()
    assert (gradient_NTD[:, :6].abs().sum(-1) > 0).all()


def test_attention_is_the_formula() -> None:
    q, k, v = (torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(n)).double() for n in range(3))
    scores = q @ k.mT / 8**0.5
    past = torch.ones(9, 9, dtype=torch.bool).tril()
    torch.testing.assert_close(
        Attention.attend(q, k, v, None, 0.0), scores.masked_fill(~past, -torch.inf).softmax(-1) @ v
    )
    mask = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(4)) < 0.5
    mask |= torch.eye(9, dtype=torch.bool)
    torch.testing.assert_close(
        Attention.attend(q, k, v, mask, 0.0), scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ v
    )


def test_the_network_stands_in_one_file() -> None:
    """Of the project only its configuration is imported; see the docstring of model/gpt.py."""
    lines = Path(gpt.__file__).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "import" in line and "gpt1" in line] == ["from gpt1.config import EPSILON, Model"]


def test_padding_on_the_right_reaches_nothing() -> None:
    model = GPT(TINY).init_weights().eval()
    tokens = torch.randint(50, (1, 7))
    padded = torch.cat([tokens, torch.full((1, 5), 3)], dim=1)
    torch.testing.assert_close(model(padded)[:, :7], model(tokens))
