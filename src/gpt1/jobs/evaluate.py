"""`gpt1 evaluate`: how well a run predicts text, or how well a fine-tuned run labels rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from gpt1.config import Evaluate
from gpt1.data.files import File, text_of
from gpt1.data.windows import Ids
from gpt1.errors import UserError
from gpt1.jobs import bundle, classifier, console
from gpt1.jobs.labelled import Columns, Labelled, label_numbers, read_labelled
from gpt1.jobs.likelihood import Likelihood, likelihood
from gpt1.jobs.metrics import classification_metrics
from gpt1.nn.reading import packed
from gpt1.text.bulk import encode_bulk
from gpt1.train.parallel import machine


def evaluate(settings: Evaluate) -> dict[str, Any]:
    """Metrics over all the files together; over several files also each one's, under `files`.

    On text: nats_per_token, perplexity, bits_per_byte, tokens, bytes, comparable. On rows: see
    `metrics.classification_metrics`. Raises UserError for files or columns that are not there.
    """
    return _rows(settings) if _as_rows(settings) else _texts(settings)


def show(result: dict[str, Any]) -> RenderableType:
    """The metrics; on rows with several classes, each class's too."""
    plain = {name: value for name, value in result.items() if not isinstance(value, dict | list)}
    if "per_class" not in result:
        return console.table(plain, "evaluate")
    out = Table(title="evaluate", title_justify="left")
    for name in ("class", "rows", "precision", "recall", "F1"):
        out.add_column(name)
    for name, found in result["per_class"].items():
        out.add_row(name, f"{found['n']:,}", *(f"{found[key]:.3f}" for key in ("precision", "recall", "f1")))
    out.caption = ", ".join(f"{name} {value:,.4g}" for name, value in plain.items())
    return out


def _as_rows(settings: Evaluate) -> bool:
    if settings.as_ != "auto":
        return settings.as_ == "rows"
    tables = File(Path(settings.files[0]), named=True).kind != "text"
    return tables and bundle.read_info(Path(settings.run))["kind"] == "finetuned"


def _rows(settings: Evaluate) -> dict[str, Any]:
    model = classifier.load(settings)
    wanted = Columns(settings.text or model.text, settings.label or model.label)
    gold: list[str] = []
    predicted: list[str] = []
    each: dict[str, Any] = {}
    for path in settings.files:
        found = read_labelled(path, wanted, settings.encoding)
        _check_labels(found, model.labels, wanted.label)
        best_N = model.probabilities(found.texts, settings.batch)[0].argmax(-1)
        names = [model.labels[i] for i in best_N]
        each[path] = classification_metrics(found.labels, names, model.labels)
        gold, predicted = gold + found.labels, predicted + names
    if len(each) == 1:
        return each[settings.files[0]]
    return classification_metrics(gold, predicted, model.labels) | {"files": each}


def _check_labels(found: Labelled, names: Sequence[str], column: str) -> None:
    """A row whose label training never saw counts as wrong, which is said. Raises UserError if all are so."""
    strange = [i for i, label in enumerate(found.labels) if label not in names]
    if len(strange) == len(found.labels):
        label_numbers(found, names, column)
    if strange:
        where, label = found.rows[strange[0]], found.labels[strange[0]]
        console.say(
            f"warning: {where}: label {label!r} does not occur in training; {len(strange):,} such rows count as wrong"
        )


def _texts(settings: Evaluate) -> dict[str, Any]:
    device, dtype = machine(settings)
    model = bundle.load(settings.run)
    body = packed(model.body.to(device, dtype))
    each: dict[str, Any] = {}
    nats = tokens = size = 0.0
    for path in settings.files:
        text = _read(path, settings.encoding)
        ids, _ = encode_bulk(model.tokenizer, [text])
        found = likelihood(body, Ids(np.append(ids, model.tokenizer.end_id)), model.tokenizer.end_id)
        each[path] = _measures(found, len(text.encode()), model.tokenizer.lossless)
        nats, tokens, size = nats + found.nats, tokens + found.tokens, size + len(text.encode())
    if len(each) == 1:
        return each[settings.files[0]]
    return _measures(Likelihood(nats, int(tokens)), int(size), model.tokenizer.lossless) | {"files": each}


def _read(path: str, encoding: str) -> str:
    if not Path(path).is_file():
        raise UserError(f"{path}: {'a folder; name the files in it' if Path(path).is_dir() else 'no such file'}")
    text = "".join(text_of(Path(path), encoding))
    if not text:
        raise UserError(f"{path}: an empty file; there is nothing to predict")
    return text


def _measures(found: Likelihood, size: int, lossless: bool) -> dict[str, Any]:
    return {
        "nats_per_token": found.nats_per_token,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte(found.tokens / size),
        "tokens": found.tokens,
        "bytes": size,
        "comparable": lossless,
    }
