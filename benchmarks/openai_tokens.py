"""OpenAI's vocabulary, cut as in transformers (`hf`) and as in the release (`2018`): are the ids right, what differs?

    python benchmarks/openai_tokens.py [DATA] [--books 12] [--repeats 3]

DATA is a folder of real data with OpenAI's vocabulary in `gpt1-vocab`. Every line of every file below it is encoded by
our bulk path and by transformers' `OpenAIGPTTokenizer`, and the ids compared. The same lines are then encoded in the
other way, and by the `tokenizer.json` that stands for it in other tools. Speed is that of the bulk path over whole
books, both ways by turns, no word remembered; medians. The result goes to benchmarks/results/openai_tokens.json.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import tokenizers
from transformers import OpenAIGPTTokenizer

from gpt1.config import Words
from gpt1.tokenizer.bulk import encode_bulk
from gpt1.tokenizer.openai import KINDS, read_vocabulary, vocabulary_files
from gpt1.tokenizer.pretokenize import clear_cache_2018, words_2018
from gpt1.tokenizer.tokenizer import Tokenizer, replace_surrogates
from record import record

HERE = Path(__file__).resolve().parent
Ids = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--books", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    books = sorted((options.data / "books").glob("*.txt"))[: options.books]
    result = {"spacy": version("spacy"), "ftfy": version("ftfy")} | compare(options.data)
    result |= {"speed": speed(options.data, books, options.repeats)}
    record("openai_tokens", "python benchmarks/openai_tokens.py DATA", result)
    print(json.dumps(result, indent=2))


def compare(data: Path) -> dict[str, Any]:
    """Lines and tokens compared with transformers, and what the two ways make of each group of files."""
    theirs, plain = (transformers_own(data / "gpt1-vocab", split_special_tokens=plain) for plain in (False, True))
    ways = {words: read_vocabulary(data / "gpt1-vocab", words) for words in KINDS}
    alone = tokenizers.Tokenizer.from_str(ways["2018"].text)
    total: Counter[str] = Counter()
    groups: dict[str, Counter[str]] = {}
    for file in sorted(path for path in data.rglob("*") if path.is_file()):
        lines = file.read_bytes().decode("utf-8", "replace").split("\n")
        hf, as_2018 = (encoded(ways[words], lines) for words in KINDS)
        total += Counter(files=1, lines=len(lines), tokens=sum(map(len, hf)))
        total["lines_that_differ"] += differing(hf, plain(lines).input_ids)
        forged = [i for i, (a, b) in enumerate(zip(hf, theirs(lines).input_ids, strict=True)) if a != b]
        total["lines_that_differ_by_default"] += len(forged)
        total["of_these_with_<unk>_in_the_text"] += sum("<unk>" in lines[i] for i in forged)
        if (name := group(file.relative_to(data))) != "gpt1-vocab":
            found = groups.setdefault(name, Counter())
            found += Counter(lines=len(lines), words=sum(len(line.split()) for line in lines))
            found["differ"] += differing(hf, as_2018)
            near = alone.encode_batch_fast([replace_surrogates(line) for line in lines])
            found["near_differ"] += differing(as_2018, [one.ids for one in near])
            for words, ids in (("hf", hf), ("2018", as_2018)):
                found[f"{words}_tokens"] += sum(map(len, ids))
                found[f"{words}_unknown"] += sum(line.count(0) for line in ids)
    return {"transformers": dict(total), "groups": {name: shares(found) for name, found in groups.items()}}


def transformers_own(folder: Path, **settings: Any) -> OpenAIGPTTokenizer:
    files = vocabulary_files(folder)
    assert files, folder
    merges: Any = [tuple(line.split()) for line in files[1].read_text(encoding="utf-8").splitlines()[1:]]
    return OpenAIGPTTokenizer(json.loads(files[0].read_text(encoding="utf-8")), merges, **settings)


def encoded(tokenizer: Tokenizer, lines: list[str]) -> Ids:
    ids, offsets = encode_bulk(tokenizer, lines)
    return [ids[a:b].tolist() for a, b in pairwise(offsets)]


def differing(one: Ids, other: Ids) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def group(file: Path) -> str:
    """books, wikitext-2, gpt1-vocab, or what else it is."""
    name = file.parts[0]
    if name in ("books", "wikitext-2", "gpt1-vocab"):
        return name
    return "labelled sets" if len(file.parts) > 1 else "other"


def shares(found: Counter[str]) -> dict[str, float]:
    return {
        "lines": found["lines"],
        "lines_that_differ": found["differ"] / found["lines"],
        "lines_where_tokenizer_json_alone_differs_from_2018": found["near_differ"] / found["lines"],
        **{f"{words}_tokens_per_word": found[f"{words}_tokens"] / found["words"] for words in KINDS},
        **{f"{words}_unknown": found[f"{words}_unknown"] / found[f"{words}_tokens"] for words in KINDS},
    }


def speed(data: Path, books: list[Path], repeats: int) -> dict[str, Any]:
    """Megabytes (10^6 bytes of UTF-8) a second of the bulk path."""
    texts = [book.read_text(encoding="utf-8") for book in books]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    seconds: dict[Words, list[float]] = {words: [] for words in KINDS}
    words_2018("spaCy is imported")
    for _ in range(repeats):
        for words in KINDS:
            tokenizer = read_vocabulary(data / "gpt1-vocab", words)  # a new object, so that no word is remembered
            clear_cache_2018()
            started = time.perf_counter()
            encode_bulk(tokenizer, texts)
            seconds[words].append(time.perf_counter() - started)
    rates = {words: megabytes / statistics.median(each) for words, each in seconds.items()}
    return {"megabytes": megabytes, "megabytes_per_second": rates, "seconds": seconds}


if __name__ == "__main__":
    main()
