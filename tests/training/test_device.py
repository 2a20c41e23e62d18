"""Devices, what is restored after a job, and running out of memory."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.torch_version import TorchVersion

from gpt1.config import Columns, Command, Model
from gpt1.data.windows import Ids
from gpt1.errors import RunFailed, UserError, setting
from gpt1.finetuning.explanation import explain_row
from gpt1.finetuning.predictor import Predictor, RowEncoder
from gpt1.model.gpt import GPT
from gpt1.model.kv_cache import Decoder
from gpt1.model.sampling import Sampling, sampling_device
from gpt1.run_folder.embedding import embed
from gpt1.tasks.labels import ClassLabels
from gpt1.tasks.zero_shot import Question, Scorer
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import device
from gpt1.training.device import choose_device, out_of_memory, preserve_torch_state, setup_device
from gpt1.training.likelihood import likelihood


def test_threads_seed_device_and_format_are_set() -> None:
    with preserve_torch_state():
        assert setup_device(Command(device="cpu", dtype="fp32", threads=1, seed=7)) == (
            torch.device("cpu"),
            torch.float32,
        )
        assert torch.get_num_threads() == 1
        first = torch.rand(3)
        setup_device(Command(device="cpu", dtype="bf16", threads=2, seed=7))
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.rand(3), first)


def test_threads_and_random_numbers_are_restored_after_an_error_too() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with pytest.raises(UserError), preserve_torch_state():
        setup_device(Command(device="cpu", dtype="fp32", threads=threads + 1, seed=123))
        setup_device(Command(device="tpu"))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "gpu"}, "device gpu: give auto, cpu"), ({"device": "cuda:77"}, "no such device"),
        ({"dtype": "fp16"}, "dtype fp16: give auto, bf16 or fp32"), ({"threads": -1}, "threads -1 must be"),
        ({"threads": 10**6}, "threads 1000000 must be"), ({"seed": 2**63}, "seed"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line(wrong: dict, message: str) -> None:
    with preserve_torch_state(), pytest.raises(UserError, match=message) as caught:
        setup_device(Command(**wrong))
    assert "\n" not in str(caught.value)


def test_choosing_a_device_changes_nothing() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert choose_device("cpu", "bf16") == (torch.device("cpu"), torch.bfloat16)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_apples_gpus_are_used_where_torch_computes_rightly_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="dtype bf16: on Apple's GPUs torch then lets tokens see later ones; use fp32"):
        choose_device("mps", "bf16")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.10.0"))
    with pytest.raises(UserError, match=r"device mps: torch 2\.10\.0 computes attention wrongly there; update it"):
        choose_device("mps", "auto")
    assert choose_device("auto", "fp32") == (torch.device("cpu"), torch.float32)


def allocate_far_too_much() -> None:
    torch.empty(2**55)  # the CPU's allocator raises a RuntimeError


def raise_memory_error() -> None:
    raise MemoryError


def raise_as_a_gpu_does() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")


@pytest.mark.parametrize("work", [allocate_far_too_much, raise_memory_error, raise_as_a_gpu_does])
def test_running_out_of_memory_is_one_line_with_a_remedy(work: Callable[[], None]) -> None:
    with pytest.raises(RunFailed) as caught, out_of_memory(f"lower {setting('micro_batch')}"):
        work()
    assert str(caught.value) == "out of memory; lower micro_batch"
    assert caught.value.as_flags() == "out of memory; lower --micro-batch"


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), out_of_memory("lower it"):
        torch.empty(3).view(2)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({}, 4),
    ],
)
def test_cores_are_limited_as_a_container_is(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content + "\n")
    monkeypatch.setattr(device, "CGROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert device.available_cores() == cores


@pytest.mark.parametrize(("share", "cores"), [("1", 1), ("2,1", 2), ("9", 4), ("", 4), ("many", 4)])
def test_cores_are_shared_as_joblib_says(share: str, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cgroup_limits", lambda: iter(()))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", share)
    assert device.available_cores() == cores


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_computes_with_one_thread() -> None:
    """OpenMP's pool of threads, which the first product makes, is missing in the child."""
    script = (
        "import os, torch; from gpt1.config import Command\n"
        "from gpt1.training.device import setup_device, use_threads; setup_device(Command(threads=2))\n"
        "x = torch.ones(512, 512); x @ x\n"
        "if child := os.fork():\n"
        "    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "with use_threads(2):\n"
        "    x @ x\n"
        "    os._exit(torch.get_num_threads())"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 1


class LikeApples(TorchFunctionMode):
    """Refuses to convert a tensor to float64 unless it has just been brought to the CPU, as Apple's GPUs do."""

    def __init__(self) -> None:
        super().__init__()
        self.brought: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.double and not any(args[0] is one for one in self.brought):
            raise TypeError("this device has no float64")
        found = func(*args, **(kwargs or {}))
        if func in (Tensor.cpu, Tensor.to):
            self.brought.append(found)
        return found


def test_results_become_float64_on_the_cpu(tokenizer: Tokenizer) -> None:
    framed = tokenizer.with_task_tokens()
    model = Model(context=16, width=16, depth=1, heads=2, inner=64, vocabulary=framed.vocabulary)
    body, head_CD = GPT(model).init_weights(torch.Generator().manual_seed(1)).eval(), torch.ones(2, 16)
    predictor = Predictor.build(
        GPT(model).init_weights(torch.Generator().manual_seed(1)), head_CD, RowEncoder("classification", framed, 16),
        ClassLabels(["a", "b"]), Columns(["text"], ["label"]), torch.device("cpu"), torch.float32,
    )  # fmt: skip
    assert sampling_device(torch.device("mps")) == torch.device("cpu")
    with LikeApples():
        assert predictor.predict([("the cat",)], 8)[0].tolist() == [[0.5, 0.5]]
        assert explain_row(predictor, ("the cat",)).predicted_label == "a"
        assert embed(body, [[1, 2]]).shape == (1, 16)
        assert len(Decoder(body).join([[1, 2]], [Sampling(top_p=0.9)], [random.Random(1)], [2]).tokens) == 1
        assert Scorer(body, tokenizer)([Question("the", ("cat", "dog"), 0, None)])[0].shape == (2,)
        assert likelihood(body, Ids(np.array([1, 2, 3])), tokenizer.end_id).tokens == 3
