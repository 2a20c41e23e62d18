"""What every test file may use. The tests need no network, and draw the same examples every time."""

import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from gpt1.commands.prepare import prepare
from gpt1.config import Model, Prepare
from gpt1.data.docstrings import topics
from gpt1.errors import UserError
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train

if TYPE_CHECKING:
    from gpt1.model.gpt import GPT
    from gpt1.model.sampling import Sampling

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

# A shared machine may stall any single example, so no deadline.
settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.load_profile("same")

# A file name in Latin-1, as Python reads it where names are UTF-8; only Linux has such names.
NOT_UTF8 = "caf\udce9"
only_linux_names = pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode there")

# Gives the test cluster of Ray a number of nodes; returns what kills one of them.
RayNodes = Callable[[int], Callable[[], None]]

# Processes that test at once with `-n auto`, at most: each may need a gigabyte.
MOST_WORKERS = 4

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes `-n auto` starts: one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that may lie beside the checkout (novels, labelled sets); the test is skipped where it does not."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A small vocabulary of GPT-1's kind; a test file may have its own instead."""
    text = "Once upon a time there was a cat; the other cat (a dog, in fact) thought otherwise. "
    return train([text * 20], "gpt1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data: some of Python's help texts, with 300 tokens."""
    folder = tmp_path_factory.mktemp("prepared")
    text = folder / "topics.txt"
    text.write_text("\n".join(topics()[:12]), encoding="utf-8")
    prepare(Prepare(inputs=[str(text)], out=str(folder / "data"), vocabulary=300, val_fraction=0.1))
    return folder / "data"


@pytest.fixture(scope="session")
def openai_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vocabulary in the two files of OpenAI's release."""
    corpus = ["The cat sat on the mat; it didn't see the hat: \"don't!\" - he said... (in 1984) é ü n't\n"] * 9
    model = json.loads(train(corpus, "gpt1").text)["model"]
    names = [*(name for name in model["vocab"] if not name.startswith("<|")), "\n</w>"]
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "encoder_bpe_40000.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (folder / "vocab_40000.bpe").write_text("\n".join(merges), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def hard_lines() -> list[str]:
    """Lines that tokenizers trip over: quotes, dashes, accents, scripts, emoji, controls, line ends, long words."""
    return [
        "", " ", "\n", "\r\n", "\t \x0b\x0c\x85\u2028", "a\r\nb\rc\n\nd", "\x00a\x01b\x7fc\ufeffd\u200b\xad",
        "\ud800 lone \udfff", "“Don’t,” he said—twice… – ‘why?’", "Naïve café, e\u0301 ÅNGSTRÖM İ ΑΣ ß",
        "e\u0301\u0327 \u0301", "''’", "...!!??--__", "漢字かな한글 mixed漢in", "😀 👩\u200d👩\u200d👧 \U0001f1e9",
        "ﬁ ＡＢＣ　ｄ &amp; &lt;b&gt; â€™", "x" * 5000, "ab1" * 400, "=" * 300, "<unk> <|end|> cat</w> </w> <unk>",
        "U.S. Mr. Smith's e.g. 3.14 $5 10%", "cannot gonna we'll 'tis o'clock I'm", "http://a.b/c?d=e&f me@example.org",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, or Playwright's own; the test is skipped where there is none.

    Driven by module, since it occupies asyncio.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    with playwright.sync_playwright() as driver:
        try:
            # Chromium's sandbox needs rights that root in a container lacks; the pages are our own.
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def _ray_cluster() -> Iterator[Any]:
    """A Ray cluster of real node processes on this machine, its head without a CPU; skipped where Ray is missing."""
    utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: pip install 'gpt1[ray]'")
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False, "_system_config": soon}
    cluster = utils.Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def ray_nodes(_ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> RayNodes:
    """`ray_nodes(n)` gives the cluster n nodes of one CPU (and, Ray believes, one GPU); it returns what kills one."""
    monkeypatch.setenv("RAY_ADDRESS", _ray_cluster.address)

    def kill_one() -> None:
        _ray_cluster.remove_node(next(iter(_ray_cluster.worker_nodes)), allow_graceful=False)

    def resize(count: int) -> Callable[[], None]:
        while len(_ray_cluster.worker_nodes) > count:
            kill_one()
        while len(_ray_cluster.worker_nodes) < count:
            _ray_cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 << 20)
        return kill_one

    return resize


def save_random_run(folder: Path, texts: list[str], vocabulary: int, model: Model) -> Path:
    """Save a random network of this shape as a pre-trained run, with a `bytes` tokenizer trained on the texts."""
    import torch  # and below what imports it: OMP_NUM_THREADS is set above

    from gpt1.model.gpt import GPT
    from gpt1.run_folder.folder import save_run
    from gpt1.run_folder.metadata import RunMetadata

    tokenizer = train(texts, "bytes", vocabulary)
    body = GPT(replace(model, vocabulary=tokenizer.vocabulary)).init_weights(torch.Generator().manual_seed(7))
    save_run(folder, body, tokenizer, RunMetadata(kind="pretrained", preset="tiny"))
    return folder


@contextmanager
def one_line(*words: str) -> Iterator[None]:
    """What happens inside is answered by one line of UserError that holds all words."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def is_open(folder: str | Path) -> bool:
    """Whether this process has a file in the folder open or mapped (Linux)."""
    for link in list(Path("/proc/self/fd").iterdir()):
        with suppress(FileNotFoundError):  # the listing's own
            if str(link.readlink()).startswith(str(folder)):
                return True
    return str(folder) in Path("/proc/self/maps").read_text()


def temporary_folders(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows by one for each temporary folder that is removed: whether no file in it was open (Linux)."""
    closed: list[bool] = []
    cleanup = tempfile.TemporaryDirectory.cleanup

    def look(folder: tempfile.TemporaryDirectory[str]) -> None:
        closed.append(not is_open(folder.name))
        cleanup(folder)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", look)
    return closed


def generate_ids(
    body: "GPT",
    prompts: Sequence[Sequence[int]],
    sampling: "Sampling",
    streams: Sequence[random.Random],
    steps: int,
    beyond: bool = False,
) -> Iterator[list[int]]:
    """Yield the next id of each prompt, `steps` times or until every context is full.

    Each prompt has 1 .. context ids and draws from its own stream of random numbers. Ids yielded for a prompt whose
    context is full are meaningless; with `beyond` its window slides, and it goes on, see `Decoder.step`.
    """
    from gpt1.model.kv_cache import Decoder  # here, since it imports torch, which many tests do not need

    rooms = [steps if beyond else min(steps, body.config.context - len(prompt) + 1) for prompt in prompts]
    decoder, owners = Decoder(body), list(range(len(prompts)))  # owners: the prompt of each row
    ids = decoder.join(prompts, [sampling] * len(prompts), streams, rooms).tokens
    yield list(ids)
    for count in range(1, max(rooms)):
        for n in reversed(range(len(owners))):
            if rooms[owners[n]] == count:
                decoder.leave(n)
                owners[n] = owners[-1]
                owners.pop()
        for owner, token in zip(owners, decoder.step().tokens, strict=True):
            ids[owner] = token
        yield list(ids)
