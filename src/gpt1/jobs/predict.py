"""`gpt1 predict`: rows -> the same rows with predicted_label and named probabilities."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from gpt1.config import Predict
from gpt1.data.tables import Row, check_column, columns, rows, table
from gpt1.errors import UserError
from gpt1.jobs import classifier
from gpt1.jobs.console import bar, say
from gpt1.storage import atomic

ROWS_AT_ONCE = 4096
"""Rows held in memory; within them, texts of like length share a batch."""
ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
Write = Callable[[list[dict[str, Any]]], None]


def predict(settings: Predict) -> dict[str, Any]:
    """Classify every row, in order, in bounded memory; to `out`, or as jsonl to standard output.

    Returns rows, out and how often each label was predicted. Raises UserError for wrong rows, a missing column, or a
    run that is not fine-tuned.
    """
    if settings.out and not settings.out.endswith(ENDINGS):
        raise UserError(f"--out {settings.out}: its ending must say what to write: {', '.join(ENDINGS)}")
    file = table(settings.input)
    there = columns(file, settings.encoding)
    model = classifier.load(settings)
    column = check_column(settings.text or model.text, there, file)
    counts, done, cut = dict.fromkeys(model.labels, 0), 0, 0
    source = rows(file, settings.encoding)
    with _writer(settings.out) as write, bar() as progress:
        task = progress.add_task("predict, rows", total=None)
        while block := list(islice(source, ROWS_AT_ONCE)):
            probabilities_NC, too_long = model.probabilities([row.text(column) for row in block], settings.batch)
            out = [
                _predicted(row, p_C, model.labels) for row, p_C in zip(block, probabilities_NC.tolist(), strict=True)
            ]
            write(out)
            for row in out:
                counts[row["predicted_label"]] += 1
            done, cut = done + len(block), cut + too_long
            progress.update(task, completed=done)
        progress.update(task, total=done)
    if cut:
        say(f"{cut:,} of {done:,} texts are longer than the model reads; their heads were read")
    return {"rows": done, "out": settings.out, "predicted": counts}


def show(result: dict[str, Any]) -> str | None:
    """Where the rows are; nothing if they went to standard output."""
    if result["out"] is None:
        return None
    shares = ", ".join(f"{name}: {count:,}" for name, count in result["predicted"].items())
    return f"{result['rows']:,} rows in {result['out']} ({shares})"


def _predicted(row: Row, p_C: list[float], labels: list[str]) -> dict[str, Any]:
    best = max(range(len(labels)), key=p_C.__getitem__)
    return {**row.values, "predicted_label": labels[best], "probabilities": dict(zip(labels, p_C, strict=True))}


@contextmanager
def _writer(out: str | None) -> Iterator[Write]:
    if out is None:
        yield lambda found: _jsonl(sys.stdout, found)
        return
    with atomic(out) as temporary:
        if out.endswith(".parquet"):
            with _parquet(temporary) as write:
                yield write
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                yield (lambda found: _jsonl(file, found)) if out.endswith(".jsonl") else _separated(file, Path(out))


def _jsonl(file: IO[str], found: list[dict[str, Any]]) -> None:
    file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in found)


def _separated(file: IO[str], out: Path) -> Write:
    """csv quotes what needs it; a tsv cannot hold a tab or newline, which is said."""
    how: dict[str, Any] = (
        {} if out.suffix == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
    )
    writer = csv.writer(file, lineterminator="\n", **how)
    header: list[str] = []

    def write(found: list[dict[str, Any]]) -> None:
        flat = [_flat(row) for row in found]
        if not header:
            header.extend(flat[0])
            writer.writerow(header)
        try:
            writer.writerows([row.get(name) for name in header] for row in flat)
        except csv.Error:
            raise UserError(
                f"--out {out}: a field holds a tab or a newline, which tsv cannot; write .csv or .jsonl"
            ) from None

    return write


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    """A parquet file is written at once: only the columns are held until then, not the rows' Python objects."""
    import polars

    frames: list[polars.DataFrame] = []
    yield lambda found: frames.append(polars.DataFrame([_flat(row) for row in found], infer_schema_length=None))
    polars.concat(frames, how="diagonal_relaxed").write_parquet(path)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in row.items() if name != "probabilities"}
    return plain | {f"probability_{name}": p for name, p in row["probabilities"].items()}
