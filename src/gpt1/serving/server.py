"""The server process: its socket, its connections, its signals."""

import asyncio
import errno
import json
import math
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpt1.errors import UserError, setting
from gpt1.serving.engine import Engine
from gpt1.serving.errors import ApiError
from gpt1.training.interrupt import on_signals

# Connections that wait until the server accepts them.
BACKLOG = 2048
# Seconds, after the engine has ended its texts, in which the last words of the streams are sent.
LAST_WORDS = 2
# Seconds that a stopping server keeps an idle connection open, since its client may be sending a request already.
LAST_REQUESTS = 1.0
CLOSE = (b"connection", b"close")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises UserError if the address is taken or is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while attempting")[0]
        # A name that cannot be resolved is an error of its own kind, which `create_server` raises as a plain one.
        is_port = isinstance(error, OverflowError) or error.errno in (errno.EADDRINUSE, errno.EACCES)
        another = setting("port") if is_port else setting("host")
        raise UserError(
            f"{setting('host')} {host} {setting('port')} {port}: {reason}; choose another with {another}"
        ) from None


class Server(uvicorn.Server):
    """A uvicorn server that lets the engine end its texts when it is stopped, and says when it has started."""

    def __init__(
        self, app: ASGIApp, engine: Engine, timeout: float, grace: float, started: Callable[[], None] = lambda: None
    ) -> None:
        protocol = type("Timed", (_TimedProtocol,), {"seconds": timeout})
        config = uvicorn.Config(
            app, http=protocol, ws="none", lifespan="on", access_log=False, proxy_headers=False, server_header=False,
            log_level="critical",  # the guard logs requests that fail
            timeout_graceful_shutdown=round(grace) + LAST_WORDS,
        )  # fmt: skip
        super().__init__(config)
        self._engine, self._grace, self._started = engine, grace, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        if self.started:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and let every request that has arrived be answered."""
        self._engine.close(self._grace)
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        for listener in sockets or ():
            listener.listen(0)  # the kernel lets nobody wait any more, whom closing the socket would cut off
        for _ in range(2):  # turns of the event loop, which accepts those that wait already
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on Ctrl-C or SIGTERM, which uvicorn would raise again in the end; a second one interrupts at once."""

        def stop(number: int) -> None:
            for one in numbers:
                restore(one)
            self.should_exit = True

        numbers = (signal.SIGINT, signal.SIGTERM)
        with on_signals(*numbers, handler=stop) as restore:
            yield


class _TimedProtocol(H11Protocol):
    """HTTP/1.1 that gives a client a time to send the head of a request, and to take the rest of an answer.

    The guard does the same for the body of a request, and for the parts of a stream.
    """

    seconds: float
    _timer: asyncio.TimerHandle | None = None
    _unsent: float = math.inf
    """bytes of the answer that the client had not taken when the timer started"""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer(self._patience)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_timer()

    def on_response_complete(self) -> None:
        self._unsent = math.inf
        self._start_timer(self._patience)  # first, since a pipelined request may stop it
        super().on_response_complete()

    def shutdown(self) -> None:
        """Close the connection soon; a request that is in progress or on its way is answered before."""
        if self.cycle is None or self.cycle.response_complete:
            self._start_timer(self._patience)

    def send_400_response(self, msg: str) -> None:
        """Answer malformed HTTP with JSON, like every other error."""
        body = json.dumps(ApiError(400, msg).body())
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n{body}".encode())
        self.transport.close()

    @property
    def _patience(self) -> float:
        """Seconds that a connection may be idle."""
        return LAST_REQUESTS if CLOSE in self.server_state.default_headers else self.seconds

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._close_if_idle)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_if_idle(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            return
        if (left := self.transport.get_write_buffer_size()) == 0:
            self.transport.close()
        elif left < self._unsent:  # the client reads, if slowly
            self._unsent = left
            self._start_timer(self.seconds)
        else:
            self.transport.abort()
