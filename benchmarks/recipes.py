"""What a change of recipe or size is worth: validation loss after the same arithmetic.

    python benchmarks/recipes.py DATA [--preset tiny] [--updates 640] [--seeds 3] [--only decay-0.01,decay-0.1]
        [--work FOLDER]

DATA is a folder that `gpt1 prepare` wrote. `--updates` are those of the preset's own batch and size; a recipe with
another batch or size makes more or fewer, so that every one takes the same arithmetic. Results are added to
results/recipes.json under the data's fingerprint, preset and updates, and are not measured again. `--work` keeps the
runs, so that the same command continues one that was stopped.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpt1
from gpt1.config import DEFAULT_BATCH, PRESETS
from gpt1.data.shards import read_manifest
from gpt1.pretraining.budget import weights_in_products
from gpt1.tokenizer.tokenizer import Tokenizer
from record import RESULTS, record

# Changes to recipe `fast` with the weight decay that it had before these measurements.
DECAY = {"weight_decay": 0.01}
BASE = "decay-0.01"
SIZES = ((64, 3), (128, 2), (128, 3), (192, 4), (256, 5))
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {"recipe": "paper"},
    BASE: {"optim": DECAY},
    **{f"decay-{decay}": {"optim": {"weight_decay": decay}} for decay in (0.1, 0.2, 0.3, 0.5, 1.0)},
    "rate-half": {"optim": DECAY | {"lr": 5e-3, "matrix_lr": 5e-3}},
    "rate-double": {"optim": DECAY | {"lr": 2e-2, "matrix_lr": 2e-2}},
    "embeddings-rate-third": {"optim": DECAY | {"lr": 3e-3}},
    "embeddings-rate-triple": {"optim": DECAY | {"lr": 3e-2}},
    "cooldown-half": {"optim": DECAY | {"cooldown": 0.5}},
    "batch-half": {"optim": DECAY, "batch": 0.5},
    "decay-0.5-rate-half": {"optim": {"weight_decay": 0.5, "lr": 5e-3, "matrix_lr": 5e-3}},
    "decay-0.3-embeddings-rate-third": {"optim": {"weight_decay": 0.3, "lr": 3e-3}},
    "decay-0.3-batch-double": {"optim": {"weight_decay": 0.3}, "batch": 2},
    # Width and depth, with decay 0.2; then whether the best rate and batch are the same at every size.
    **{f"size-{width}x{depth}": {"size": (width, depth)} for width, depth in SIZES},
    **{
        f"size-{width}x{depth}-rate-{times:g}": {
            "size": (width, depth), "optim": {"lr": 1e-2 * times, "matrix_lr": 1e-2 * times},
        }
        for width, depth in SIZES for times in (0.25, 0.5, 2, 4)
    },
    **{
        f"size-{width}x{depth}-batch-{times:g}": {"size": (width, depth), "batch": times}
        for width, depth in SIZES for times in (0.25, 0.5, 2, 4)
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--updates", type=int, default=640)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(RECIPES))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--work", type=Path)
    asked = parser.parse_args()
    group = f"{read_manifest(Path(asked.data)).fingerprint[:12]} {asked.preset} {asked.updates}"

    def measure(name: str, seed: int) -> dict[str, float]:
        with nullcontext(asked.work) if asked.work else tempfile.TemporaryDirectory() as work:
            out = Path(work) / f"{asked.preset}-{asked.updates}-{name}-{seed}"
            return measured(asked, RECIPES[name], seed, out)

    print(table(fill("recipes", group, asked.only.split(","), asked.seeds, measure), BASE))


def fill(
    benchmark: str,
    group: str,
    names: Sequence[str],
    seeds: int,
    measure: Callable[[str, int], dict[str, float]],
    arguments: str = "DATA",
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure what results/BENCHMARK.json lacks of a group, keep each result at once, and return the whole group."""
    known = RESULTS / f"{benchmark}.json"
    result = json.loads(known.read_text(encoding="utf-8"))["result"] if known.exists() else {}
    found: dict[str, dict[str, dict[str, float]]] = result.setdefault(group, {})
    for seed in range(1, seeds + 1):
        for name in names:
            if str(seed) not in (scores := found.setdefault(name, {})):
                scores[str(seed)] = measure(name, seed)
                print(name, seed, scores[str(seed)], file=sys.stderr)
                record(benchmark, f"python benchmarks/{benchmark}.py {arguments}", result)
    return found


def measured(asked: argparse.Namespace, recipe: dict[str, Any], seed: int, out: Path) -> dict[str, float]:
    """Pre-train once and return validation bits per byte and seconds."""
    times, vocabulary = recipe.get("batch", 1), Tokenizer.load(Path(asked.data)).vocabulary
    model = replace(PRESETS[asked.preset], vocabulary=vocabulary)
    own = weights_in_products(model)
    if "size" in recipe:
        width, depth = recipe["size"]
        model = replace(model, width=width, depth=depth, heads=width // 64, inner=4 * width)
    ratio = own / weights_in_products(model)
    trained = gpt1.pretrain(
        asked.data, out=out, preset=asked.preset, recipe=recipe.get("recipe", "fast"), seed=seed, threads=asked.threads,
        compile="on", steps=round(asked.updates * ratio / times), eval_every=10**9, save_every=500, model=model,
        batch=round(DEFAULT_BATCH[asked.preset] * times), optim=recipe.get("optim", {}),
    )  # fmt: skip
    return {"bits_per_byte": trained.val_bits_per_byte, "seconds": trained.seconds, "updates": trained.steps}


def table(found: dict[str, dict[str, dict[str, float]]], base: str) -> str:
    """Format the mean of each recipe over its seeds, and its difference from `base` with the same seeds."""
    lines = [f"| recipe | seeds | bits per byte | against {base} |", "|---|---|---|---|"]
    scores = {name: {seed: each["bits_per_byte"] for seed, each in seeds.items()} for name, seeds in found.items()}
    for name, by_seed in sorted(scores.items(), key=lambda item: statistics.mean(item[1].values())):
        pairs = [value - scores[base][seed] for seed, value in by_seed.items() if seed in scores.get(base, {})]
        difference = f"{statistics.mean(pairs):+.4f} ± {statistics.pstdev(pairs):.4f}" if pairs else ""
        lines.append(f"| {name} | {len(by_seed)} | {statistics.mean(by_seed.values()):.4f} | {difference} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
