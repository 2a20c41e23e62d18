"""What preparing a corpus costs as it grows: time and memory of `gpt1 prepare`, tokenizer training included.

    python benchmarks/corpus.py FOLDER [--megabytes 1 10 100 1000] [--vocabulary 40300] [--spaceless 1 4 16]

Every row is one `gpt1 prepare --json` in a process of its own, its peak memory told by the system (Linux). The texts
of FOLDER are repeated up to the size asked; a repeated corpus has fewer distinct words than a real one of that size.
Spaceless texts are those of FOLDER without a blank, and base64 of random bytes. The result goes to results/corpus.json.
"""

import argparse
import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from record import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="text files")
    parser.add_argument("--megabytes", nargs="*", type=int, default=[1, 10, 100, 1000])
    parser.add_argument("--spaceless", nargs="*", type=int, default=[1, 4, 16])
    parser.add_argument("--vocabulary", type=int, default=40_300)
    asked = parser.parse_args()
    rows = []
    for size in asked.megabytes:
        # Little text gives too few merges for so large a vocabulary: there the corpus chooses.
        vocabulary = asked.vocabulary if size >= 60 else 0
        for kind in ("bytes", "gpt1") if size == max(asked.megabytes) else ("bytes",):
            rows.append(measured("novels", size, kind, vocabulary, pieces(asked.folder, size)))
    for size in asked.spaceless:
        without = (b"".join(piece.split()) for piece in pieces(asked.folder, 2 * size))
        rows.append(measured("novels without blanks", size, "bytes", 0, [b"".join(without)[: size * 1_000_000]]))
        rows.append(measured("base64", size, "bytes", 0, [base64_of_noise(size * 1_000_000)]))
    record("corpus", "python benchmarks/corpus.py FOLDER", {"rows": rows})


def measured(text: str, size: int, tokenizer: str, vocabulary: int, pieces: Iterable[bytes]) -> dict[str, Any]:
    """One preparation of a folder with a file for each piece; its figures are printed too."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "texts"
        inputs.mkdir()
        for number, piece in enumerate(pieces):
            (inputs / f"{number:06d}.txt").write_bytes(piece.decode(errors="ignore").encode())
        words = ["prepare", inputs, "--out", Path(folder) / "data", "--json", "--tokenizer", tokenizer]
        seconds, peak, result = run([*map(str, words), "--vocabulary", str(vocabulary)])
    row = {
        "text": text,
        "megabytes": size,
        "tokenizer": tokenizer,
        "vocabulary": result["vocabulary"],
        "seconds_training_tokenizer": result["seconds_training_tokenizer"],
        "seconds_encoding": result["seconds_encoding"],
        "encoding_megabytes_per_second": result["megabytes_per_second"],
        "seconds": seconds,
        "peak_megabytes": peak,
    }
    print(json.dumps(row), flush=True)
    return row


PROGRAM = """
import sys
from gpt1.cli.main import main
code = main()
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) * 1024 / 1e6, file=sys.stderr)
sys.exit(code)
"""
"""`gpt1`, which says at the end how many MB it held: what the system tells a parent may be the parent's own memory."""


def run(words: list[str]) -> tuple[float, float, dict[str, Any]]:
    """Wall seconds of `gpt1 WORDS`, the most memory it held in MB, and what it printed as JSON."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds, float(done.stderr.split()[-1]), json.loads(done.stdout)


def pieces(folder: Path, megabytes: int) -> Iterator[bytes]:
    """The text files of a folder, over and over, the last one cut, up to a size."""
    left = megabytes * 1_000_000
    for path in cycle(sorted(folder.glob("*.txt"))):
        text = path.read_bytes()[:left]
        left -= len(text)
        yield text
        if not left:
            return


def base64_of_noise(size: int) -> bytes:
    """`size` letters and digits in one line, no two long runs of them alike."""
    return base64.b64encode(random.Random(1).randbytes(size))[:size]


if __name__ == "__main__":
    main()
