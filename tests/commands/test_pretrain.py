"""Pre-training as a whole: determinism, stopping anywhere, and what users get wrong."""

import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt1.commands import pretrain as job
from gpt1.commands.prepare import prepare
from gpt1.commands.pretrain import pretrain
from gpt1.config import Model, Optim, Prepare, Pretrain, pretrain_defaults
from gpt1.data.docstrings import topics
from gpt1.errors import RunFailed, UserError
from gpt1.pretraining import run
from gpt1.run_folder.folder import read_metadata, read_shape
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tasks.columns import Columns
from gpt1.training import checkpoint, log

SIZE = Model(context=16, width=32, depth=2, heads=2, inner=128)  # dropout on: 0.1 everywhere


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    text = folder / "topics.txt"
    text.write_text("\n".join(topics()[:12]), encoding="utf-8")
    prepare(Prepare(inputs=[str(text)], out=str(folder / "data"), vocabulary=300, val_fraction=0.1))
    return folder / "data"


def settings(data: Path, out: Path, **changes: Any) -> Pretrain:
    base = pretrain_defaults("tiny", data=str(data), out=str(out))
    return replace(base, **{"model": SIZE, "batch": 4, "micro_batch": 2, "steps": 6, "threads": 1, **changes})


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Request a stop once `step` updates are made."""
    real = run.train

    def train(*args: Any, **kwargs: Any) -> Any:
        for report in real(*args, **kwargs):
            if report.step == step:
                signal.raise_signal(signal.SIGTERM)
            yield report

    monkeypatch.setattr(run, "train", train)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_same_seed_same_bytes_and_a_stop_is_invisible(
    data: Path, tmp_path: Path, dtype: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_settings = pretrain_defaults("tiny", recipe, data="", out="").optim  # type: ignore[arg-type]
    changes = {"dtype": dtype, "optim": recipe_settings}
    result = pretrain(settings(data, tmp_path / "a", **changes))
    pretrain(settings(data, tmp_path / "b", **changes))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert result["steps"] == 6
    for stop in (1, 3, 5):
        out = tmp_path / f"stopped-{stop}"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=f"update {stop}"):
            stop_after(patch, stop)
            pretrain(settings(data, out, **changes))
        assert read_metadata(out).steps == stop  # usable while it is still training
        pretrain(settings(data, out, **changes))
        assert weights(tmp_path / "a") == weights(out)
        rows = [row for row in log.read(out) if "lm" in row]
        assert [row["lm"] for row in rows] == [row["lm"] for row in log.read(tmp_path / "a") if "lm" in row]


def test_another_seed_is_another_model(data: Path, tmp_path: Path) -> None:
    pretrain(settings(data, tmp_path / "a", steps=1))
    pretrain(settings(data, tmp_path / "b", steps=1, seed=2))
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


def test_a_finished_run_has_nothing_to_do(data: Path, tmp_path: Path) -> None:
    first = pretrain(settings(data, tmp_path / "run"))
    before = weights(tmp_path / "run"), (tmp_path / "run" / log.NAME).read_bytes()
    assert pretrain(settings(data, tmp_path / "run")) == first
    assert before == (weights(tmp_path / "run"), (tmp_path / "run" / log.NAME).read_bytes())
    pretrain(settings(data, tmp_path / "run", fresh=True, seed=2))
    assert before[0] != weights(tmp_path / "run")


def test_what_the_run_learns_is_logged(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = pretrain(settings(data, out, steps=60, eval_every=30, batch=16, micro_batch=16))
    rows = log.read(out)
    losses = [row["lm"] for row in rows if "lm" in row]
    assert len(losses) == 60
    assert losses[-1] < 0.8 * losses[0]
    validations = [row for row in rows if "val_nats_per_token" in row]
    assert [row["step"] for row in validations] == [30, 60]
    assert validations[-1]["val_bits_per_byte"] == result["val_bits_per_byte"]
    assert [row["step"] for row in rows if "sample" in row] == [30, 60]
    assert json.loads((out / "settings.json").read_text())["steps"] == 60


def test_init_goes_on_from_a_model(data: Path, tmp_path: Path) -> None:
    pretrain(settings(data, tmp_path / "first", steps=30, batch=16, micro_batch=16))
    changes: dict[str, Any] = {"init": str(tmp_path / "first"), "preset": "small", "steps": 1}
    pretrain(settings(data, tmp_path / "second", **changes))
    start = next(row["lm"] for row in log.read(tmp_path / "second") if "lm" in row)
    end = [row["lm"] for row in log.read(tmp_path / "first") if "lm" in row][-1]
    assert abs(start - end) < 0.5
    assert read_shape(tmp_path / "second").width == 32


def test_minutes_fix_a_number_of_steps(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    began = time.perf_counter()
    result = pretrain(settings(data, out, steps=None, minutes=0.1))
    assert time.perf_counter() - began < 20
    assert json.loads((out / "settings.json").read_text())["steps"] == result["steps"] > 10
    capsys.readouterr()
    assert pretrain(settings(data, out, steps=None, minutes=5.0))["steps"] == result["steps"]
    assert f"to train further, give init {out} and another out" in " ".join(capsys.readouterr().err.split())


def test_a_full_disk_keeps_the_last_state(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    pretrain(settings(data, tmp_path / "whole"))

    real = checkpoint.save_file

    def full(tensors: Any, path: Any, metadata: dict[str, str]) -> None:
        if json.loads(metadata["gpt1"])["step"] > 2:
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(checkpoint, "save_file", full)
        pretrain(settings(data, out, save_every=2))
    state = checkpoint.latest(out)
    assert state is not None
    assert checkpoint.read_notes(state)["step"] == 2
    pretrain(settings(data, out, save_every=2))
    assert weights(out) == weights(tmp_path / "whole")


def test_killed_in_the_middle_goes_on(data: Path, tmp_path: Path) -> None:
    """A real process, killed without warning, ends with the same bytes when started again."""
    words = "--preset tiny --steps 40 --threads 1 --batch 4 --save-every 5 "
    words += "--model.width 32 --model.inner 128 --model.heads 2 --model.context 16"
    common = [sys.executable, "-m", "gpt1", "pretrain", str(data), *words.split()]
    subprocess.run([*common, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    out = tmp_path / "killed"
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*common, "--out", str(out)], stderr=quiet, stdout=quiet) as process:
        while checkpoint.latest(out) is None and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    subprocess.run([*common, "--out", str(out)], check=True, capture_output=True)
    assert weights(out) == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5, "epochs": 1.0}, "steps and epochs contradict"),
        ({"steps": 0}, "steps 0 must be more than 0"),
        ({"steps": None, "minutes": -1.0}, "minutes -1.0 must be more"),
        ({"model": replace(SIZE, heads=3)}, "model.width 32 is not a multiple of model.heads 3"),
        ({"model": replace(SIZE, context=10**6)}, "not enough for a window of 1000000"),
        ({"model": replace(SIZE, heads=0)}, "model.heads 0 must be at least 1"),
        ({"model": replace(SIZE, context=0)}, "model.context 0 must be at least 2"),
        ({"model": replace(SIZE, attention_dropout=1.0)}, "model.attention_dropout 1.0 must be at least 0 and less"),
        ({"optim": Optim(beta2=1.5)}, "optim.beta2 1.5 must be at least 0 and less"),
        ({"batch": 0}, "batch 0 must be at least 1"),
        ({"batch": 4, "micro_batch": 5}, "micro_batch 5 is more than batch 4"),
        ({"model": replace(SIZE, vocabulary=301)}, "model.vocabulary 301 is not that of .*, 300,"),
        ({"device": "cuda:77"}, "no such device"),
        ({"init": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_settings(data: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(settings(data, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_only_as_it_began(data: Path, tmp_path: Path) -> None:
    pretrain(settings(data, tmp_path / "run"))
    with pytest.raises(UserError, match=r"seed 1, not 2; repeat the earlier request"):
        pretrain(settings(data, tmp_path / "run", seed=2))
    with pytest.raises(UserError, match=r"model.width 32, not 64"):
        pretrain(settings(data, tmp_path / "run", model=replace(SIZE, width=64, inner=256)))
    with pytest.raises(UserError, match=r"begun with steps 6"):
        pretrain(settings(data, tmp_path / "run", steps=7))


def test_a_run_goes_on_only_with_its_data(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (tmp_path / "text.txt").write_text("\n".join(topics()[3:15]), encoding="utf-8")
    prepare(Prepare(inputs=[str(tmp_path / "text.txt")], out=str(other), tokenizer=str(data), val_fraction=0.1))
    pretrain(settings(data, tmp_path / "run"))
    with pytest.raises(UserError, match="other content of data"):
        pretrain(settings(other, tmp_path / "run"))


def test_a_stop_before_the_closing_validation_is_made_good(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = tmp_path / "run", pretrain(settings(data, tmp_path / "whole"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(run, "save_run", full)
        pretrain(settings(data, out, save_every=100, eval_every=100))
    state = checkpoint.latest(out)
    assert state is not None
    assert checkpoint.read_notes(state)["step"] == 6
    assert (
        pretrain(settings(data, out, save_every=100, eval_every=100))["val_bits_per_byte"] == first["val_bits_per_byte"]
    )
    assert weights(out) == weights(tmp_path / "whole")


def test_a_fine_tuned_run_is_never_replaced(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(settings(data, out))
    metadata = RunMetadata(
        kind="finetuned", task="classification", goal="classes", labels=["a", "b"], columns=Columns(["text"], ["label"])
    )
    (out / "gpt1.json").write_text(json.dumps(metadata.to_json()))
    for fresh in (False, True):
        with pytest.raises(UserError, match="holds a fine-tuned run; choose another folder"):
            pretrain(settings(data, out, steps=9, fresh=fresh))


def test_fresh_forgets_the_old_state_at_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain(settings(data, tmp_path / "run"))

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(job, "build", stopped)
        pretrain(settings(data, tmp_path / "run", fresh=True, seed=2))
    assert checkpoint.latest(tmp_path / "run") is None


def test_weights_that_blow_up_end_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="update 1: the validation loss is not finite"):
        pretrain(settings(data, tmp_path / "run", eval_every=1, optim=Optim(lr=1e30, warmup=0)))
    assert not (tmp_path / "run" / "gpt1.json").exists()


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nodata"):
        pretrain(settings(tmp_path / "nodata", tmp_path / "run"))


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_a_compiled_run_repeats_itself_and_learns_the_same(data: Path, tmp_path: Path) -> None:
    compiled = pretrain(settings(data, tmp_path / "a", compile="on", dtype="bf16"))
    pretrain(settings(data, tmp_path / "b", compile="on", dtype="bf16"))
    plain = pretrain(settings(data, tmp_path / "c", compile="off", dtype="bf16"))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert compiled["val_nats_per_token"] == pytest.approx(plain["val_nats_per_token"], abs=2e-3)


def test_a_compiler_that_does_not_work(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "compiler_error", lambda device: "InvalidCxxCompiler: none")
    with pytest.raises(UserError, match=r"compile on: .*none.*; use compile off"):
        pretrain(settings(data, tmp_path / "on", compile="on"))
    monkeypatch.setattr(run, "LONG_WORK", 1)
    pretrain(settings(data, tmp_path / "auto"))
    assert json.loads((tmp_path / "auto" / "settings.json").read_text())["compile"] == "off"


@pytest.mark.slow
def test_bf16_learns_as_fp32_does(tmp_path: Path, shared_data: Path) -> None:
    """The loss, averaged over 50 updates, stays within 1 % of float32's over 500, compiled kernels or not."""
    prepare(Prepare(inputs=[str(shared_data / "tinyshakespeare.txt")], out=str(tmp_path / "data")))
    curves = []
    for dtype, compiled in (("fp32", "off"), ("bf16", "on" if shutil.which("g++") else "auto"), ("bf16", "off")):
        out = tmp_path / f"{dtype}-{compiled}"
        base = pretrain_defaults("tiny", data=str(tmp_path / "data"), out=str(out))
        pretrain(replace(base, steps=500, batch=8, dtype=dtype, compile=compiled, eval_every=500))
        losses = [row["lm"] for row in log.read(out) if "lm" in row]
        curves.append([statistics.mean(losses[low : low + 50]) for low in range(0, 500, 50)])
    assert curves[1] == pytest.approx(curves[0], rel=0.01)
    assert curves[2] == pytest.approx(curves[0], rel=0.01)


def test_a_folder_of_something_else_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is not empty and holds no run; choose another folder"):
        pretrain(settings(data, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
