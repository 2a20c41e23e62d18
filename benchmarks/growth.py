"""How cost grows with the network and the text: training by context, width, depth and vocabulary, decoding by length.

    python benchmarks/growth.py [--updates 5]

The preset `small` is varied along one axis at a time, trained by both recipes on 2,048 random tokens an update, in a
process of its own, nothing compiled; then a network of the paper's size continues texts of 16 to 512 tokens. Seconds
are medians and stand beside the arithmetic that the mathematics asks for, so a cost that grows faster than it must
shows as a falling rate (GFLOP a second). The result goes to benchmarks/results/growth.json.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import torch

from gpt1.batch import Batch
from gpt1.config import PRESETS, RECIPES, Command, Model
from gpt1.model.gpt import GPT, weights_in_products
from gpt1.model.kv_cache import Decoder
from gpt1.model.objectives import LanguageModel
from gpt1.model.packed import pack
from gpt1.model.sampling import Sampling
from gpt1.training.device import prepare_for_training, setup_device
from gpt1.training.loop import train
from gpt1.training.optimizer import Optimizer
from record import record

BASE = replace(PRESETS["small"], vocabulary=8_192)
AXES = {
    "context": (128, 256, 512, 1024),
    "width": (192, 384, 768),
    "depth": (3, 6, 12),
    "vocabulary": (8_192, 16_384, 40_478),
}
RECIPE_NAMES = ("paper", "fast")
TOKENS = 2_048  # in an update
WARM_UP = 2  # updates
HEAD = 64  # width of an attention head
LENGTHS = (16, 32, 64, 128, 256, 512)
NEW = 16  # tokens whose times are taken before a text reaches its length
NEWTON_SCHULZ = 5  # iterations of Muon's orthogonalisation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        recipe, *shape = json.loads(asked.measure)
        print(json.dumps(training(Model(**shape[0]), recipe, asked.updates)))
        return
    measured: dict[tuple[str, Model], dict[str, Any]] = {}
    rows = []
    for recipe in RECIPE_NAMES:
        for axis, values in AXES.items():
            for value in values:
                shape = varied(axis, value)
                if (recipe, shape) not in measured:
                    measured[recipe, shape] = child(recipe, shape, asked.updates)
                rows.append({"recipe": recipe, "axis": axis, "value": value, **measured[recipe, shape]})
                print(json.dumps(rows[-1]), flush=True)
    decoding = [decoded(length) for length in LENGTHS]
    print(json.dumps(decoding, indent=2))
    about = {"tokens_an_update": TOKENS, "updates": asked.updates}
    record("growth", "python benchmarks/growth.py", about | {"training": rows, "decoding": decoding})


def varied(axis: str, value: int) -> Model:
    """Return `small` with one dimension changed; heads and inner width keep their proportion to the width."""
    shape = replace(BASE, **{axis: value})
    return replace(shape, heads=shape.width // HEAD, inner=4 * shape.width)


def child(recipe: str, shape: Model, updates: int) -> dict[str, Any]:
    """Run `training` in a process of its own."""
    line = [sys.executable, __file__, "--updates", str(updates), "--measure", json.dumps([recipe, asdict(shape)])]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def training(shape: Model, recipe: str, updates: int) -> dict[str, float]:
    """Measure time, memory and arithmetic of updates on random ids."""
    device, dtype = setup_device(Command(device="cpu"))
    model = LanguageModel(GPT(shape).init_weights())
    optimizer = Optimizer(model, RECIPES[recipe], WARM_UP + updates)  # type: ignore[index]
    prepare_for_training(model, device, compile=False)
    model = model.to(dtype)

    def batches(_step: int) -> list[Batch]:
        ids_NT = torch.randint(0, shape.vocabulary, (TOKENS // shape.context, shape.context + 1))
        return [Batch(tokens_NKT=ids_NT[:, None, :-1], targets_NKT=ids_NT[:, None, 1:])]

    reports = train(model, batches, optimizer, weights={"lm": 1.0}, steps=WARM_UP + updates, device=device)
    seconds = statistics.median(report.seconds for report in islice(reports, WARM_UP, None))
    work = update_flops(shape, recipe)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "seconds_per_1000_tokens": seconds / TOKENS * 1000,
        "gflop_per_1000_tokens": work / TOKENS * 1000 / 1e9,
        "gflop_per_second": work / seconds / 1e9,
        "peak_megabytes": peak_megabytes(),
    }


def update_flops(shape: Model, recipe: str) -> float:
    """Count the additions and multiplications of an update: three products a matrix, causal attention, Muon's own."""
    attention = shape.depth * shape.context * shape.width  # half of the square, for each of scores and values
    work = 6.0 * TOKENS * (weights_in_products(shape) + attention)
    return work + muon_flops(shape) if recipe == "fast" else work


def muon_flops(shape: Model) -> float:
    """Count those of an update's orthogonalisation: X X', its square, and their product with X.

    Each is for the smaller side of a matrix: of four squares in a block, and of two matrices between the widths.
    """
    sides = 4 * [(shape.width, shape.width)] + 2 * [(shape.width, shape.inner)]
    work = sum(4.0 * small**2 * large + 2.0 * small**3 for small, large in map(sorted, sides))
    return NEWTON_SCHULZ * shape.depth * work


def decoded(length: int) -> dict[str, float]:
    """Measure seconds a token, with a network of the paper's size, for the last `NEW` before a text has `length`."""
    device, dtype = setup_device(Command(device="cpu"))
    body = pack(GPT(PRESETS["gpt1"]).init_weights().eval().to(device, dtype))
    prompt = random.Random(length).choices(range(1000), k=max(1, length - NEW))
    times, rounds = [], 3
    for _ in range(rounds):
        decoder = Decoder(body)
        decoder.join([prompt], [Sampling(temperature=0)], [random.Random(1)], [NEW + 1])
        for _ in range(NEW):
            began = time.perf_counter()
            decoder.step()
            times.append(time.perf_counter() - began)
    return {"length": length, "seconds_per_token": statistics.median(times)}


def peak_megabytes() -> float:
    """Return the peak memory of this process (Linux)."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        kilobytes = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


if __name__ == "__main__":
    main()
