"""Who may ask, how much, and how slowly."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
from servers import LOCAL, Running, running

from gpt1.config import Serve
from gpt1.serving.guard import SECURITY_HEADERS
from gpt1.serving.server import listen

pytest_plugins = ["servers"]

TOKEN = "sésame, open"


@pytest.fixture(scope="module")
def guarded(books: Path) -> Iterator[Running]:
    """A server with a token, and little patience."""
    with running(books, rules=replace(LOCAL, token="s3cret", body_bytes=1000, seconds=0.5)) as found:
        yield found


def routes(server: Running) -> list[tuple[str, str]]:
    paths = server.http.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_every_route_wants_the_token(guarded: Running) -> None:
    asked = [*routes(guarded), ("GET", "/openapi.json"), ("GET", "/"), ("OPTIONS", "/v1/models"), ("HEAD", "/healthz")]
    assert len(asked) > 10
    for method, path in asked:
        for wrong in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"}, {"Authorization": "é"}):
            headers = {name: value.encode("latin-1") for name, value in wrong.items()}
            answer = httpx.request(method, guarded.url + path, headers=headers, trust_env=False)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.openai.completions.create(model="books", prompt="a", max_tokens=1).choices
    with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer"):
        guarded.openai.with_options(api_key="other").models.list()


def test_a_token_may_have_any_characters(books: Path) -> None:
    with running(books, rules=replace(LOCAL, token=TOKEN)) as server:
        assert server.http.get("/healthz").status_code == 200


def test_a_token_may_have_any_bytes(books: Path) -> None:
    """In the environment's GPT1_TOKEN, a byte that is not UTF-8 is a lone surrogate."""
    with running(books, rules=replace(LOCAL, token="caf\udce9")) as server:
        headers = {"Authorization": b"Bearer caf\xe9"}
        assert httpx.get(f"{server.url}/healthz", headers=headers, trust_env=False).status_code == 200


def test_the_host_header_names_this_machine(guarded: Running) -> None:
    port = httpx.URL(guarded.url).port
    for host in ("127.0.0.1", f"127.0.0.1:{port}", f"LocalHost:{port}"):
        assert guarded.http.get("/healthz", headers={"Host": host}).status_code == 200, host
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "[::1",
        "",
    ):
        refused = guarded.http.get("/healthz", headers={"Host": host})
        assert refused.status_code == 400, host
        assert "Host" in refused.json()["error"]["message"]


def test_every_answer_has_the_security_headers(guarded: Running) -> None:
    answers = [
        guarded.http.get("/healthz"), guarded.http.get("/nothing"), guarded.http.post("/v1/completions", json={}),
        guarded.http.post("/v1/completions", content=b"x" * 1001), httpx.get(guarded.url, trust_env=False),
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [200, 404, 400, 413, 401]
    for answer in answers:
        assert all(answer.headers[name] == value for name, value in SECURITY_HEADERS.items())
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["content-type"] == "application/json"


def raw(server: Running, *parts: bytes, wait: float = 0) -> bytes:
    """Send bytes, with a pause before each but the first; return all that comes back."""
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        for number, part in enumerate(parts):
            time.sleep(wait if number else 0)
            connection.sendall(part)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\r\n"


def test_bodies_that_are_too_large(guarded: Running) -> None:
    told = raw(guarded, HEAD + b"Content-Length: 99999999999\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 413")
    assert b"larger than 1,000 bytes" in told
    chunk = b"258\r\n" + b" " * 600 + b"\r\n"
    assert raw(guarded, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk, chunk).startswith(b"HTTP/1.1 413")
    assert guarded.http.post("/v1/completions", content=b" " * 1000).status_code == 400


def test_clients_that_are_too_slow(guarded: Running) -> None:
    began = time.monotonic()
    assert raw(guarded) == b"", "nothing was sent, so nothing is answered"
    assert raw(guarded, HEAD) == b"", "the head has no end"
    told = raw(guarded, HEAD + b"Content-Length: 10\r\n\r\n{")
    assert told.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 0.5 seconds" in told
    # The second request of a connection, whose first was in time.
    told = raw(
        guarded, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\r\n\r\n", b"GET", wait=0.2
    )
    assert told.startswith(b"HTTP/1.1 200")
    assert time.monotonic() - began < 6


def test_clients_that_do_not_take_their_answer(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(host: str, port: int) -> socket.socket:
        sock = listen(host, port)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # or the system would take all of it
        return sock

    monkeypatch.setattr("servers.listen", small)
    body = json.dumps({"model": "books", "text": "a cat, " * 35, "top": 100}).encode()
    head = b"POST /v1/explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    with running(books, rules=replace(LOCAL, seconds=0.3)) as server:
        whole = server.http.post("/v1/explain", content=body, headers={"content-type": "application/json"}).content
        url, taken = httpx.URL(server.url), 0
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((url.host, url.port))
            connection.sendall(head + str(len(body)).encode() + b"\r\n\r\n" + body)
            time.sleep(2)
            with suppress(ConnectionError):
                while piece := connection.recv(65536):
                    taken += len(piece)
        assert taken < len(whole) / 2, "the rest was dropped"
        assert server.http.get("/healthz").status_code == 200


def test_what_is_not_http(guarded: Running) -> None:
    for nonsense in (
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"?\r\n" * 9000,
    ):
        told = raw(guarded, nonsense)
        assert told.startswith(b"HTTP/1.1 400"), told[:100]
        assert b"application/json" in told
    upgrade = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert raw(guarded, upgrade).startswith(b"HTTP/1.1 401")


def test_a_thousand_slow_clients_keep_nobody_out(guarded: Running) -> None:
    """200 here; benchmarks/serving.py has the thousand."""

    async def slow() -> None:
        url = httpx.URL(guarded.url)
        pairs = await asyncio.gather(*(asyncio.open_connection(url.host, url.port) for _ in range(200)))
        for _, writer in pairs:
            writer.write(HEAD)
        began = time.monotonic()
        assert (await asyncio.to_thread(guarded.http.get, "/healthz")).status_code == 200
        assert time.monotonic() - began < 2
        answers = await asyncio.gather(*(reader.read() for reader, _ in pairs), return_exceptions=True)
        assert all(answer == b"" or isinstance(answer, ConnectionError) for answer in answers), "all were closed"

    asyncio.run(asyncio.wait_for(slow(), 30))


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [
        ({}, {"localhost", "127.0.0.1", "[::1]"}),
        ({"allow_host": ["Books.example"]}, {"localhost", "127.0.0.1", "[::1]", "books.example"}),
        ({"allow_host": ["a.b:80", "[2001:DB8::1]"]}, {"localhost", "127.0.0.1", "[::1]", "a.b", "[2001:db8::1]"}),
        ({"host": "::1"}, {"localhost", "127.0.0.1", "[::1]"}),
        ({"host": "0.0.0.0"}, None),
        ({"host": "0.0.0.0", "allow_host": ["a.b"]}, {"localhost", "127.0.0.1", "[::1]", "0.0.0.0", "a.b"}),
    ],
)
def test_which_names_a_server_has(settings: dict, hosts: set[str] | None) -> None:
    from gpt1.commands.serve import _hosts

    assert _hosts(Serve(runs=["x"], **settings)) == hosts
