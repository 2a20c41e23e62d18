"""Several processes over Gloo: the numbers of one process, one writer, one error, a meeting that fails, a restart."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
import torch
from processes import (
    EQUAL,
    JOBS,
    LONG_JOBS,
    Found,
    Job,
    await_state,
    environment,
    finish,
    free_port,
    kill_rank,
    start,
    torchrun,
)
from safetensors.torch import load_file

from gpt1.errors import RunFailed, UserError
from gpt1.training import checkpoint, device, log, parallel, rendezvous

SIZE = (
    "--preset tiny --recipe paper --model.context 16 --model.width 32 --model.depth 2 --model.heads 2 "
    "--model.inner 128 --batch 4 --micro-batch 1 --dtype fp32 --device cpu"
).split()


def run_jobs(folder: Path, size: int, jobs: dict[str, Job], *more: str, seconds: float = 300) -> dict[str, list[Found]]:
    """Return, by job, what each rank found."""
    ended = finish(start([processes.__file__, str(folder), *more], size), seconds)
    assert not any(code for code, *_ in ended), ended
    return {
        name: [
            (json.loads((folder / f"{name}-{rank}.json").read_text()), load_file(folder / f"{name}-{rank}.safetensors"))
            for rank in range(size)
        ]
        for name in jobs
    }


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Found]]:
    """By job, what each rank of 2 or 4 processes found."""
    return run_jobs(tmp_path_factory.mktemp("processes"), request.param, JOBS)


@pytest.fixture(scope="module")
def alone() -> Iterator[dict[str, Found]]:
    """By job, what one process finds."""
    yield {name: job.run() for name, job in JOBS.items()}


def tolerance_of(job: Job) -> float:
    """In bfloat16, Muon's iteration magnifies other rounding."""
    return 1e-6 if job.dtype == torch.float32 else 1e-3


