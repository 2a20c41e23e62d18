"""`POST /v1/completions` is OpenAI's, and says what `gpt1 generate` says, whatever else is in the batch."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from servers import Running, running, until

from gpt1.commands.generate import generate
from gpt1.config import Generate
from gpt1.model.kv_cache import Decoder
from gpt1.model.sampling import Sampling
from gpt1.run_folder.folder import load_run
from gpt1.run_folder.generation import Sample

pytest_plugins = ["servers"]

FINISH = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}


def by_command(run: Path, **settings: Any) -> list[Sample]:
    return generate(Generate(run=str(run), dtype="fp32", threads=1, **settings))["samples"]


def test_texts_equal_those_of_the_command(server: Running, books: Path) -> None:
    prompts = ["Once upon", "", "The cat sat on a mat; a dog"]
    wanted = by_command(books, prompts=prompts, num=2, seed=7, max_new_tokens=12, temperature=0.8, top_p=0.9)
    found = server.openai.completions.create(
        model="books", prompt=prompts, n=2, seed=7, max_tokens=12, temperature=0.8, top_p=0.9
    )
    assert [choice.text for choice in found.choices] == [sample.text for sample in wanted]
    assert [choice.finish_reason for choice in found.choices] == [FINISH[sample.finish_reason] for sample in wanted]
    assert [choice.index for choice in found.choices] == list(range(6))
    ends = sum(sample.finish_reason == "end" for sample in wanted)
    assert found.usage
    assert found.usage.completion_tokens == sum(sample.tokens for sample in wanted) + ends


def test_token_ids_are_prompts_too(server: Running, books: Path) -> None:
    ids = load_run(books).tokenizer.encode("The cat sat")
    as_text = server.openai.completions.create(model="books", prompt="The cat sat", seed=3, max_tokens=8)
    as_ids = server.openai.completions.create(model="books", prompt=[ids], seed=3, max_tokens=8)
    assert as_text.choices == as_ids.choices
    assert as_text.usage == as_ids.usage == server.openai.completions.create(
        model="books", prompt=ids, seed=3, max_tokens=8
    ).usage  # fmt: skip


def test_a_stream_adds_up_to_the_answer(server: Running) -> None:
    request: dict[str, Any] = {"model": "books", "prompt": ["a", "The dog"], "n": 2, "seed": 5, "logprobs": 2}
    request |= {"echo": True, "stop": ["t", "zz"], "max_tokens": 30}
    whole = server.openai.completions.create(**request)
    texts, logprobs, reasons = {}, {}, {}
    stream = server.openai.completions.create(**request, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            logprobs[choice.index] = logprobs.get(choice.index, []) + choice.logprobs.token_logprobs
            assert choice.index not in reasons, "nothing follows the end"
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert chunk.usage == whole.usage
    assert [texts[n] for n in range(4)] == [choice.text for choice in whole.choices]
    assert [reasons[n] for n in range(4)] == [choice.finish_reason for choice in whole.choices]
    for n, choice in enumerate(whole.choices):
        assert logprobs[n] == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)


def test_a_stream_is_server_sent_events(server: Running) -> None:
    request = {"model": "books", "prompt": "a", "max_tokens": 3, "stream": True, "temperature": 0}
    with server.http.stream("POST", "/v1/completions", json=request) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = list(answer.iter_lines())
    assert lines[1::2] == [""] * (len(lines) // 2)
    assert lines[-2] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: "))["object"] == "text_completion" for line in lines[:-2:2])


def test_many_at_once_say_what_they_say_alone(server: Running) -> None:
    """Different lengths, samplings and seeds join and leave each other's batches."""
    draw = random.Random(1)
    requests = [
        {
            "model": "books", "prompt": "The cat sat on a mat"[: draw.randint(0, 20)], "seed": draw.randint(0, 99),
            "max_tokens": draw.randint(1, 50), "temperature": draw.choice([0, 0.7, 1.0]), "n": draw.choice([1, 2]),
            "top_p": draw.choice([0.5, 0.95, 1]),
            "extra_body": {"repetition_penalty": draw.choice([1, 1.4]), "top_k": draw.choice([0, 5])},
        }
        for _ in range(24)
    ]  # fmt: skip

    def answer(request: Any) -> Any:
        return server.openai.completions.create(**request).choices

    alone = [answer(request) for request in requests]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(answer, requests))
    assert together == alone
    assert len({choice.text for choices in alone for choice in choices}) > 20


def test_scores_barely_depend_on_the_batch(books: Path) -> None:
    """What the test above relies on: in fp32, a text's scores in any company equal those alone but for rounding."""
    body = load_run(books).body
    prompts = [[5] * n for n in (3, 17, 9, 1)]

    def scores(chosen: list[list[int]]) -> torch.Tensor:
        decoder = Decoder(body)
        greedy, streams = [Sampling(temperature=0)] * len(chosen), [random.Random(1) for _ in chosen]
        first = decoder.join(chosen, greedy, streams, [20] * len(chosen))
        return torch.stack([first.logits_NV[0], *(decoder.step().logits_NV[0] for _ in range(19))])

    alone = scores(prompts[:1])
    assert (scores(prompts) - alone).abs().max() < 1e-5 * alone.abs().max()


