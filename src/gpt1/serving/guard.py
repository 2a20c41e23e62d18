"""The guard in front of the application: authentication, allowed hosts, size limits and timeouts.

It reads a request's body before anything else sees the request, so that size and time are bounded in one place.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt1.serving.errors import ApiError, shutting_down
from gpt1.serving.metrics import Metrics

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
logger = logging.getLogger("gpt1.serving")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@dataclass(frozen=True)
class Rules:
    """What the guard lets through."""

    hosts: Collection[str] | None
    """names in the header Host, without port; None: any, which only a token makes safe"""
    token: str = ""
    """secret that every request must carry; empty: none"""
    public: Collection[str] = ()
    """paths of files that are given without the token"""
    body_bytes: int = 65_536
    """size of a request's body"""
    seconds: float = 10.0
    """time that a client has to send its request, and to take each part of the answer"""


class Guard:
    """ASGI middleware that refuses what the rules forbid, and adds security headers to every answer."""

    def __init__(self, app: ASGIApp, rules: Rules, metrics: Metrics) -> None:
        self.app, self.rules, self.metrics = app, rules, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def send_in_time(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            async with asyncio.timeout(self.rules.seconds):
                await send(message)

        try:
            self._check_headers(Headers(scope=scope), scope["path"] in self.rules.public)
            body = await self._read(receive)
            if body is not None:
                await self.app(scope, _replayed(body, receive), send_in_time)
        except ApiError as error:
            await error.response()(scope, receive, send_in_time)
        except TimeoutError:
            pass  # the client does not read its answer; returning closes the connection
        except asyncio.CancelledError:  # the server has no more time; returning breaks off what has begun
            if not status:
                await shutting_down().response()(scope, receive, send_in_time)
        except Exception:
            logger.exception("a request failed")  # it is answered, see `errors.add_handlers`
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(method, route, status or 500, time.perf_counter() - began)

    def _check_headers(self, headers: Mapping[str, str], is_public: bool) -> None:
        host = headers.get("host", "")
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        if self.rules.hosts is not None and name.lower() not in self.rules.hosts:
            raise ApiError(400, "the Host header does not name this server")
        if self.rules.token and not is_public:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            # Header values are bytes, which ASGI frameworks decode as Latin-1.
            # A byte of the token that is not UTF-8 is a lone surrogate in Python.
            token = self.rules.token.encode(errors="surrogateescape")
            is_same = hmac.compare_digest(given.strip().encode("latin-1"), token)
            if scheme.lower() != "bearer" or not is_same:
                message = "give the server's token in the header Authorization: Bearer TOKEN"
                raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if int(headers.get("content-length", "0")) > self.rules.body_bytes:  # the parser of HTTP has checked the digits
            raise self._too_large()

    def _too_large(self) -> ApiError:
        sentence = f"the body is larger than {self.rules.body_bytes:,} bytes"
        return ApiError(413, sentence, headers={"Connection": "close"})

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the whole body; None if the client has left."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.rules.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self.rules.body_bytes:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            sentence = f"the body did not arrive within {self.rules.seconds:g} seconds"
            raise ApiError(408, sentence, headers={"Connection": "close"}) from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first, then what the client does."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message
