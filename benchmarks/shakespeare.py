"""Tiny Shakespeare in the time that nanoGPT's published CPU recipe takes, and in a quarter of it.

    python benchmarks/shakespeare.py TEXT [--nanogpt CHECKOUT] [--repeats 3]

The first 90 % of TEXT train, the last 10 % validate, as in nanoGPT. Ours is timed from the start of `gpt1 prepare` to
the end of `gpt1 pretrain`, process starts and the validation over the whole 10 % included. With a checkout of nanoGPT
its recipe is timed in the same run, from its prepare.py to the end of its train.py; its loss is the one it reports,
from 20 random batches. Without one, the time published for it stands in (82 s). Medians; ids of a run's settings and
every figure go to results/shakespeare.json.
"""

import argparse
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import record

PUBLISHED_SECONDS, PUBLISHED_NATS = 82.0, 1.8857
RECIPE = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
# Seconds of our budget kept for what `--minutes` does not count: starting and ending two processes.
START_UP = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {"nanogpt": [], "quarter": [], "whole": []}
    budget = PUBLISHED_SECONDS
    for _ in range(options.repeats):
        if options.nanogpt:
            runs["nanogpt"].append(nanogpt(options.nanogpt, options.text))
            budget = statistics.median(run["seconds"] for run in runs["nanogpt"])
        runs["quarter"].append(ours(options.text, budget / 4))
        runs["whole"].append(ours(options.text, budget))
        print(json.dumps({name: found[-1:] for name, found in runs.items()}), file=sys.stderr)
    result: dict[str, Any] = {name: medians(found) for name, found in runs.items() if found}
    result.setdefault("nanogpt", {"seconds": PUBLISHED_SECONDS, "bits_per_byte": PUBLISHED_NATS / math.log(2)})
    result["runs"] = runs
    record("shakespeare", "python benchmarks/shakespeare.py TEXT --nanogpt CHECKOUT", result)
    print(json.dumps(result, indent=2))


def ours(text: Path, budget: float) -> dict[str, float]:
    """Seconds and bits per byte of `gpt1 prepare` and `gpt1 pretrain` within a budget of seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = text.read_text(encoding="utf-8")
        cut = int(0.9 * len(whole))
        (folder / "train.txt").write_text(whole[:cut], encoding="utf-8")
        (folder / "val.txt").write_text(whole[cut:], encoding="utf-8")
        began = time.perf_counter()
        gpt1("prepare", "train.txt", "--val", "val.txt", "--out", "data", folder=folder)
        minutes = (budget - (time.perf_counter() - began) - START_UP) / 60
        found = gpt1("pretrain", "data", "--out", "run", "--minutes", f"{minutes:.4f}", folder=folder)
        return {
            "seconds": time.perf_counter() - began,
            "bits_per_byte": found["val_bits_per_byte"],
            "steps": found["steps"],
            "parameters": found["parameters"],
        }


def gpt1(*words: str, folder: Path) -> dict[str, Any]:
    """The JSON result of a command, run as a user would."""
    line = [sys.executable, "-m", "gpt1", *words, "--json"]
    done = subprocess.run(line, cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def nanogpt(checkout: Path, text: Path) -> dict[str, float]:
    """Seconds and bits per byte of nanoGPT's recipe. The text is ASCII: a character is a byte."""
    data = checkout / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    began = time.perf_counter()
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
    line = [sys.executable, "train.py", *RECIPE.split()]
    done = subprocess.run(line, cwd=checkout, check=True, capture_output=True, text=True)
    losses = re.findall(r"step \d+: train loss [\d.]+, val loss ([\d.]+)", done.stdout)
    return {"seconds": time.perf_counter() - began, "bits_per_byte": float(losses[-1]) / math.log(2)}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


if __name__ == "__main__":
    main()
