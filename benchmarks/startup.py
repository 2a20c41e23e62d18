"""How long a command takes from its first to its last moment, the process's start and PyTorch's import included.

    python benchmarks/startup.py TEXT [--repeats 7]

`gpt1 --help`, and one token out of a `small` run that was pre-trained on TEXT for ten updates; beside them Python alone
and `import torch`, which no model can do without. Medians; the result goes to benchmarks/results/startup.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="a text file")
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    gpt1 = [sys.executable, "-m", "gpt1"]
    with tempfile.TemporaryDirectory() as folder:
        data, run = str(Path(folder) / "data"), str(Path(folder) / "run")
        seconds([*gpt1, "prepare", asked.text, "--out", data])
        seconds([*gpt1, "pretrain", data, "--out", run, "--preset", "small", "--steps", "10"])
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import torch": [sys.executable, "-c", "import torch"],
            "gpt1 --help": [*gpt1, "--help"],
            "gpt1 generate RUN hello --max-new-tokens 1": [*gpt1, "generate", run, "hello", "--max-new-tokens", "1"],
        }
        # By turns, so that a slow moment of the machine falls on all alike.
        rounds = [{name: seconds(command) for name, command in commands.items()} for _ in range(asked.repeats)]
    result = {name: statistics.median(times[name] for times in rounds) for name in commands}
    record("startup", "python benchmarks/startup.py TEXT", {"median_seconds": result, "repeats": asked.repeats})
    print(json.dumps(result, indent=2))


def seconds(command: list[str]) -> float:
    """Wall time of a command, which must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