def test_a_model_is_chosen_by_name(server: Running) -> None:
    texts = {
        name: server.openai.completions.create(model=name, prompt="The", seed=1, temperature=0).choices[0].text
        for name in ("books", "classification")
    }
    assert len(set(texts.values())) == 2
    with pytest.raises(openai.NotFoundError, match="'nobody' does not exist") as caught:
        server.openai.completions.create(model="nobody", prompt="a")
    assert caught.value.code == "model_not_found"


# What the evaluation harness asks (lm_eval --model local-completions)


def test_scores_of_a_prompt_are_those_of_the_network(server: Running, books: Path) -> None:
    """echo with logprobs=1 and one token more, as lm-evaluation-harness sends it."""
    run = load_run(books)
    contexts = [
        [run.tokenizer.end_id, *run.tokenizer.encode(text)] for text in ("Once upon a time", "The dog", "été 春")
    ]
    answer = server.openai.completions.create(
        model="books", prompt=contexts, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True
    )
    for ids, choice in zip(contexts, answer.choices, strict=True):
        with torch.inference_mode():
            logp_TV = run.body.logits(run.body(torch.tensor([ids])))[0].log_softmax(-1)
        told = choice.logprobs
        assert told and told.token_logprobs and told.top_logprobs and told.tokens and told.text_offset
        assert len(told.token_logprobs) == len(ids) + 1
        assert told.token_logprobs[0] is told.top_logprobs[0] is None
        wanted = [float(logp_TV[t, i]) for t, i in enumerate(ids[1:])]
        assert told.token_logprobs[1:-1] == pytest.approx(wanted, abs=1e-5)
        greedy = [int(logp_TV[t].argmax()) == i for t, i in enumerate(ids[1:])]
        tops = [max(top.values()) for top in told.top_logprobs[1:-1] if top]
        assert [lp == top for lp, top in zip(told.token_logprobs[1:-1], tops, strict=True)] == greedy
        text = run.tokenizer.decode(ids)
        assert choice.text.startswith(text)
        assert told.text_offset[1] == 0
        for at, token in zip(told.text_offset[1:], told.tokens[1:], strict=True):
            assert choice.text[at:].startswith(token) or "\\x" in token or token.startswith("<|")


def test_no_new_tokens(server: Running) -> None:
    answer = server.openai.completions.create(model="books", prompt="The cat", max_tokens=0, echo=True, logprobs=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("The cat", "length")
    assert choice.logprobs and choice.logprobs.tokens and answer.usage
    assert "".join(choice.logprobs.tokens) == "The cat"
    assert answer.usage.completion_tokens == 0


def test_a_prompt_that_fills_the_context_has_one_token_more(server: Running) -> None:
    answer = server.openai.completions.create(model="books", prompt=[7] * 64, max_tokens=9, echo=True, logprobs=1)
    assert answer.choices[0].logprobs
    assert len(answer.choices[0].logprobs.tokens or []) == 65
    assert answer.choices[0].finish_reason in ("length", "stop")


# Joining and leaving


def test_a_client_that_leaves_frees_its_place(books: Path) -> None:
    with running(books, concurrency=1, seconds_per_step=0.05) as slow:
        request = {"model": "books", "prompt": "a", "max_tokens": 60, "stream": True, "temperature": 0}
        with slow.http.stream("POST", "/v1/completions", json=request) as answer:
            next(answer.iter_lines())
            assert slow.engine.generating == 1
        until(lambda: not slow.engine.generating, 1)
        assert slow.engine.tokens < 30
        with pytest.raises(openai.APITimeoutError):
            slow.openai.with_options(timeout=0.3).completions.create(model="books", prompt="a", max_tokens=60)
        until(lambda: not slow.engine.generating, 1)
        assert slow.engine.tokens < 60


def test_a_full_server_says_when_to_come_back(books: Path) -> None:
    with running(books, concurrency=1, queue=1, seconds_per_step=0.05) as slow, ThreadPoolExecutor(2) as pool:
        request = {"model": "books", "prompt": "a", "max_tokens": 20, "temperature": 0}
        first = pool.submit(slow.http.post, "/v1/completions", json=request)
        until(lambda: slow.engine.generating == 1)
        second = pool.submit(slow.http.post, "/v1/completions", json=request)
        until(lambda: slow.engine.waiting == 1)
        refused = slow.http.post("/v1/completions", json=request)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert first.result().json()["choices"] == second.result().json()["choices"]
        assert slow.http.post("/v1/completions", json=request).status_code == 200


def test_a_network_that_fails_answers_with_an_error_and_goes_on(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"model": "books", "prompt": "a", "max_tokens": 3, "seed": 1}
    with running(books) as server:
        with monkeypatch.context() as patch:
            patch.setattr(Decoder, "step", lambda self: 1 / 0)
            failed = server.http.post("/v1/completions", json=request)
            assert failed.status_code == 500
            assert failed.headers["x-content-type-options"] == "nosniff"
            assert "ZeroDivisionError" not in failed.text
            lines = server.http.post("/v1/completions", json=request | {"stream": True}).text.split("\n\n")
            assert "error" in json.loads(lines[-3].removeprefix("data: "))
            assert lines[-2:] == ["data: [DONE]", ""]
        assert server.http.post("/v1/completions", json=request).status_code == 200
