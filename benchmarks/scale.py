"""Several processes: ranks that are killed restart without a person, and any number of ranks reads the same samples.

Linux only. The network is so small that a run takes minutes, most of them for starting processes.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.commands.prepare import prepare
from gpt1.config import Prepare
from gpt1.data.collate import Epochs, Example
from gpt1.data.docstrings import topics
from gpt1.data.windows import Ids, Windows
from gpt1.training import log
from record import record

RANKS = 2
SIZE = (
    "--preset tiny --recipe paper --model.context 32 --model.width 64 --model.depth 2 --model.heads 2 "
    "--model.inner 256 --model.embedding-dropout 0.1 --model.residual-dropout 0.1 --model.attention-dropout 0.1 "
    "--batch 8 --micro-batch 4 --dtype fp32 --device cpu --threads 1"
).split()
# How many tokens and rows the samples are drawn from; neither is a multiple of anything.
TOKENS, CONTEXT, ROWS, BATCH = 1_000_003, 128, 10_007, 64


def train(data: Path, out: Path, steps: int, kills: int, most_seconds: float, seed: int) -> dict[str, Any]:
    """Pre-train under torchrun while ranks are killed at random; return what it took."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--max-restarts", str(kills)]
    asked = ["--out", str(out), "--steps", str(steps), "--save-every", "50", *SIZE]
    rng, killed, begun = random.Random(seed), 0, time.monotonic()
    with (out.parent / f"{out.name}.log").open("wb") as said:
        command = [sys.executable, *launcher, "-m", "gpt1", "pretrain", str(data), *asked]
        agent = subprocess.Popen(command, stdout=said, stderr=said)
    while killed < kills:
        ranks = await_ranks(agent)
        time.sleep(rng.uniform(0.0, most_seconds))
        if agent.poll() is not None:
            break
        if not set(ranks) <= set(children(agent.pid)):
            continue  # they have just finished
        os.kill(rng.choice(ranks), signal.SIGKILL)
        killed += 1
        print(f"{killed} of {kills} killed after {time.monotonic() - begun:.0f} s", file=sys.stderr)
        await_end(agent, ranks)
    code, seconds = agent.wait(), time.monotonic() - begun
    updates = [row for row in log.read(out) if "tokens" in row]
    useful = sum(row["seconds"] for row in updates)
    return {
        "exit_code": code,
        "kills": killed,
        "updates": len(updates),
        "seconds": seconds,
        "seconds_an_update": statistics.median(row["seconds"] for row in updates),
        "useful_seconds": useful,
        "model": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
    }


def await_ranks(agent: subprocess.Popen[bytes]) -> list[int]:
    """Return the process ids of all ranks, once torchrun has started them; those there are, if it has ended."""
    while len(found := children(agent.pid)) < RANKS and agent.poll() is None:
        time.sleep(0.05)
    return found


def await_end(agent: subprocess.Popen[bytes], ranks: list[int]) -> None:
    """Wait until torchrun has ended all of these processes."""
    while set(children(agent.pid)) & set(ranks) and agent.poll() is None:
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    place = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in place.read_text().split()] if place.exists() else []


def windows_read(ranks: int, epochs: int = 2, seed: int = 1) -> dict[str, Any]:
    """Return what so many ranks read of a stream in which every token is another one, over whole epochs."""
    stream = Ids(np.arange(TOKENS))
    parts = [Windows(stream, CONTEXT, BATCH, 8, seed, slice(rank, None, ranks)) for rank in range(ranks)]
    count = epochs * parts[0].per_epoch
    order, seen = hashlib.sha256(), np.zeros(TOKENS, np.int64)
    for step in range(-(-count // BATCH)):
        found = [[row for batch in part(step) for row in batch.targets_NKT[:, 0].numpy()] for part in parts]
        # Rank r has the windows r, r + n ... of the batch; the last batch may reach into another epoch.
        for number in range(min(BATCH, count - step * BATCH)):
            targets = found[number % ranks][number // ranks]
            order.update(targets.tobytes())
            seen[targets[targets >= 0]] += 1
    return summary(ranks, order, seen, epochs)


def rows_read(ranks: int, epochs: int = 2, seed: int = 1) -> dict[str, Any]:
    """Return the same of the rows of a fine-tuning, whose epochs end with a batch of fewer rows."""
    lengths = np.random.default_rng(0).integers(3, 60, ROWS)
    rows = [Example([[number] * length]) for number, length in enumerate(lengths.tolist())]
    parts = [Epochs(rows, BATCH, 8, 0, seed, slice(rank, None, ranks)) for rank in range(ranks)]
    order, seen = hashlib.sha256(), np.zeros(ROWS, np.int64)
    for step in range(epochs * parts[0].per_epoch):
        found = [[int(row[0]) for batch in part(step) for row in batch.tokens_NKT[:, 0]] for part in parts]
        for number in range(sum(map(len, found))):
            row = found[number % ranks][number // ranks]
            order.update(row.to_bytes(8, "little"))
            seen[row] += 1
    return summary(ranks, order, seen, epochs)


def summary(ranks: int, order: Any, seen: np.ndarray, epochs: int) -> dict[str, Any]:
    lost, more = int((seen < epochs).sum()), int((seen > epochs).sum())
    return {"ranks": ranks, "order": order.hexdigest(), "seen": int(seen.sum()), "lost": lost, "too_often": more}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seconds", type=float, default=30.0, help="longest time from a start to a kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the result, and record nothing")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "windows": [windows_read(ranks) for ranks in (1, 2, 4, 8)],
        "rows": [rows_read(ranks) for ranks in (1, 2, 4, 8)],
    }
    print(json.dumps(result, indent=2), file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "topics.txt").write_text("\n".join(topics()[:40]), encoding="utf-8")
        data = folder / "data"
        prepare(Prepare(inputs=[str(folder / "topics.txt")], out=str(data), vocabulary=500, val_fraction=0.05))
        for kind, kills in (("undisturbed", 0), ("killed", options.kills)):
            result[kind] = train(data, folder / kind, options.steps, kills, options.seconds, options.seed)
            print(kind, result[kind], file=sys.stderr)
            if result[kind]["exit_code"]:
                print((folder / f"{kind}.log").read_text()[-3000:], file=sys.stderr)
    killed, undisturbed = result["killed"], result["undisturbed"]
    result["same_model"] = killed["model"] == undisturbed["model"]
    # Not the difference of the two durations, since the machine may be busier during one of them.
    idle, usual = (one["seconds"] - one["useful_seconds"] for one in (killed, undisturbed))
    result["seconds_a_kill"] = (idle - usual) / max(1, killed["kills"])
    result["useful_share"] = killed["useful_seconds"] / killed["seconds"]
    print(json.dumps(result))
    if not options.json:
        words = f"--kills {options.kills} --steps {options.steps} --seconds {options.seconds:g} --seed {options.seed}"
        record("scale", f"python benchmarks/scale.py {words}", result)


if __name__ == "__main__":
    main()
