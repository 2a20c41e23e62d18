"""The server under load: streams at once against one, the first token, the health check, memory, slow clients.

    python benchmarks/serving.py [RUN] [--minutes 1] [--streams 64] [--slow 1000]

`gpt1 serve RUN` (default: `starter`) runs in a process of its own. First one client alone streams texts, one after the
other; then `streams` clients at once, while /healthz is asked ten times a second and the server's memory is read; then
so many clients connect and send their requests a byte a second, while a patient one goes on asking. On a machine with
two cores or more, give the server one of them: `taskset -c 0 python benchmarks/serving.py --server-core 1`. The result
goes to benchmarks/results/serving.json.
"""

import argparse
import asyncio
import json
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from record import record

TOKENS = 100  # of each text
PROMPTS = ("It was a dark night, and", "The old man", "Once upon a time there was", "She had never", "")
EVERY = 0.1  # seconds between health checks
SECONDS_ALONE = 20
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="starter")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--slow", type=int, default=1000)
    parser.add_argument("--server-core", type=int)
    parser.add_argument("--dtype", default="auto")
    asked = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * asked.slow)), hard))
    with served(asked.run, asked.dtype, asked.server_core) as (url, process):
        found = asyncio.run(measure(url, process, asked.minutes, asked.streams, asked.slow))
    found = {"dtype": asked.dtype, "one core for all": asked.server_core is None} | found
    print(json.dumps(found, indent=2))
    record("serving", f"python benchmarks/serving.py --minutes {asked.minutes:g}", found)


@contextmanager
def served(run: str, dtype: str, core: int | None) -> Iterator[tuple[str, int]]:
    """`gpt1 serve` in a process of its own: its address and its number."""
    command = [sys.executable, "-m", "gpt1", "serve", run, "--port", "0", "--dtype", dtype]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr
        line = process.stderr.readline()
        try:
            yield next(word.rstrip(";") for word in line.split() if word.startswith("http")), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, "a clean end"


async def measure(url: str, process: int, minutes: float, streams: int, slow: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=streams)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False) as client:
        models = (await client.get("/v1/models")).json()["data"]
        name = models[0]["id"]
        await stream(client, name, 0)  # warm up
        alone = await under_load(client, name, 1, min(SECONDS_ALONE, 30 * minutes), process)
        together = await under_load(client, name, streams, 60 * minutes, process)
        patience = await slow_clients(client, url, slow)
        return {
            "model": models[0],
            "one stream": alone,
            f"{streams} streams": together,
            "tokens a second, ratio": together["tokens_per_second"] / alone["tokens_per_second"],
            f"{slow} slow clients": patience,
        }


async def under_load(
    client: httpx.AsyncClient, model: str, streams: int, seconds: float, process: int
) -> dict[str, Any]:
    """Stream texts by so many clients, one after the other each, and watch."""
    end, tokens, firsts, memory = time.monotonic() + seconds, 0, list[float](), list[float]()

    async def one(number: int) -> None:
        nonlocal tokens
        while time.monotonic() < end:
            count, first = await stream(client, model, number)
            number += streams
            tokens += count
            firsts.append(first)

    async def watch() -> None:
        while True:
            memory.append(megabytes(process))
            await asyncio.sleep(1)

    health, began = asyncio.create_task(watch_health(client)), time.monotonic()
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(one(number) for number in range(streams)))
    took = time.monotonic() - began
    watching.cancel()
    health.cancel()
    checks = await health
    return {
        "tokens_per_second": tokens / took,
        "first_token_ms": quantiles(firsts),
        "healthz_ms": quantiles(checks),
        # The first third is left out: caches fill, and so does the allocator.
        "memory_MB": {"begin": memory[len(memory) // 3], "end": memory[-1], "peak": max(memory)},
        "seconds": took,
    }


async def stream(client: httpx.AsyncClient, model: str, number: int) -> tuple[int, float]:
    """Stream one text; return its number of tokens, and the seconds to the first."""
    prompt = PROMPTS[number % len(PROMPTS)]
    request = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "stream": True, "seed": number, "top_p": 0.95}
    request["stream_options"] = {"include_usage": True}
    began, first, tokens = time.monotonic(), 0.0, 0
    async with client.stream("POST", "/v1/completions", json=request) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.monotonic() - began
                usage = json.loads(line[6:])["usage"]
                tokens = usage["completion_tokens"] if usage else tokens
    return tokens, first


async def watch_health(client: httpx.AsyncClient) -> list[float]:
    """Ask for /healthz until cancelled; return the seconds of each answer."""
    seconds = []
    with suppress(asyncio.CancelledError):
        while True:
            began = time.monotonic()
            (await client.get("/healthz")).raise_for_status()
            seconds.append(time.monotonic() - began)
            await asyncio.sleep(EVERY)
    return seconds


async def slow_clients(client: httpx.AsyncClient, url: str, count: int) -> dict[str, Any]:
    """Connect so many clients that send a byte a second, until the server has closed all of them."""
    address, checks = httpx.URL(url), asyncio.create_task(watch_health(client))

    async def dawdle(number: int) -> float:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        began = time.monotonic()
        with suppress(ConnectionError):
            writer.write(HEAD if number % 2 else HEAD[:20])  # half of them never end the head
            while not reader.at_eof():
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await reader.read(4096)
                writer.write(b" ")
        writer.close()
        return time.monotonic() - began

    patient = asyncio.create_task(stream(client, (await client.get("/v1/models")).json()["data"][0]["id"], 1))
    lasted = await asyncio.gather(*(dawdle(number) for number in range(count)))
    checks.cancel()
    tokens, first = await patient
    return {
        "closed_after_seconds": quantiles(list(lasted), 1),
        "healthz_ms": quantiles(await checks),
        "a text meanwhile": {"tokens": tokens, "first_token_ms": 1000 * first},
    }


def quantiles(seconds: list[float], unit: float = 1000) -> dict[str, float]:
    return {
        "median": unit * statistics.median(seconds), "p99": unit * float(np.percentile(seconds, 99)),
        "largest": unit * max(seconds), "of": len(seconds),
    }  # fmt: skip


def megabytes(process: int) -> float:
    """Resident memory of a process (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
