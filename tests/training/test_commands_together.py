"""finetune, predict and evaluate in several processes: the results of one process, one writer, one error, a restart."""

import json
import signal
from pathlib import Path
from typing import Any

import commands_together
import pytest
import torch
from commands_together import CORPUS, main, write_inputs
from processes import STILL, await_state, finish, kill_rank, start, torchrun
from safetensors.torch import load_file

from conftest import save_random_run
from gpt1.config import Model
from gpt1.run_folder.metadata import STOPPED
from gpt1.training import log

PROGRAM = commands_together.__file__
# Fine-tunings without dropout, and how near the numbers of one process those of several are. Reading text trains by
# Muon, which magnifies rounding.
TOLERANCES = {"seeds": 1e-6, "words": 1e-6, "choices": 1e-6, "collapsed": 1e-6, "read": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, and a random network without dropout; in `alone`, what one process makes of them."""
    folder = tmp_path_factory.mktemp("together")
    write_inputs(folder)
    save_random_run(folder / "base", CORPUS, 320, Model(context=32, width=32, depth=2, heads=2, inner=128, **STILL))
    (folder / "alone").mkdir()
    main(folder, folder / "alone")
    return folder


@pytest.fixture(scope="module")
def by_two(folder: Path) -> Path:
    return made_by(2, folder)


@pytest.fixture(scope="module")
def by_three(folder: Path) -> Path:
    return made_by(3, folder)


@pytest.fixture(params=["by_two", pytest.param("by_three", marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest) -> Path:
    """What 2 or 3 processes make of the same."""
    return request.getfixturevalue(request.param)


def made_by(size: int, folder: Path) -> Path:
    out = folder / f"by-{size}"
    out.mkdir()
    ended = finish(start([PROGRAM, str(folder), str(out)], size))
    assert not any(code for code, *_ in ended), ended
    return out


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(out.glob("results-*.json"))]


def assert_equal(found: Any, expected: Any, tolerance: float, name: str = "") -> None:
    """The same values but for paths and times, numbers within a relative tolerance."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected.keys() - {"out", "seconds"}:
            assert_equal(found[key], expected[key], tolerance, f"{name}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), name
        for n, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, tolerance, f"{name}/{n}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance), name
    else:
        assert found == expected, name


@pytest.mark.parametrize("name", TOLERANCES)
def test_losses_and_metrics_are_those_of_one_process(name: str, folder: Path, together: Path) -> None:
    (expected,) = results(folder / "alone")
    for found in results(together):
        assert_equal(found[name], expected[name], TOLERANCES[name])
    rows, others = log.read(folder / "alone" / name), log.read(together / name)
    assert_equal(others, rows, TOLERANCES[name])
    assert any("task" in row for row in rows)


@pytest.mark.parametrize("name", [name for name, tolerance in TOLERANCES.items() if tolerance == 1e-6])
def test_the_model_is_that_of_one_process(name: str, folder: Path, together: Path) -> None:
    """Where a gradient is near 0, AdamW magnifies its rounding; the tolerance is a tenth of a step."""
    expected, found = (load_file(out / name / "model.safetensors") for out in (folder / "alone", together))
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=3e-4)
    assert (together / name / "words.safetensors").read_bytes() == (
        folder / "alone" / name / "words.safetensors"
    ).read_bytes()


def test_the_jobs_are_what_they_are_meant_to_be(folder: Path) -> None:
    (found,) = results(folder / "alone")
    assert len(found["seeds"]["seeds"]["loss"]["values"]) == 2
    assert found["words"]["words_weight"] > 0
    assert found["collapsed"]["lr"] == 6.25e-5
    assert found["predict, no file"]["predictions"][0]["predicted_label"] in ("good", "bad")
    assert found["predict, invalid rows"]["rows"] == sum(n % 5 > 0 for n in range(commands_together.ROWS))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "two.parquet", "holes.jsonl"])
def test_predictions_are_those_of_one_process_to_the_byte(name: str, folder: Path, together: Path) -> None:
    assert (together / name).read_bytes() == (folder / "alone" / name).read_bytes()


