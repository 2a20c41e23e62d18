"""FSDP from the command line: states in parts, other numbers of processes, a killed process; which way is chosen."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import await_state, finish, kill_rank, start, torchrun
from safetensors.torch import load_file

from conftest import one_line
from gpt1.config import Model, Pretrain
from gpt1.pretraining import memory
from gpt1.training import checkpoint
from gpt1.training.parallel import World
from gpt1.training.sharding import rows

# An odd context: of its positions, the last of four processes keeps none.
SIZE = (
    "--preset tiny --recipe fast --model.context 9 --model.width 32 --model.depth 2 --model.heads 2 "
    "--model.inner 128 --batch 4 --micro-batch 1 --dtype fp32 --device cpu --model.embedding-dropout 0 "
    "--model.residual-dropout 0 --model.attention-dropout 0 --steps 40 --save-every 5 --eval-every 20 --keep 9"
).split()


def pretrain(data: Path, out: Path, *more: str) -> list[str]:
    return ["-m", "gpt1", "pretrain", str(data), "--out", str(out), *SIZE, *more]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that share out its weights."""
    out = tmp_path_factory.mktemp("sharded") / "run"
    ended = finish(start(pretrain(data, out, "--parallel", "fsdp"), 2))
    assert [code for code, *_ in ended] == [0, 0], ended
    assert "2 processes shard weights" in ended[0][2]
    return out


def as_after(run: Path, step: int, out: Path) -> Path:
    """Copy a run as it was when it had saved this update."""
    shutil.copytree(run, out)
    (out / "gpt1.json").unlink()
    for state in checkpoint.states(out):
        if checkpoint.read_notes(state)["step"] > step:
            shutil.rmtree(state)
    return out


def test_a_state_is_a_folder_with_a_part_for_each_process(run: Path) -> None:
    state = checkpoint.latest(run)
    assert state is not None and state.name == "step-00000040"
    assert sorted(file.name for file in state.iterdir()) == [f"part-0000{n}-of-00002.safetensors" for n in (1, 2)]
    whole, model = checkpoint.load(state), load_file(run / "model.safetensors")
    assert torch.equal(whole["master.body.tokens.weight"], model["transformer.tokens_embed.weight"])
    qkv = model["transformer.h.0.attn.c_attn.weight"]  # Hugging Face keeps the transpose
    assert torch.equal(whole["master.body.blocks.0.attention.qkv.weight"].T, qkv)
    assert whole["muon.body.blocks.1.feed_forward.up.weight"].shape == (128, 32)
    assert not list(run.rglob(".*.tmp"))


@pytest.mark.parametrize(("size", "way"), [(1, "fsdp"), (4, "fsdp"), pytest.param(2, "ddp", marks=pytest.mark.slow)])
def test_it_continues_in_another_number_of_processes(
    size: int, way: str, data: Path, run: Path, tmp_path: Path
) -> None:
    """Muon magnifies rounding, so weights agree to a fraction of a step only."""
    out = as_after(run, 30, tmp_path / "run")
    ended = finish(start(pretrain(data, out, "--parallel", way), size))
    assert [code for code, *_ in ended] == [0] * size, ended
    assert "continuing after update 30" in ended[0][2]
    newest = checkpoint.latest(out)
    assert newest is not None and newest.is_dir() == ((size, way) == (4, "fsdp"))
    expected, found = load_file(run / "model.safetensors"), load_file(out / "model.safetensors")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-3)


