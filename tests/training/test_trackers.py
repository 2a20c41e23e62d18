"""What trackers get is what metrics.jsonl holds, read back with their own readers; none of them needs a network."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import one_line, save_random_run
from gpt1.commands.finetune import finetune
from gpt1.commands.pretrain import pretrain
from gpt1.config import Finetune, Model, Optim, Pretrain, TrackerName
from gpt1.storage import write_text
from gpt1.training import log, trackers
from gpt1.training.log import Log
from gpt1.training.trackers import Tracking

TINY = Model(context=16, width=16, depth=1, heads=2, inner=64)
Points = list[tuple[str, int, Any]]


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers without a network, with their files in this test's folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def tensorboard_points(run: Path) -> Points:
    """What TensorBoard's reader finds of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    points: Points = [(tag, e.step, e.value) for tag in found.Tags()["scalars"] for e in found.Scalars(tag)]
    for tag in found.Tags()["tensors"]:
        points += [(tag, e.step, make_ndarray(e.tensor_proto)[0].decode()) for e in found.Tensors(tag)]
    return [(tag.removesuffix("/text_summary"), step, value) for tag, step, value in points]


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: blocks of 32 KiB, in which a record may be in several pieces."""
    record, place = b"", 7  # after the file's own header
    while place + 7 <= len(content):
        if (left := 32_768 - place % 32_768) < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # the whole record, or its last piece
            yield record
            record = b""


def wandb_points(folder: Path) -> Points:
    """What the files of offline runs hold, as `wandb sync` would send them."""
    from wandb.proto import wandb_internal_pb2

    points: Points = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            points += [(name, row["step"], value) for name, value in row.items() if name[0] != "_" and name != "step"]
    return points


def logged(folder: Path) -> Points:
    """What metrics.jsonl holds."""
    return [(name, row["step"], value) for row in log.read(folder) for name, value in row.items() if name != "step"]


def assert_same(found: Points, expected: Points) -> None:
    """The same points, none twice; TensorBoard keeps numbers as float32."""
    points = {(name, step): value for name, step, value in found if name != "settings"}
    assert len(points) == len([one for one in found if one[0] != "settings"]), Counter(one[:2] for one in found)
    wanted = {(name, step): value for name, step, value in expected}
    assert points.keys() == wanted.keys()
    for key, value in wanted.items():
        assert points[key] == (
            value if isinstance(value, str) else pytest.approx(float(value), rel=1e-6, nan_ok=True)
        ), key


def settings_of(data: Path, out: Path, track: Sequence[TrackerName] = (), **changes: Any) -> Pretrain:
    given: dict[str, Any] = {"steps": 6, "batch": 4, "eval_every": 2, "model": TINY, "optim": Optim(warmup=1)}
    return Pretrain(data=str(data), out=str(out), preset="tiny", track=list(track), **given | changes)


def test_pretraining_in_tensorboard(data: Path, tmp_path: Path) -> None:
    """Also: tracking changes no weight, and a run that is started over leaves nothing of the first."""
    plain, run = tmp_path / "plain", tmp_path / "run"
    pretrain(settings_of(data, plain))
    pretrain(settings_of(data, run, ["tensorboard"], steps=4))
    pretrain(settings_of(data, run, ["tensorboard"], fresh=True))
    found = tensorboard_points(run)
    assert_same(found, logged(run))
    assert {"lm", "lr", "grad_norm", "val_nats_per_token", "val_bits_per_byte", "sample"} <= {one[0] for one in found}
    (config,) = [value for name, _, value in found if name == "settings"]
    assert json.loads(config)["optim.warmup"] == 1
    assert (run / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert not (plain / "tensorboard").exists()
    assert not (plain / trackers.NAME).exists()


def crash_and_resume(run: Path, names: list[TrackerName]) -> None:
    """Log to step 7, save a state at 5, be killed; continue to 9, where the update of 5 still lacks its validation."""
    run.mkdir()
    tracking = Tracking(names, run, {"optim.lr": 0.1, "seed": 1})
    first = Log(run, 0, True, tracking)
    for step in range(1, 8):
        first.add(step, lm=1 / step, grad_norm=0.5)
        if step == 4:
            first.add(step, val_loss=2.0, sample="Once\nupon")
    first.close()
    with Log(run, 5, True, tracking) as second:
        second.add(5, val_loss=1.5)
        for step in range(6, 10):
            second.add(step, lm=1 / step, grad_norm=math.nan if step == 8 else 0.5, skipped=True)


def test_a_resumed_run_in_tensorboard(tmp_path: Path) -> None:
    crash_and_resume(run := tmp_path / "run", ["tensorboard"])
    assert_same(tensorboard_points(run), logged(run))


def test_a_resumed_run_in_wandb(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    crash_and_resume(run := tmp_path / "run", ["wandb"])
    # What the first process sent of steps 6 and 7 is not sent again; the second did not skip these updates.
    known = [one for one in logged(run) if one[0] != "skipped" or one[1] > 7]
    found = [(name, step, math.nan if value == "NaN" else value) for name, step, value in wandb_points(tmp_path)]
    assert_same([one for one in found if one[0] != "skipped" or one[1] > 7], known)
    ids = {path.name.rpartition("-")[2] for path in tmp_path.glob("wandb/offline-run-*")}
    assert ids == {json.loads((run / trackers.NAME).read_text())["wandb"]["id"]}


def test_a_resumed_run_in_trackio(tmp_path: Path) -> None:
    """In another process, since Trackio's folder is fixed when it is imported."""
    pytest.importorskip("trackio")
    script = (
        "import json, sys; from pathlib import Path; from test_trackers import crash_and_resume\n"
        "crash_and_resume(Path(sys.argv[1]), ['trackio'])\n"
        "from trackio.sqlite_storage import SQLiteStorage as S\n"
        "print(json.dumps([S.get_logs('gpt1', run) for run in S.get_runs('gpt1')]))"
    )
    run, here = tmp_path / "run", Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script, str(run)], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (rows,) = json.loads(done.stdout)  # one run, and nothing of Trackio's own on standard output
    found = [(name, row["step"], value) for row in rows for name, value in row.items()]
    left_out = ("step", "timestamp", "skipped")
    assert_same(
        [one for one in found if one[0] not in left_out], [one for one in logged(run) if one[0] not in left_out]
    )


