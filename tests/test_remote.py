"""Commands on addresses do what they do on paths: against a real server of S3's protocol, and a store in memory."""

import itertools
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import gpt1
from conftest import one_line, save_random_run
from gpt1 import remote
from gpt1.cli.main import main
from gpt1.commands.predict import RowPredictor
from gpt1.config import Model
from gpt1.data import documents
from gpt1.data import prepare as making
from gpt1.data.docstrings import topics
from gpt1.errors import RunFailed
from gpt1.finetuning import epochs
from gpt1.run_folder.metadata import read_metadata
from gpt1.training import checkpoint

SHAPE = Model(context=16, width=16, depth=1, heads=1, inner=64)
PRETRAIN = "--preset tiny --model.width 16 --model.depth 1 --model.heads 1 --model.context 16 --batch 4".split()
PRETRAIN += "--compile off --threads 1 --steps 40 --save-every 5 --eval-every 20".split()
ROWS = "text,y\n" + "".join(f"{word} {number},{word}\n" for number in range(12) for word in ("yes", "no"))
# A pre-training that is killed once the store has its first state.
KILLED = """if True:
    import os, signal, sys, time
    import s3fs
    from gpt1.cli.main import main
    from gpt1.pretraining import run

    def train(*args, real=run.train, **kwargs):
        for report in real(*args, **kwargs):
            if report.step == 12:
                store = s3fs.S3FileSystem(use_listings_cache=False)
                while not store.exists("lake/run/checkpoints/step-00000010.safetensors"):
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            yield report

    run.train = train
    main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; and uploads that fail are tried again at once."""
    monkeypatch.setenv("GPT1_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "RETRY_DELAYS", (0.0,))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A server on this machine, as S3 is one, with a bucket `lake`."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'gpt1[s3]'")
    server_module = pytest.importorskip("moto.server", reason="moto or flask is not installed: pip install '.[dev]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.clear_instance_cache()
        store.mkdir("lake")
        for number, text in enumerate(topics()[:12]):
            store.pipe_file(f"lake/corpus/{number}.txt", text.encode())
        store.pipe_file("lake/rows.csv", ROWS.encode())
        yield store
        store.clear_instance_cache()
    server.stop()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Any]:
    """A store in memory with a random run in `memory://lake/run`."""
    store = fsspec.filesystem("memory")
    run = save_random_run(tmp_path / "random", ["yes no 1 2 3 4 5 6 7 8 9"] * 9, 270, SHAPE)
    for path in run.iterdir():
        store.put_file(str(path), f"/lake/run/{path.name}")
    store.pipe_file("/lake/rows.csv", ROWS.encode())
    yield store
    store.store.clear()
    del store.pseudo_dirs[1:]


def names(store: Any, folder: str) -> set[str]:
    store.invalidate_cache()
    return {path.partition(f"{folder}/")[2] for path in store.find(folder)}


def measured(metrics: bytes) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl without what time says."""
    kept = {"step", "lm", "lr", "val_nats_per_token", "sample"}
    return [{key: value for key, value in json.loads(row).items() if key in kept} for row in metrics.splitlines()]


def test_prepare_and_pretrain(s3: Any, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that is killed is continued with an empty cache, as on another machine, to the same result."""
    prepare = ["--vocabulary", "300", "--val-fraction", "0.1"]
    assert main(["prepare", "s3://lake/corpus/*.txt", "--out", "s3://lake/data", *prepare, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["out"] == "s3://lake/data"
    assert "s3://lake/corpus: copied 12 objects" in err
    assert "s3://lake/data is ready; next: gpt1 pretrain s3://lake/data" in err
    assert "train-00000.bin" in names(s3, "lake/data")
    manifest = json.loads(s3.cat("lake/data/manifest.json"))
    assert manifest["inputs"][0]["path"] == "s3://lake/corpus/0.txt"
    assert manifest["settings"]["out"] == "s3://lake/data"

    command = [sys.executable, "-c", KILLED, "pretrain", "s3://lake/data", "--out", "s3://lake/run", *PRETRAIN]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    shutil.rmtree(cache)
    assert main(["pretrain", "s3://lake/data", "--out", "s3://lake/run", *PRETRAIN]) == 0
    err = capsys.readouterr().err
    assert "s3://lake/run: continuing after update 10" in err
    assert str(cache) not in err
    assert main(["pretrain", "s3://lake/data", "--out", str(tmp_path / "run"), *PRETRAIN]) == 0
    here = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert names(s3, "lake/run") == here, "states that were removed here are removed there"
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert s3.cat(f"lake/run/{name}") == (tmp_path / "run" / name).read_bytes(), name
    assert measured(s3.cat("lake/run/metrics.jsonl")) == measured((tmp_path / "run" / "metrics.jsonl").read_bytes())
    capsys.readouterr()
    assert main(["pretrain", "s3://lake/data", "--out", "s3://lake/run", *PRETRAIN]) == 0
    assert "s3://lake/run is complete" in capsys.readouterr().err


def test_finetune_and_predict(s3: Any, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in save_random_run(tmp_path / "random", [ROWS] * 9, 270, SHAPE).iterdir():
        s3.put_file(str(path), f"lake/random/{path.name}")
    finetune = ["finetune", "s3://lake/random", "--train", "s3://lake/rows.csv", "--epochs", "1", "--out"]
    assert main([*finetune, "s3://lake/task"]) == 0
    assert json.loads(s3.cat("lake/task/gpt1.json"))["data"]["train"]["path"] == "s3://lake/rows.csv"
    assert "stopped" not in {name.partition("/")[0] for name in names(s3, "lake/task")}
    capsys.readouterr()
    shutil.rmtree(cache)
    assert main([*finetune, "s3://lake/task"]) == 0
    assert "s3://lake/task is already fine-tuned with these settings" in capsys.readouterr().err
    (tmp_path / "rows.csv").write_text(ROWS)
    assert main(["predict", "s3://lake/task", "s3://lake/rows.csv", "--out", "s3://lake/out/new.csv"]) == 0
    assert main(["predict", "s3://lake/task", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "new.csv")]) == 0
    assert s3.cat("lake/out/new.csv") == (tmp_path / "new.csv").read_bytes()
    assert main(["predict", "s3://lake/task", "s3://lake/rows.csv", "--out", "s3://lake/rows.csv"]) == 0
    assert s3.cat("lake/rows.csv") == (tmp_path / "new.csv").read_bytes(), "read, then replaced"


def test_an_unchanged_corpus_is_read_once_and_a_changed_one_again(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = topics()[12:15]
    s3.pipe_file("lake/notes/a.txt", first.encode())
    s3.pipe_file("lake/notes/b.txt", second.encode())
    prepare = ["prepare", "s3://lake/notes", "--out", "s3://lake/noted", "--vocabulary", "270", "--val-fraction", "0.5"]
    assert main(prepare) == 0
    assert "s3://lake/notes: copied 2 objects" in capsys.readouterr().err
    assert main(prepare) == 0
    assert "copied" not in (err := capsys.readouterr().err)
    assert "s3://lake/noted: already prepared" in err
    s3.pipe_file("lake/notes/b.txt", third.encode())
    assert main(prepare) == 2
    err = capsys.readouterr().err
    assert "s3://lake/notes: copied 1 object, " in err
    assert "s3://lake/noted was made with other content of the input files" in err
    assert main([*prepare, "--fresh"]) == 0
    assert "manifest.json" in names(s3, "lake/noted")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("prepare s3://nosuch/corpus --out new", "s3://nosuch/corpus: not found (The specified bucket does not exist)"),
        ("prepare s3://lake/nosuch --out new", "s3://lake/nosuch: no such object or folder"),
        ("prepare s3://lake/corpus/*.csv --out new", "s3://lake/corpus/*.csv: no object matches"),
        (
            "prepare s3://lake/corpus --out s3://nosuch/data",
            "s3://nosuch/data: not found (The specified bucket does not exist)",
        ),
        ("prepare s3://lake/corpus --out s3://lake/corpus/data", "lies inside the input folder s3://lake/corpus"),
        ("pretrain s3://lake/corpus --out new", "s3://lake/corpus: no manifest.json"),
        ("generate s3://lake/corpus", "s3://lake/corpus"),
        ("finetune starter --train s3://lake/corpus/0.txt --out new", "s3://lake/corpus/0.txt: not a known kind"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: str, answer: str, s3: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(cache.parent)
    before = names(s3, "lake")
    assert main(words.split()) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gpt1 {words.split()[0]}: ")
    assert answer in line
    assert names(s3, "lake") == before
    assert not Path("new").exists()


def test_without_credentials(s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nosuch")
    s3.clear_instance_cache()
    assert main(["info", "s3://lake/data"]) == 2
    s3.clear_instance_cache()
    line = "s3://lake/data: cannot be read (Unable to locate credentials); give this store's credentials"
    assert line in capsys.readouterr().err


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert main(["info", "gs://lake/data"]) == 2
    line = "gs://lake/data: gs:// needs a package that is missing; install it with `pip install 'gpt1[gs]'`\n"
    assert capsys.readouterr().err == f"gpt1 info: {line}"


def test_a_server_that_goes_down(tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made is here, and the message says where."""
    run = save_random_run(tmp_path / "random", ["yes no 1 2 3"] * 9, 262, SHAPE)
    with pytest.raises(RunFailed) as caught, remote.output_path("s3://lake/copied") as place:
        shutil.copytree(run, place)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(type(s3), "retries", 1)
        (output,) = remote._outputs
        monkeypatch.setattr(output.mirror.store, "_fs", fsspec.filesystem("s3", skip_instance_cache=True))
    message = str(caught.value)
    assert "s3://lake/copied: cannot be written (Could not connect to the endpoint" in message
    assert message.endswith("; repeat the command to upload it")
    folder = Path(message.partition("everything is in ")[2].partition(";")[0])
    assert (folder / "copied" / "model.safetensors").exists()


def test_training_goes_on_while_uploads_fail(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _prepared(tmp_path)
    real, down = memory.put_file, threading.Event()
    down.set()

    def put_file(*args: Any) -> None:
        if down.is_set():
            raise ConnectionError("no route")
        real(*args)

    monkeypatch.setattr(memory, "put_file", put_file)
    command = ["pretrain", str(data), "--out", "memory://lake/new", *PRETRAIN]
    assert main(command) == 1
    err = capsys.readouterr().err
    failed = "memory://lake/new: cannot be written (no route); everything is in "
    assert f"{failed}{os.environ['GPT1_CACHE']}" in err
    assert err.count("the upload is tried again later") == 1, "said once, however many states there were"
    assert "update 40: validation" in err, "trained to the end"
    assert names(memory, "/lake/new") == set()
    down.clear()
    assert main(command) == 0
    assert "memory://lake/new is complete" in capsys.readouterr().err
    assert {"gpt1.json", "model.safetensors", "metrics.jsonl"} <= names(memory, "/lake/new")


def test_states_are_uploaded_while_training_goes_on(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training does not wait for uploads; a slow store gets the newest state as soon as it can."""
    data, seen, saved = _prepared(tmp_path), [], threading.Event()
    real, save = memory.put_file, checkpoint.save

    def put_file(source: str, target: str) -> None:
        if "step-" in target:
            seen.append(target)
            assert saved.wait(60), "training waits for the upload"
        real(source, target)

    def count(folder: Path, step: int, *rest: Any) -> Path:
        if step == 40:
            saved.set()
        return save(folder, step, *rest)

    monkeypatch.setattr(memory, "put_file", put_file)
    monkeypatch.setattr(checkpoint, "save", count)
    assert main(["pretrain", str(data), "--out", "memory://lake/new", *PRETRAIN]) == 0
    assert seen[0].endswith("step-00000005.safetensors")
    assert names(memory, "/lake/new/checkpoints") >= {"begun.json", "step-00000040.safetensors"}


def test_a_fine_tuning_goes_on_elsewhere(
    memory: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", "memory://lake/run", "--train", "memory://lake/rows.csv", "--epochs", "3", "--out"]
    real = epochs.train

    def stop(*args: Any, **kwargs: Any) -> Any:
        for number, update in enumerate(real(*args, **kwargs), 1):
            if number == 8:
                signal.raise_signal(signal.SIGTERM)
            yield update

    with monkeypatch.context() as patch:
        patch.setattr(epochs, "train", stop)
        assert main([*command, "memory://lake/task"]) == 130
    uploaded = {"begun.json", "metrics.jsonl", "step-00000008.safetensors"}
    assert {Path(name).name for name in names(memory, "/lake/task")} == uploaded
    shutil.rmtree(cache)
    assert main([*command, "memory://lake/task"]) == 0
    assert not any("stopped" in name for name in names(memory, "/lake/task"))
    assert main([*command, str(tmp_path / "task")]) == 0
    assert memory.cat("/lake/task/model.safetensors") == (tmp_path / "task" / "model.safetensors").read_bytes()


def test_a_preparation_goes_on_elsewhere(
    memory: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("\n".join(topics()[:8]))
    command = ["prepare", str(tmp_path / "text.txt"), "--vocabulary", "280", "--val-fraction", "0.1", "--out"]
    monkeypatch.setattr(making, "SHARD_TOKENS", 3000)
    monkeypatch.setattr(documents, "BLOCK", 4000)
    save, times = making.State.save, itertools.count()

    def stop(state: making.State, folder: Path) -> None:
        save(state, folder)
        if next(times) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(making.State, "save", stop)
        assert main([*command, "memory://lake/data"]) == 130
    assert "unfinished/train-00000.bin" in names(memory, "/lake/data")
    shutil.rmtree(cache)
    assert main([*command, "memory://lake/data"]) == 0
    assert "memory://lake/data/unfinished: continuing an interrupted preparation" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "data")]) == 0
    assert names(memory, "/lake/data") == {path.name for path in (tmp_path / "data").iterdir()}
    for path in (tmp_path / "data").glob("*.bin"):
        assert memory.cat(f"/lake/data/{path.name}") == path.read_bytes()


def _prepared(folder: Path) -> Path:
    (folder / "text.txt").write_text("\n".join(topics()[:8]))
    gpt1.prepare(folder / "text.txt", out=folder / "data", vocabulary=280, val_fraction=0.1)
    return folder / "data"


def test_python_takes_addresses_too(memory: Any, tmp_path: Path, cache: Path) -> None:
    assert gpt1.load("memory://lake/run").generate("yes", max_new_tokens=3).prompt == "yes"
    texts, labels = zip(*(line.split(",") for line in ROWS.splitlines()[1:]), strict=True)
    fitted = gpt1.Classifier("memory://lake/run", epochs=1, random_state=1).fit(texts, labels)
    same = gpt1.Classifier(tmp_path / "random", epochs=1, random_state=1).fit(texts, labels)
    assert (fitted.predict_proba(texts) == same.predict_proba(texts)).all()
    fitted.save("memory://lake/saved")
    loaded = gpt1.Classifier.load("memory://lake/saved")
    assert (loaded.predict_proba(texts) == same.predict_proba(texts)).all()
    assert gpt1.Embedder(Path("memory://lake/run")).fit_transform(texts[:2]).shape == (2, SHAPE.width)
    vectors = gpt1.embed("memory://lake/run", "memory://lake/rows.csv", out="memory://lake/v.npy")
    assert vectors.out == "memory://lake/v.npy"
    assert memory.exists("/lake/v.npy")
    memory.pipe_file("/lake/text/a.txt", b"yes no 1 2 3 4 5 " * 60)
    read = {"out": "memory://lake/read", "steps": 2}
    gpt1.continue_pretraining("memory://lake/run", "memory://lake/text/*.txt", **read)
    assert read_metadata(remote.local_copy("memory://lake/read")).steps == 2
    assert json.loads(memory.cat("/lake/read/settings.json"))["init"] == "memory://lake/run"
    assert gpt1.info(Path("memory://lake/read")).path == "memory://lake/read"
    assert str(cache).encode() not in b"".join(map(memory.cat, memory.find("/lake")))


def test_each_node_of_a_cluster_copies_the_run_itself(memory: Any) -> None:
    with remote.mirrored(gpt1.config.Predict(run="memory://lake/run", input="memory://lake/rows.csv")) as here:
        assert pickle.loads(pickle.dumps(RowPredictor(here))).settings.run == "memory://lake/run"


def test_a_run_is_read_without_its_states(memory: Any, cache: Path) -> None:
    memory.pipe_file("/lake/run/checkpoints/step-00000001.safetensors", b"large")
    gpt1.load("memory://lake/run")
    assert not list(cache.rglob("step-*"))


def test_a_bucket_given_by_mistake_is_not_copied(memory: Any, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("info", "generate", "finetune --train x.csv --out new", "pretrain --out new"):
        name, *more = command.split()
        assert main([name, "memory://lake", *more]) == 2
        assert f"gpt1 {name}: memory://lake" in capsys.readouterr().err
    assert [path.name for path in cache.glob("lake-*/lake/*")] == ["rows.csv"]


def test_a_text_that_begins_like_an_address_is_a_text(memory: Any) -> None:
    settings = gpt1.config.Predict(run="nosuch", input="memory://lake/rows.csv is a file")
    with remote.mirrored(settings) as here:
        assert here is settings
    generate = gpt1.config.Generate(run="nosuch", prompts=["memory://lake/rows.csv"])
    with remote.mirrored(generate) as here:
        assert here is generate


def test_a_named_run(memory: Any) -> None:
    with remote.mirrored(gpt1.config.Serve(runs=["a=memory://lake/run", "b=here"])) as here:
        name, _, folder = here.runs[0].partition("=")
        assert (name, here.runs[1]) == ("a", "b=here")
        assert (Path(folder) / "gpt1.json").exists()


def test_a_request_that_is_refused_uploads_nothing(memory: Any) -> None:
    with one_line("wrong"), remote.output_path("memory://lake/new") as place:
        place.mkdir()
        (place / "begun.json").write_text("{}")
        raise gpt1.errors.UserError("wrong")
    assert not memory.find("/lake/new")


def test_what_was_done_before_an_interruption_is_uploaded(memory: Any) -> None:
    with pytest.raises(KeyboardInterrupt), remote.output_path("memory://lake/new") as place:
        place.mkdir()
        (place / "state").write_text("1")
        raise KeyboardInterrupt
    assert memory.cat("/lake/new/state") == b"1"


def test_several_processes(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with one_line("several machines need a folder that all of them share"):
        gpt1.pretrain("data", out="memory://lake/new")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    with remote.output_path("memory://lake/new") as place:
        place.mkdir()
        (place / "a").write_text("1")
    assert not memory.find("/lake/new"), "the first process uploads"