def test_a_killed_process_changes_nothing(data: Path, run: Path, tmp_path: Path) -> None:
    """All are started again, and continue from the last state that is complete."""
    out = tmp_path / "run"
    agent = torchrun(pretrain(data, out, "--parallel", "fsdp"), restarts=1)
    await_state(out)
    kill_rank(1, agent)
    ((code, _, error),) = finish([agent])
    assert code == 0, error
    assert "continuing after update" in error
    assert "Traceback" not in error
    assert (out / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


SMALL_MEMORY = """
import sys, torch
from gpt1.cli.main import main
from gpt1.model.objectives import LanguageModel
forward = LanguageModel.forward

def with_one_row(self, batch, terms):
    if torch.distributed.get_rank() == 1 and len(batch.tokens_NKT) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return forward(self, batch, terms)

LanguageModel.forward = with_one_row
sys.exit(main())
"""


@pytest.mark.slow
def test_processes_that_ran_out_of_memory_are_started_again_with_half_the_micro_batch(
    data: Path, run: Path, tmp_path: Path
) -> None:
    script, out = tmp_path / "small_memory.py", tmp_path / "run"
    script.write_text(SMALL_MEMORY)
    command = [str(script), *pretrain(data, out, "--parallel", "fsdp", "--micro-batch", "2")[2:]]
    ((code, _, error),) = finish([torchrun(command, restarts=1)])
    assert code == 0, error
    assert "out of memory; lower --micro-batch" in error
    assert "out of memory before the restart: micro-batches of 1; the batch of an update stays the same" in error
    assert "Traceback" not in error
    assert (out / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_state_without_a_part_is_refused(data: Path, run: Path, tmp_path: Path) -> None:
    out = as_after(run, 10, tmp_path / "run")
    state = checkpoint.latest(out)
    assert state is not None
    part = state / "part-00002-of-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    with one_line(part.name, "is damaged", f"remove {state.name} to continue from step-00000005"):
        checkpoint.read_notes(state)
    part.unlink()
    ((code, _, error),) = finish(start(pretrain(data, out), 1))
    assert (code, len(error.splitlines())) == (2, 1)
    assert f"{part} is missing; remove {state.name} to continue from step-00000005, or start over with --fresh" in error
    (state / "part-00001-of-00002.safetensors").unlink()
    with one_line("part-00001-of-00001.safetensors is missing"):
        checkpoint.read_notes(state)


# Parts of a state, written by threads


@dataclass(frozen=True)
class Threads(World):
    """A world of threads, for what writes a state together."""

    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(1), compare=False)
    box: dict[int, Any] = field(default_factory=dict, compare=False)

    def gather(self, value: Any) -> list[Any]:
        self.meeting.wait(30)
        self.box[self.rank] = value
        self.meeting.wait(30)
        return [self.box[rank] for rank in range(self.size)]

    def from_main(self, make: Callable[[], Any]) -> Any:
        return self.gather(make() if self.rank == 0 else None)[0]


def save_in_threads(
    folder: Path, step: int, whole: dict[str, torch.Tensor], size: int, keep: int = 1
) -> list[BaseException]:
    """Save a state in parts; return the errors that the processes saw."""
    meeting, errors = threading.Barrier(size), list[BaseException]()
    box: dict[int, Any] = {}

    def save(rank: int) -> None:
        world = Threads(rank, size, None, meeting, box)
        part = {name: tensor[rows(len(tensor), world)] for name, tensor in whole.items()}
        try:
            checkpoint.save(folder, step, part, {"losses": [1.5]}, keep, world=world)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


@pytest.mark.parametrize("size", [2, 3, 5])
def test_any_number_of_processes_reads_its_rows(size: int, tmp_path: Path) -> None:
    whole = {"a": torch.arange(14.0).view(7, 2), "b": torch.arange(4).float()}
    assert not save_in_threads(tmp_path, 3, whole, size)
    state = checkpoint.latest(tmp_path)
    assert state is not None and len(list(state.iterdir())) == size
    assert checkpoint.read_notes(state) == {"step": 3, "losses": [1.5]}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in checkpoint.load(state).items())
    one_file = checkpoint.save(tmp_path, 4, whole, {}, keep=2)  # of a process that holds everything
    for readers in (1, 2, 4, 8):
        for rank in range(readers):
            mine = partial(rows, world=World(rank, readers))
            found, same = checkpoint.load(state, mine), checkpoint.load(one_file, mine)
            for name, tensor in whole.items():
                chunks = [*tensor.chunk(readers), *[tensor[:0]] * readers]  # as FSDP shares rows out
                assert torch.equal(found[name], chunks[rank]) and torch.equal(same[name], chunks[rank])


def test_old_states_go_in_either_form(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(4)}
    checkpoint.save(tmp_path, 1, tensors, {})
    assert not save_in_threads(tmp_path, 2, tensors, 2, keep=2)
    assert [path.name for path in checkpoint.states(tmp_path)] == ["step-00000001.safetensors", "step-00000002"]
    assert not save_in_threads(tmp_path, 2, tensors, 3)  # once more, by others
    assert [path.name for path in checkpoint.states(tmp_path)] == ["step-00000002"]
    with checkpoint.Checkpoints(tmp_path, keep=2) as states:
        states.save(3, tensors, {})
        states.wait()
        states.discard(2)
    assert [path.name for path in (tmp_path / checkpoint.FOLDER).iterdir()] == ["step-00000003.safetensors"]


@pytest.mark.parametrize("failing", ["part-00002", "rename"])
def test_what_one_process_cannot_write_no_process_has_saved(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file, rename = checkpoint.save_file, Path.rename

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        if failing in path.name:
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata)

    def broken(path: Path, target: Path) -> Path:
        if failing == "rename":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(checkpoint, "save_file", full)
    monkeypatch.setattr(Path, "rename", broken)
    errors = save_in_threads(tmp_path, 1, {"a": torch.ones(4)}, 3)
    assert ["No space left on device" in str(error) for error in errors] == [True] * 3
    assert not any((tmp_path / checkpoint.FOLDER).iterdir())


# Which way


@pytest.mark.parametrize(("gigabytes", "way", "holds"), [(64, "ddp", True), (3.9, "fsdp", True), (1.5, "fsdp", False)])
def test_auto_shares_out_what_does_not_fit_half_a_device(
    gigabytes: float, way: str, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-1 takes 18 bytes a weight with AdamW and bfloat16, 2.1 GB."""
    settings, device = Pretrain(data="", out="", model=Model(vocabulary=40_000)), torch.device("cpu")
    monkeypatch.setattr(memory, "_machine_memory", lambda: int(gigabytes * 1e9))
    monkeypatch.setattr(World, "least", lambda self, number: number)
    monkeypatch.setattr(memory.parallel, "current", lambda: World(0, 4))
    assert memory.choose_parallel(settings, torch.bfloat16, device) == way
    assert memory.can_hold_gradients(settings, torch.bfloat16, device) == holds
