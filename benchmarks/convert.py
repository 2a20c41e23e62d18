"""Memory and time of `gpt1 convert`, from OpenAI's layout to a run folder and back, each in a process of its own.

    python benchmarks/convert.py VOCABULARY

VOCABULARY is a folder with OpenAI's `encoder_bpe_40000.json` and `vocab_40000.bpe`. The weights are random, of the
release's size: 116,534,784 numbers, 466 MB. The peak is all that the process holds, Python and PyTorch included,
also as a multiple of the weights. The result goes to benchmarks/results/convert.json.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.config import PRESETS
from gpt1.conversion.external import tensor_shapes
from gpt1.conversion.openai_release import MERGES, PARTS, SHAPES, VOCABULARY, release_shape
from gpt1.model.gpt import count_parameters
from record import record

CHILD = """
import json, sys, torch
from gpt1.cli.main import main
from gpt1.pretraining.memory import peak_memory
assert main(sys.argv[1:]) == 0
print(json.dumps(peak_memory(torch.device("cpu"))), file=sys.stderr)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vocabulary", type=Path, help="folder with OpenAI's vocabulary")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        release, run, back = (str(Path(folder) / name) for name in ("release", "run", "back"))
        write_random(Path(release), asked.vocabulary)
        result: dict[str, Any] = {
            "openai to run": measured(["convert", release, "--out", run]),
            "run to openai": measured(["convert", run, "--to", "openai", "--out", back]),
        }
        same = {name: (Path(release) / name).read_bytes() == (Path(back) / name).read_bytes() for name in PARTS}
        result["back as it was"] = all(same.values())
    record("convert", "python benchmarks/convert.py VOCABULARY", result)
    print(json.dumps(result, indent=2))


def write_random(folder: Path, vocabulary: Path) -> None:
    """A release with random weights, written as its authors might have: one array, cut in ten."""
    folder.mkdir()
    model, generator = PRESETS["gpt1"], np.random.default_rng(1)
    row = generator.standard_normal(count_parameters(model)[0], dtype=np.float32) * np.float32(0.02)
    start = 0
    for name, shape in tensor_shapes(model):
        if name.endswith(("ln_1.weight", "ln_2.weight")):
            row[start : start + math.prod(shape)] += 1
        start += math.prod(shape)
    for name, part in zip(PARTS, np.array_split(row, len(PARTS)), strict=True):
        np.save(folder / name, part)
    (folder / SHAPES).write_text(json.dumps([release_shape(name, shape) for name, shape in tensor_shapes(model)]))
    for name in (VOCABULARY, MERGES):
        shutil.copy(vocabulary / name, folder)


def measured(command: list[str]) -> dict[str, object]:
    """What `--json` says of a conversion, with the child's whole time and its peak beside."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, *command, "--json"], check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    weights, peak = 4 * said["parameters"], json.loads(done.stderr.splitlines()[-1])
    return {
        "whole_seconds": time.perf_counter() - start, "peak_bytes": peak, "weights_bytes": weights,
        "times_the_weights": peak / weights, **said,
    }  # fmt: skip


if __name__ == "__main__":
    main()
