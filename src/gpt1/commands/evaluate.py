"""`gpt1 evaluate`: how well a run predicts text, answers by likelihood, or, if it is fine-tuned, labels rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from gpt1 import console
from gpt1.commands import zero_shot
from gpt1.config import Evaluate
from gpt1.data.documents import Reading, pieces
from gpt1.data.files import File
from gpt1.data.tables import columns, table
from gpt1.data.windows import Ids
from gpt1.errors import UserError
from gpt1.finetuning.predictor import load_predictor
from gpt1.model.packed import packed
from gpt1.run_folder.folder import load_run, read_metadata
from gpt1.tasks.columns import Columns, chosen_columns
from gpt1.tasks.labels import Classes, Goal, LabelSets
from gpt1.tasks.rows import Labelled, check_labels, read_labelled
from gpt1.tokenizer.bulk import encode_bulk
from gpt1.training.device import setup_device
from gpt1.training.likelihood import Likelihood, likelihood


def evaluate(settings: Evaluate) -> dict[str, Any]:
    """Metrics over all the files together; over several files also each one's, under `files`.

    `run` and `scored_on` tell `gpt1 report` what they are of.

    On text: nats_per_token, perplexity, bits_per_byte, tokens, bytes, comparable. On rows: see `tasks.metrics`; on
    pairs and choices `commands.zero_shot`. Raises UserError for files or columns that are not there.
    """
    kind = _kind(settings)
    if kind in ("pairs", "choices"):
        found = zero_shot.zero_shot(settings, kind)
    else:
        found = _rows(settings) if kind == "rows" else _texts(settings)
    return {"run": settings.run, "scored_on": settings.files} | found


def show(result: dict[str, Any]) -> RenderableType:
    """The metrics; on rows with several classes, each class's too."""
    plain = {name: value for name, value in result.items() if name != "run" and not isinstance(value, dict | list)}
    for name, (low, high) in result.get("intervals", {}).items():
        plain[f"{name}, 95 % of resamples"] = f"{low:.4g} to {high:.4g}"
    if "per_class" not in result:
        groups = {f"accuracy, {name}": found["accuracy"] for name, found in result.get("groups", {}).items()}
        return console.table(plain | groups, "evaluate")
    out = Table(title="evaluate", title_justify="left")
    for name in ("class", "rows", "precision", "recall", "F1"):
        out.add_column(name)
    for name, found in result["per_class"].items():
        out.add_row(name, f"{found['n']:,}", *(f"{found[key]:.3f}" for key in ("precision", "recall", "f1")))
    out.caption = "\n".join(
        f"{name} {value if isinstance(value, str) else f'{value:,.4g}'}" for name, value in plain.items()
    )
    return out


def _kind(settings: Evaluate) -> str:
    """`text`, `rows`, `pairs` or `choices`."""
    if settings.as_ != "auto":
        return settings.as_
    if File(Path(settings.files[0]), named=True).kind == "text":
        return "text"
    if read_metadata(Path(settings.run)).kind == "finetuned":
        return "rows"
    if kind := zero_shot.kind_of(settings.files[0], settings.encoding):
        return kind
    return "text"


def _rows(settings: Evaluate) -> dict[str, Any]:
    if settings.batch < 1:
        raise UserError(f"--batch {settings.batch} must be at least 1")
    model = load_predictor(settings.run, settings)
    labels: list[Any] = []
    answers: list[np.ndarray] = []
    each: dict[str, Any] = {}
    for path in settings.files:
        file = table(path)
        wanted = chosen_columns(settings, model.encoder.task, model.columns, file, columns(file, settings.encoding))
        found = read_labelled(path, wanted, model.label_type.kind, settings.encoding)
        _say_strange(found, model.label_type, wanted)
        answers_NC = model.predict(found.texts, settings.batch)[0]
        each[path] = _metrics(model.label_type, found.labels, answers_NC)
        labels, answers = labels + found.labels, [*answers, answers_NC]
    if len(each) == 1:
        return each[settings.files[0]]
    return _metrics(model.label_type, labels, _stacked(answers)) | {"files": each}


def _metrics(goal: Goal, labels: list[Any], answers_NC: np.ndarray) -> dict[str, Any]:
    return goal.metrics(labels, answers_NC) | {"intervals": goal.intervals(labels, answers_NC)}


def _stacked(answers: Sequence[np.ndarray]) -> np.ndarray:
    """Files one under the other; rows with fewer choices than others have none of the rest."""
    most = max(answers_NC.shape[1] for answers_NC in answers)
    return np.concatenate([np.pad(a_NC, ((0, 0), (0, most - a_NC.shape[1]))) for a_NC in answers])


def _say_strange(found: Labelled, goal: Goal, wanted: Columns) -> None:
    """A row whose label training never saw counts as wrong, which is said. Raises UserError if all are so."""
    if not isinstance(goal, Classes | LabelSets):
        return
    strange = [i for i, label in enumerate(found.labels) if not goal.names_of(label) <= set(goal.names)]
    if len(strange) == len(found.labels):
        check_labels(found, goal.names, ", ".join(wanted.label))
    if strange:
        where, label = found.rows[strange[0]], ", ".join(sorted(goal.names_of(found.labels[strange[0]])))
        console.say(
            f"warning: {where}: label {label!r} does not occur in training; {len(strange):,} such rows count as wrong"
        )


def _texts(settings: Evaluate) -> dict[str, Any]:
    device, dtype = setup_device(settings.device, settings.dtype, settings.threads, settings.seed)
    model = load_run(settings.run)
    body = packed(model.body.to(device, dtype))
    each: dict[str, Any] = {}
    nats = tokens = size = 0.0
    for path in settings.files:
        documents = _documents(path, settings)
        ids, offsets = encode_bulk(model.tokenizer, documents)
        found = likelihood(body, Ids(np.insert(ids, offsets[1:], model.tokenizer.end_id)), model.tokenizer.end_id)
        held = sum(len(text.encode()) for text in documents)
        each[path] = _measures(found, held, model.tokenizer.lossless)
        nats, tokens, size = nats + found.nats, tokens + found.tokens, size + held
    if len(each) == 1:
        return each[settings.files[0]]
    return _measures(Likelihood(nats, int(tokens)), int(size), model.tokenizer.lossless) | {"files": each}


def _documents(path: str, settings: Evaluate) -> list[str]:
    """The texts of a file: itself, or those of a table's column, but empty ones, as `gpt1 prepare` reads them."""
    file = File(Path(path), named=True)
    if file.kind != "text":
        file = table(path)
    elif not file.path.is_file():
        raise UserError(f"{path}: {'a folder; name the files in it' if file.path.is_dir() else 'no such file'}")
    reading = Reading(text=settings.text or Reading.text, encoding=settings.encoding)
    found: list[str] = []
    held: list[str] = []
    for text, ends in pieces(file, reading):
        held.append(text)
        if ends:
            found.append("".join(held))
            held.clear()
    if not (found := [text for text in found if text]):
        raise UserError(f"{path}: an empty file; there is nothing to predict")
    return found


def _measures(found: Likelihood, size: int, lossless: bool) -> dict[str, Any]:
    return {
        "nats_per_token": found.nats_per_token,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte(found.tokens / size),
        "tokens": found.tokens,
        "bytes": size,
        "comparable": lossless,
    }
