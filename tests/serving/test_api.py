"""Embeddings, predictions, models, health and metrics; what wrong requests are told."""

import base64
import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import openai
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from servers import Running, running, until

from conftest import NOT_UTF8, one_line, only_linux_names
from gpt1.commands.explain import explain
from gpt1.commands.predict import predict
from gpt1.commands.serve import serve
from gpt1.config import Explain, Predict, Serve
from gpt1.errors import readable
from gpt1.run_folder.folder import load_run
from gpt1.run_folder.places import named_runs
from gpt1.serving import models
from gpt1.storage import write_text

pytest_plugins = ["servers"]


def test_embeddings_are_the_mean_of_the_last_hidden_states(server: Running, books: Path) -> None:
    run = load_run(books)
    texts = ["The cat", "a dog sat on a mat; 春", "cat " * 60]
    answer = server.openai.embeddings.create(model="books", input=texts)  # the client asks for base64
    for text, one in zip(texts, answer.data, strict=True):
        windows = torch.tensor(run.tokenizer.encode(text)).split(run.body.config.context)
        with torch.inference_mode():
            wanted_D = torch.cat([run.body(ids[None])[0] for ids in windows]).mean(0)
        assert one.embedding == pytest.approx(wanted_D.tolist(), abs=1e-5)
    assert answer.usage.prompt_tokens == sum(len(run.tokenizer.encode(text)) for text in texts)
    as_floats = server.openai.embeddings.create(model="books", input=texts, encoding_format="float")
    for one, other in zip(answer.data, as_floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-5)
    as_ids = server.openai.embeddings.create(model="books", input=[run.tokenizer.encode(text) for text in texts])
    assert [one.index for one in as_ids.data] == [0, 1, 2]
    np.testing.assert_allclose(as_ids.data[1].embedding, answer.data[1].embedding, atol=1e-5)
    raw = server.http.post("/v1/embeddings", json={"model": "books", "input": "a", "encoding_format": "base64"}).json()
    assert len(base64.b64decode(raw["data"][0]["embedding"])) == 4 * run.body.config.width


