"""What `gpt1 plan` promises against what `gpt1 pretrain` then takes: seconds an update, seconds of the run, memory.

`python benchmarks/plan.py DATA` (a folder made by `gpt1 prepare`) prints the figures and writes
benchmarks/results/plan.json. Each command runs in a process of its own, one after the other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import record

SETTINGS = {
    "tiny": "--preset tiny --steps 100",
    "small": "--preset small --steps 20",
    "small, two micro-batches": "--preset small --micro-batch 8 --steps 20",
    "gpt1, batch 4": "--preset gpt1 --batch 4 --micro-batch 4 --steps 4",
    "gpt1, four micro-batches": "--preset gpt1 --batch 16 --micro-batch 4 --steps 3",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="folder made by `gpt1 prepare`")
    parser.add_argument("--only", choices=SETTINGS, help="measure this one and write nothing")
    asked = parser.parse_args()
    names = [asked.only] if asked.only else list(SETTINGS)
    result = {name: compared(asked.data, SETTINGS[name].split()) for name in names}
    print(json.dumps(result, indent=2))
    if not asked.only:
        record("plan", "python benchmarks/plan.py DATA", result)


def compared(data: str, settings: list[str]) -> dict[str, Any]:
    """Promised and real figures of one run, and by what share the promise is off."""
    planned = json.loads(run(["plan", data, *settings, "--json"])[0])
    with tempfile.TemporaryDirectory() as folder:
        out, held = run(["pretrain", data, "--out", folder, *settings, "--json"])
        rows = map(json.loads, (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        times = [row["seconds"] for row in rows if "seconds" in row]
    memory = planned["memory_bytes"] if planned["device"] == "cpu" else None
    promised = {
        "seconds_per_update": planned["seconds_per_update"],
        "seconds": 3600 * planned["hours"],
        "memory_bytes": memory,
    }
    real = {
        "seconds_per_update": statistics.median(times),
        "seconds": json.loads(out)["seconds"],
        "memory_bytes": held if memory else None,
    }
    off = {key: promised[key] / real[key] - 1 for key in real if real[key]}
    return {"settings": " ".join(settings), "promised": promised, "real": real, "off": off}


def run(words: list[str]) -> tuple[str, int]:
    """A command's standard output and the most memory it held, in bytes."""
    process = subprocess.Popen([sys.executable, "-m", "gpt1", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"gpt1 {' '.join(words)} failed")
    return out, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