def test_every_process_returns_the_same_predictions_and_scores(folder: Path, together: Path) -> None:
    (expected,) = results(folder / "alone")
    for found in results(together):
        for name in set(expected) - {*TOLERANCES, "dropout"}:
            assert_equal(found[name], expected[name], 1e-12 if "predict" in name else 1e-6)


def test_one_process_reads_standard_input_and_writes_standard_output(folder: Path, together: Path) -> None:
    first, *others = [path.read_text() for path in sorted(together.glob("stdout-*.jsonl"))]
    assert first == (folder / "alone" / "stdout-0.jsonl").read_text()
    assert [json.loads(line)["text"] for line in first.splitlines()] == CORPUS
    assert set(others) == {""}


# The command line


def predict(folder: Path, *more: str) -> list[str]:
    return [PROGRAM, "gpt1", "predict", str(folder / "alone" / "seeds"), *more, "--device", "cpu", "--dtype", "fp32"]


def test_an_error_ends_all_processes_with_one_line(folder: Path) -> None:
    ended = finish(start(predict(folder, str(folder / "holes.jsonl")), 2))
    assert [code for code, *_ in ended] == [2, 2]
    (line,) = [line for *_, error in ended for line in error.splitlines()]
    assert line.startswith("gpt1 predict: ")
    assert "holes.jsonl:1: column text is empty" in line


def test_other_commands_say_once_that_they_work_in_one_process(tmp_path: Path) -> None:
    ended = finish(start(["-m", "gpt1", "prepare", str(tmp_path), "--out", str(tmp_path / "out")], 2))
    assert [code for code, *_ in ended] == [2, 2]
    (line,) = [line for *_, error in ended for line in error.splitlines()]
    assert line == (
        "gpt1 prepare: it runs in one process; start it without torchrun, which works for gpt1 pretrain, "
        "gpt1 finetune, gpt1 predict, gpt1 evaluate, gpt1 ablate"
    )
    assert not (tmp_path / "out").exists()


def dropout_job(folder: Path, out: Path) -> list[str]:
    """The command line of the job `dropout`."""
    words = "--epochs 2 --seeds 2 --batch 8 --micro-batch 3 --lr 3e-3 --dropout 0.1 --head-dropout 0 --threads 1"
    on = ["--device", "cpu", "--dtype", "fp32", "--train", str(folder / "train.jsonl"), "--out", str(out)]
    return [PROGRAM, "gpt1", "finetune", str(folder / "base"), *words.split(), *on]


def assert_same_model(out: Path, other: Path) -> None:
    assert not (out / STOPPED).exists()
    assert (out / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_when_one_is_killed_the_others_end_and_the_same_command_continues(
    folder: Path, by_two: Path, tmp_path: Path
) -> None:
    command = dropout_job(folder, tmp_path / "run")
    both = start(command, 2)
    await_state(tmp_path / "run")
    both[1].kill()
    (code, _, error), _ = finish(both)
    assert code == 1
    assert "gpt1 finetune: another process has ended or does not answer" in error
    (code, _, error), (other, _, silence) = finish(start(command, 2))
    assert (code, other, silence) == (0, 0, "")
    assert "continuing after update" in error
    assert_same_model(tmp_path / "run", by_two / "dropout")


@pytest.mark.slow
def test_torchrun_restarts_after_a_kill_and_a_stop_continues(folder: Path, by_two: Path, tmp_path: Path) -> None:
    out, stopped = tmp_path / "run", tmp_path / "stopped"
    agent = torchrun(dropout_job(folder, out), restarts=3)
    await_state(out)
    kill_rank(0, agent)  # which writes
    ((code, _, error),) = finish([agent])
    assert code == 0, error
    assert "continuing after update" in error
    assert_same_model(out, by_two / "dropout")
    both = start(dropout_job(folder, stopped), 2)
    await_state(stopped)
    both[1].send_signal(signal.SIGTERM)
    ended = finish(both)
    assert [code for code, *_ in ended] == [130, 130]
    (said,) = [line for *_, error in ended for line in error.splitlines() if "stopped" in line]
    assert said.endswith("; the same command continues from there")
    assert [code for code, *_ in finish(start(dropout_job(folder, stopped), 2))] == [0, 0]
    assert_same_model(stopped, by_two / "dropout")
