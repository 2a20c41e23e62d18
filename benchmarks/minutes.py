"""What a number of minutes is worth: validation loss of today's defaults, of those before them, and of the paper's.

    python benchmarks/minutes.py DATA [--only now-25,before-60] [--seeds 1] [--threads 1]

DATA is a folder that `gpt1 prepare` wrote. `now` is `gpt1 pretrain DATA --minutes N` alone, which chooses the size of
the network too. `before` is `small` with recipe `fast` and the weight decay 0.01 that the recipe had, `paper` is
`small` with recipe `paper`. There are no validations on the way, so that all of the minutes train. Results are added to
results/minutes.json under the data's fingerprint and the number of threads, and are not measured again.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import gpt1
from gpt1.data.shards import read_manifest
from recipes import DECAY, fill

DEFAULTS: dict[str, dict[str, Any]] = {
    "now": {},
    "before": {"preset": "small", "recipe": "fast", "optim": DECAY},
    "paper": {"preset": "small", "recipe": "paper"},
}
MINUTES = (10, 25, 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default=",".join(f"{name}-{minutes}" for minutes in MINUTES for name in DEFAULTS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    group = f"{read_manifest(asked.data).fingerprint[:12]} {asked.threads} threads"

    def measure(name: str, seed: int) -> dict[str, float]:
        settings, _, minutes = name.partition("-")
        return measured(asked, DEFAULTS[settings], float(minutes), seed)

    found = fill("minutes", group, asked.only.split(","), asked.seeds, measure)
    print("| | minutes | bits per byte | updates | parameters |\n|---|---|---|---|---|")
    for name, by_seed in found.items():
        settings, _, minutes = name.partition("-")
        for one in by_seed.values():
            figures = f"{one['bits_per_byte']:.3f} | {one['updates']:,} | {one['parameters']:,}"
            print(f"| {settings} | {minutes} | {figures} |")


def measured(asked: argparse.Namespace, settings: dict[str, Any], minutes: float, seed: int) -> dict[str, float]:
    """Pre-train for some minutes and return validation bits per byte, seconds, updates and parameters."""
    with TemporaryDirectory() as work:
        trained = gpt1.pretrain(
            str(asked.data), out=Path(work) / "run", minutes=minutes, seed=seed, threads=asked.threads,
            eval_every=10**9, **settings,
        )  # fmt: skip
    return {
        "bits_per_byte": trained.val_bits_per_byte, "seconds": trained.seconds, "updates": trained.steps,
        "parameters": trained.parameters,
    }  # fmt: skip


if __name__ == "__main__":
    main()
