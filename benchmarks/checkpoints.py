"""What checkpoints cost training: the time it stands still for them, written in the background and written at once.

The same updates are made without checkpoints, with those of `gpt1 pretrain`, and with ones that training waits for.
Then the cost of reading every shard before training, to find damage.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt1.config import PRESETS, Command, pretrain_defaults
from gpt1.data.shards import Manifest, ShardWriter, Split, check_content
from gpt1.data.windows import Ids, Windows
from gpt1.pretraining.run import build
from gpt1.training import checkpoint
from gpt1.training.device import setup_device
from gpt1.training.loop import train
from record import record

MODES = ("none", "background", "at once")


def measure(preset: Any, mode: str, updates: int, every: int, folder: Path) -> dict[str, float]:
    """Make the updates, with a state saved after each `every` of them; the first two, which warm up, are not timed."""
    settings = pretrain_defaults(preset, data="", out="")
    settings = replace(settings, micro_batch=settings.batch, model=replace(PRESETS[preset], vocabulary=8192))
    device, dtype = setup_device(Command(device="cpu"))
    model, optimizer = build(settings, 10_000, device, dtype)
    tokens = Ids(np.random.default_rng(1).integers(0, 8192, 1 << 18))
    windows = Windows(tokens, settings.model.context, settings.batch, settings.micro_batch, 1)
    stalls, started, counted = [], 0.0, 0
    with checkpoint.Checkpoints(folder) as states:
        for report in train(model, windows, optimizer, weights={"lm": 1.0}, steps=updates + 2):
            if report.step == 2:
                started = time.perf_counter()
            elif report.step > 2:
                counted += report.tokens
                if mode != "none" and (report.step - 2) % every == 0:
                    before = time.perf_counter()
                    states.save(report.step, optimizer.state(), {}, required=mode == "at once")
                    stalls.append(time.perf_counter() - before)
        seconds = time.perf_counter() - started
        states.wait()
    size = sum(tensor.nbytes for tensor in optimizer.state().values())
    return {"seconds": seconds, "tokens_per_second": counted / seconds, "saves": len(stalls), "megabytes": size / 1e6,
            "stall_seconds": sum(stalls), "stall_percent": 100 * sum(stalls) / seconds}  # fmt: skip


def reading(folder: Path, megabytes: int) -> float:
    """Return the speed, in MB/s, at which shards of this size are read and compared with their sha256."""
    with ShardWriter(folder, "train", "uint16") as shards:
        for _ in range(2):
            shards.write(np.random.default_rng(1).integers(0, 60_000, megabytes * 250_000), 1, 1)
            shards.close_shard()
    manifest = Manifest("", "bytes", True, 60_000, "uint16", Split(shards.shards), Split(), 0, 0, [], {}, "", {})
    started = time.perf_counter()
    check_content(folder, manifest)
    return megabytes / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small", choices=PRESETS)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--every", type=int, default=20, help="updates between two states")
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    result: dict[str, Any] = {"preset": options.preset, "every": options.every, "load": os.getloadavg()[0]}
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            result[mode] = measure(options.preset, mode, options.updates, options.every, Path(folder))
        print(mode, result[mode], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        speed = reading(Path(folder), options.megabytes)
    # An epoch reads two bytes a token once.
    share = 100 * 2 / (speed * 1e6) * result["none"]["tokens_per_second"]
    result |= {"check_megabytes_per_second": speed, "check_percent_of_an_epoch": share}
    print(result)
    command = f"python benchmarks/checkpoints.py --preset {options.preset} --updates {options.updates}"
    record("checkpoints", f"{command} --every {options.every}", result)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
