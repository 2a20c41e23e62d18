"""The server under load: streams at once against one, slow clients, restarts, fuzzing; and how soon its page is ready.

    python benchmarks/serving.py [RUN] [--minutes 5] [--streams 64] [--slow 1000] [--restarts 5] [--fuzz 10000]

`gpt1 serve RUN` (default: `starter`, of the size `small`) runs in a process of its own. First a browser opens the page,
if Chromium is installed. Then one client alone streams texts, one after the other; then `streams` clients at once; then
so many slow clients connect and send their requests a byte a second, while a patient one goes on asking. Meanwhile
/healthz is asked ten times a second, and the server's memory is read. Then the server is stopped by SIGTERM and started
again, under the load of 16 clients that ask again only when their connection was refused. At last schemathesis draws
requests, right and wrong ones, from the server's own description (0: none). A part with 0 is left out. To keep the load
off the server's core, give it one: `taskset -c 0 python benchmarks/serving.py --server-core 1`. The result goes to
benchmarks/results/serving.json.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from record import record

TOKENS = 100  # of each text
PROMPTS = ("It was a dark night, and", "The old man", "Once upon a time there was", "She had never", "")
EVERY = 0.1  # seconds between health checks
SECONDS_ALONE = 20
RESTARTED_CLIENTS, SECONDS_BETWEEN = 16, 3  # clients of a server that is restarted, and how long it is left alone
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
# Marks the moment at which the page's first view shows the bars of a token.
USABLE = """new MutationObserver((_, observer) => {
    if (document.querySelector(".panel .row")) { observer.disconnect(); performance.mark("usable"); }
}).observe(document, { childList: true, subtree: true })"""
TIMES = """() => ({
    usable_ms: performance.getEntriesByName("usable")[0].startTime,
    files: 1 + performance.getEntriesByType("resource").length,
    bytes: ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type))
        .reduce((sum, one) => sum + one.transferSize, 0),
})"""


@dataclass(frozen=True)
class Server:
    """How `gpt1 serve` is started."""

    run: str
    dtype: str
    core: int | None

    def start(self, port: int = 0) -> tuple[str, subprocess.Popen[str]]:
        """Run it in a process of its own; return its address, when it listens, and the process."""
        command = [sys.executable, "-m", "gpt1", "serve", self.run, "--port", str(port), "--dtype", self.dtype]
        if self.core is not None:
            command = ["taskset", "-c", str(self.core), *command]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert process.stderr
        line = process.stderr.readline()
        return next(word.rstrip(";") for word in line.split() if word.startswith("http")), process

    @contextmanager
    def started(self) -> Iterator[tuple[str, int]]:
        """Run it meanwhile: its address and the number of its process."""
        url, process = self.start()
        try:
            yield url, process.pid
        finally:
            stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """Stop a server by SIGTERM; it must end cleanly."""
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0, "a clean end"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="starter")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--slow", type=int, default=1000)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--fuzz", type=int, default=0)
    parser.add_argument("--server-core", type=int)
    parser.add_argument("--dtype", default="auto")
    asked = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * asked.slow)), hard))
    server = Server(asked.run, asked.dtype, asked.server_core)
    found: dict[str, Any] = {"dtype": asked.dtype, "one core for server and load": len(os.sched_getaffinity(0)) == 1}
    with server.started() as (url, process):
        found["page"] = page(url)
        found |= asyncio.run(under_load(url, process, asked.minutes, asked.streams, asked.slow))
    if asked.restarts:
        found[f"{asked.restarts} restarts"] = asyncio.run(restarted(server, asked.restarts))
    if asked.fuzz:
        with server.started() as (url, _):
            found["fuzzing"] = fuzzed(url, asked.fuzz)
    print(json.dumps(found, indent=2))
    print(table(found))
    options = f"--minutes {asked.minutes:g} --streams {asked.streams} --slow {asked.slow} --fuzz {asked.fuzz}"
    record("serving", f"python benchmarks/serving.py {options}", found)


def page(url: str, opened: int = 5) -> dict[str, Any] | str:
    """Open the page in new browser windows: milliseconds from the navigation until its first view can be used."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError:
        return "playwright is not installed"
    with sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Error:
            return "Chromium is not installed"
        found = []
        for _ in range(opened):
            window = browser.new_context().new_page()
            window.add_init_script(USABLE)
            window.goto(url)
            window.wait_for_selector(".panel .row")
            found.append(window.evaluate(TIMES))
        browser.close()
    milliseconds = [one["usable_ms"] for one in found]
    return found[-1] | {"usable_ms": {"median": statistics.median(milliseconds), "largest": max(milliseconds)}}


