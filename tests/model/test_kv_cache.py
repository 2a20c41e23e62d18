"""Decoding against slower, simpler definitions of the same thing."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import generate_ids
from gpt1.config import Model
from gpt1.model.gpt import GPT
from gpt1.model.kv_cache import Decoder, slide
from gpt1.model.sampling import Sampling, draw, nucleus_floor, penalised, probabilities, sorted_nucleus_floor

TINY = Model(context=24, width=32, depth=2, heads=4, inner=128, vocabulary=50)
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def body() -> GPT:
    # Larger weights than at the start of training, so that greedy decoding does not repeat one token for ever.
    return GPT(TINY).init_weights(torch.Generator().manual_seed(3)).apply(_louder).double().eval()


@torch.no_grad()
def _louder(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
        module.weight.mul_(12)


def written(body: GPT, prompts: list[list[int]], sampling: Sampling, steps: int) -> list[list[int]]:
    """The new ids of each prompt, cut where its context is full."""
    streams = [random.Random(repr(prompt)) for prompt in prompts]
    rows = zip(*generate_ids(body, prompts, sampling, streams, steps), strict=True)
    return [list(row)[: TINY.context - len(prompt) + 1] for row, prompt in zip(rows, prompts, strict=True)]


@torch.no_grad()
def slow_greedy(body: GPT, prompt: list[int], steps: int) -> list[int]:
    """The definition: the whole text again at every step, without a cache."""
    ids = list(prompt)
    for _ in range(min(steps, TINY.context - len(prompt) + 1)):
        ids.append(int(body.logits(body(torch.tensor([ids])))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_cached_greedy_is_the_definition(body: GPT) -> None:
    new = written(body, [[7, 1, 30]], GREEDY, 40)[0]
    assert new == slow_greedy(body, [7, 1, 30], 40)
    assert len(new) == TINY.context - 3 + 1, "a full context still predicts one token"
    assert len(set(new)) > 3


RAGGED = [[5], [9, 8, 7, 6, 5, 4, 3], list(range(24)), [2, 2, 40]]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(top_p=0.9), Sampling(top_k=5, repetition_penalty=1.3)])
def test_batched_is_single(body: GPT, sampling: Sampling) -> None:
    together = written(body, RAGGED, sampling, 40)
    assert together == [written(body, [prompt], sampling, 40)[0] for prompt in RAGGED]
    assert [len(new) for new in together] == [24, 18, 1, 22]


@torch.no_grad()
def slow_beyond(body: GPT, prompt: list[int], sampling: Sampling, steps: int) -> list[int]:
    """The definition: at every step a new run over the window, which drops a quarter when it outgrows the context."""
    stream, ids, window = random.Random(repr(prompt)), list(prompt), list(prompt)
    for _ in range(steps):
        logits_1V = body.logits(body(torch.tensor([window])))[:, -1].float()
        if sampling.repetition_penalty != 1:
            seen_1V = torch.zeros_like(logits_1V, dtype=torch.bool)
            seen_1V[0, ids] = True
            logits_1V = penalised(logits_1V, seen_1V, sampling.repetition_penalty)
        token = int(draw(logits_1V, sampling, torch.tensor([stream.random()], dtype=torch.float64)))
        ids.append(token)
        window = [*window, token]
        if len(window) == TINY.context + 1:
            window = window[TINY.context // 4 :]
    return ids[len(prompt) :]


@pytest.mark.parametrize("steps", [1, 19, 24, 25, 70])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(top_p=0.9), Sampling(top_k=5, repetition_penalty=1.3)])
def test_beyond_the_context_a_window_slides(body: GPT, sampling: Sampling, steps: int) -> None:
    def beyond(prompts: list[list[int]]) -> list[list[int]]:
        streams = [random.Random(repr(prompt)) for prompt in prompts]
        return [list(row) for row in zip(*generate_ids(body, prompts, sampling, streams, steps, True), strict=True)]

    expected = [slow_beyond(body, prompt, sampling, steps) for prompt in RAGGED]
    assert beyond(RAGGED) == expected
    assert [beyond([prompt])[0] for prompt in RAGGED] == expected
    assert steps < 70 or all(len(set(new[24:])) > 3 for new in expected), "not one token for ever"


def test_within_the_context_nothing_changes(body: GPT) -> None:
    prompt = [7, 1, 30]
    streams = [random.Random(repr(prompt))]
    new = [ids[0] for ids in generate_ids(body, [prompt], Sampling(), streams, 30, True)]
    assert new[: TINY.context - 2] == written(body, [prompt], Sampling(), 30)[0]


@pytest.mark.parametrize(("context", "tokens"), [(1, 1), (3, 1), (4, 1), (512, 128)])
def test_how_far_a_window_slides(context: int, tokens: int) -> None:
    assert slide(context) == tokens


@pytest.mark.parametrize("seed", range(6))
def test_texts_that_join_and_leave_are_those_alone(body: GPT, seed: int) -> None:
    """In any order, with their own samplings, also while others slide."""
    draw = random.Random(seed)
    samplings = [GREEDY, Sampling(top_p=0.9), Sampling(top_k=5, repetition_penalty=1.3), Sampling(temperature=0.5)]
    waiting = [([draw.randrange(50) for _ in range(draw.randint(1, 24))], draw.choice(samplings)) for _ in range(12)]
    decoder = Decoder(body)
    texts: list[tuple[int, list[int]]] = []  # of each row, the number of tokens it shall have, and those it has
    ended: list[tuple[list[int], Sampling, list[int]]] = []
    about: list[tuple[list[int], Sampling]] = []
    while waiting or texts:
        if waiting and (not texts or draw.random() < 0.3):
            joining = [waiting.pop() for _ in range(min(draw.randint(1, 3), len(waiting)))]
            counts = [draw.randint(1, 40) for _ in joining]
            prompts, how = [prompt for prompt, _ in joining], [sampling for _, sampling in joining]
            streams = [random.Random(repr(prompt)) for prompt in prompts]
            step = decoder.join(prompts, how, streams, counts)
            texts += [(count, [token]) for count, token in zip(counts, step.tokens, strict=True)]
            about += joining
        elif texts:
            for (_, new), token in zip(texts, decoder.step().tokens, strict=True):
                new.append(token)
        for n in reversed(range(len(texts))):
            count, new = texts[n]
            if len(new) >= count:
                ended.append((*about[n], new))
                decoder.leave(n)
                for rows in (texts, about):
                    rows[n] = rows[-1]  # type: ignore[index, assignment]
                    rows.pop()
    assert not decoder.rows
    for prompt, sampling, new in ended:
        stream = [random.Random(repr(prompt))]
        alone = [ids[0] for ids in generate_ids(body, [prompt], sampling, stream, len(new), True)]
        assert alone == new
    assert len(ended) == 12


logits = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40)


def naive(values: list[float], sampling: Sampling) -> list[float]:
    """Probabilities after temperature, top-k and top-p, one token at a time."""
    weights = np.exp((np.array(values, dtype=np.float64) - max(values)) / sampling.temperature)
    p = weights / weights.sum()
    if sampling.top_k:
        p[p < sorted(p, reverse=True)[: sampling.top_k][-1]] = 0
        p /= p.sum()
    total = last = 0.0
    for probability in sorted(p, reverse=True):
        if sampling.top_p < 1 and total >= sampling.top_p:
            p[p <= probability] = np.where(p[p <= probability] == last, last, 0)
            break
        total, last = total + probability, probability
    return list(p / p.sum())


@settings(deadline=None)
@given(logits, st.integers(0, 45), st.sampled_from([0.05, 0.33, 0.72, 0.95, 1.0]), st.sampled_from([0.3, 1.0, 2.5]))
def test_the_kept_tokens_and_their_probabilities(values: list[float], top_k: int, top_p: float, heat: float) -> None:
    sampling = Sampling(temperature=heat, top_k=top_k, top_p=top_p)
    found = probabilities(torch.tensor([values]), sampling)[0].tolist()
    # Where a sum meets top_p to the last digit, either side may be right.
    near = [naive(values, replace(sampling, top_p=min(1.0, top_p + shift))) for shift in (0, -1e-12, 1e-12)]
    assert any(found == pytest.approx(wanted, abs=1e-9) for wanted in near)


@pytest.mark.parametrize("width", [9, 300, 5000])
@pytest.mark.parametrize("top_p", [0.05, 0.33, 0.72, 0.95, 1 - 1e-9, 1 - 2**-53])
def test_the_nucleus_by_sorting_is_the_same(width: int, top_p: float) -> None:
    wide_N1 = torch.tensor([[0.1], [9.0], [3.0], [0.0], [900.0]], dtype=torch.float64)
    logits_NV = torch.randn(5, width, generator=torch.Generator().manual_seed(4)) * wide_N1
    for p_NV in (logits_NV.softmax(-1), probabilities(logits_NV, Sampling(top_k=7))):
        assert torch.equal(sorted_nucleus_floor(p_NV, top_p), nucleus_floor(p_NV, top_p))


def test_small_and_large_nuclei_side_by_side() -> None:
    wide = torch.tensor([[0.1], [9.0], [3.0], [9.0]])
    logits_NV = torch.randn(4, 5000, generator=torch.Generator().manual_seed(4)) * wide
    p_NV = probabilities(logits_NV, Sampling(top_p=0.9))
    for row, p_V in zip(logits_NV, p_NV, strict=True):
        assert p_V.tolist() == pytest.approx(naive(row.tolist(), Sampling(top_p=0.9)), abs=1e-12)
    flat, peaked, between, _ = (p_NV > 0).sum(-1).tolist()
    assert flat > 1024 > between > 64 > peaked


@settings(deadline=None)
@given(logits, st.floats(0, 1, exclude_max=True), st.floats(1e-300, 5))
def test_a_draw_is_always_a_kept_token(values: list[float], uniform: float, heat: float) -> None:
    sampling = Sampling(temperature=heat, top_p=0.9, top_k=7)
    token = int(draw(torch.tensor([values]), sampling, torch.tensor([uniform], dtype=torch.float64)))
    assert probabilities(torch.tensor([values]), sampling)[0, token] > 0


def test_draws_follow_the_distribution() -> None:
    logits_NV = torch.tensor([[0.3, 2.0, -1.0, 1.0]]).expand(40_000, 4)
    uniform_N = torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(draw(logits_NV, Sampling(), uniform_N), minlength=4) / 40_000
    assert torch.allclose(counts, logits_NV[0].softmax(-1), atol=0.01)


def test_cold_draws_are_greedy_and_hot_ones_uniform() -> None:
    logits_NV = torch.tensor([[0.3, 2.0, -1.0, 1.0]])
    for uniform in (0.0, 0.5, 1 - 2**-53):
        uniform_N = torch.tensor([uniform], dtype=torch.float64)
        assert draw(logits_NV, Sampling(temperature=1e-9), uniform_N) == draw(logits_NV, GREEDY, uniform_N) == 1
    assert probabilities(logits_NV, Sampling(temperature=1e9))[0].tolist() == pytest.approx([0.25] * 4)


def test_the_penalty_is_hugging_faces() -> None:
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits_NV = torch.randn(3, 12, generator=torch.Generator().manual_seed(2))
    ids_NT = torch.tensor([[1, 4], [11, 0], [5, 5]])
    seen_NV = torch.zeros(3, 12, dtype=torch.bool).scatter_(1, ids_NT, True)
    theirs_NV = processors.RepetitionPenaltyLogitsProcessor(1.7)(ids_NT, logits_NV)
    assert torch.equal(penalised(logits_NV, seen_NV, 1.7), theirs_NV)


def test_the_penalty_sees_prompt_and_new_tokens_but_no_padding(body: GPT) -> None:
    strong = Sampling(temperature=0, repetition_penalty=1e9)
    for prompt, new in zip(RAGGED, written(body, RAGGED, strong, 10), strict=True):
        assert len(set(new)) == len(new)
        assert not set(new) & set(prompt)
    # Padding is id 0 on the inside; a short prompt may still write 0.
    assert written(body, [[5], list(range(1, 20))], strong, 5)[0] == written(body, [[5]], strong, 5)[0]
