"""The routes behind the page, against the functions that commands use; and its files."""

import base64
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from servers import LOCAL, Running, running

from gpt1.model.attention_weights import attention_weights
from gpt1.model.sampling import Sampling, draw, probabilities
from gpt1.run_folder.folder import load_run
from gpt1.serving.page import ALTERNATIVES, FILES, read_curves
from gpt1.training import log

pytest_plugins = ["servers"]

TEXT = "The cat sat on a mat; été"


def post(server: Running, path: str, **body: Any) -> Any:
    answer = server.http.post(path, json={"model": "books"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_page_comes_from_this_server_alone(server: Running) -> None:
    for path, (content, kind) in FILES.items():
        answer = server.http.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == kind
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.content == content
        text = (
            content.decode()
            .replace('xmlns="http://www.w3.org/2000/svg"', "")
            .replace('"http://www.w3.org/2000/svg"', "")
        )
        for word in (
            "http:",
            "https:",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=",
        ):
            assert word not in text, (path, word)
    assert {"/", "/page/app.js", "/page/page.css"} <= FILES.keys()
    loaded = FILES["/"][0].decode()
    for path in FILES:
        assert path in loaded, f"{path} is not named in index.html, so that it would be asked for late, or never"


def test_with_a_token_only_the_files_are_public(books: Path) -> None:
    with running(books, rules=replace(LOCAL, token="s3cret", public=FILES)) as server:
        for path in FILES:
            assert httpx.get(server.url + path, trust_env=False).status_code == 200
        for path in ("/v1/models", "/v1/models/books/curves", "/page/", "/page/../v1/models", "//", "/openapi.json"):
            assert httpx.get(server.url + path, trust_env=False).status_code == 401, path
        wrong = httpx.get(server.url, headers={"Host": "evil.example"}, trust_env=False)
        assert wrong.status_code == 400


def test_attention_of_a_text(server: Running, books: Path) -> None:
    run = load_run(books)
    found = post(server, "/v1/attention", text=TEXT, layer=1)
    ids = [run.tokenizer.end_id, *run.tokenizer.encode(TEXT)]
    assert [piece["id"] for piece in found["tokens"]] == ids
    assert [piece["special"] for piece in found["tokens"][:2]] == ["end", None]
    wanted_HTS = attention_weights(run.body, torch.tensor(ids), 1)
    for head, rows in enumerate(found["weights"]):
        for t, row in enumerate(rows):
            assert row == pytest.approx(wanted_HTS[head, t, : t + 1].tolist(), abs=1e-4)
    long = post(server, "/v1/attention", text="cat " * 200)
    assert len(long["tokens"]) == run.body.config.context
    assert long["left_out"] == 1 + len(run.tokenizer.encode("cat " * 200)) - run.body.config.context
    assert (found["is_cut"], long["is_cut"]) == (False, True)
    packed = post(server, "/v1/attention", text=TEXT, layer=1, encoding_format="base64")
    numbers = np.frombuffer(base64.b64decode(packed.pop("weights")), "<u2") / 65_535
    assert numbers == pytest.approx([w for head in found.pop("weights") for row in head for w in row], abs=1e-4)
    assert packed == found


ROWS = {
    "classification": ["a cat"], "entailment": ["a cat", "a dog"], "similarity": ["a cat", "a dog"],
    "multiple-choice": ["a cat", "sat", "ran", "slept"],
}  # fmt: skip


@pytest.mark.parametrize("task", ROWS)
def test_attention_of_a_row_is_that_of_the_sequences_it_is_read_as(
    server: Running, tuned: dict[str, Path], task: str
) -> None:
    run = load_run(tuned[task])
    row = {"model": task, "text": ROWS[task][0], "more": ROWS[task][1:]}
    wanted = post(server, "/v1/explain", **row)["sequences"]
    for number, sequence in enumerate(wanted):
        found = post(server, "/v1/attention", **row, sequence=number, layer=1)
        assert (found["sequence"], found["sequences"], found["is_cut"]) == (number, len(wanted), False)
        roles = [(piece["id"], piece["special"] or "text") for piece in found["tokens"]]
        assert roles == [(piece["id"], piece["role"]) for piece in sequence["tokens"]]
        weights_HTS = attention_weights(run.body, torch.tensor([i for i, _ in roles]), 1)
        assert found["weights"][1][-1] == pytest.approx(weights_HTS[1, -1].tolist(), abs=1e-4)
    many = post(server, "/v1/attention", **(row | {"text": "cat " * 200}))
    assert many["is_cut"]
    assert len(many["tokens"]) <= run.body.config.context


def test_a_temperature_that_is_nearly_0(server: Running) -> None:
    """A score divided by it is larger than any number."""
    found = post(server, "/v1/next", prompt=TEXT, temperature=1e-320, uniform=0.5, top=100)
    assert [one["scaled"] for one in found["candidates"]] == [None] * 100
    assert found["drawn"] == found["candidates"][0]["id"]
    assert found["candidates"][0]["softmax"] == 1


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.5, 5), Sampling(1.5, 0, 0.5), Sampling(2.0, 20, 0.7), Sampling(0)], ids=str
)
def test_the_steps_of_a_draw(server: Running, books: Path, sampling: Sampling) -> None:
    run = load_run(books)
    ids = run.tokenizer.encode(TEXT)
    with torch.inference_mode():
        logits_1V = run.body.logits(run.body(torch.tensor([ids]))[:, -1])
    asked = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    numbers = random.Random(1)
    for uniform in (0.0, 0.999999, *(numbers.random() for _ in range(6))):
        found = post(server, "/v1/next", prompt=TEXT, uniform=uniform, top=100, chosen=7, **asked)
        assert found["drawn"] == int(draw(logits_1V, sampling, torch.tensor([uniform], dtype=torch.float64)))
    assert [piece["id"] for piece in found["prompt"]] == ids
    assert found["room"] == run.body.config.context - len(ids) + 1
    assert 7 in [one["id"] for one in found["candidates"]]
    ranks = [one["rank"] for one in found["candidates"][:100]]
    assert ranks == list(range(1, 101))
    if not sampling.temperature:
        assert [one["top_p"] for one in found["candidates"][:3]] == [1, 0, 0]
        assert found["candidates"][0]["scaled"] is None
        return
    p_V = probabilities(logits_1V, sampling)[0]
    assert found["kept"]["top_p"] == int((p_V > 0).sum())
    for one in found["candidates"]:
        assert one["logit"] == pytest.approx(float(logits_1V[0, one["id"]]), abs=1e-5)
        assert one["logprob"] == pytest.approx(float(logits_1V[0].log_softmax(-1)[one["id"]]), abs=1e-5)
        assert one["scaled"] == pytest.approx(one["logit"] / sampling.temperature)
        assert one["top_p"] == pytest.approx(float(p_V[one["id"]]), abs=1e-6)


