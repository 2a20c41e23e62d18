"""What `test_commands_together.py` runs in several processes: the commands that share their work, one after another."""

import io
import json
import os
import random
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt1.cli.main import main as command_line
from gpt1.commands import predict as predicting
from gpt1.commands.ablate import ablate
from gpt1.commands.evaluate import evaluate
from gpt1.commands.finetune import finetune
from gpt1.commands.predict import predict
from gpt1.config import Ablate, Evaluate, Finetune, Predict
from gpt1.finetuning import epochs

SUBJECTS = ("the hare", "my old dog", "a green bird", "one grey cat", "the small fox")
GOOD, BAD = ("loves", "adores", "enjoys"), ("hates", "fears", "loathes")
THINGS = ("the garden", "long walks in the cold rain", "the sea", "loud bells", "ripe figs and a walk")
CORPUS = [f"{s} {v} {t}." for s in SUBJECTS for v in GOOD + BAD for t in THINGS]
# Not a multiple of any number of processes; predicted in blocks of BLOCK, the last of which is short.
ROWS, BLOCK = 37, 8
RANK = os.environ.get("RANK", "0")


def write_inputs(folder: Path) -> None:
    """Write labelled rows, rows to predict, some of them invalid, choices with 2 to 4 answers, and text."""
    rows = [{"text": text, "label": "good" if any(verb in text for verb in GOOD) else "bad"} for text in CORPUS]
    rows = random.Random(0).sample(rows, len(rows))
    choices = [
        {
            "context": f"{SUBJECTS[n % 5]} {GOOD[n % 3]}",
            "choices": list(THINGS[n % 2 : n % 2 + 2 + n % 3]),
            "label": n % 2,
        }
        for n in range(30)
    ]
    files = {
        "train": rows, "few": rows[:24], "rows": rows[:ROWS], "two": rows[:2], "choices": choices,
        "holes": [{**row, "text": row["text"] if n % 5 else ""} for n, row in enumerate(rows[:ROWS])],
    }  # fmt: skip
    for name, found in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (folder / "text.txt").write_text("\n".join(CORPUS), encoding="utf-8")


def jobs(folder: Path, out: Path) -> dict[str, Callable[[], Any]]:
    """Return by name what makes a result; what is written goes to `out`."""
    usual = Finetune(
        run=str(folder / "base"), train=str(folder / "train.jsonl"), out="", epochs=2, batch=16, micro_batch=3, lr=3e-3,
        dropout=0.0, head_dropout=0.0, device="cpu", dtype="fp32", threads=1,
    )  # fmt: skip
    few = str(folder / "few.jsonl")

    def tuned(name: str, **changes: Any) -> Callable[[], Any]:
        return lambda: finetune(replace(usual, out=str(out / name), **changes))

    def predicted(source: str, file: str | None, **changes: Any) -> Callable[[], Any]:
        run, rows = str(folder / "alone" / "seeds"), str(folder / f"{source}.jsonl")
        of = Predict(
            run=run, input=rows, out=file and str(out / file), batch=4, device="cpu", dtype="fp32", threads=1, **changes
        )
        return lambda: predict(of)

    predicted_lines = Predict(
        run=str(folder / "alone" / "seeds"), input="-", out="-", device="cpu", dtype="fp32", threads=1
    )

    def evaluated(run: Path, file: str, **changes: Any) -> Callable[[], Any]:
        of = Evaluate(run=str(run), files=[str(folder / file)], device="cpu", dtype="fp32", threads=1, **changes)
        return lambda: evaluate(of)

    return {
        "seeds": tuned("seeds", seeds=2, select="loss", epochs=5, patience=1),
        "words": tuned("words", train=few, with_words=True, batch=8),
        "choices": tuned("choices", task="multiple-choice", train=str(folder / "choices.jsonl"), epochs=1),
        "read": tuned("read", train=few, read=[str(folder / "text.txt")], read_epochs=1.0, epochs=1),
        "collapsed": collapsing(tuned("collapsed", train=few, lr=1e-3, epochs=1)),
        "dropout": tuned("dropout", seeds=2, epochs=2, batch=8, dropout=0.1),
        "ablate": lambda: ablate(
            Ablate(
                **vars(usual) | {"train": few, "out": str(out / "table.json"), "batch": 8, "epochs": 1, "sizes": "16"}
            )
        ),
        "predict": predicted("rows", "rows.csv"),
        "predict, jsonl": predicted("rows", "rows.jsonl"),
        "predict, fewer rows than processes": predicted("two", "two.parquet"),
        "predict, no file": predicted("rows", None),
        "predict, standard input": lambda: typed(predicted_lines, out / f"stdout-{RANK}.jsonl"),
        "predict, invalid rows": predicted("holes", "holes.jsonl", skip_invalid=True),
        "evaluate rows": evaluated(folder / "alone" / "seeds", "rows.jsonl"),
        "evaluate text": evaluated(folder / "base", "text.txt"),
        "evaluate choices": evaluated(folder / "base", "choices.jsonl", as_="choices"),
    }


def typed(settings: Predict, written: Path) -> Any:
    """Predict the texts of CORPUS, which rank 0 alone has as its standard input; keep the standard output."""
    before, sys.stdin = sys.stdin, io.StringIO("\n".join(CORPUS)) if RANK == "0" else None
    try:
        with written.open("w") as file, redirect_stdout(file):
            return predict(settings)
    finally:
        sys.stdin = before


def collapsing(work: Callable[[], Any]) -> Callable[[], Any]:
    """Count every epoch as collapsed; the learning rate falls until it is the paper's, where none is."""

    def job() -> Any:
        before, epochs.COLLAPSE = epochs.COLLAPSE, 1e9
        try:
            return work()
        finally:
            epochs.COLLAPSE = before

    return job


def main(folder: Path, out: Path) -> None:
    """Make all results; each process writes what it was returned."""
    predicting.ROWS_AT_ONCE = BLOCK
    found = {name: job().to_json() for name, job in jobs(folder, out).items()}
    (out / f"results-{RANK}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "gpt1":  # the command line, with states as often as possible
        epochs.SAVE_SECONDS = epochs.EPOCH_SECONDS = 0.0
        sys.exit(command_line(sys.argv[2:]))
    main(Path(sys.argv[1]), Path(sys.argv[2]))