ROWS: dict[str, list[dict[str, Any]]] = {
    "classification": [{"text": "a cat", "id": 1}, {"text": "The dog sat on a mat", "id": 2}],
    "regression": [{"text": "a cat"}, {"text": "The dog sat on a mat"}],
    "multi-label": [{"text": "a cat"}, {"text": "The dog sat on a mat"}],
    "entailment": [{"a": "a cat", "b": "a dog"}, {"a": "The dog sat", "b": "on a mat"}],
    "similarity": [{"a": "a cat", "b": "a dog"}, {"a": "The dog sat", "b": "on a mat"}],
    "multiple-choice": [
        {"story": "a cat", "endings": ["sat", "on", "a mat"]}, {"story": ["two", "turns"], "endings": ["a dog", "too"]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("task", ROWS)
def test_predictions_are_those_of_the_command(
    server: Running, tuned: dict[str, Path], tmp_path: Path, task: str
) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    write_text(source, "".join(json.dumps(row) + "\n" for row in ROWS[task]))
    predict(Predict(run=str(tuned[task]), input=str(source), out=str(out), dtype="fp32", threads=1))
    wanted = [json.loads(line) for line in out.read_text().splitlines()]
    answer = server.http.post("/v1/predict", json={"model": task, "rows": ROWS[task]})
    assert answer.status_code == 200, answer.text
    found = answer.json()["data"]
    assert [one["index"] for one in found] == [0, 1]
    for one, row in zip(found, wanted, strict=True):
        assert set(one) == {"index", *(row.keys() & {"predicted_label", "probabilities"})}
        if isinstance(row["predicted_label"], float):
            assert one["predicted_label"] == pytest.approx(row["predicted_label"], abs=1e-5)
        else:
            assert one["predicted_label"] == row["predicted_label"]
            assert one["probabilities"] == pytest.approx(row["probabilities"], abs=1e-5)


EXPLAINED: list[dict[str, Any]] = [
    {"model": "books", "text": "The cat sat on a mat", "top": 3}, {"model": "books", "text": "The cat " * 40},
    {"model": "classification", "text": "a cat"}, {"model": "classification", "text": "a cat", "as": "text"},
    {"model": "entailment", "text": "The cat", "more": ["a dog"]},
    {"model": "multiple-choice", "text": "The cat", "more": ["a dog", "sat on", "a mat"], "as": "rows"},
]  # fmt: skip


@pytest.mark.parametrize("asked", EXPLAINED, ids=lambda asked: asked["model"])
def test_explanations_are_those_of_the_command(
    server: Running, books: Path, tuned: dict[str, Path], asked: dict[str, Any]
) -> None:
    others = {"as_" if name == "as" else name: value for name, value in asked.items() if name != "model"}
    wanted = explain(Explain(run=str(({"books": books} | tuned)[asked["model"]]), threads=1, **others)).to_json()
    answer = server.http.post("/v1/explain", json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.json() == json.loads(json.dumps(wanted))


def test_many_predictions_and_embeddings_at_once(server: Running) -> None:
    def ask(n: int) -> Any:
        if n % 2:
            rows = [{"text": f"{n} cats and {m} dogs"} for m in range(n)]
            found = server.http.post("/v1/predict", json={"model": "classification", "rows": rows}).json()["data"]
            return [row["probabilities"]["cat"] for row in found]
        texts = [f"{n} cats and {m} dogs" for m in range(n + 1)]
        return [one.embedding[0] for one in server.openai.embeddings.create(model="books", input=texts).data]

    alone = [ask(n) for n in range(24)]
    with ThreadPoolExecutor(24) as pool:
        for one, other in zip(pool.map(ask, range(24)), alone, strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_models_are_listed_and_described(server: Running) -> None:
    names = [model.id for model in server.openai.models.list()]
    assert names == ["books", *ROWS.keys() & set(names)] or set(names) == {"books", *ROWS}
    card: Any = server.openai.models.retrieve("classification")
    assert (card.task, card.labels, card.columns["texts"]) == ("classification", ["cat", "dog"], ["text"])
    with pytest.raises(openai.NotFoundError):
        server.openai.models.retrieve("../books")


@only_linux_names
def test_a_name_may_have_any_characters(books: Path, tmp_path: Path) -> None:
    shutil.copytree(books, odd := tmp_path / NOT_UTF8)
    with running(odd, f"library/books={books}") as server:
        names = [model.id for model in server.openai.models.list()]
        assert names == [readable(NOT_UTF8), "library/books"]
        for name in names:
            assert server.http.get(f"/v1/models/{quote(name, safe='')}").json()["id"] == name
            assert server.http.get(f"/v1/models/{quote(name, safe='')}/curves").json()["model"] == name
            assert server.openai.completions.create(model=name, prompt="a", max_tokens=1).model == name
        assert server.http.get("/openapi.json").status_code == 200


def test_without_a_queue_requests_for_rows_are_answered_one_at_a_time(
    books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, may_end = {"model": "books", "input": "a"}, threading.Event()
    with running(books, queue=0) as server, ThreadPoolExecutor(1) as pool:
        embed = models.embed
        monkeypatch.setattr(models, "embed", lambda *asked: may_end.wait(20) and embed(*asked))
        first = pool.submit(server.http.post, "/v1/embeddings", json=request)
        until(lambda: server.engine.waiting == 1)
        assert server.http.post("/v1/embeddings", json=request).status_code == 429
        may_end.set()
        assert first.result().status_code == 200
        assert server.http.post("/v1/explain", json={"model": "books", "text": "a"}).status_code == 200


def test_health_and_metrics(books: Path) -> None:
    with running(books) as server:
        assert server.http.get("/healthz").json() == {"status": "ok"}
        assert server.http.get("/readyz").json() == {"status": "ready"}
        server.openai.completions.create(model="books", prompt="a", max_tokens=5, temperature=0)
        server.http.get("/never/seen/before")
        lines = server.http.get("/metrics").text.splitlines()
        assert "gpt1_generated_tokens_total 5.0" in lines
        assert 'gpt1_requests_total{method="POST",route="/v1/completions",status="200"} 1.0' in lines
        assert 'gpt1_requests_total{method="GET",route="other",status="404"} 1.0' in lines
        assert "gpt1_generating 0.0" in lines
        server.engine.close(0)
        until(lambda: server.http.get("/readyz").status_code == 503)
        assert server.http.get("/healthz").status_code == 200
        assert server.http.post("/v1/completions", json={"model": "books"}).status_code == 503


WRONG = [
    ("/v1/completions", {"prompt": "a"}, "you must provide a model parameter"),
    ("/v1/completions", {"model": "books", "promt": "a"}, "Unrecognized request argument supplied: promt"),
    ("/v1/completions", {"model": "books", "prompt": {"a": 1}}, "prompt must be a string, a list of strings"),
    ("/v1/completions", {"model": "books", "prompt": ["a", 1]}, "prompt must be a string, a list of strings"),
    ("/v1/completions", {"model": "books", "prompt": []}, "prompt is an empty list"),
    ("/v1/completions", {"model": "books", "prompt": [[]]}, "prompt has an empty list of token ids"),
    ("/v1/completions", {"model": "books", "prompt": [1, 300]}, "prompt has the token id 300"),
    ("/v1/completions", {"model": "books", "prompt": [7] * 65}, "maximum context length is 64 tokens"),
    ("/v1/completions", {"model": "books", "n": 9}, "1 prompts times n 9 are 9 completions; at most 8"),
    ("/v1/completions", {"model": "books", "prompt": ["a"] * 5, "n": 2}, "10 completions; at most 8"),
    ("/v1/completions", {"model": "books", "stop": list("abcde")}, "stop has 5 strings; at most 4"),
    ("/v1/completions", {"model": "books", "stop": ""}, "stop must not be empty"),
    ("/v1/completions", {"model": "books", "temperature": 3}, "temperature: input should be less than or equal to 2"),
    ("/v1/completions", {"model": "books", "top_p": 0}, "top_p: input should be greater than 0"),
    ("/v1/completions", {"model": "books", "max_tokens": -1}, "max_tokens: input should be greater than or equal to 0"),
    ("/v1/completions", {"model": "books", "max_tokens": "5"}, "max_tokens: input should be a valid integer"),
    ("/v1/completions", {"model": "books", "logprobs": 6}, "logprobs: input should be less than or equal to 5"),
    ("/v1/completions", {"model": "books", "best_of": 3}, "best_of must equal n"),
    ("/v1/completions", {"model": "books", "suffix": "a"}, "suffix must be null"),
    ("/v1/completions", {"model": "books", "presence_penalty": 1}, "presence_penalty must be 0; this server has"),
    ("/v1/completions", {"model": "books", "repetition_penalty": 5e-324}, "repetition_penalty: input should be"),
    ("/v1/completions", {"model": "books", "logit_bias": {"5": 1}}, "logit_bias must be empty"),
    ("/v1/completions", {"model": "books", "stream_options": {}}, "stream_options goes only with stream"),
    ("/v1/embeddings", {"model": "books", "input": ""}, "input 0 has no tokens"),
    ("/v1/embeddings", {"model": "books", "input": ["a", ""]}, "input 1 has no tokens"),
    ("/v1/embeddings", {"model": "books", "input": ["a"] * 257}, "input has 257 entries; at most 256"),
    ("/v1/embeddings", {"model": "books", "input": "a", "dimensions": 8}, "dimensions must be 32"),
    ("/v1/predict", {"model": "books", "rows": [{"text": "a"}]}, "books is pre-trained, not fine-tuned"),
    ("/v1/predict", {"model": "classification", "rows": []}, "rows is an empty list; give at least one"),
    ("/v1/predict", {"model": "classification", "rows": [{}, "a"]}, "rows:1: input should be a JSON object"),
    (
        "/v1/predict", {"model": "entailment", "rows": [{"a": "x"}]},
        "rows:0: column b is missing; a row of entailment has the keys a, b",
    ),
    ("/v1/predict", {"model": "classification", "rows": [{"text": "a"}, {}]}, "rows:1: column text is missing"),
    ("/v1/predict", {"model": "classification", "rows": [{"text": 5}]}, "rows:0: column text holds 5, not a text"),
    ("/v1/explain", {"model": "books", "text": ""}, "the text has no tokens"),
    ("/v1/explain", {"model": "books", "text": "cat " * 999}, "at most 256 are explained"),
    ("/v1/explain", {"model": "books", "text": "a", "as": "rows"}, "books is pre-trained"),
    ("/v1/explain", {"model": "books", "text": "a", "more": ["b"]}, "more goes only with the rows"),
    ("/v1/explain", {"model": "entailment", "text": "a"}, "entailment reads two texts, not 1"),
    ("/v1/explain", {"model": "classification", "text": "a", "more": ["b"]}, "classification reads one text, not 2"),
    ("/v1/predict", {"model": "multiple-choice", "rows": [{"story": "a", "endings": ["b"]}]}, "rows:0: 1 answer"),
]  # fmt: skip


def test_a_client_that_chats_is_told_where_texts_are_continued(server: Running) -> None:
    answer = server.http.post("/v1/chat/completions", json={"model": "books", "messages": []})
    assert answer.status_code == 404
    assert "use /v1/completions" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("route", "request_body", "sentence"), WRONG, ids=lambda value: str(value)[:50])
def test_a_wrong_request_gets_one_sentence(server: Running, route: str, request_body: Any, sentence: str) -> None:
    answer = server.http.post(route, json=request_body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert sentence in error["message"]
    assert "\n" not in error["message"]
    assert "skip_invalid" not in error["message"], "a setting of the commands"
    assert error["type"] == "invalid_request_error"


HOSTILE = [
    b'{"model": "books", "prompt": "\\ud800 \\udfff \\u0000"}', b'{"model": "books", "\\ud800": 1}',
    b'{"model": "\\ud800"}', b"[" * 60_000, b'{"a":' * 10_000, b'{"model": "books", "max_tokens": 1e999}',
    b'{"model": "books", "temperature": NaN}', b'{"model": "books", "seed": 1' + b"0" * 5000 + b"}",
    b'{"model": "books", "seed": 99999999999999999999999}', b"\xff\xfe\x00", b"", b"null", b"5", b"[]", b'"model"',
    b'{"model": "../../etc/passwd"}', b'{"model": "books", "prompt": [true, false]}',
    b'{"model": "books", "prompt": [-1]}', b'{"model": "books", "stop": ["\\ud800"], "max_tokens": 1}',
    b'{"model": "books", "prompt": "' + "\u202e\U0001f469\u200d\u0301".encode() * 9 + b'", "echo": true}',
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:40]))
def test_hostile_bodies(server: Running, body: bytes) -> None:
    for route in ("/v1/completions", "/v1/embeddings", "/v1/predict", "/v1/explain"):
        for kind in ("application/json", "text/plain"):
            answer = server.http.post(route, content=body, headers={"content-type": kind})
            assert answer.status_code in (200, 400, 404), answer.text
            assert answer.status_code == 200 or answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b'{"model": "caf\xe9"}', b"[" * 60_000, b'{"seed": 1' + b"0" * 5000 + b"}"])
def test_a_body_that_json_cannot_read_is_told_why(server: Running, body: bytes) -> None:
    answer = server.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("the body is not JSON: it is not UTF-8, is nested too deeply")


NOWHERE = [
    "/docs",
    "/../pyproject.toml",
    "/v1/models/..%2f..%2fetc%2fpasswd",
    "/a/%00",
    "/v1/completions/",
    "/page/",
    "/page/..%2fapp.py",
]


def test_a_page_of_another_site_cannot_ask(server: Running) -> None:
    """A browser sends text to any server; for JSON it asks first, and is refused."""
    good = json.dumps({"model": "books", "max_tokens": 1})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = server.http.post(
            "/v1/completions", content=good, headers={"content-type": kind, "origin": "http://x.y"}
        )
        assert answer.status_code == 400
        assert "Content-Type: application/json" in answer.json()["error"]["message"]
    ask = {"origin": "http://x.y", "access-control-request-method": "POST"}
    answer = server.http.options("/v1/completions", headers=ask)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert server.http.post("/v1/completions", content=good).status_code == 400, "without a type"


@pytest.mark.parametrize("path", NOWHERE)
def test_paths_lead_nowhere(server: Running, path: str) -> None:
    answer = server.http.get(path)
    assert answer.status_code in (404, 405)
    assert answer.json()["error"]["message"]


def test_wrong_methods(server: Running) -> None:
    answer = server.http.get("/v1/completions")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert "does not answer GET" in answer.json()["error"]["message"]


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_the_server_does_what_its_description_says(server: Running, mode: schemathesis.GenerationMode) -> None:
    """Requests drawn from the OpenAPI document, right ones and wrong ones."""
    operations = [
        found.ok() for found in schemathesis.openapi.from_url(f"{server.url}/openapi.json").get_all_operations()
    ]
    assert len(operations) == 13
    for operation in operations:

        @given(operation.as_strategy(generation_mode=mode))
        @settings(max_examples=12, suppress_health_check=list(HealthCheck))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)

        with suppress(Unsatisfiable):  # a route without parameters has no wrong request
            ask()


# The command


def test_names_of_runs(tmp_path: Path) -> None:
    assert named_runs(["a/books", "second=b/books", "starter"]) == {
        "books": "a/books", "second": "b/books", "starter": "starter",
    }  # fmt: skip
    (tmp_path / "x=y").mkdir()
    assert named_runs([str(tmp_path / "x=y")]) == {"x=y": str(tmp_path / "x=y")}
    with one_line("two runs are named books", "a/books", "b/books", "NAME=b/books"):
        named_runs(["a/books", "b/books"])
    with one_line("NAME=RUN"):
        named_runs(["=a"])


def test_what_the_command_refuses(books: Path, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPT1_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with one_line(f"host {host} can be reached by other machines", "GPT1_TOKEN"):
            serve(Serve(runs=[str(books)], host=host))
    with one_line("port 70000 must be from 0"):
        serve(Serve(runs=[str(books)], port=70_000))
    with one_line("concurrency must be above 0"):
        serve(Serve(runs=[str(books)], concurrency=0))
    for host in ("http://a.b", "a.b/c", "2001:db8::1"):
        with one_line(f"allow_host {host}: give the name alone"):
            serve(Serve(runs=[str(books)], allow_host=[host]))
    for origin in ("example.org", "https://example.org/"):
        with one_line(f"allow_origin {origin}: ", "such as https://example.org"):
            serve(Serve(runs=[str(books)], allow_origin=["*", "null", "https://a.b:80", origin]))
    with one_line("token holds a character"):
        serve(Serve(runs=[str(books)], token="two\nlines"))
    with one_line("host 0.0.0.0 can be reached"):
        serve(Serve(runs=[str(books)], host="0.0.0.0", token=" \n"))
    taken = httpx.URL(server.url).port
    assert taken
    with one_line(f"port {taken}: Address already in use; choose another with port"):
        serve(Serve(runs=[str(books)], port=taken))
    with one_line("port 0: ", "; choose another with host"):
        serve(Serve(runs=[str(books)], host="192.0.2.1", port=0, token="a-secret"))
    with one_line("host no.such.host.invalid port 0: ", "; choose another with host"):
        serve(Serve(runs=[str(books)], host="no.such.host.invalid", port=0, token="a-secret"))
    with one_line("nowhere"):
        serve(Serve(runs=[f"{books}/nowhere"], port=0))
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with one_line("gpt1 serve needs uvicorn", "pip install 'gpt1[serve]'"):
        serve(Serve(runs=[str(books)]))
