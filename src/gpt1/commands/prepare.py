"""`gpt1 prepare`: raw text -> a tokenizer and token shards.

The files are read three times as a stream: to see that all of it is text and to draw lots for validation, to train
the tokenizer, and to encode. The result grows in the folder `unfinished` and moves to its place when it is whole, so
an older result stays until then. A journal notes each pair of shards: an interrupted preparation goes on there.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars
from rich.console import RenderableType

from gpt1 import config
from gpt1.console import say, table
from gpt1.data.corpus import Corpus
from gpt1.data.documents import Reading, has_column
from gpt1.data.files import File, check_encoding, find
from gpt1.data.journal import Journal, sha256_of
from gpt1.data.journal import load as load_journal
from gpt1.data.pipeline import TRAINED, encoded
from gpt1.data.shards import FORMAT, UNFINISHED, Manifest, Split, TokenStream, dtype_for, read_manifest, write_manifest
from gpt1.errors import UserError
from gpt1.storage import check_folder
from gpt1.tasks import splits
from gpt1.tokenizer.openai import find_tokenizer
from gpt1.tokenizer.tokenizer import Tokenizer

FREE = {"inputs", "val", "out", "fresh", "device", "dtype", "threads"}
"""Settings that do not change the result but by the files they name."""
MUCH = 3
"""Times the share asked for: so large a validation split is worth a warning."""


def prepare(settings: config.Prepare) -> dict[str, Any]:
    """Write the folder `settings.out`: tokenizer, token shards, manifest. Does nothing if it is up to date.

    Returns documents, tokens, bytes, seconds_encoding, megabytes_per_second and more, see `_result`.
    Raises UserError, and leaves the folder as it was, if something asked for cannot be had.
    """
    _check(settings)
    settings = _with_splits(settings)
    out = Path(settings.out)
    corpus = _corpus(settings)
    _check_out(settings, corpus)
    inputs = _inputs(corpus)
    fingerprint = _fingerprint(settings, inputs)
    if not settings.fresh and (manifest := _finished(out, fingerprint)):
        say(f"{out}: already prepared from these files with these settings; nothing to do")
        return _result(out, manifest, unchanged=True)
    _check_replacing(settings, inputs, fingerprint)
    work = out / UNFINISHED
    if settings.fresh or not _awaits_publication(work, fingerprint):
        journal = encoded(settings, corpus, work, fingerprint)
        write_manifest(work, _manifest(settings, corpus, work, journal, inputs))
    _publish(work, out)
    _warn_of_large_validation(settings, read_manifest(out))
    return _result(out, read_manifest(out), unchanged=False)


def show(result: dict[str, Any]) -> RenderableType:
    """The closing table."""
    rows = {
        "documents": f"{result['documents']:,} ({result['empty_documents']:,} empty ones left out)",
        "tokens": result["tokens"],
        "bytes per token": result["bytes_per_token"],
        "unknown": f"{100 * result['unknown_rate']:.2g} % of the tokens",
        "training": f"{result['train_tokens']:,} tokens of {_documents(result['train_documents'])}",
        "validation": f"{result['val_tokens']:,} tokens of {_documents(result['val_documents'])}",
        "tokenizer": f"{result['tokenizer']}, {result['vocabulary']:,} tokens, "
        f"ready in {result['seconds_training_tokenizer']:.1f} seconds",
        "encoding": f"{result['seconds_encoding']:.1f} seconds, {result['megabytes_per_second']:.1f} MB/s",
    }
    return table(rows, title=f"{result['out']}{' (unchanged)' if result['unchanged'] else ''}")


def _documents(number: int) -> str:
    return f"{number:,} document{'' if number == 1 else 's'}"


def _check(settings: config.Prepare) -> None:
    check_encoding(settings.encoding)
    if not settings.val and not 0 < settings.val_fraction < 1:
        raise UserError(
            f"--val-fraction {settings.val_fraction:g} must lie between 0 and 1: training needs a validation split; "
            "give --val FILE to choose it"
        )
    if settings.device not in ("auto", "cpu"):
        raise UserError(f"--device {settings.device}: text is prepared on the CPU; leave it out")
    if settings.vocabulary and settings.tokenizer not in TRAINED:
        raise UserError(f"--vocabulary is for a tokenizer to be trained; {settings.tokenizer} has its own")
    if settings.words and settings.tokenizer in TRAINED:
        raise UserError(f"--words {settings.words} is for OpenAI's vocabulary; name its folder with --tokenizer FOLDER")
    if settings.tokenizer not in TRAINED and not Path(settings.tokenizer).exists():
        raise UserError(f"--tokenizer {settings.tokenizer} is neither {' nor '.join(TRAINED)}, nor a file or folder")
    if settings.threads not in (0, there := polars.thread_pool_size()):
        say(
            f"--threads {settings.threads} came too late: polars was imported with {there}; set POLARS_MAX_THREADS and "
            "RAYON_NUM_THREADS before Python starts"
        )


def _with_splits(settings: config.Prepare) -> config.Prepare:
    """Of a saved dataset of several splits only `train` trains; without --val its `validation` validates."""
    chosen = [splits.chosen(name, validate=not settings.val) for name in settings.inputs]
    val = [validation for _, validation in chosen if validation]
    return replace(settings, inputs=[train for train, _ in chosen], val=settings.val or val)


def _corpus(settings: config.Prepare) -> Corpus:
    reading = Reading(settings.documents, settings.text, settings.encoding)
    val = _with_text(find(settings.val), reading)
    ours = {file.path.resolve() for file in val}
    train = [file for file in _with_text(find(settings.inputs), reading) if file.path.resolve() not in ours]
    if not train:
        raise UserError(f"{', '.join(settings.inputs)}: no file left to train on; name files that --val does not")
    return Corpus(train, val, reading, settings.val_fraction, settings.seed)


def _with_text(files: list[File], reading: Reading) -> list[File]:
    """The files less the tables that merely lie in a folder and have no column of text."""
    kept = [file for file in files if file.named or has_column(file, reading)]
    for file in files:
        if file not in kept:
            say(f"{file.path}: left out, it has no column {reading.text}; --text names another")
    return kept


def _check_out(settings: config.Prepare, corpus: Corpus) -> None:
    out = Path(settings.out)
    place = out.resolve()
    for name in (*settings.inputs, *settings.val):
        folder = Path(name).resolve()
        if folder.is_dir() and (place == folder or folder in place.parents):
            raise UserError(f"--out {out} lies inside the input folder {name}; choose a folder elsewhere")
    for file in (*corpus.train, *corpus.val):
        if place in file.path.resolve().parents:
            raise UserError(f"--out {out} holds the input {file.path}; choose another folder")
    check_folder(out)
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if names and not {"manifest.json", UNFINISHED} & set(names):
        raise UserError(f"--out {out} holds something else ({', '.join(names[:3])}); choose an empty or a new folder")


def _check_replacing(settings: config.Prepare, inputs: list[dict[str, Any]], fingerprint: str) -> None:
    """Raise UserError if the folder holds a whole preparation of other files, or in another way."""
    out = Path(settings.out)
    if settings.fresh or not (out / "manifest.json").exists() or load_journal(out / UNFINISHED, fingerprint):
        return
    before, now = read_manifest(out), asdict(settings)
    if [entry["sha256"] for entry in before.inputs] != [entry["sha256"] for entry in inputs]:
        what = "of other files"
    else:
        changed = [name for name in now if name not in FREE and before.settings.get(name) != now[name]]
        if not changed:
            return  # the same preparation, of which something is missing
        flag = f"--{changed[0].replace('_', '-')}"
        what = f"with {flag} {before.settings.get(changed[0])}, not {now[changed[0]]}"
    raise UserError(f"{out} holds a preparation {what}; choose another --out, or --fresh to replace it")


def _warn_of_large_validation(settings: config.Prepare, manifest: Manifest) -> None:
    """Of a few documents, one is easily most of the text."""
    share = manifest.val.tokens / (manifest.train.tokens + manifest.val.tokens)
    if not settings.val and share > MUCH * settings.val_fraction:
        say(
            f"warning: {share:.0%} of the tokens validate, since whole documents do; for more even shares choose files "
            "with --val, cut the text with --documents blank-line, or change --seed"
        )


def _inputs(corpus: Corpus) -> list[dict[str, Any]]:
    return [
        {"path": str(f.path), "split": split, "bytes": f.path.stat().st_size, "sha256": sha256_of(f.path)}
        for split, files in (("train", corpus.train), ("val", corpus.val))
        for f in files
    ]


def _fingerprint(settings: config.Prepare, inputs: list[dict[str, Any]]) -> str:
    """sha256 of all that decides the result. A corpus that only moved to another folder is the same."""
    asked = {key: value for key, value in asdict(settings).items() if key not in {*FREE, "words"}}
    if settings.tokenizer not in TRAINED:
        asked["tokenizer"] = find_tokenizer(settings.tokenizer, settings.words).hash  # of the words too
    given = [{**entry, "path": Path(entry["path"]).name} for entry in inputs]
    return hashlib.sha256(json.dumps([FORMAT, asked, given], sort_keys=True).encode()).hexdigest()


def _finished(out: Path, fingerprint: str) -> Manifest | None:
    """The manifest of `out`, if it is what would come out again and all of it is there."""
    if not (out / "manifest.json").exists():
        return None
    manifest = read_manifest(out)
    if manifest.fingerprint != fingerprint:
        return None
    try:
        TokenStream(out, "train"), TokenStream(out, "val"), Tokenizer.load(out)
    except UserError as error:
        say(f"{error}: preparing again")
        return None
    return manifest


def _awaits_publication(work: Path, fingerprint: str) -> bool:
    return (work / "manifest.json").exists() and read_manifest(work).fingerprint == fingerprint


def _manifest(
    settings: config.Prepare, corpus: Corpus, work: Path, journal: Journal, inputs: list[dict[str, Any]]
) -> Manifest:
    tokenizer = Tokenizer.load(work)
    return Manifest(
        tokenizer=tokenizer.hash,
        kind=tokenizer.kind,
        lossless=tokenizer.lossless,
        vocabulary=tokenizer.vocabulary,
        dtype=dtype_for(tokenizer.vocabulary),
        train=Split(journal.train),
        val=Split(journal.val),
        empty_documents=corpus.survey.empty,
        unknown_tokens=journal.unknown,
        inputs=inputs,
        settings=asdict(settings),
        fingerprint=journal.fingerprint,
        seconds={"tokenizer": journal.seconds_tokenizer, "encoding": journal.seconds_encoding},
    )


def _publish(work: Path, out: Path) -> None:
    """Move the finished result to its place, the manifest last. May be repeated if it is interrupted."""
    (out / "manifest.json").unlink(missing_ok=True)
    manifest = read_manifest(work)
    current = {shard.file for shard in manifest.train.shards + manifest.val.shards}
    for stale in (*out.glob("train-*.bin"), *out.glob("val-*.bin")):
        if stale.name not in current:
            stale.unlink()
    # By name: a killed run may have left temporary files beside them.
    for name in (*sorted(current), "tokenizer.json", "tokenizer_config.json", "manifest.json"):
        if (work / name).exists():
            (work / name).replace(out / name)
    shutil.rmtree(work)


def _result(out: Path, manifest: Manifest, unchanged: bool) -> dict[str, Any]:
    train, val = manifest.train, manifest.val
    documents, tokens, size = train.documents + val.documents, train.tokens + val.tokens, train.bytes + val.bytes
    return {
        "out": str(out),
        "documents": documents,
        "empty_documents": manifest.empty_documents,
        "tokens": tokens,
        "bytes": size,
        "bytes_per_token": size / tokens,
        "unknown_rate": manifest.unknown_tokens / tokens,
        "train_documents": train.documents,
        "train_tokens": train.tokens,
        "train_bytes": train.bytes,
        "val_documents": val.documents,
        "val_tokens": val.tokens,
        "val_bytes": val.bytes,
        "tokenizer": manifest.kind,
        "vocabulary": manifest.vocabulary,
        "seconds_training_tokenizer": manifest.seconds["tokenizer"],
        "seconds_encoding": manifest.seconds["encoding"],
        "megabytes_per_second": size / 1e6 / manifest.seconds["encoding"],
        "unchanged": unchanged,
    }
