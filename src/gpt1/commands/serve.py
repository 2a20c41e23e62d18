"""`gpt1 serve`: runs -> an HTTP API, until it is stopped."""

import os
import re
import time
from dataclasses import dataclass
from ipaddress import ip_address
from socket import gethostname
from typing import TYPE_CHECKING

from gpt1.config import Serve
from gpt1.console import say
from gpt1.errors import UserError, setting
from gpt1.keywords import command
from gpt1.results import Result
from gpt1.run_folder.places import named_runs
from gpt1.training.device import setup_device

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class ServeResult(Result):
    """What `gpt1 serve` prints when it has been stopped."""

    models: list[str]
    """names of the runs"""
    url: str
    """where they were served"""
    requests: int
    """requests answered, errors included"""
    generated_tokens: int
    """tokens generated"""
    seconds: float
    """time from start to stop"""


@command(Serve, "runs")
def serve(settings: Serve) -> ServeResult:
    """Serve runs until Ctrl-C or SIGTERM; requests in progress may end within `grace` seconds.

    Raises UserError for wrong settings or runs, an address that is taken, and a public address without a token.
    """
    token = (settings.token or os.environ.get("GPT1_TOKEN", "")).strip()  # no header can hold blanks around it
    _check(settings, token)
    named_runs(settings.runs)
    try:
        import uvicorn  # noqa: F401
        from starlette.middleware.cors import CORSMiddleware

        from gpt1.serving.app import create_app
        from gpt1.serving.completions import Limits
        from gpt1.serving.engine import Engine
        from gpt1.serving.guard import Guard, Rules
        from gpt1.serving.metrics import Metrics
        from gpt1.serving.models import load_models
        from gpt1.serving.page import FILES
        from gpt1.serving.server import Server, listen
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gpt1"):
            raise
        raise UserError(f"gpt1 serve needs {error.name}: pip install 'gpt1[serve]'") from None
    sock = listen(settings.host, settings.port)
    with sock:
        host, port = sock.getsockname()[:2]
        device, dtype = setup_device(settings)
        models = load_models(settings.runs, device, dtype, is_exact=settings.dtype != "bf16")
        engine = Engine({name: model.body for name, model in models.items()}, settings.concurrency, settings.queue)
        metrics = Metrics(engine)
        limits = Limits(settings.max_completions, settings.max_stops, settings.max_rows)
        rules = Rules(_hosts(settings), token, FILES, settings.max_body, settings.timeout)
        app: ASGIApp = Guard(create_app(models, engine, limits, metrics), rules, metrics)
        if settings.allow_origin:  # outside of the guard, since a browser asks for permission without the token
            app = CORSMiddleware(app, allow_origins=settings.allow_origin, allow_methods=["*"], allow_headers=["*"])
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        began = time.perf_counter()

        def started() -> None:
            others = f" (elsewhere: http://{gethostname()}:{port})" if ip_address(host).is_unspecified else ""
            say(f"serving {', '.join(models)} on {url}{others}; stop with Ctrl-C")

        Server(app, engine, settings.timeout, settings.grace, started).run(sockets=[sock])
    return ServeResult(list(models), url, metrics.total, engine.tokens, time.perf_counter() - began)


def show(result: ServeResult) -> str:
    """Say how much was answered."""
    return f"{result.requests:,} requests answered, {result.generated_tokens:,} tokens generated"


def _check(settings: Serve, token: str) -> None:
    for name in ("concurrency", "max_body", "max_completions", "max_stops", "max_rows", "timeout"):
        if getattr(settings, name) <= 0:
            raise UserError(f"{setting(name)} must be above 0")
    if settings.port > 65_535:
        raise UserError(f"{setting('port')} {settings.port} must be from 0 (any free one) to 65535")
    if any(ord(character) < ord(" ") or character == "\x7f" for character in token):
        raise UserError(f"{setting('token')} holds a character, such as the end of a line, that no request can carry")
    for host in settings.allow_host:
        if not re.fullmatch(r"\[[^\]/]+\](:\d+)?|[^:/\[]+(:\d+)?", host):
            raise UserError(
                f"{setting('allow_host')} {host}: give the name alone, such as example.org or [2001:db8::1]"
            )
    for origin in settings.allow_origin:
        if origin not in ("*", "null") and not re.fullmatch(r"[^:/]+://[^/]+", origin):
            raise UserError(
                f"{setting('allow_origin')} {origin}: give what a browser calls an origin, scheme and name without a "
                "path, such as https://example.org"
            )
    if not _is_local(settings.host) and not token:
        raise UserError(
            f"{setting('host')} {settings.host} can be reached by other machines, so it needs a secret: set the "
            f"environment variable GPT1_TOKEN, or {setting('token')}"
        )


def _is_local(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hosts(settings: Serve) -> set[str] | None:
    """Return the names that a request may have in its header Host; None: any.

    Without this check, a page whose name its owner lets point to 127.0.0.1 could talk to the server (DNS rebinding). A
    token prevents that too, which such a page does not know.
    """
    if not _is_local(settings.host) and not settings.allow_host:
        return None
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    allowed = (re.sub(r":\d+$", "", name) for name in settings.allow_host)
    return {name.lower() for name in (*LOCAL_NAMES, own, *allowed)}
