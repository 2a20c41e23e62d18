"""The whole way on real text: novels -> a small GPT in ten minutes of CPU -> samples -> a sentiment classifier.

    python benchmarks/books.py BOOKS --wikitext test.txt --sst2 FOLDER [--minutes 10] [--work FOLDER]

BOOKS is a folder of .txt files, FOLDER holds SST-2's train.tsv, dev.tsv and test.tsv. The classifier is trained from
the pre-trained model and, with the same settings, from random weights; TF-IDF with logistic regression stands beside
them. Every figure and the samples go to results/books.json.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from record import record

PROMPTS = ("It was a dark night, and", '"I am very glad to see you," said', "The old house")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path)
    parser.add_argument("--wikitext", type=Path, required=True)
    parser.add_argument("--sst2", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--work", type=Path, help="where to leave data and runs; a temporary folder if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, options.work or Path(folder))
    record(
        "books", f"python benchmarks/books.py BOOKS --wikitext FILE --sst2 FOLDER --minutes {options.minutes:g}", result
    )
    print(json.dumps(result, indent=2, ensure_ascii=False))


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Every figure, from raw text to test accuracy."""
    data, run = str(work / "data"), str(work / "run")
    minutes = ("--preset", "small", "--minutes", str(options.minutes))
    texts = [str(path) for path in sorted(options.books.glob("*.txt"))]
    found: dict[str, Any] = {"prepare": gpt1("prepare", *texts, "--out", data)}
    found["pretrain"] = gpt1("pretrain", data, "--out", run, *minutes)
    found["wikitext"] = gpt1("evaluate", run, str(options.wikitext))
    samples = gpt1("generate", run, *PROMPTS, "--max-new-tokens", "80")["samples"]
    found["samples"] = [sample["prompt"] + sample["text"] for sample in samples]
    rows = {name: str(options.sst2 / f"{name}.tsv") for name in ("train", "dev", "test")}
    for name, more in (("pretrained", ()), ("from_scratch", ("--from-scratch",))):
        out = str(work / name)
        tuned = gpt1("finetune", run, "--train", rows["train"], "--valid", rows["dev"], "--out", out, *more)
        tested = gpt1("evaluate", out, rows["test"])
        found[f"sst2_{name}"] = {"accuracy": tested["accuracy"], "seconds": tuned["seconds"]}
    found["sst2_tfidf"] = {"accuracy": tfidf(rows)}
    return found


def gpt1(*words: str) -> dict[str, Any]:
    """The JSON result of a command, run as a user would."""
    print("gpt1", *words[:4], "...", file=sys.stderr)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "gpt1", *words, "--json"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"wall_seconds": time.perf_counter() - began}


def tfidf(rows: dict[str, str]) -> float:
    """Test accuracy of TF-IDF over words and pairs of words with logistic regression."""
    (train_texts, train_labels), (test_texts, test_labels) = (read(rows[name]) for name in ("train", "test"))
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    return float(model.fit(train_texts, train_labels).score(test_texts, test_labels))


def read(path: str) -> tuple[list[str], list[str]]:
    """Sentences and labels of one of SST-2's files."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"] for row in found], [row["label"] for row in found]


if __name__ == "__main__":
    main()