def test_an_empty_prompt_begins_a_document(server: Running) -> None:
    found = post(server, "/v1/next")
    assert [piece["special"] for piece in found["prompt"]] == ["end"]
    assert found["drawn"] is None


def generated(server: Running, **body: Any) -> list[dict[str, Any]]:
    answer = server.http.post("/v1/generate", json={"model": "books"} | body)
    assert answer.status_code == 200, answer.text
    *lines, done = [line for line in answer.text.split("\n\n") if line]
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_generated_tokens_are_those_of_completions(server: Running, books: Path) -> None:
    asked = {"prompt": TEXT, "max_tokens": 20, "temperature": 0.9, "top_p": 0.9, "seed": 5}
    events = generated(server, **asked)
    wanted = post(server, "/v1/completions", logprobs=5, **asked)["choices"][0]
    assert load_run(books).tokenizer.decode([event["id"] for event in events]) == wanted["text"]
    assert [event["logprob"] for event in events] == pytest.approx(wanted["logprobs"]["token_logprobs"], abs=1e-4)
    for event in events:
        assert len(event["alternatives"]) == ALTERNATIVES
        assert sum(math.exp(one["logprob"]) for one in event["alternatives"]) < 1
    assert [event["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["length"]


def test_generation_says_why_it_ends(server: Running, books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = generated(server, prompt="a", temperature=0)
    assert len(events) == load_run(books).body.config.context
    assert events[-1]["finish_reason"] == "context"
    tokenizer = load_run(books).tokenizer
    ids = [event["id"] for event in events[:5]]
    assert [event["id"] for event in generated(server, prompt=tokenizer.encode("a") + ids, temperature=0)][:5] == [
        event["id"] for event in events[5:10]
    ]
    end = next(
        (run for seed in range(400) if (run := generated(server, prompt="a", temperature=2, seed=seed))[-1]["special"]),
        None,
    )
    assert end, "a random network draws the end token in some text"
    assert (end[-1]["special"], end[-1]["finish_reason"]) in [("end", "end"), ("pad", "context")]


def test_curves_of_a_fine_tuning(tmp_path: Path) -> None:
    with log.Log(tmp_path, 0) as file:
        for step in range(1, 1001):
            file.add(step, lm=2.0, task=1 / step, lr=0.1, grad_norm=math.inf if step == 3 else 1.0)
        file.add(1000, val_loss=0.5, val_accuracy=0.75)
        file.add(1000, sample="Once \u2028 <b>")
    found = read_curves(tmp_path, 0.5, (1, 1))
    assert (found["steps"], found["samples"]) == (1000, [(1000, "Once \u2028 <b>")])
    assert found["curves"].keys() == {"lm", "task", "l3", "lr", "grad_norm", "val_loss", "val_accuracy"}
    assert max(map(len, found["curves"].values())) <= 400
    for (_, l3), (_, task) in zip(found["curves"]["l3"], found["curves"]["task"], strict=True):
        assert l3 == pytest.approx(task + 0.5 * 2.0)
    assert read_curves(tmp_path / "nothing", None, (0, 0)) == {"steps": 0, "curves": {}, "samples": []}


def test_curves_grow(books: Path, server: Running) -> None:
    assert server.http.get("/v1/models/books/curves").json()["steps"] == 0
    with log.Log(books, 0) as file:
        for step in (1, 2):
            file.add(step, lm=3.0)
            file.flush()
            found = server.http.get("/v1/models/books/curves").json()
            assert (found["steps"], len(found["curves"]["lm"]), found["lm_coef"]) == (step, step, None)
    (books / log.NAME).write_text("{}\n")
    damaged = server.http.get("/v1/models/books/curves")
    assert damaged.status_code == 500
    assert "metrics.jsonl of books is damaged" in damaged.json()["error"]["message"]
    assert str(books.parent) not in damaged.text
    (books / log.NAME).unlink()
    assert server.http.get("/v1/models/..%2fbooks/curves").status_code == 404


WRONG = [
    ("/v1/attention", {"text": "a", "layer": 2}, "layer must be below 2"),
    ("/v1/attention", {"text": 5}, "text: input should be a valid string"),
    ("/v1/attention", {"text": "a", "more": ["b"]}, "more goes only with the rows of a fine-tuned run"),
    ("/v1/attention", {"text": "a", "as": "rows"}, "books is pre-trained"),
    ("/v1/attention", {"text": "a", "sequence": 1}, "sequence must be below 1"),
    ("/v1/attention", {"model": "entailment", "text": "a"}, "entailment reads two texts, not 1"),
    ("/v1/next", {"prompt": "cat " * 99}, "reads 64 at most"),
    ("/v1/next", {"prompt": [1, 300]}, "prompt has the token id 300"),
    ("/v1/next", {"prompt": ["a"]}, "prompt must be a string or a list of token ids, one text"),
    ("/v1/generate", {"prompt": ["a", "b"]}, "prompt must be a string or a list of token ids, one text"),
    ("/v1/next", {"chosen": 5000}, "chosen must be below"),
    ("/v1/next", {"uniform": 1.0}, "uniform: input should be less than 1"),
    ("/v1/next", {"top_p": 0}, "top_p: input should be greater than 0"),
    ("/v1/generate", {"prompt": [7] * 65}, "the prompt has 65 tokens"),
    ("/v1/generate", {"max_tokens": 0}, "max_tokens: input should be greater"),
    ("/v1/generate", {"folder": "/etc"}, "Unrecognized request argument supplied: folder"),
]  # fmt: skip


@pytest.mark.parametrize(("route", "body", "sentence"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_request_gets_one_sentence(server: Running, route: str, body: Any, sentence: str) -> None:
    answer = server.http.post(route, json={"model": "books"} | body)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]
