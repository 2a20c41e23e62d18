"""Fine-tuning as a whole: it learns, it repeats itself to the byte, and nothing is left of a run that fails."""

import csv
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import one_line, save_random_run
from gpt1.cli.main import main
from gpt1.commands.finetune import finetune, show
from gpt1.commands.info import info
from gpt1.commands.predict import predict
from gpt1.commands.report import report
from gpt1.config import Finetune, Info, Model, Predict, Report, Task
from gpt1.errors import RunFailed, UserError
from gpt1.finetuning import epochs
from gpt1.finetuning.predictor import RowEncoder, score
from gpt1.model.objectives import TaskModel
from gpt1.resume import LOCK
from gpt1.run_folder.folder import STAGED, load_run, save_run
from gpt1.training import checkpoint, log

SUBJECTS = ("the hare", "my old dog", "a green bird", "one grey cat", "the small fox")
GOOD, BAD = ("loves", "adores", "enjoys"), ("hates", "fears", "loathes")
THINGS = ("the garden", "long walks", "cold rain", "the sea", "loud bells", "ripe figs")
CORPUS = [f"{s} {v} {t}." for s in SUBJECTS for v in GOOD + BAD for t in THINGS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose context is no round number."""
    model = Model(context=21, width=32, depth=2, heads=2, inner=128)
    return save_random_run(tmp_path_factory.mktemp("base"), CORPUS, 320, model)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Which verb stands in it is the class: 10 for likes, 9 for dislikes."""
    rows = [(text, "10" if any(verb in text for verb in GOOD) else "9") for text in CORPUS]
    return write(tmp_path_factory.mktemp("rows") / "train.csv", random.Random(0).sample(rows, len(rows)))


def write(path: Path, rows: list[tuple[str, str]], names: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def settings(base: Path, train: Path, out: Path, **changes: Any) -> Finetune:
    usual: dict[str, Any] = {"epochs": 1, "batch": 16, "lr": 3e-3, "dtype": "fp32", "threads": 1}
    return Finetune(run=str(base), train=str(train), out=str(out), **(usual | changes))


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def everything(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_it_learns(base: Path, train: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = finetune(settings(base, train, out, epochs=16, lr=5e-3))
    assert result["accuracy"] > 0.9
    assert result["n"] == 18
    assert result["labels"] == ["9", "10"], "numbers are sorted by value"
    rows = log.read(out)
    losses = [row["task"] for row in rows if "task" in row]
    assert len(losses) == 16 * 11
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert [row["lm"] for row in rows if "lm" in row][-1] < 0.7 * rows[0]["lm"], "L1 is learnt beside L2"


def test_the_best_epoch_is_kept(base: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the folder is the model of the epoch whose validation in metrics.jsonl is best."""
    found = [(0.5, 0.6), (0.75, 0.5), (0.75, 0.4), (0.75, 0.45)]
    states, validate = [], epochs.EpochTrainer.validate

    def scripted(trainer: epochs.EpochTrainer, epoch: int) -> epochs.Validation:
        states.append(trainer.optimizer.masters["head.weight"].detach().clone())
        accuracy, loss = found[epoch - 1]
        return replace(validate(trainer, epoch), metrics={"accuracy": accuracy, "loss": loss})

    monkeypatch.setattr(epochs.EpochTrainer, "validate", scripted)
    result = finetune(settings(base, train, tmp_path / "run", epochs=4, select="accuracy"))
    assert result["epoch"] == 3
    assert result["loss"] == 0.4
    head = load_run(tmp_path / "run").head
    assert head is not None
    assert torch.equal(head, states[2] / result["temperature"])
    rows = [row for row in log.read(tmp_path / "run") if "val_accuracy" in row]
    assert [(row["val_accuracy"], row["val_loss"]) for row in rows] == found
    assert [row["step"] for row in rows] == [11, 22, 33, 44]


def test_the_saved_model_scores_as_reported(base: Path, train: Path, tmp_path: Path) -> None:
    valid = write(tmp_path / "valid.csv", [(text, "10" if " loves " in text else "9") for text in CORPUS[::4]])
    result = finetune(settings(base, train, tmp_path / "run", valid=str(valid)))
    loaded = load_run(tmp_path / "run")
    assert loaded.head is not None
    model = TaskModel(loaded.body, 2)
    model.head.weight.data = loaded.head
    encoder = RowEncoder("classification", loaded.tokenizer, loaded.body.config.context)
    found = encoder.encode([(text,) for text in CORPUS[::4]])
    best_N = score(model, found.examples, 7, loaded.tokenizer.pad_id, torch.device("cpu")).argmax(-1)
    expected = [1 if " loves " in text else 0 for text in CORPUS[::4]]
    assert result["accuracy"] == pytest.approx(np.mean(best_N == expected))


def test_same_seed_same_bytes(base: Path, train: Path, tmp_path: Path) -> None:
    for name, changes in (("a", {}), ("b", {}), ("seed", {"seed": 2}), ("scratch", {"from_scratch": True})):
        finetune(settings(base, train, tmp_path / name, **changes))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert len({weights(tmp_path / name) for name in ("a", "seed", "scratch")}) == 3


def test_accumulation_does_not_change_the_result(base: Path, train: Path, tmp_path: Path) -> None:
    usual = {"dropout": 0.0, "head_dropout": 0.0}
    finetune(settings(base, train, tmp_path / "whole", **usual))
    finetune(settings(base, train, tmp_path / "parts", micro_batch=5, **usual))
    whole, parts = load_run(tmp_path / "whole"), load_run(tmp_path / "parts")
    for name, tensor in whole.body.state_dict().items():
        torch.testing.assert_close(parts.body.state_dict()[name], tensor, atol=2e-4, rtol=0, msg=name)


def test_what_is_frozen_stays(base: Path, train: Path, tmp_path: Path) -> None:
    """To the last bit, though weights decay and the token matrix has rows that are learnt."""
    finetune(settings(base, train, tmp_path / "still", freeze=1, lr=1e-30))
    for dtype in ("fp32", "bf16"):
        finetune(settings(base, train, tmp_path / dtype, freeze=1, dtype=dtype))
        old, new = load_run(base).body.state_dict(), load_run(tmp_path / dtype).body.state_dict()
        for name, weight in old.items():
            kept = new[name][: len(weight)] if name == "tokens.weight" else new[name]
            assert torch.equal(kept, weight) == (not name.startswith("blocks.1.")), name
        drawn = load_run(tmp_path / "still").body.tokens.weight  # at a rate that changes nothing
        assert (new["tokens.weight"][-3:] != drawn[-3:]).any(1).all(), "new tokens are learnt"


def test_what_is_written_down(base: Path, train: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finetune(settings(base, train, out, lr=0.0, batch=0, label="label"))
    facts = json.loads((out / "gpt1.json").read_text(encoding="utf-8"))
    assert facts["kind"] == "finetuned"
    assert facts["task"] == "classification"
    assert facts["labels"] == ["9", "10"]
    assert facts["columns"] == {"texts": ["text"], "label": ["label"], "choices": []}
    assert (facts["lm_coef"], facts["seed"], facts["preset"]) == (0.5, 1, "tiny")
    assert facts["data"]["train"]["path"] == str(train)
    assert len(facts["data"]["train"]["sha256"]) == 64
    assert facts["data"]["train"]["rows"] == 162
    recorded = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    assert recorded["batch"] == 8, "the settings in effect, not those left open"
    assert recorded["lr"] == 1e-3
    assert not (out / STAGED).exists()


def test_transformers_gives_the_same_probabilities(base: Path, train: Path, tmp_path: Path) -> None:
    """The folder is a Hugging Face model as it is: texts cut as ours, one that looks like a special token too."""
    transformers = pytest.importorskip("transformers")
    finetune(settings(base, train, tmp_path / "run", epochs=4))
    texts = [*CORPUS[:5], CORPUS[5] * 9, "<|extract|> the hare"]
    source, out = write(tmp_path / "in.csv", [(text, "") for text in texts]), tmp_path / "out.jsonl"
    predict(Predict(run=str(tmp_path / "run"), input=str(source), out=str(out), dtype="fp32", threads=1))
    classify = transformers.pipeline("text-classification", str(tmp_path / "run"), device="cpu")
    for line, text in zip(out.read_text(encoding="utf-8").splitlines(), texts, strict=True):
        theirs = {each["label"]: each["score"] for each in classify(text, top_k=None, truncation=True)}
        assert json.loads(line)["probabilities"] == pytest.approx(theirs, abs=1e-5)


# Again, and over something else


def test_the_same_again_is_nothing_to_do(
    base: Path, train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    first = finetune(settings(base, train, out, lr=0.0, batch=0))
    before = everything(out)
    assert finetune(settings(base, train, out, lr=0.0, batch=0, threads=2)) == first
    assert "is already fine-tuned with these settings" in capsys.readouterr().err
    assert everything(out) == before
    moved = tmp_path / "moved.csv"
    moved.write_bytes(train.read_bytes())
    assert finetune(settings(base, moved, out, lr=0.0, batch=0)) == first, "the same rows under another name"


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"seed": 2}, r"made with seed 1, not 2; choose another out, or start over with fresh"),
        ({"lm_coef": 0.0}, "made with lm_coef 0.5, not 0.0"),
        ({"lr": 0.0}, r"made with lr 0.003, not 0.001"),
        ({"from_scratch": True}, "made with from_scratch False, not True"),
        ({"long": "tail"}, "made with long head, not tail"),
    ],
)
def test_a_folder_with_another_result_stays(
    base: Path, train: Path, tmp_path: Path, changes: dict[str, Any], answer: str
) -> None:
    out = tmp_path / "run"
    finetune(settings(base, train, out))
    before = everything(out)
    with pytest.raises(UserError, match=answer):
        finetune(settings(base, train, out, **changes))
    assert everything(out) == before
    finetune(settings(base, train, out, fresh=True, **changes))
    assert everything(out)["settings.json"] != before["settings.json"]


def test_a_converted_run_stays(base: Path, train: Path, tmp_path: Path) -> None:
    """It has no settings.json, so that nobody knows whether it is what is asked for."""
    out = tmp_path / "run"
    finetune(settings(base, train, out))
    (out / "settings.json").unlink()
    before = everything(out)
    with one_line(f"{out} holds a model whose settings are unknown; choose another out, or replace it with fresh"):
        finetune(settings(base, train, out))
    assert everything(out) == before
    finetune(settings(base, train, out, fresh=True))
    assert everything(out).keys() == before.keys() | {"settings.json"}


def test_other_rows_are_another_result(base: Path, train: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "run", tmp_path / "rows.csv"
    rows.write_bytes(train.read_bytes())
    finetune(settings(base, rows, out))
    rows.write_text(rows.read_text() + "the hare fears figs,9\n")
    with pytest.raises(UserError, match="made with other content of train"):
        finetune(settings(base, rows, out))
    with pytest.raises(UserError, match="made with other content of valid"):
        finetune(settings(base, train, out, valid=str(train)))


def test_what_others_made_is_never_replaced(base: Path, train: Path, tmp_path: Path) -> None:
    before = everything(base)
    for out in (base, base / ".." / base.name):
        with pytest.raises(UserError, match="is the run to start from, which must stay"):
            finetune(settings(base, train, out, fresh=True))
    loaded = load_run(base)
    save_run(tmp_path / "pretrained", loaded.body, loaded.tokenizer, loaded.metadata)
    with pytest.raises(UserError, match="holds a pre-trained run"):
        finetune(settings(base, train, tmp_path / "pretrained", fresh=True))
    loaded.tokenizer.save(tmp_path / "data", 16)
    with pytest.raises(UserError, match=r"holds tokenizer.json, which `gpt1 finetune` did not write"):
        finetune(settings(base, train, tmp_path / "data", fresh=True))
    assert everything(base) == before


# Failures


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RunFailed("nan")])
def test_a_failure_leaves_all_as_it_was(
    base: Path, train: Path, tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(settings(base, train, tmp_path / "old"))
    before = everything(tmp_path / "old")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("gpt1.run_folder.folder.save_file", fail)
    for out in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(type(error)):
            finetune(settings(base, train, out, fresh=True, seed=2))
    assert everything(tmp_path / "old") == before
    assert not (tmp_path / "new").exists()


def hear_ctrl_c() -> None:
    """Tests that run in the background of a shell have Ctrl-C ignored, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_it_after_the_update_in_progress(base: Path, train: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = f"-m gpt1 finetune {base} --train {train} --out {out} --epochs 100000 --threads 1"
    line = [sys.executable, *command.split()]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c) as process:
        while not list(out.glob(f"stopped/*/{log.NAME}")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130, said
    assert re.search(r"stopped after update [\d,]+ of 2,100,000; the same command continues from there$", said.rstrip())
    assert [path.name for path in out.iterdir()] == ["stopped"]
    with pytest.raises(UserError, match="a fine-tuning was stopped here; repeat its command to continue"):
        info(Info(path=str(out)))


def test_a_second_process_is_refused_while_one_works(base: Path, train: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = [sys.executable, *f"-m gpt1 finetune {base} --train {train} --out {out} --epochs 9999 --threads 1".split()]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c) as process:
        while not list(out.glob(f"stopped/*/{log.NAME}")) and process.poll() is None:
            time.sleep(0.05)
        kept = [out / LOCK, out / "stopped" / "begun.json"]
        before = [path.read_bytes() for path in kept]
        second = subprocess.run([*line, "--fresh"], capture_output=True, text=True)
        with pytest.raises(UserError, match=f"{out} is in use by process {process.pid} on .* since .*; wait until"):
            finetune(settings(base, train, out, seed=2))
        assert [path.read_bytes() for path in kept] == before
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert second.returncode == 2
    assert second.stderr.startswith(f"gpt1 finetune: {out} is in use by process {process.pid}")
    assert process.returncode == 130, "the first continues undisturbed until it is stopped"
    assert [path.name for path in out.iterdir()] == ["stopped"]


# Without the auxiliary loss


def test_with_lambda_0_the_auxiliary_loss_is_not_reported(
    base: Path, train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = finetune(settings(base, train, tmp_path / "run", lm_coef=0.0))
    assert "lm_loss" not in result
    assert result.task_loss > 0
    assert not any("lm" in row for row in log.read(tmp_path / "run"))
    assert re.search(r"epoch 1: training task [\d.]+; validation accuracy", capsys.readouterr().err)
    assert show(result)
    report(Report(runs=[str(tmp_path / "run")], out=str(tmp_path / "report.html")))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "task loss" in page
    assert "LM loss" not in page


# Stopped and continued


def ended_at(monkeypatch: pytest.MonkeyPatch, update: int, how: Callable[[], None], again: bool = False) -> None:
    """Let something happen once so many updates are made, whichever of several models they are of; or in each."""
    real, made = epochs.train, itertools.count(1)

    def train(*args: Any, **kwargs: Any) -> Iterator[Any]:
        nonlocal made
        made = itertools.count(1) if again else made
        for update_made in real(*args, **kwargs):
            if next(made) == update:
                how()
            yield update_made

    monkeypatch.setattr(epochs, "train", train)


def crash() -> None:
    raise MemoryError


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def outcome(out: Path) -> tuple[Any, ...]:
    """All that a run is, but for how long it took."""
    facts = json.loads((out / "gpt1.json").read_text(encoding="utf-8"))
    facts["metrics"].pop("seconds")
    facts.get("seeds", {}).pop("seconds", None)
    return weights(out), facts, [{k: v for k, v in row.items() if k != "seconds"} for row in log.read(out)]


MANY: list[dict[str, Any]] = [{}, {"seeds": 2}, {"from_scratch": True, "lr": 0.0}, {"patience": 1, "lr": 1e-9}]


@pytest.mark.parametrize("changes", MANY, ids=["one", "seeds", "rates", "patience"])
def test_a_stop_is_invisible(
    base: Path, train: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within an epoch, at its end, with the last of a model, in the next model; the command is repeated each time."""
    usual: dict[str, Any] = {"epochs": 3, "dtype": "bf16", "dropout": 0.1} | changes
    several = not changes.keys().isdisjoint({"seeds", "from_scratch"})
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    finetune(settings(base, train, whole, **usual))
    for update in (4, 7, 22, 5) if several else (4, 7):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="the same command continues"):
            ended_at(patch, update, stop)
            finetune(settings(base, train, out, **usual))
    finetune(settings(base, train, out, **usual))
    assert outcome(out) == outcome(whole)
    assert not (out / "stopped").exists()


@pytest.mark.parametrize("end", ["crash", "stop"])
def test_an_end_in_a_validation_loses_nothing(
    base: Path, train: Path, tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation is made up for, once: weights and curves are those of a run without it."""
    usual: dict[str, Any] = {"epochs": 3, "dropout": 0.1}
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    finetune(settings(base, train, whole, **usual))
    monkeypatch.setattr(epochs, "EPOCH_SECONDS", -1.0)
    validate = epochs.EpochTrainer.validate

    def ends(trainer: epochs.EpochTrainer, epoch: int) -> epochs.Validation:
        if epoch == 2:
            raised(SystemError("injected")) if end == "crash" else stop()
        return validate(trainer, epoch)

    with monkeypatch.context() as patch, pytest.raises(SystemError if end == "crash" else KeyboardInterrupt):
        patch.setattr(epochs.EpochTrainer, "validate", ends)
        finetune(settings(base, train, out, **usual))
    (state,) = out.rglob("step-*.safetensors")
    assert (checkpoint.read_notes(state)["step"], checkpoint.read_notes(state)["validated"]) == (22, 1)
    finetune(settings(base, train, out, **usual))
    assert outcome(out) == outcome(whole)


def test_updates_that_stay_bad_end_it_and_keep_the_last_state(
    base: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "EPOCH_SECONDS", -1.0)
    forward, passes = TaskModel.forward, itertools.count()

    def poisoned(model: TaskModel, *args: Any) -> dict[str, torch.Tensor]:
        bad = next(passes) > 12
        return {name: value * float("nan") if bad else value for name, value in forward(model, *args).items()}

    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="not finite in 11 updates in a row, up to"):
        patch.setattr(TaskModel, "forward", poisoned)
        finetune(settings(base, train, tmp_path / "run", epochs=4))
    (state,) = (tmp_path / "run").rglob("step-*.safetensors")
    assert checkpoint.read_notes(state)["step"] == 22
    assert all(tensor.isfinite().all() for tensor in checkpoint.load(state).values())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_is_one_line_and_the_old_model_stays(
    base: Path,
    train: Path,
    tmp_path: Path,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finetune(settings(base, train, tmp_path / "old"))
    before = everything(tmp_path / "old")
    ended_at(monkeypatch, 5, lambda: raised(error), again=True)
    for name in ("old", "new"):
        words = f"finetune {base} --train {train} --out {tmp_path / name} --threads 1 --seed 2 --fresh"
        assert main(words.split()) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == "gpt1 finetune: out of memory; lower --micro-batch, or --batch"
    assert everything(tmp_path / "old") == before
    assert not (tmp_path / "new").exists()


def raised(error: Exception) -> None:
    raise error


def test_after_running_out_of_memory_it_continues_with_a_smaller_micro_batch(
    base: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(epochs, "SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="out of memory; lower micro_batch, or batch"):
        ended_at(patch, 5, lambda: raised(MemoryError()))
        finetune(settings(base, train, out))
    with pytest.raises(UserError, match="was begun with batch 16, not 8"):
        finetune(settings(base, train, out, batch=8))
    finetune(settings(base, train, out, micro_batch=4))
    assert "continuing after update 4 of 11" in capsys.readouterr().err
    assert json.loads((out / "settings.json").read_text(encoding="utf-8"))["micro_batch"] == 4


@pytest.mark.parametrize("update", [15, 40])
def test_a_crash_loses_what_came_after_the_last_state(
    base: Path, train: Path, tmp_path: Path, update: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual: dict[str, Any] = {"epochs": 3, "seeds": 2}
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    finetune(settings(base, train, whole, **usual))
    clock = itertools.count(0, epochs.SAVE_SECONDS / 5)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="out of memory"):
        ended_at(patch, update, crash)
        finetune(settings(base, train, out, **usual))
    last = max(out.glob("stopped/seed-*"), key=lambda folder: folder.name)
    found = checkpoint.latest(last)
    assert found is not None
    assert 0 < update % 33 - checkpoint.read_notes(found)["step"] <= 7
    finetune(settings(base, train, out, **usual))
    assert outcome(out) == outcome(whole)


def test_other_settings_do_not_continue_it(
    base: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        ended_at(patch, 5, stop)
        finetune(settings(base, train, out))
    with pytest.raises(
        UserError, match=r"was begun with lr 0\.003, not 0\.001; .* choose another out, or start over with fresh"
    ):
        finetune(settings(base, train, out, lr=1e-3))
    other = write(tmp_path / "other.csv", [("a b", "9"), ("c d", "10"), ("e f", "9")])
    with pytest.raises(UserError, match="was begun with other content of train"):
        finetune(settings(base, other, out))
    (out / "stopped" / "begun.json").write_text("{}")
    with pytest.raises(UserError, match=r"begun\.json is damaged \('settings'\); start over with fresh"):
        finetune(settings(base, train, out))
    finetune(settings(base, train, out, lr=1e-3, fresh=True))
    finetune(settings(base, train, tmp_path / "whole", lr=1e-3))
    assert weights(out) == weights(tmp_path / "whole")


def test_a_replacement_that_is_stopped_leaves_the_old_model(
    base: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    finetune(settings(base, train, out))
    old = weights(out)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="without `fresh` continues"):
        ended_at(patch, 5, stop)
        finetune(settings(base, train, out, seed=2, fresh=True))
    assert weights(out) == old
    finetune(settings(base, train, out, seed=2))
    finetune(settings(base, train, tmp_path / "whole", seed=2))
    assert weights(out) == weights(tmp_path / "whole") != old


def test_a_full_disk_ends_no_training_that_need_not_save(
    base: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(epochs, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "save_file", full)
    finetune(settings(base, train, tmp_path / "run"))
    assert "could not save a state (No space left on device); training continues" in capsys.readouterr().err
    with pytest.raises(OSError, match="No space left"):
        ended_at(monkeypatch, 5, stop)
        finetune(settings(base, train, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_finished_run_is_found_beside_a_stopped_one(
    base: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    first = finetune(settings(base, train, out))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        ended_at(patch, 5, stop)
        finetune(settings(base, train, out, seed=2, fresh=True))
    assert finetune(settings(base, train, out)) == first
    assert "is already fine-tuned with these settings" in capsys.readouterr().err


def test_a_readme_of_others_is_never_replaced(base: Path, train: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(UserError, match=r"holds README.md, which `gpt1 finetune` did not write"):
        finetune(settings(base, train, tmp_path))
    assert (tmp_path / "README.md").read_text() == "my project"


def test_a_class_that_only_validates_is_said(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = write(tmp_path / "two.csv", [("red apple", "a"), ("blue sky", "b")])
    finetune(settings(base, two, tmp_path / "run"))
    assert "occurs only in validation rows, so it cannot be learned" in capsys.readouterr().err


def test_states_of_others_are_never_removed(base: Path, train: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "run" / "stopped" / "novel.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("it was")
    with pytest.raises(UserError, match="stopped holds something that `gpt1 finetune` did not write"):
        finetune(settings(base, train, tmp_path / "run", fresh=True))
    assert theirs.exists()


# Wrong requests


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"epochs": -1}, "epochs -1 must be 0 or more"),
        ({"batch": -1}, "batch -1 must be 0 or more"),
        ({"micro_batch": -1}, "micro_batch -1 must be 0 or more"),
        ({"lr": -1e-3}, "lr -0.001 must be 0 or more"),
        ({"lr": float("nan")}, "lr nan must be 0 or more"),
        ({"lm_coef": -0.5}, "lm_coef -0.5 must be 0 or more"),
        ({"dropout": 1.0}, "dropout 1.0 must be at least 0 and less than 1"),
        ({"head_dropout": -0.1}, "head_dropout -0.1 must be at least 0 and less than 1"),
        ({"warmup": 2.0}, "warmup 2.0 must be at least 0"),
        ({"encoding": "utf-9"}, "encoding utf-9: no such text encoding"),
        ({"label": "mood"}, r"no column mood; the columns are text, label"),
        ({"text": "body"}, r"no column body; the columns are text, label"),
        ({"device": "cuda:77"}, "device cuda:77: this machine has no such device"),
        ({"train": "none.csv"}, "none.csv: no such file"),
        ({"valid": "none.csv"}, "none.csv: no such file"),
        ({"run": "nowhere"}, "nowhere: no such run folder"),
    ],
)
def test_wrong_settings(base: Path, train: Path, tmp_path: Path, changes: dict[str, Any], answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        finetune(replace(settings(base, train, tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "valid", "answer"),
    [
        ([("a", "x"), ("b", "x")], None, "{train}: column label holds only the label 'x'; two classes or more are ne"),
        ([("a", "x"), ("b", "y")], [("c", "x"), ("d", "z")], "{valid}:3: label 'z' in column label does not occur in"),
        ([("a", "x"), ("", "y")], None, "{train}:3: column text is empty; give it a text"),
        ([("a", "x"), ("b", " ")], None, "{train}:3: column label is empty; give it a label"),
        ([("a", "x"), ("b", "y")], [("c", "x"), (" ", "y")], "{valid}:3: column text is empty"),
        ([], None, "{train}: no rows"),
        ([("a", "x"), ("b", "y")], [], "{valid}: no rows"),
    ],
)
def test_wrong_rows(
    base: Path, tmp_path: Path, rows: list[tuple[str, str]], valid: list[tuple[str, str]] | None, answer: str
) -> None:
    train, other = write(tmp_path / "train.csv", rows), write(tmp_path / "valid.csv", valid or [])
    with pytest.raises(UserError) as caught:
        finetune(settings(base, train, tmp_path / "run", valid=None if valid is None else str(other)))
    assert str(caught.value).startswith(answer.format(train=train, valid=other))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("multi-label", {"text": "a red ball", "labels": ["red"]}),
        ("multiple-choice", {"context": "It rains", "choices": ["a coat", "a swim"], "label": 0}),
    ],
)
def test_one_row_cannot_train_and_validate(base: Path, tmp_path: Path, task: Task, row: dict[str, Any]) -> None:
    """Of these tasks one label is enough, so nothing else refuses it."""
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps(row))
    with one_line(f"{train} has 1 row, but at least two are needed", "valid"):
        finetune(settings(base, train, tmp_path / "run", task=task))
    finetune(settings(base, train, tmp_path / "run", task=task, valid=str(train)))


def test_wrong_runs(base: Path, train: Path, tmp_path: Path) -> None:
    finetune(settings(base, train, tmp_path / "tuned"))
    with pytest.raises(UserError, match="is already fine-tuned; start from the pre-trained run it came from"):
        finetune(settings(tmp_path / "tuned", train, tmp_path / "again"))
    loaded = load_run(base)
    save_run(tmp_path / "newer", loaded.body, loaded.tokenizer, replace(loaded.metadata, format=2))
    with pytest.raises(UserError, match="format 2 is newer than 1; update gpt1"):
        finetune(settings(tmp_path / "newer", train, tmp_path / "again"))
    (tmp_path / "newer" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"not a complete run: model.safetensors is missing"):
        finetune(settings(tmp_path / "newer", train, tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def test_long_texts_are_said_and_two_rows_are_enough(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write(tmp_path / "train.csv", [(CORPUS[0] * 9, "x"), (CORPUS[1] * 9, "y")])
    assert finetune(settings(base, train, tmp_path / "run"))["n"] == 1
    assert (
        "training: 1 of 1 rows (100.0%) are longer than the context of 21 tokens; their head is kept"
        in capsys.readouterr().err
    )
