"""Every task of the paper on real labels: one pre-trained model against the same network from scratch, and baselines.

    python benchmarks/tasks.py RUN DATA [--only sst2,rte] [--seeds 3] [--tokens 120000] [--lr 0]

DATA holds the folders sst2, cola, mrpc, rte, snli, stsb, copa and dream. Each set is fine-tuned with --seeds seeds from
RUN and from random weights; from scratch the first seed tries three learning rates and the others take the best. Of
larger training sets a fixed sample is used, of --tokens tokens, and a quarter as many validate. The best epoch is
chosen on validation rows, the test rows are read once a model. Beside them: the commonest answer, and TF-IDF with a
linear model on the same rows. Figures go to results/tasks.json as they come; a set that is there already, measured with
the same settings, is not measured again.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack
from scipy.stats import pearsonr, spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from gpt1.commands.evaluate import evaluate
from gpt1.commands.finetune import finetune
from gpt1.config import Evaluate, Finetune, Task
from gpt1.finetuning.examples import read_rows
from gpt1.finetuning.predictor import RowEncoder
from gpt1.run_folder.folder import load_run
from gpt1.tasks.metrics import classification_metrics
from gpt1.tasks.rows import LabelledRows, read_labelled_rows, split_train_valid
from record import RESULTS, record

PUBLISHED = {
    "sst2": {"accuracy": 91.3}, "cola": {"matthews": 45.4}, "mrpc": {"f1": 82.3}, "rte": {"accuracy": 56.0},
    "snli": {"accuracy": 89.9}, "stsb": {"pearson": 82.0},
}  # fmt: skip
"""Radford et al. 2018, tables 2 and 4: 117M parameters, BookCorpus, all of the training rows (SNLI 550,000)."""


@dataclass(frozen=True)
class Set:
    """A labelled set: files inside its folder, and what is reported."""

    task: Task
    train: str
    test: tuple[str, ...]
    metrics: tuple[str, ...]
    valid: str | None = None
    """without it rows of the training file validate, as many as `held`"""
    held: int = 0


SETS = {
    "sst2": Set("classification", "train.tsv", ("test.tsv",), ("accuracy",), "dev.tsv"),
    "cola": Set("classification", "train.tsv", ("dev_in_domain.tsv", "dev_out_of_domain.tsv"), ("matthews",)),
    "mrpc": Set("similarity", "train.tsv", ("test.tsv",), ("accuracy", "f1")),
    "rte": Set("entailment", "train.tsv", ("dev.tsv",), ("accuracy",)),
    "snli": Set("entailment", "dev.tsv", ("test.tsv",), ("accuracy",), held=1842),
    "stsb": Set("similarity", "train.tsv", ("test.tsv",), ("pearson", "spearman"), "dev.tsv"),
    "copa": Set("multiple-choice", "dev.tsv", ("test.tsv",), ("accuracy",)),
    "dream": Set("multiple-choice", "train.jsonl", ("test.jsonl",), ("accuracy",), "dev.jsonl"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=120_000)
    parser.add_argument("--lr", type=float, default=0.0, help="of fine-tuning the pre-trained model; 0: the usual one")
    parser.add_argument("--epochs", type=int, default=0)
    asked = parser.parse_args()
    known = RESULTS / "tasks.json"
    found = json.loads(known.read_text(encoding="utf-8"))["result"] if known.exists() else {}
    for name in asked.only.split(","):
        settings = {"tokens": asked.tokens, "seeds": asked.seeds, "lr": asked.lr, "epochs": asked.epochs}
        if found.get(name, {}).get("settings") == settings:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[name] = {"settings": settings} | measured(name, SETS[name], asked, Path(folder))
        print(name, json.dumps(found[name]), file=sys.stderr)
        record("tasks", "python benchmarks/tasks.py RUN DATA", found)


def measured(name: str, each: Set, asked: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Test scores of one set, by system, a value for each seed."""
    source = asked.data / name
    usual = Finetune(
        run=asked.run, train=str(source / each.train), valid=str(source / each.valid) if each.valid else None,
        out="", task=each.task, epochs=asked.epochs,
    )  # fmt: skip
    usual, rows = sampled(usual, each, asked, work)
    began = time.perf_counter()
    pretrained = [scores(replace(usual, lr=asked.lr, seed=seed), each, source, work) for seed in seeds(asked)]
    seconds = (time.perf_counter() - began) / asked.seeds
    first = scores(replace(usual, from_scratch=True, seed=1), each, source, work)
    others = [replace(usual, from_scratch=True, seed=seed, lr=first["lr"]) for seed in seeds(asked)[1:]]
    scratch = [first, *(scores(one, each, source, work) for one in others)]
    return {
        "train_rows": len(rows["train"]), "test_rows": pretrained[0]["n"], "seconds_a_model": seconds,
        "lr": pretrained[0]["lr"], "scratch_lr": first["lr"],
        **{system: over(runs, each.metrics) for system, runs in (("pretrained", pretrained), ("scratch", scratch))},
        "majority": {"accuracy": pretrained[0].get("majority")},
        "tfidf": LINEAR[each.task](rows["train"], rows["test"], each),
        "published": PUBLISHED.get(name),
    }  # fmt: skip


def seeds(asked: argparse.Namespace) -> range:
    return range(1, asked.seeds + 1)


