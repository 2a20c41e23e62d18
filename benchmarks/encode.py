"""How fast text becomes ids: the bulk path beside `tokenizers.encode_batch_fast`, on the same texts in the same run.

    python benchmarks/encode.py [FOLDER OF .txt FILES] [--repeats 5] [--chunk 16]

A `bytes` tokenizer of 16,000 tokens is trained on the texts, then both encode them by turns, in chunks as `prepare`
does; the bulk path starts each time without a word remembered. Ids are compared over the whole corpus. Times are
medians; the result goes to benchmarks/results/encode.json.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from gpt1.tokenizer.bulk import encode_bulk
from gpt1.tokenizer.clean import clean
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train
from record import record

HERE = Path(__file__).resolve().parent
VOCABULARY = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE.parents[1] / "shared" / "data" / "books")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chunk", type=float, default=16, help="million characters encoded at once")
    options = parser.parse_args()
    texts = [file.read_text(encoding="utf-8") for file in sorted(options.folder.glob("*.txt"))]
    result = measure(texts, options.repeats, int(options.chunk * 1e6))
    record("encode", "python benchmarks/encode.py FOLDER", result)
    print(json.dumps(result, indent=2))


def measure(texts: list[str], repeats: int, chunk: int) -> dict[str, Any]:
    """Every figure; a megabyte is 10^6 bytes of UTF-8."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    training, tokenizer = timed(lambda: train(texts, "bytes", VOCABULARY))
    repairing, _ = timed(lambda: [clean(text) for text in texts])
    chunks = list(chunked(texts, chunk))
    ours, warm, theirs = [], [], []
    peak, same = 0.0, True
    for _ in range(repeats):
        # A new object, so that no word is remembered.
        tokenizer = Tokenizer(json.loads(tokenizer.text))
        seconds, ids = timed(lambda: [encode_bulk(tokenizer, part)[0] for part in chunks])  # noqa: B023
        ours.append(seconds)
        warm.append(timed(lambda: [encode_bulk(tokenizer, part)[0] for part in chunks])[0])  # noqa: B023
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        seconds, other = library(tokenizer, chunks)
        theirs.append(seconds)
        same = same and all(np.array_equal(a, b) for a, b in zip(ids, other, strict=True))
    speeds = {
        name: megabytes / statistics.median(s) for name, s in (("bulk", ours), ("warm", warm), ("library", theirs))
    }
    return {
        "megabytes": megabytes,
        "tokens": sum(map(len, ids)),
        "vocabulary": tokenizer.vocabulary,
        "seconds_training": training,
        "seconds_repair": repairing,
        "bulk_megabytes_per_second": speeds["bulk"],
        "bulk_warm_megabytes_per_second": speeds["warm"],
        "encode_batch_fast_megabytes_per_second": speeds["library"],
        "ratio": speeds["bulk"] / speeds["library"],
        "seconds": {"bulk": ours, "bulk_warm": warm, "encode_batch_fast": theirs},
        "same_ids": same,
        "peak_rss_megabytes_before_encode_batch_fast": peak,
    }


def library(tokenizer: Tokenizer, chunks: list[list[str]]) -> tuple[float, list[np.ndarray]]:
    """Seconds that encode_batch_fast takes, and the ids; reading the ids out of its result is not timed."""
    whole = tokenizers.Tokenizer.from_str(tokenizer.text)
    total, ids = 0.0, []
    for part in chunks:
        seconds, encoded = timed(lambda: whole.encode_batch_fast(part, add_special_tokens=False))  # noqa: B023
        total += seconds
        ids.append(np.concatenate([np.asarray(encoding.ids, np.uint32) for encoding in encoded]))
    return total, ids


def chunked(texts: list[str], size: int) -> Iterator[list[str]]:
    """The texts in lists of about `size` characters."""
    part: list[str] = []
    for text in texts:
        part.append(text)
        if sum(map(len, part)) >= size:
            yield part
            part = []
    if part:
        yield part


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `work` takes, and what it returns."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