async def under_load(url: str, process: int, minutes: float, streams: int, slow: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=streams)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False) as client:
        models = (await client.get("/v1/models")).json()["data"]
        name = models[0]["id"]
        await stream(client, name, 0)  # warm up
        alone = await streaming(client, name, 1, min(SECONDS_ALONE, 30 * minutes), process)
        together = await streaming(client, name, streams, 60 * minutes, process)
        return {
            "model": models[0],
            "one stream": alone,
            f"{streams} streams": together,
            "tokens a second, ratio": together["tokens_per_second"] / alone["tokens_per_second"],
        } | ({f"{slow} slow clients": await slow_clients(client, url, name, slow)} if slow else {})


async def streaming(client: httpx.AsyncClient, model: str, streams: int, seconds: float, process: int) -> dict:
    """Stream texts by so many clients, one after the other each, and watch."""
    end, tokens, firsts, memory = time.monotonic() + seconds, 0, list[float](), list[float]()

    async def one(number: int) -> None:
        nonlocal tokens
        while time.monotonic() < end:
            count, first = await stream(client, model, number)
            number += streams
            tokens += count
            firsts.append(first)

    async def watch_memory() -> None:
        while True:
            memory.append(megabytes(process))
            await asyncio.sleep(1)

    watching, began = asyncio.create_task(watch_memory()), time.monotonic()
    async with health_watched(client) as checks:
        await asyncio.gather(*(one(number) for number in range(streams)))
    took = time.monotonic() - began
    watching.cancel()
    # Neither the first third counts, in which caches and the allocator fill, nor the end, when the streams leave.
    steady = memory[len(memory) // 3 : int(seconds)] or memory
    tenth = max(1, len(steady) // 10)
    first, last = statistics.median(steady[:tenth]), statistics.median(steady[-tenth:])
    return {
        "texts, all of them complete": len(firsts),
        "tokens_per_second": tokens / took,
        "first_token_ms": quantiles(firsts),
        "healthz_ms": quantiles(checks),
        "memory_MB": {"first": first, "last": last, "drift": last / first - 1, "peak": max(memory)},
        "seconds": took,
    }


async def stream(client: httpx.AsyncClient, model: str, number: int) -> tuple[int, float]:
    """Stream one text to its end; return its number of tokens, and the seconds to the first. Raises whatever fails."""
    prompt = PROMPTS[number % len(PROMPTS)]
    request = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "stream": True, "seed": number, "top_p": 0.95}
    request["stream_options"] = {"include_usage": True}
    began, first, tokens, line = time.monotonic(), 0.0, 0, ""
    async with client.stream("POST", "/v1/completions", json=request) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.monotonic() - began
                usage = json.loads(line[6:])["usage"]  # an error has none
                tokens = usage["completion_tokens"] if usage else tokens
    assert tokens, "the stream broke off"
    return tokens, first


@asynccontextmanager
async def health_watched(client: httpx.AsyncClient) -> AsyncIterator[list[float]]:
    """Ask for /healthz meanwhile; the list holds the seconds of each answer."""
    seconds = list[float]()

    async def watch() -> None:
        while True:
            began = time.monotonic()
            (await client.get("/healthz")).raise_for_status()
            seconds.append(time.monotonic() - began)
            await asyncio.sleep(EVERY)

    watching = asyncio.create_task(watch())
    yield seconds
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching  # raises what has failed


async def slow_clients(client: httpx.AsyncClient, url: str, model: str, count: int) -> dict[str, Any]:
    """Connect so many clients that send a byte a second, until the server has closed all of them."""
    address = httpx.URL(url)

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

    async with health_watched(client) as checks:
        patient = asyncio.create_task(stream(client, model, 1))
        lasted = await asyncio.gather(*(dawdle(number) for number in range(count)))
        tokens, first = await patient
    return {
        "closed_after_seconds": quantiles(list(lasted), 1),
        "healthz_ms": quantiles(checks),
        "a text meanwhile": {"tokens": tokens, "first_token_ms": 1000 * first},
    }


async def restarted(server: Server, restarts: int) -> dict[str, Any]:
    """Stop and start the server again and again while clients stream; count what becomes of their requests."""
    counts, down, end = Counter[str](), list[float](), asyncio.Event()
    url, process = await asyncio.to_thread(server.start)

    async def one(number: int) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http:
            while not end.is_set():
                try:
                    await stream(http, Path(server.run).name, number)
                    number += RESTARTED_CLIENTS
                    counts["complete"] += 1
                except httpx.ConnectError:
                    counts["refused, asked again"] += 1
                    await asyncio.sleep(EVERY)
                except (httpx.HTTPError, KeyError, AssertionError) as error:
                    counts[f"lost: {type(error).__name__}"] += 1

    clients = [asyncio.create_task(one(number)) for number in range(RESTARTED_CLIENTS)]
    for _ in range(restarts):
        await asyncio.sleep(SECONDS_BETWEEN)
        began = time.monotonic()
        await asyncio.to_thread(stop, process)
        _, process = await asyncio.to_thread(server.start, httpx.URL(url).port or 0)
        down.append(time.monotonic() - began)
    await asyncio.sleep(SECONDS_BETWEEN)
    end.set()
    await asyncio.gather(*clients)
    stop(process)
    return {"clients": RESTARTED_CLIENTS, "texts": dict(counts), "seconds_from_sigterm_to_ready": quantiles(down, 1)}


def fuzzed(url: str, requests: int) -> dict[str, Any]:
    """Draw so many requests from the server's description; the server itself counts its answers."""
    seed, statuses = 0, Counter[str]()
    while statuses.total() < requests:  # a route without parameters has one request only
        command = [shutil.which("schemathesis") or "schemathesis", "run", f"{url}/openapi.json", "--seed", str(seed)]
        command += ["--checks", "not_a_server_error", "--max-examples", str(min(500, requests // 10 + 1))]
        with TemporaryDirectory() as folder:  # schemathesis keeps notes where it runs
            done = subprocess.run([*command, "--request-timeout", "60"], stdout=subprocess.PIPE, text=True, cwd=folder)
        assert done.returncode == 0, done.stdout[-2000:]
        lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
        statuses.clear()
        for line in lines:
            if line.startswith("gpt1_requests_total{"):
                statuses[line.partition('status="')[2][:1] + "xx"] += int(float(line.rpartition(" ")[2]))
        seed += 1
    return {"requests": statuses.total(), "statuses": dict(sorted(statuses.items()))}


def table(found: dict[str, Any]) -> str:
    """Return the figures as the Markdown table of docs/benchmarks.md."""
    alone, (name, together) = found["one stream"], next(item for item in found.items() if item[0].endswith(" streams"))
    rows = {
        "tokens/s, one stream": f"{alone['tokens_per_second']:.0f}",
        f"tokens/s, {name}": f"{together['tokens_per_second']:.0f}, {found['tokens a second, ratio']:.1f} times those",
        "first token, one client, median and p99": "{median:.0f} and {p99:.0f} ms".format(**alone["first_token_ms"]),
        f"first token, {name}": "{median:.0f} and {p99:.0f} ms".format(**together["first_token_ms"]),
        f"`/healthz`, {name}, p99 and largest": "{p99:.0f} and {largest:.0f} ms".format(**together["healthz_ms"]),
        f"texts in {together['seconds']:.0f} s, {name}": f"{together['texts, all of them complete']:,}, no error",
        "memory after warming up": "{first:.0f} to {last:.0f} MB, {drift:+.1%}".format(**together["memory_MB"]),
    }
    for key, value in found.items():
        if key.endswith("slow clients"):
            rows[f"`/healthz`, {key}, p99 and largest"] = "{p99:.0f} and {largest:.0f} ms".format(**value["healthz_ms"])
        elif key.endswith("restarts"):
            rows[f"{key}, texts of {value['clients']} clients"] = str(value["texts"]).strip("{}").replace("'", "")
        elif key == "fuzzing":
            rows["fuzzing, requests"] = f"{value['requests']:,}: {value['statuses']}"
        elif key == "page" and isinstance(value, dict):
            rows["page, until its first view can be used"] = "{median:.0f} ms".format(**value["usable_ms"])
            rows["page, requests"] = f"{value['files']}, {value['bytes'] / 1000:.0f} KB"
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


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