def sampled(
    usual: Finetune, each: Set, asked: argparse.Namespace, work: Path
) -> tuple[Finetune, dict[str, LabelledRows]]:
    """Training and validation rows as files of their own, no more than asked for; the rows of the test too."""
    found = read_rows(usual)
    learnt, valid = found.train, found.valid
    if each.held:
        while len(valid) < each.held:
            learnt, more = split_train_valid(learnt, usual.seed)
            valid = joined([valid, more])
    learnt, valid = within(learnt, asked.tokens, usual), within(valid, asked.tokens // 4, usual)
    for role, rows in (("train", learnt), ("valid", valid)):
        kept = {int(where.rpartition(":")[2]) for where in rows.where}
        path = Path(rows.where[0].rpartition(":")[0])
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        header = [] if path.suffix == ".jsonl" else [lines[0]]
        chosen = [line for number, line in enumerate(lines, 1) if number in kept]
        (work / f"{role}{path.suffix}").write_text("".join(header + chosen), encoding="utf-8")
    suffix = Path(each.train).suffix
    settings = replace(usual, train=str(work / f"train{suffix}"), valid=str(work / f"valid{suffix}"))
    source, kind = Path(usual.train).parent, found.label_type.kind
    tests = [read_labelled_rows(str(source / file), found.columns, kind) for file in each.test]
    return settings, {"train": learnt, "test": joined(tests)}


def joined(parts: list[LabelledRows]) -> LabelledRows:
    """The rows of all, one after the other."""
    names = [f.name for f in fields(LabelledRows)]
    return LabelledRows(*(list(chain.from_iterable(getattr(part, name) for part in parts)) for name in names))


def within(rows: LabelledRows, tokens: int, settings: Finetune) -> LabelledRows:
    """A fixed sample of the rows that comes to so many tokens, as the model reads them; all, if they are fewer."""
    base = load_run(settings.run)
    encoder = RowEncoder(settings.task, base.tokenizer.with_task_tokens(), base.body.config.context)
    lengths = [sum(map(len, example.sequences)) for example in encoder.encode(rows.texts).examples]
    order = np.random.default_rng(1).permutation(len(lengths))
    count = int(np.searchsorted(np.cumsum(np.array(lengths)[order]), tokens, side="right"))
    return rows.select(sorted(order[:count].tolist()))


def scores(settings: Finetune, each: Set, source: Path, work: Path) -> dict[str, Any]:
    """Metrics on the test rows of a model that is trained, measured and thrown away."""
    tuned = finetune(replace(settings, out=str(work / "tuned"), fresh=True))
    tested = evaluate(Evaluate(run=str(work / "tuned"), files=[str(source / file) for file in each.test]))
    print(source.name, settings.seed, settings.from_scratch, {m: tested[m] for m in each.metrics}, file=sys.stderr)
    return dict(tested) | {"lr": tuned["lr"]}


def over(runs: list[dict[str, Any]], metrics: tuple[str, ...]) -> dict[str, Any]:
    """Mean, deviation and values over seeds."""
    each = {name: [run[name] for run in runs] for name in metrics}
    return {
        name: {
            "mean": statistics.mean(values), "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
            "values": values,
        }
        for name, values in each.items()
    }  # fmt: skip


def classes(train: LabelledRows, test: LabelledRows, each: Set) -> dict[str, float]:
    """Logistic regression over words and pairs of words; of two texts, those of each, and what they share."""
    features, model = Features(train), LogisticRegression(max_iter=2000, C=10)
    told = model.fit(features(train), train.labels).predict(features(test))
    found = classification_metrics(test.labels, list(told), sorted(set(train.labels)))
    return {name: found[name] for name in each.metrics}


def similarity(train: LabelledRows, test: LabelledRows, each: Set) -> dict[str, float]:
    """As classes; a score by ridge regression."""
    if isinstance(train.labels[0], str):
        return classes(train, test, each)
    features = Features(train)
    told = Ridge().fit(features(train), train.labels).predict(features(test))
    return {"pearson": float(pearsonr(told, test.labels)[0]), "spearman": float(spearmanr(told, test.labels)[0])}


def choices(train: LabelledRows, test: LabelledRows, each: Set) -> dict[str, float]:
    """Logistic regression over every answer with its context: is it the right one? The likeliest is chosen."""

    def pairs(rows: LabelledRows) -> LabelledRows:
        texts = [(context, answer) for context, *answers in rows.texts for answer in answers]
        right = [n == label for each, label in zip(rows.texts, rows.labels, strict=True) for n in range(len(each) - 1)]
        return LabelledRows(texts, right, [], [])

    asked = pairs(train)
    features, model = Features(asked), LogisticRegression(max_iter=2000)
    sure = iter(model.fit(features(asked), asked.labels).predict_proba(features(pairs(test)))[:, 1])
    told = [int(np.argmax([next(sure) for _ in texts[1:]])) for texts in test.texts]
    return {"accuracy": float(np.mean(np.array(told) == test.labels))}


class Features:
    """TF-IDF of each text of a row; of two texts also of the words they share, and their cosine."""

    def __init__(self, rows: LabelledRows) -> None:
        self.words = TfidfVectorizer(ngram_range=(1, 2)).fit(text for texts in rows.texts for text in texts)

    def __call__(self, rows: LabelledRows) -> csr_matrix:
        sides = [self.words.transform(texts) for texts in zip(*rows.texts, strict=True)]
        if len(sides) == 1:
            return sides[0]
        shared = sides[0].multiply(sides[1]).tocsr()
        return hstack([*sides, shared, csr_matrix(shared.sum(1))]).tocsr()


LINEAR: dict[Task, Callable[[LabelledRows, LabelledRows, Set], dict[str, float]]] = {
    "classification": classes, "entailment": classes, "similarity": similarity, "multiple-choice": choices,
}  # fmt: skip


if __name__ == "__main__":
    main()
