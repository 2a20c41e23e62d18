"""Training on a machine that is not idle: two runs at once, one beside a busy loop, one under a CPU limit.

    python benchmarks/sharing.py TEXT [--steps 200] [--rounds 3]

`gpt1 pretrain --preset tiny` as a whole process, as it comes and with the spinning that libgomp and OpenMP users may
choose instead: a thread that waits for others spins before it sleeps, and while it spins, nobody else has its core.
Each variant runs in turn. The CPU limit (one core, as a container would set it) needs a cgroup
that this user may create; without one it is left out. The result goes to benchmarks/results/sharing.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from record import record

VARIANTS = {
    "as it comes": {},
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
GROUP_V1, GROUP_V2 = Path("/sys/fs/cgroup/cpu/gpt1-benchmark"), Path("/sys/fs/cgroup/gpt1-benchmark")
PERIOD = 100_000  # microseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="a text file")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        subprocess.run([*GPT1, "prepare", asked.text, "--out", str(data)], check=True, capture_output=True)
        for _ in range(asked.rounds):
            for variant, extra in VARIANTS.items():
                env = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))} | extra
                found = times.setdefault(variant, {})
                for case, seconds in measured(data, asked.steps, env):
                    found.setdefault(case, []).append(seconds)
    medians = {variant: {c: statistics.median(s) for c, s in cases.items()} for variant, cases in times.items()}
    alone = medians["libgomp's default"]["alone"]
    ratios = {variant: {case: s / alone for case, s in cases.items()} for variant, cases in medians.items()}
    result = {"seconds": medians, "ratio_to_libgomp_alone": ratios, "steps": asked.steps, "rounds": asked.rounds}
    record("sharing", "python benchmarks/sharing.py TEXT", result)
    print(json.dumps(result, indent=2))


GPT1 = [sys.executable, "-m", "gpt1"]


def measured(data: Path, steps: int, env: dict[str, str]) -> Iterator[tuple[str, float]]:
    """Seconds of one run in each case; of two at once, those of the slower one."""
    yield "alone", finished([start(data, steps, env)])
    yield "two at once", finished([start(data, steps, env), start(data, steps, env)])
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield "beside a busy loop", finished([start(data, steps, env)])
    finally:
        busy.kill()
        busy.wait()
    with cpu_limit() as group:
        if group:
            yield "limited to one core", finished([start(data, steps, env, group)])


def start(
    data: Path, steps: int, env: dict[str, str], group: Path | None = None
) -> tuple[float, subprocess.Popen[bytes]]:
    folder = tempfile.mkdtemp(dir=data.parent)
    line = [*GPT1, "pretrain", str(data), "--out", folder + "/run", "--preset", "tiny", "--steps", str(steps)]
    join = None if group is None else lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    began = time.perf_counter()
    return began, subprocess.Popen(
        [*line, "--compile", "off"], env=env, preexec_fn=join, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def finished(runs: list[tuple[float, subprocess.Popen[bytes]]]) -> float:
    """Wait for all; the longest time."""
    seconds = []
    for began, process in runs:
        assert process.wait() == 0
        seconds.append(time.perf_counter() - began)
    return max(seconds)


@contextmanager
def cpu_limit() -> Iterator[Path | None]:
    """A cgroup that may use one core, or None where this user may not make one."""
    group = GROUP_V1 if GROUP_V1.parent.is_dir() else GROUP_V2
    try:
        group.mkdir()
        if group == GROUP_V1:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(PERIOD))
        else:
            (group / "cpu.max").write_text(f"{PERIOD} {PERIOD}")
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


if __name__ == "__main__":
    main()