@pytest.mark.parametrize("job", EQUAL)
def test_losses_and_gradients_are_those_of_one_process(
    job: str, found: dict[str, list[Found]], alone: dict[str, Found]
) -> None:
    (numbers, tensors), tolerance = alone[job], tolerance_of(JOBS[job])
    for theirs, others in found[job]:
        assert theirs["losses"][:2] == pytest.approx(numbers["losses"][:2], rel=min(tolerance, 1e-4))
        assert theirs["losses"] == pytest.approx(numbers["losses"], rel=tolerance)
        assert theirs["norms"] == pytest.approx(numbers["norms"], rel=max(tolerance, 1e-5))
        assert theirs["tokens"] == numbers["tokens"]
        assert theirs["likelihood"] == pytest.approx(numbers["likelihood"], rel=tolerance)
        for name in tensors:
            if name.startswith("first.") or (name.startswith("last.") and tolerance < 1e-3):
                torch.testing.assert_close(others[name], tensors[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("job", [name for name in EQUAL if name != "fast-bf16"])
def test_weights_after_several_updates_are_those_of_one_process(
    job: str, found: dict[str, list[Found]], alone: dict[str, Found]
) -> None:
    """Where a gradient is near 0, AdamW magnifies its rounding; the tolerance is a thousandth of a step."""
    _, tensors = alone[job]
    for _, others in found[job]:
        for name in tensors:
            torch.testing.assert_close(others[name], tensors[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("job", ["paper", "fast", "dropout"])
def test_all_ranks_have_the_same_weights_to_the_last_bit(job: str, found: dict[str, list[Found]]) -> None:
    (numbers, tensors), *others = found[job]
    for theirs, weights in others:
        assert theirs["losses"] == numbers["losses"]
        assert all(torch.equal(weights[name], tensors[name]) for name in tensors)


def test_ranks_read_different_windows_together_all_of_them(
    found: dict[str, list[Found]], alone: dict[str, Found]
) -> None:
    for job, batch in (("paper", processes.BATCH), ("uneven-fsdp", 5)):
        read = [row for numbers, _ in found[job] for row in numbers["seen"]]
        assert sorted(read) == sorted(alone[job][0]["seen"])
        shares = [len(numbers["seen"]) / 6 for numbers, _ in found[job]]
        assert sum(shares) == batch and max(shares) - min(shares) <= 1


@pytest.mark.parametrize("job", ["loss", "loss-fsdp"])
def test_all_skip_an_update_whose_loss_is_not_finite_in_one(job: str, found: dict[str, list[Found]]) -> None:
    (numbers, tensors), *others = found[job]
    assert numbers["skipped"].count(True) == 1
    for theirs, weights in others:
        assert theirs["skipped"] == numbers["skipped"]
        assert all(torch.equal(weights[name], tensors[name]) for name in tensors)
    assert all(tensor.isfinite().all() for name, tensor in tensors.items() if not name.startswith(("first.", "last.")))


def test_all_halve_the_micro_batch_when_one_runs_out_of_memory(found: dict[str, list[Found]]) -> None:
    assert [numbers["rows"] for numbers, _ in found["memory"]] == [1] * len(found["memory"])
    assert all(numbers["rows"] == 0 for numbers, _ in found["paper"])


def test_shared_out_masters_and_moments_are_held_once(found: dict[str, list[Found]], alone: dict[str, Found]) -> None:
    for job in ("paper-fsdp", "fast-fsdp"):
        kept, whole = [numbers["kept"] for numbers, _ in found[job]], alone[job][0]["kept"]
        assert sum(kept) == whole
        assert max(kept) < 1.2 * whole / len(kept)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_fifty_updates_are_those_of_one_process(size: int, tmp_path: Path) -> None:
    """Prints the largest differences that it found."""
    found = run_jobs(tmp_path, size, LONG_JOBS, "long", seconds=3000)
    for name, job in LONG_JOBS.items():
        (numbers, tensors), (theirs, others) = job.run(), found[name][-1]
        losses = [abs(a / b - 1) for a, b in zip(theirs["losses"], numbers["losses"], strict=True)]
        gradients = max(float((others[n] - tensors[n]).abs().max()) for n in tensors if n.startswith("last."))
        print(f"{size} processes, {name}: losses {max(losses):.1e}, gradients of the last update {gradients:.1e}")
        assert max(losses) < tolerance_of(job)


def test_without_torchrun_nothing_is_joined() -> None:
    script = (
        "import sys; from gpt1.training import parallel\n"
        "with parallel.join('cpu') as world: assert world == parallel.World(), world\n"
        "assert world.sum_numbers([3]) == [3] and world.from_main(lambda: 4) == 4 and world.part == slice(0, None, 1)\n"
        "assert 'torch' not in sys.modules"
    )
    plain = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    subprocess.run([sys.executable, "-c", script], env=plain, check=True, timeout=60)


LEAVE_NOTHING = """
from pathlib import Path
from gpt1.training import parallel

with parallel.join("cpu") as world:
    import torch._dynamo
    world.barrier()
print(sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists a process's threads as files")
def test_the_threads_of_a_process_group_end_with_it() -> None:
    """Those that are left as the interpreter ends can abort it."""
    ended = finish(start(["-c", LEAVE_NOTHING], 2))
    assert [code for code, *_ in ended] == [0, 0], ended
    assert not [out for _, out, _ in ended if "gloo" in out]


def test_dropout_depends_on_seed_step_and_rank() -> None:
    assert parallel.World().seed(1, 2) == hash((1, 2))
    assert len({parallel.World(rank, 4).seed(1, step) for rank in range(4) for step in range(9)}) == 36


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(device, "_cgroup_limits", lambda: iter([]))
    for name, value in environment(0, 4, 1).items():
        monkeypatch.setenv(name, value)
    for threads, expected in (("1", 4), ("3", 3), ("8", 4)):  # 1 is what torchrun sets by itself
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert device.available_cores() == expected


# The meeting


@pytest.mark.parametrize(("rank", "words"), [(1, "cannot reach MASTER_ADDR:MASTER_PORT, 127.0.0.1"), (0, "for rank 1")])
def test_processes_that_do_not_meet_say_what_to_check(
    rank: int, words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "MEETING_SECONDS", 0.5)
    for name, value in environment(rank, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunFailed) as caught, parallel.join("cpu"):
        pass
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"rank {rank} of 2 processes, on ")
    assert words in message
    assert "check that" in message
    assert capfd.readouterr().err == ""
    assert parallel.current() == parallel.World()


def test_gpus_must_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"2 processes on .* has 1 GPUs"), parallel.join("cuda"):
        pass
    with pytest.raises(UserError, match="device cuda:1: several processes need"), parallel.join("cuda:1"):
        pass


# The command


def pretrain(data: Path, out: Path, *more: str) -> list[str]:
    return ["-m", "gpt1", "pretrain", str(data), "--out", str(out), *SIZE, *more]


def test_one_process_writes_and_an_error_is_said_once(data: Path, tmp_path: Path) -> None:
    (code, out, error), (other, nothing, silence) = finish(
        start(pretrain(data, tmp_path / "run", "--steps", "4", "--optim.warmup", "1", "--json"), 2)
    )
    assert (code, other) == (0, 0), error
    assert json.loads(out)["steps"] == 4
    assert error.splitlines()[0] == "2 processes split each batch (--parallel ddp)"
    assert (nothing, silence) == ("", "")
    assert [row["step"] for row in log.read(tmp_path / "run") if "tokens" in row] == [1, 2, 3, 4]
    ended = finish(start(pretrain(data, tmp_path / "wrong", "--steps", "4", "--batch", "1"), 2))
    assert [code for code, *_ in ended] == [2, 2]
    lines = [line for *_, error in ended for line in error.splitlines()]
    assert lines == ["gpt1 pretrain: --batch 1 is less than the number of processes, 2; start fewer"]
    assert not (tmp_path / "wrong").exists()


def test_processes_share_out_the_check_of_the_shards(data: Path, tmp_path: Path) -> None:
    """Of the two shards, rank 1 reads the second."""
    folder = shutil.copytree(data, tmp_path / "data")
    path = folder / "val-00000.bin"
    raw = path.read_bytes()
    path.write_bytes(bytes([raw[0] ^ 1]) + raw[1:])
    ended = finish(start(pretrain(folder, tmp_path / "run", "--steps", "4"), 2))
    assert ended[1][0] == 2, ended
    (said,) = [line for *_, error in ended for line in error.splitlines()]
    assert said.startswith(f"gpt1 pretrain: {path}: damaged")
    assert "[rank 1 of 2 processes, on " in said
    assert not (tmp_path / "run").exists()


def test_a_signal_to_any_process_stops_all_after_the_same_update(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = pretrain(data, out, "--steps", "100000", "--save-every", "5", "--eval-every", "100000")
    both = start(command, 2)
    await_state(out)
    both[1].send_signal(signal.SIGTERM)
    ended = finish(both)
    assert [code for code, *_ in ended] == [130, 130]
    _, said = [line for *_, error in ended for line in error.splitlines()]
    state = checkpoint.latest(out)
    assert state is not None
    assert f"stopped after update {checkpoint.read_notes(state)['step']:,}; the same command continues" in said


def test_torchrun_restarts_after_a_kill_and_the_run_ends_as_if_nothing_was(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ["--steps", "60", "--save-every", "5", "--eval-every", "60"]
    agent = torchrun(pretrain(data, out, *more), restarts=3)
    await_state(out)
    kill_rank(1, agent)
    ((code, _, error),) = finish([agent])
    assert code == 0, error
    assert "continuing after update" in error
    undisturbed = finish(start(pretrain(data, tmp_path / "other", *more), 2))
    assert [code for code, *_ in undisturbed] == [0, 0], undisturbed
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "other" / "model.safetensors").read_bytes()
