"""Pre-training as a whole: determinism, stopping and resuming anywhere, wrong requests, running out of memory."""

import json
import re
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
import torch

from conftest import is_open, one_line, temporary_folders
from gpt1.cli.main import main
from gpt1.commands.prepare import prepare
from gpt1.commands.pretrain import pretrain
from gpt1.config import Columns, Model, Optim, Prepare, Pretrain, preset_shape, pretrain_defaults
from gpt1.data.docstrings import topics
from gpt1.errors import RunFailed, UserError
from gpt1.pretraining import defaults, job, run
from gpt1.run_folder.folder import read_metadata, read_shape
from gpt1.run_folder.metadata import RunMetadata
from gpt1.training import checkpoint, interrupt, log

SIZE = Model(context=16, width=32, depth=2, heads=2, inner=128)  # dropout on: 0.1 everywhere


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


def test_init_goes_on_from_a_model(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(settings(data, tmp_path / "first", steps=30, batch=16, micro_batch=16))
    assert "keeps its size" not in capsys.readouterr().err
    changes: dict[str, Any] = {"init": str(tmp_path / "first"), "preset": "small", "steps": 1}
    pretrain(settings(data, tmp_path / "second", model=replace(preset_shape("small"), vocabulary=0), **changes))
    told = " ".join(capsys.readouterr().err.split())
    assert "first keeps its size, 2 blocks of width 32; of preset small only the recipe and the batch are used" in told
    start = next(row["lm"] for row in log.read(tmp_path / "second") if "lm" in row)
    end = [row["lm"] for row in log.read(tmp_path / "first") if "lm" in row][-1]
    assert abs(start - end) < 0.5
    assert read_shape(tmp_path / "second").width == 32
    changes["model"] = replace(SIZE, width=64, inner=256)
    with pytest.raises(UserError, match=r"first has model.width 32, which further training keeps; it cannot become 64"):
        pretrain(settings(data, tmp_path / "third", **changes))
    # A size that is asked for is refused, be it the preset's own; one that is not asked for is the run's.
    call: dict[str, Any] = {"out": tmp_path / "fourth", "init": tmp_path / "first", "steps": 1, "threads": 1}
    with pytest.raises(
        UserError, match=r"first has model.width 32, which further training keeps; it cannot become 384"
    ):
        pretrain(data, model={"width": preset_shape("auto").width}, **call)
    pretrain(data, model={"width": 32}, **call)
    assert read_shape(tmp_path / "fourth").depth == 2


def test_a_warm_up_longer_than_the_run_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(settings(data, tmp_path / "run", steps=2, optim=Optim(warmup=3)))
    assert "warning: the learning rate rises during 3 updates, but only 2 will be made" in capsys.readouterr().err
    pretrain(settings(data, tmp_path / "other", steps=3, optim=Optim(warmup=3)))
    assert "warning" not in capsys.readouterr().err


def test_minutes_fix_a_number_of_steps(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    began = time.perf_counter()
    result = pretrain(settings(data, out, steps=None, minutes=0.1))
    assert time.perf_counter() - began < 20
    assert json.loads((out / "settings.json").read_text())["steps"] == result["steps"] > 10
    capsys.readouterr()
    assert pretrain(settings(data, out, steps=None, minutes=5.0))["steps"] == result["steps"]
    assert f"to train further, give init {out} and another out" in " ".join(capsys.readouterr().err.split())


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_ends_no_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It keeps the last state; what it needs at the end is the model."""
    out = tmp_path / "run"
    pretrain(settings(data, tmp_path / "whole"))
    real = checkpoint.save_file

    def almost_full(tensors: Any, path: Any, metadata: dict[str, str]) -> None:
        if json.loads(metadata["gpt1"])["step"] > 2:
            full()
        real(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", almost_full)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(run, "save_run", full)
        pretrain(settings(data, out, save_every=2))
    said = " ".join(capsys.readouterr().err.split())
    assert f"{out}: could not save a state (No space left on device); training continues" in said
    assert f"{out}: could not save a model (No space left on device); training continues" in said
    state = checkpoint.latest(out)
    assert state is not None
    assert checkpoint.read_notes(state)["step"] == 2
    pretrain(settings(data, out, save_every=2))
    assert weights(out) == weights(tmp_path / "whole")
    assert [path.name for path in state.parent.iterdir() if path.suffix == ".tmp"] == []


def test_too_little_space_is_seen_before_writing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    pretrain(settings(data, tmp_path / "run", save_every=3))
    said = " ".join(capsys.readouterr().err.split())
    found = r"could not save a state \(No space left on device: a state takes \d+\.\d kB, 1\.0 MB must stay free, and "
    assert re.search(found + r"1\.0 MB are free\); training", said)
    assert checkpoint.latest(tmp_path / "run") is None


def test_a_crash_in_validation_loses_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between updates and at the end; the validation is made up for, and the curves are those of a run without."""
    whole, out, changes = tmp_path / "whole", tmp_path / "run", {"eval_every": 2, "save_every": 100}
    pretrain(settings(data, whole, **changes))
    real = run.likelihood
    for crash, done in ((1, 2), (2, 4), (2, 6)):  # in this process the first call makes up for the one before
        calls: list[int] = []

        def fail(*args: Any, calls: list[int] = calls, crash: int = crash) -> Any:
            calls.append(1)
            if len(calls) == crash:
                raise SystemError("injected")
            return real(*args)

        with monkeypatch.context() as patch, pytest.raises(SystemError):
            patch.setattr(run, "likelihood", fail)
            pretrain(settings(data, out, **changes))
        state = checkpoint.latest(out)
        assert state is not None
        assert checkpoint.read_notes(state)["step"] == done
    pretrain(settings(data, out, **changes))
    assert weights(out) == weights(whole)
    for one, two in zip(log.read(out), log.read(whole), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


@pytest.mark.parametrize(("urgent", "step"), [(False, 3), (True, 2)])
def test_a_stop_between_an_update_and_the_next_is_heard(
    data: Path, tmp_path: Path, urgent: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the next update, or, if that takes too long, this one is given up and the last one saved."""
    whole, out, changes = tmp_path / "whole", tmp_path / "run", {"eval_every": 100, "save_every": 100}
    pretrain(settings(data, whole, **changes))
    real = run.UpdateLog.add

    def note(self: run.UpdateLog, report: Any, at_once: bool) -> None:
        real(self, report, at_once)
        if report.step == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=f"stopped after update {step}; the"):
        patch.setattr(run.UpdateLog, "add", note)
        if urgent:
            patch.setattr(interrupt, "PATIENCE", -1.0)
        pretrain(settings(data, out, **changes))
    state = checkpoint.latest(out)
    assert state is not None and checkpoint.read_notes(state)["step"] == step
    pretrain(settings(data, out, **changes))
    assert weights(out) == weights(whole)


def test_updates_that_are_logged_one_late_are_all_logged(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which is still working on an update when its report comes."""
    whole, out, real = tmp_path / "whole", tmp_path / "late", run.UpdateLog.__init__

    def late(self: run.UpdateLog, *given: Any) -> None:
        real(self, *given)
        self.lag = 1

    pretrain(settings(data, whole))
    monkeypatch.setattr(run.UpdateLog, "__init__", late)
    pretrain(settings(data, out))
    for one, two in zip(log.read(out), log.read(whole), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_the_newest_states_and_the_best_are_kept(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, real = iter([3.0, 2.0, 2.5, 2.75, 2.6, 9.0]), run.likelihood
    monkeypatch.setattr(run, "likelihood", lambda *args: replace(real(*args), nats=next(losses), tokens=1))
    out = tmp_path / "run"
    pretrain(settings(data, out, eval_every=1, keep=2))
    assert [path.stem for path in checkpoint.states(out)] == ["step-00000002", "step-00000005", "step-00000006"]
    with pytest.raises(UserError, match="keep 0 must be at least 1"):
        pretrain(settings(data, out, keep=0))


def test_a_smaller_micro_batch_continues_a_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    stopped(data, out, monkeypatch, micro_batch=4)
    pretrain(settings(data, out, micro_batch=0, steps=4, fresh=True, save_every=2))
    assert in_effect(out)["micro_batch"] == 4
    out = tmp_path / "again"
    stopped(data, out, monkeypatch, micro_batch=1)
    pretrain(settings(data, out, micro_batch=0))
    assert in_effect(out)["micro_batch"] == 1, "what is left out stays"


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
        ({"steps": None, "minutes": -1.0}, "minutes -1 must be more"),
        ({"model": replace(SIZE, heads=3)}, "model.width 32 is not a multiple of model.heads 3"),
        ({"model": replace(SIZE, context=10**6)}, "not enough for a window of 1000000"),
        ({"model": replace(SIZE, heads=0)}, "model.heads 0 must be at least 1"),
        ({"model": replace(SIZE, context=0)}, "model.context 0 must be at least 2"),
        ({"model": replace(SIZE, attention_dropout=1.0)}, "model.attention_dropout 1.0 must be at least 0 and less"),
        ({"optim": Optim(beta2=1.5)}, "optim.beta2 1.5 must be at least 0 and less"),
        ({"optim": Optim(cooldown=1.5)}, "optim.cooldown 1.5 must be from 0 to 1"),
        ({"batch": 0}, "batch 0 must be at least 1"),
        ({"batch": 4, "micro_batch": 5}, "micro_batch 5 is more than batch 4"),
        ({"model": replace(SIZE, vocabulary=301)}, "model.vocabulary 301 is not that of .*, 300,"),
        ({"model": preset_shape("tiny")}, "model.vocabulary 40478 is not that of .*, 300,"),
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


def test_an_end_after_the_closing_validation_leaves_one_of_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(settings(data, tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(run.PretrainingRun, "save_model", lambda self, step, *_, **__: step < 6 or full())
        pretrain(settings(data, tmp_path / "run"))
    assert sum("val_nats_per_token" in row for row in log.read(tmp_path / "run") if row["step"] == 6) == 1
    pretrain(settings(data, tmp_path / "run"))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    names = [[sorted(row) for row in log.read(tmp_path / name)] for name in ("run", "whole")]
    assert names[0] == names[1]


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


def test_an_older_model_is_not_the_result_of_a_fresh_start(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays until the first model of the new run; a process may end between that run's state and its model."""
    whole, out, changes = tmp_path / "whole", tmp_path / "run", {"seed": 2, "eval_every": 3}

    def injected(*_: Any) -> None:
        raise SystemError("injected")

    pretrain(settings(data, whole, **changes))
    pretrain(settings(data, out))
    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(run, "likelihood", injected)
        pretrain(settings(data, out, fresh=True, **changes))
    assert checkpoint.latest(out) is not None
    assert read_metadata(out).seed == 1
    pretrain(settings(data, out, **changes))
    assert weights(out) == weights(whole)


def test_a_complete_run_without_its_states_is_not_replaced(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result, before = pretrain(settings(data, out)), weights(out)
    checkpoint.clear(out)
    assert pretrain(settings(data, out)) == result
    shutil.rmtree(out / checkpoint.FOLDER)
    with one_line("begun.json is missing; choose another out, or start over with fresh"):
        pretrain(settings(data, out))
    assert weights(out) == before
    pretrain(settings(data, out, seed=2, fresh=True))
    assert weights(out) != before


def test_weights_that_blow_up_end_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="update 1: the validation loss is not finite"):
        pretrain(settings(data, tmp_path / "run", eval_every=1, optim=Optim(lr=1e30, warmup=0)))
    assert not (tmp_path / "run" / "gpt1.json").exists()


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nodata"):
        pretrain(settings(tmp_path / "nodata", tmp_path / "run"))


def test_shards_of_another_tokenizer_are_refused(data: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three four five. " * 200, encoding="utf-8")
    prepare(Prepare(inputs=[str(text)], out=str(tmp_path / "other"), val_fraction=0.1, vocabulary=260))
    shutil.copytree(data, tmp_path / "data")
    shutil.copy(tmp_path / "other" / "tokenizer.json", tmp_path / "data")
    with pytest.raises(UserError, match=r"tokenizer\.json is not the one that the shards were encoded with"):
        pretrain(settings(tmp_path / "data", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_a_compiled_run_repeats_itself_and_learns_the_same(data: Path, tmp_path: Path) -> None:
    compiled = pretrain(settings(data, tmp_path / "a", compile="on", dtype="bf16"))
    pretrain(settings(data, tmp_path / "b", compile="on", dtype="bf16"))
    plain = pretrain(settings(data, tmp_path / "c", compile="off", dtype="bf16"))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert compiled["val_nats_per_token"] == pytest.approx(plain["val_nats_per_token"], abs=2e-3)


def test_a_compiler_that_does_not_work(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "compiler_error", lambda device: "InvalidCxxCompiler: none")
    with pytest.raises(UserError, match=r"compile on: .*none.*; use compile off"):
        pretrain(settings(data, tmp_path / "on", compile="on"))
    monkeypatch.setattr(defaults, "LONG_WORK", 1)
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


# Resuming with settings given again


def stopped(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """A run that was stopped after update 3 of 6."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 3)
        pretrain(settings(data, out, **changes))


def in_effect(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each model that was built was to be compiled; none is."""
    asked: list[bool] = []
    monkeypatch.setattr(run, "prepare_for_training", lambda model, device, compile: asked.append(compile))
    monkeypatch.setattr(defaults, "compiler_error", lambda device: "")
    return asked


@pytest.mark.parametrize(
    ("begun", "again", "effect"),
    [("on", "auto", "on"), ("on", "off", "off"), ("on", "on", "on"), ("off", "auto", "off"), ("off", "on", "on")],
)
def test_compile_given_again_takes_effect(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[bool],
    capsys: pytest.CaptureFixture[str], begun: str, again: str, effect: str,
) -> None:  # fmt: skip
    stopped(data, tmp_path / "run", monkeypatch, compile=begun)
    capsys.readouterr()
    pretrain(settings(data, tmp_path / "run", compile=again))
    assert compiled == [begun == "on", effect == "on"]
    assert in_effect(tmp_path / "run")["compile"] == effect
    line = f"the run was begun with compile {begun}; with {effect} its numbers differ by rounding\n"
    assert (line in capsys.readouterr().err) == (begun != effect)


def test_a_compiled_run_continues_where_no_compiler_works(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: list[bool],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped(data, tmp_path / "run", monkeypatch, compile="on")
    monkeypatch.setattr(defaults, "compiler_error", lambda device: "InvalidCxxCompiler: none")
    with one_line("compile on: the compiler does not work here (InvalidCxxCompiler: none); use compile off"):
        pretrain(settings(data, tmp_path / "run", compile="on"))
    assert pretrain(settings(data, tmp_path / "run"))["steps"] == 6
    assert "training without compiled kernels: the compiler does not work here" in capsys.readouterr().err
    assert compiled == [True, False]


def test_intervals_and_sample_given_again_take_effect(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stopped(data, out, monkeypatch, eval_every=2, save_every=3, sample="The")
    pretrain(settings(data, out, eval_every=5, sample="An"))
    rows = log.read(out)
    assert [row["step"] for row in rows if "val_nats_per_token" in row] == [2, 5, 6]
    assert [row["sample"][:2] for row in rows if "sample" in row] == ["Th", "An", "An"]
    found = in_effect(out)
    assert (found["eval_every"], found["save_every"], found["sample"]) == (5, 3, "An"), "what is left out stays"


@pytest.mark.parametrize("changes", [{"minutes": 3.0}, {"epochs": 9.0}, {"steps": 7}])
def test_another_length_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    stopped(data, out, monkeypatch)
    with one_line("was begun with steps 6", f"give init {out} and another out"):
        pretrain(settings(data, out, **{"steps": None} | changes))
    assert pretrain(settings(data, out, steps=None))["steps"] == 6, "without a length it stays"


def test_the_same_minutes_continue(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    stopped(data, out, monkeypatch, steps=None, minutes=0.01)
    steps = in_effect(out)["steps"]
    with one_line(f"was begun with steps {steps}"):
        pretrain(settings(data, out, steps=None, minutes=0.02))
    assert pretrain(settings(data, out, steps=None, minutes=0.01))["steps"] == steps
    line = [str(data), "--out", str(tmp_path / "again"), "--config", str(out / "settings.json"), "--threads", "1"]
    assert main(["pretrain", *line]) == 0, "settings.json gives the settings back"
    assert in_effect(tmp_path / "again")["steps"] == steps


def test_a_state_without_its_record_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    stopped(data, out, monkeypatch)
    (out / checkpoint.FOLDER / "begun.json").unlink()
    with one_line("begun.json is missing; choose another out, or start over with fresh"):
        pretrain(settings(data, out))


# One process a folder


def test_a_second_process_is_told_who_works_in_the_folder(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = "--preset tiny --steps 100000 --threads 1 --batch 4 --eval-every 1000000 "
    words += "--model.width 32 --model.inner 128 --model.heads 2 --model.context 16"
    line = [sys.executable, "-m", "gpt1", "pretrain", str(data), "--out", str(out), *words.split()]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(line, stderr=quiet, stdout=quiet) as process:
        try:
            while not (out / log.NAME).exists() and process.poll() is None:
                time.sleep(0.01)
            before = {path.name for path in out.rglob("*")}
            for fresh in ([], ["--fresh"]):
                second = subprocess.run([*line, *fresh], capture_output=True, text=True)
                assert second.returncode == 2
                assert second.stderr.startswith(f"gpt1 pretrain: {out} is in use by process {process.pid} on ")
                assert second.stderr.count("\n") == 1
            assert before == {path.name for path in out.rglob("*")}
            assert process.poll() is None
        finally:
            process.kill()
    assert pretrain(settings(data, tmp_path / "other", steps=1))["steps"] == 1


# Out of memory


OUT_OF_MEMORY = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total of ..."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
@pytest.mark.parametrize("where", ["train", "likelihood", "build"])
def test_running_out_of_memory_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    where: str, error: Exception,
) -> None:  # fmt: skip
    out = tmp_path / "run"
    line = ["pretrain", str(data), "--out", str(out), *"--preset tiny --steps 2 --threads 1 --batch 4".split()]
    line += "--model.width 32 --model.inner 128 --model.heads 2 --model.context 16 --save-every 5".split()

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(job if where == "build" else run, where, fail)
        assert main(line) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("gpt1 pretrain: out of memory; lower --micro-batch, --model.context or")
    assert not any("Traceback" in line for line in lines)
    left = {path.name for path in out.rglob("*") if path.is_file()} - {"settings.json", "begun.json", log.NAME}
    state = {"step-00000001.safetensors"} if where == "likelihood" else set()
    assert left == state, "no model, no temporary file, no lock; before a validation, a state"
    assert main([*line, "--micro-batch", "1"]) == 0, "the remedy works in the same folder"


# Files


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which files are open")
def test_no_file_stays_open(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows removes no file that is open or mapped: of the data, of the run, of a temporary folder."""

    closed = temporary_folders(monkeypatch)
    copy, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data, copy)
    pretrain(settings(copy, out, steps=None, minutes=0.01))
    assert closed == [True]
    assert not is_open(copy)
    assert not is_open(out)


def test_neither_polars_nor_ftfy_is_needed() -> None:
    script = "import sys, gpt1.commands.pretrain; sys.exit(bool({'polars', 'ftfy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
