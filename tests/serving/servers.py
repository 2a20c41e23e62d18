"""Real servers on loopback, each with its own engine, and small random runs to serve: a pytest plugin.

Tests import it before pytest does, so its asserts stay plain: PYTEST_DONT_REWRITE.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI

from conftest import save_random_run
from gpt1.config import Columns, Model
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.serving.app import create_app
from gpt1.serving.completions import Limits
from gpt1.serving.engine import Engine
from gpt1.serving.guard import Guard, Rules
from gpt1.serving.metrics import Metrics
from gpt1.serving.models import load_models
from gpt1.serving.server import Server, listen

TEXTS = ["Once upon a time there was a cat. The cat sat on a mat; a dog, too: été 春 🤗. " * 30]
SHAPE = Model(context=64, width=32, depth=2, heads=4, inner=128)
LOCAL = Rules(hosts={"127.0.0.1", "localhost"})
LIMITS = Limits(choices=8, stops=4, rows=256)


@dataclass
class Running:
    """A server that runs."""

    url: str
    engine: Engine
    http: httpx.Client
    openai: OpenAI


@contextmanager
def running(
    *runs: Path | str,
    rules: Rules = LOCAL,
    limits: Limits = LIMITS,
    concurrency: int = 64,
    queue: int = 64,
    grace: float = 5,
    seconds_per_step: float = 0,
) -> Iterator[Running]:
    """Serve runs in fp32 on a free port; with `seconds_per_step` the networks take so long."""
    torch.set_num_threads(1)
    models = load_models(map(str, runs), torch.device("cpu"), torch.float32)
    for model in models.values() if seconds_per_step else ():
        model.body.register_forward_pre_hook(lambda *_: time.sleep(seconds_per_step))
    engine = Engine({name: model.body for name, model in models.items()}, concurrency, queue)
    metrics, started, sock = Metrics(engine), threading.Event(), listen("127.0.0.1", 0)
    app = Guard(create_app(models, engine, limits, metrics), rules, metrics)
    server = Server(app, engine, rules.seconds, grace, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    assert started.wait(30)
    url, key = f"http://127.0.0.1:{sock.getsockname()[1]}", rules.token or "none"
    headers = {"Authorization": f"Bearer {rules.token}".encode(errors="surrogateescape")} if rules.token else {}
    with ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(setattr, server, "should_exit", True)
        http = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False))
        openai = stack.enter_context(OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0))
        yield Running(url, engine, http, openai)


def until(is_so: Callable[[], Any], seconds: float = 20) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never was so"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained run of random weights."""
    return save_random_run(tmp_path_factory.mktemp("runs") / "books", TEXTS, 300, SHAPE)


TASKS: dict[str, dict[str, Any]] = {
    "classification": {"goal": "classes", "labels": ["cat", "dog"], "columns": Columns(["text"], ["label"])},
    "entailment": {"goal": "classes", "labels": ["no", "yes"], "columns": Columns(["a", "b"], ["label"])},
    "similarity": {"goal": "score", "labels": [], "mean": 2.5, "scale": 1.5, "columns": Columns(["a", "b"], ["score"])},
    "regression": {"goal": "score", "labels": [], "mean": 2.5, "scale": 1.5, "columns": Columns(["text"], ["score"])},
    "multi-label": {
        "goal": "labels", "labels": ["red", "round"], "thresholds": [0.5, 0.5], "columns": Columns(["text"], ["label"]),
    },
    "multiple-choice": {"goal": "choice", "labels": [], "columns": Columns(["story"], ["label"], ["endings"])},
}  # fmt: skip


@pytest.fixture(scope="session")
def tuned(books: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fine-tuned run of random weights for each task."""
    folder, base = tmp_path_factory.mktemp("tuned"), load_run(books)
    tokenizer = base.tokenizer.with_task_tokens()
    generator = torch.Generator().manual_seed(5)
    body = GPT(replace(SHAPE, vocabulary=tokenizer.vocabulary)).init_weights(generator)
    for task, about in TASKS.items():
        outputs = len(about["labels"]) or 1
        metadata = RunMetadata(kind="finetuned", task=task, long="head", lm_coef=0.5, **about)  # type: ignore[arg-type]
        save_run(folder / task, body, tokenizer, metadata, torch.randn(outputs, SHAPE.width, generator=generator))
    return {task: folder / task for task in TASKS}


@pytest.fixture(scope="package")
def server(books: Path, tuned: dict[str, Path]) -> Iterator[Running]:
    """A server of all runs, with default limits."""
    with running(books, *tuned.values()) as found:
        yield found
