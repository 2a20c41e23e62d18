"""`gpt1 prepare` on a folder of texts: megabytes a second of the encoding pass, and the most memory it held.

`python benchmarks/prepare.py ../shared/data/books` prints the figures and writes benchmarks/results/prepare.json.
The ids of the shards are compared with those of `Tokenizer.encode`, document by document.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path

import numpy as np

from gpt1.commands.prepare import prepare
from gpt1.config import Prepare
from gpt1.data.shards import TokenStream, read_manifest
from gpt1.tokenizer.clean import clean
from gpt1.tokenizer.tokenizer import Tokenizer
from record import record


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("inputs", nargs="+", help="text files and folders")
    parser.add_argument("--tokenizer", default="bytes")
    parser.add_argument("--vocabulary", type=int, default=16_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = prepare(
            Prepare(inputs=asked.inputs, out=folder, tokenizer=asked.tokenizer, vocabulary=asked.vocabulary)
        )
        result = found.to_json()
        result["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        result["ids_as_by_encode"] = same_ids(Path(folder))
    del result["out"], result["unchanged"]
    record("prepare", "python benchmarks/prepare.py FOLDER", result)
    print(json.dumps(result, indent=2))


def same_ids(data: Path) -> bool:
    """Whether the splits are made of what repairing and encoding each text file by itself gives."""
    tokenizer, streams, done = Tokenizer.load(data), [TokenStream(data, "train"), TokenStream(data, "val")], [0, 0]
    for entry in read_manifest(data).inputs:
        text = Path(entry["path"]).read_bytes().decode()
        ids = np.array([*tokenizer.encode(clean(text)), tokenizer.end_id])
        for side, stream in enumerate(streams):
            stop = done[side] + len(ids)
            if stop <= len(stream) and np.array_equal(stream.read(done[side], stop), ids):
                done[side] = stop
                break
        else:
            return False
    return done == [len(stream) for stream in streams]


if __name__ == "__main__":
    main()