def test_a_tracker_that_comes_late_gets_all(tmp_path: Path) -> None:
    """A run begun without it, continued with it, then without, then with it."""
    run = tmp_path / "run"
    run.mkdir()
    tracking = Tracking(["tensorboard"], run, {})
    for number, one in enumerate([None, tracking, None, tracking]):
        with Log(run, 2 * number, True, one) as found:
            for step in (2 * number + 1, 2 * number + 2):
                found.add(step, lm=1 / step)
    assert_same(tensorboard_points(run), logged(run))


def test_a_tracker_that_fails_is_given_up_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it missed is sent when the run is resumed."""
    add, run = trackers.TensorBoard.add, tmp_path / "run"
    run.mkdir()

    def fail(tracker: trackers.TensorBoard, step: int, values: Any) -> None:
        if step == 3:
            raise ConnectionError("no route\nto host")
        add(tracker, step, values)

    tracking = Tracking(["tensorboard"], run, {})
    with monkeypatch.context() as patch:
        patch.setattr(trackers.TensorBoard, "add", fail)
        with Log(run, 0, True, tracking) as found:
            for step in range(1, 6):
                found.add(step, lm=1 / step)
    assert capsys.readouterr().err.count("warning: track tensorboard failed (no route to host)") == 1
    assert [row["step"] for row in log.read(run)] == [1, 2, 3, 4, 5]
    with Log(run, 5, True, tracking) as found:
        found.add(6, lm=1 / 6)
    assert_same(tensorboard_points(run), logged(run))


def test_one_that_cannot_start_is_given_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path / "tensorboard", "a file where the folder should be")
    with Log(tmp_path, 0, True, Tracking(["tensorboard"], tmp_path, {})) as found:
        found.add(1, lm=1.0)
    assert "training goes on without it" in capsys.readouterr().err
    assert log.read(tmp_path) == [{"step": 1, "lm": 1.0}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_run(tmp_path_factory.mktemp("base") / "run", ["good bad fine poor film " * 9], 270, TINY)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = [f"{'good fine' if number % 2 else 'bad poor'} film {number},{number % 2}" for number in range(24)]
    write_text(tmp_path / "rows.csv", "text,label\n" + "\n".join(lines) + "\n")
    return tmp_path / "rows.csv"


def test_fine_tuning_in_tensorboard(base: Path, rows: Path, tmp_path: Path) -> None:
    """Each of several trainings is a run of its own; the events stay where they are when the model is written."""
    one, two = tmp_path / "one", tmp_path / "two"
    settings = Finetune(run=str(base), train=str(rows), out=str(one), epochs=2, track=["tensorboard"])
    finetune(settings)
    assert_same(tensorboard_points(one), logged(one))
    finetune(Finetune(run=str(base), train=str(rows), out=str(two), epochs=1, seeds=2, track=["tensorboard"]))
    names = sorted(path.name for path in (two / "tensorboard").iterdir())
    assert [name[:7] for name in names] == ["seed-1-", "seed-2-"]
    finetune(settings)  # is done already, and accepts its own folder


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    find = trackers.importlib.util.find_spec
    monkeypatch.setattr(
        trackers.importlib.util, "find_spec", lambda name: None if name in ("wandb", "tensorboard") else find(name)
    )
    yield


def test_a_missing_package_is_named_before_anything_is_written(
    data: Path, base: Path, rows: Path, tmp_path: Path, not_installed: None
) -> None:
    with one_line("track wandb needs wandb: pip install 'gpt1[wandb]'"):
        pretrain(settings_of(data, tmp_path / "run", ["wandb"]))
    with one_line("pip install 'gpt1[tensorboard]'"):
        finetune(Finetune(run=str(base), train=str(rows), out=str(tmp_path / "run"), track=["tensorboard"]))
    assert not (tmp_path / "run").exists()


def test_the_command_line_imports_no_tracker() -> None:
    script = (
        "import sys, gpt1.pretraining.job, gpt1.commands.finetune\n"
        "assert not {'tensorboard', 'wandb', 'trackio'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
