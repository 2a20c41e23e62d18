"""`gpt1 prepare` with and without Ray, on clusters of some nodes: the same bytes, the time, the memory.

    python benchmarks/engines.py FOLDER [--runs 200:0 200:1 200:2 200:4 1000:0 1000:2]

A run is a size in MB and a number of nodes; 0 is `--engine local`. The texts of FOLDER are repeated up to the size,
each with a number before it, so that no two documents are the same. Every node is a Ray node process with one CPU, all
on this machine: they share its cores, so this measures what Ray costs, not what machines gain. Memory is the largest
sum of what all processes hold (PSS, so shared memory counts once), looked at twice a second (Linux); CPU seconds are
those of all processes, Ray's own included, which other programs on the machine affect less. The result goes to
results/engines.json.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

from record import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="text files")
    runs = ["200:0", "200:1", "200:2", "200:4", "1000:0", "1000:2"]
    parser.add_argument("--runs", nargs="*", default=runs, help="MEGABYTES:NODES, of a size the one with 0 nodes first")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    expected: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for megabytes, nodes in (tuple(map(int, run.split(":"))) for run in asked.runs):
            texts, out = Path(folder) / f"{megabytes}", Path(folder) / "data"
            if not texts.exists():
                write_texts(asked.folder, texts, megabytes)
            row = {"megabytes": megabytes, "nodes": nodes} | measured(texts, out, nodes)
            digest = digest_of(out)
            row["same_bytes"] = digest == expected.setdefault(megabytes, digest)
            shutil.rmtree(out)
            print(json.dumps(row), flush=True)
            rows.append(row)
    record("engines", "python benchmarks/engines.py FOLDER", {"load": os.getloadavg()[2], "rows": rows})


def write_texts(source: Path, folder: Path, megabytes: int) -> None:
    """The text files of `source`, over and over, the last one cut, each after its number."""
    folder.mkdir()
    left = megabytes * 1_000_000
    texts = cycle([path.read_bytes() for path in sorted(source.glob("*.txt"))])
    for number in count():
        text = f"{number}\n".encode() + next(texts)
        (folder / f"{number:06d}.txt").write_bytes(text[:left].decode(errors="ignore").encode())
        left -= len(text)
        if left <= 0:
            return


def measured(texts: Path, out: Path, nodes: int) -> dict[str, Any]:
    """Seconds and memory of one preparation; those of starting the cluster are not counted."""
    words = [sys.executable, "-m", "gpt1", "prepare", str(texts), "--out", str(out), "--threads", "1", "--json"]
    with cluster(nodes) as environment:
        start = time.perf_counter()
        job = subprocess.Popen(
            [*words, "--engine", "ray" if nodes else "local"], env=os.environ | environment, stdout=subprocess.PIPE
        )
        used = Usage()
        watch = threading.Thread(target=used.watch, args=(job,))
        watch.start()
        result = json.loads(job.communicate()[0])
        seconds = time.perf_counter() - start
        watch.join()
    parts = ("seconds_training_tokenizer", "seconds_encoding", "tokens")
    found = {"seconds": seconds, "cpu_seconds": used.cpu_seconds, "peak_megabytes": used.peak_megabytes}
    return found | {name: result[name] for name in parts}


@contextmanager
def cluster(nodes: int) -> Iterator[dict[str, str]]:
    """Start a head without CPUs and nodes of one CPU; yields the environment of who uses them."""
    if not nodes:
        yield {}
        return
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1)
        yield {"RAY_ADDRESS": made.address}
    finally:
        made.shutdown()


class Usage:
    """What all processes below this one use while a job runs."""

    peak_megabytes = 0.0
    cpu_seconds = 0.0

    def watch(self, job: subprocess.Popen[bytes]) -> None:
        before = {process: cpu_seconds(process) for process in descendants(os.getpid()) if process != job.pid}
        latest: dict[int, float] = {}
        while job.poll() is None:
            processes = descendants(os.getpid())
            self.peak_megabytes = max(self.peak_megabytes, sum(map(proportional_megabytes, processes)))
            latest |= {process: cpu_seconds(process) for process in processes}
            time.sleep(0.5)
        self.cpu_seconds = sum(seconds - before.get(process, 0.0) for process, seconds in latest.items())


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and those that these have started."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        parents.setdefault(parent, []).append(int(path.parent.name))
    found, new = [], [process]
    while new:
        new = [child for one in new for child in parents.get(one, [])]
        found += new
    return found


def cpu_seconds(process: int) -> float:
    """The CPU time of a process so far."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def proportional_megabytes(process: int) -> float:
    """What a process holds, of what it shares its part (PSS)."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 0.0)


def digest_of(out: Path) -> str:
    """One sha256 of a result, but for how long it took and where things lay."""
    found: dict[str, Any] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}
    manifest = json.loads((out / "manifest.json").read_text())
    found["manifest.json"] = {k: v for k, v in manifest.items() if k not in ("seconds", "settings", "inputs")}
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


if __name__ == "__main__":
    main()
