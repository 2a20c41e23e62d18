"""The real command, in a process of its own: how it stops, is killed and started again, under load."""

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from servers import SHAPE, TEXTS, running

from conftest import save_random_run
from gpt1.config import Model
from gpt1.serving.models import ServedModel
from gpt1.serving.server import LAST_WORDS

pytest_plugins = ["servers"]

COMPLETIONS = "/v1/completions"
CLIENTS = 8


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose greedy text takes seconds."""
    shape = Model(**vars(SHAPE) | {"context": 4096})
    return save_random_run(tmp_path_factory.mktemp("runs") / "endless", TEXTS, 300, shape)


@dataclass
class Served:
    """`gpt1 serve` in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 0

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@contextmanager
def served(run: Path, port: int = 0) -> Iterator[Served]:
    command = [sys.executable, "-m", "gpt1", "serve", str(run), "--port", str(port), "--dtype", "fp32", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            line = process.stderr.readline()
            yield Served(process, next(word.rstrip(";") for word in line.split() if word.startswith("http")))
        finally:
            process.kill()


def greedy(run: Path, tokens: int) -> dict:
    return {"model": run.name, "prompt": "a", "max_tokens": tokens, "stream": True, "temperature": 0}


def test_sigterm_lets_requests_end(books: Path) -> None:
    with served(books) as server, ExitStack() as stack:
        first, second = (
            stack.enter_context(httpx.Client(base_url=server.url, timeout=60, trust_env=False)) for _ in range(2)
        )
        assert all("connection" not in http.get("/readyz").headers for http in (first, second)), "both stay open"
        with httpx.stream("POST", server.url + COMPLETIONS, json=greedy(books, 60), trust_env=False) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{server.url}/healthz", trust_env=False)
            assert first.get("/readyz").status_code == 503
            late = second.post(COMPLETIONS, json=greedy(books, 5) | {"stream": False})
            assert (late.status_code, late.headers["connection"]) == (200, "close")
            assert late.json()["usage"]["completion_tokens"] == 5
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert server.process.wait(20) == 0
        assert server.process.stdout and server.process.stderr
        result = json.loads(server.process.stdout.read())
        assert (result["models"], result["requests"], result["url"]) == (["books"], 5, server.url)
        assert server.process.stderr.read() == ""


def test_streams_that_take_too_long_are_told(books: Path) -> None:
    with running(books, grace=0.3, seconds_per_step=0.1) as slow:
        with slow.http.stream("POST", COMPLETIONS, json=greedy(books, 60)) as answer:
            lines = answer.iter_lines()
            next(lines)
            slow.engine.close(0.3)
            events = [line.removeprefix("data: ") for line in lines if line]
        assert events[-1] == "[DONE]"
        assert "shutting down" in json.loads(events[-2])["error"]["message"]
        refused = slow.http.post(COMPLETIONS, json=greedy(books, 1))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_explanations_that_take_too_long_are_told(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()

    def explain(model: ServedModel, asked: list) -> None:
        began.set()
        time.sleep(LAST_WORDS + 1)

    monkeypatch.setattr(ServedModel, "explain", explain)
    with ThreadPoolExecutor() as pool:
        with running(books, grace=0) as slow:
            body = {"model": "books", "text": "a"}  # asked by a client that lives longer than `slow.http`
            answer = pool.submit(httpx.post, f"{slow.url}/v1/explain", json=body, timeout=20, trust_env=False)
            assert began.wait(20)
        assert (answer.result().status_code, answer.result().headers["retry-after"]) == (503, "1")
        assert answer.result().json()["error"]["message"] == "the server is shutting down"


def test_a_second_signal_ends_at_once(endless: Path) -> None:
    with (
        served(endless) as server,
        httpx.stream("POST", server.url + COMPLETIONS, json=greedy(endless, 4000), trust_env=False) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert server.stop() == 130
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
        assert server.process.stderr
        assert server.process.stderr.read() == "gpt1 serve: stopped\n"


async def stream_until(end: asyncio.Event, url: str, request: dict, counts: Counter[str]) -> None:
    """Stream texts one after the other, on one connection where the server lets it; retry what was refused."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        while not end.is_set():
            try:
                async with http.stream("POST", COMPLETIONS, json=request) as answer:
                    counts[str(answer.status_code)] += 1
                    last = [line async for line in answer.aiter_lines() if line][-2:]
                    counts["ended"] += last[1] == "data: [DONE]" and '"finish_reason": "length"' in last[0]
            except httpx.ConnectError:
                counts["refused"] += 1
                await asyncio.sleep(0.05)
            except httpx.HTTPError as error:
                counts[type(error).__name__] += 1


def test_a_restart_under_load_loses_no_request(books: Path) -> None:
    """A supervisor starts the next server when the one before has ended; clients ask again when they are refused."""

    async def restart(old: Served) -> Counter[str]:
        end, counts = asyncio.Event(), Counter[str]()
        clients = [asyncio.create_task(stream_until(end, old.url, greedy(books, 40), counts)) for _ in range(CLIENTS)]
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(old.stop) == 0
        before = counts["ended"]
        with served(books, old.port) as new:
            assert new.url == old.url
            while counts["ended"] < before + CLIENTS:
                await asyncio.sleep(0.05)
            end.set()
            await asyncio.gather(*clients)
            assert await asyncio.to_thread(new.stop) == 0
        return counts

    with served(books) as old:
        counts = asyncio.run(asyncio.wait_for(restart(old), 60))
    assert counts.pop("refused") > 0
    assert counts == {"200": counts["ended"], "ended": counts["ended"]}


def test_killed_while_it_streams(endless: Path) -> None:
    def files() -> dict[str, str]:
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in endless.rglob("*") if path.is_file()
        }

    before = files()
    with (
        served(endless) as server,
        httpx.stream("POST", server.url + COMPLETIONS, json=greedy(endless, 4000), trust_env=False) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    assert files() == before
    with served(endless, server.port) as again:
        body = greedy(endless, 5) | {"stream": False}
        answer = httpx.post(again.url + COMPLETIONS, json=body, timeout=60, trust_env=False)
        assert answer.json()["usage"]["completion_tokens"] == 5
        assert again.stop() == 0
