"""`gpt1 prepare`: raw text -> a tokenizer and token shards."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import polars
from rich.console import RenderableType

from gpt1.config import Prepare
from gpt1.console import say, table, warn
from gpt1.data.documents import Corpus, ReadOptions, text_files
from gpt1.data.engine import engine_of, map_ahead
from gpt1.data.files import check_encoding, choose_splits
from gpt1.data.prepare import prepare_folder
from gpt1.data.shards import UNFINISHED, Manifest, read_manifest
from gpt1.errors import UserError, setting
from gpt1.keywords import command
from gpt1.results import Result
from gpt1.resume import LOCK
from gpt1.run_folder.starter import find_run
from gpt1.storage import check_folder
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import BpeTrainer

# Tokenizers that are trained on the corpus; any other value of the setting is a path.
TRAINED: dict[str, Literal["bytes", "gpt1"]] = {"bytes": "bytes", "gpt1": "gpt1"}
LARGE = 3  # warn if the validation split is more than this many times the requested fraction


@dataclass(frozen=True)
class PrepareResult(Result):
    """What `gpt1 prepare` prints: the sizes of the prepared data and how long it took."""

    out: str
    """the prepared folder"""
    documents: int
    """documents with text"""
    empty_documents: int
    """documents without text, which are left out"""
    tokens: int
    """tokens of both splits, an end token per document included"""
    bytes: int
    """UTF-8 bytes of the text, before cleaning"""
    bytes_per_token: float
    """mean size of a token"""
    unknown_rate: float
    """fraction of the tokens that stand for text the tokenizer cannot spell"""
    train_documents: int
    """documents to train on"""
    train_tokens: int
    """their tokens"""
    train_bytes: int
    """their UTF-8 bytes"""
    val_documents: int
    """documents for validation"""
    val_tokens: int
    """their tokens"""
    val_bytes: int
    """their UTF-8 bytes"""
    tokenizer: str
    """kind of the tokenizer: bytes, gpt1, openai2018 or custom"""
    vocabulary: int
    """number of token ids"""
    seconds_training_tokenizer: float
    """time to train or load the tokenizer"""
    seconds_encoding: float
    """time to encode the corpus"""
    megabytes_per_second: float
    """speed of the encoding, in 10^6 bytes of text"""
    unchanged: bool
    """whether the folder was up to date already"""

    @classmethod
    def of(cls, out: Path, unchanged: bool) -> "PrepareResult":
        """Return the result that the manifest of a prepared folder describes."""
        manifest = read_manifest(out)
        train, val = manifest.train, manifest.val
        tokens, size = train.tokens + val.tokens, train.bytes + val.bytes
        return cls(
            out=str(out),
            documents=train.documents + val.documents,
            empty_documents=manifest.empty_documents,
            tokens=tokens,
            bytes=size,
            bytes_per_token=size / tokens,
            unknown_rate=manifest.unknown_tokens / tokens,
            train_documents=train.documents,
            train_tokens=train.tokens,
            train_bytes=train.bytes,
            val_documents=val.documents,
            val_tokens=val.tokens,
            val_bytes=val.bytes,
            tokenizer=manifest.kind,
            vocabulary=manifest.vocabulary,
            seconds_training_tokenizer=manifest.seconds["tokenizer"],
            seconds_encoding=manifest.seconds["encoding"],
            megabytes_per_second=size / 1e6 / manifest.seconds["encoding"],
            unchanged=unchanged,
        )


@command(Prepare, "inputs")
def prepare(settings: Prepare) -> PrepareResult:
    """Write the folder `settings.out`: tokenizer, token shards, manifest. Does nothing if it is up to date.

    A preparation that was interrupted continues when it is called again with the same settings. Raises UserError, and
    leaves the folder as it was, if the request cannot be met or another process works in the folder.
    """
    _check(settings)
    # A saved dataset with several splits gives one for training and, unless `val` names files, one for validation.
    chosen = [choose_splits(name, validate=not settings.val) for name in settings.inputs]
    val = settings.val or [validation for _, validation in chosen if validation]
    settings, out = replace(settings, inputs=[train for train, _ in chosen], val=val), Path(settings.out)
    corpus = _corpus(settings)
    _check_out(settings, corpus)
    unchanged = prepare_folder(
        out,
        corpus,
        _tokenizer(settings),
        settings.repair,
        settings=asdict(settings),
        fresh=settings.fresh,
        engine=engine_of(settings.engine, map_ahead, settings.threads),
    )
    if unchanged:
        say(f"{out}: already prepared from these files with these settings; nothing to do")
    else:
        _warn_of_large_validation(settings, read_manifest(out))
    return PrepareResult.of(out, unchanged)


def show(result: PrepareResult) -> RenderableType:
    """Return the closing table."""
    rows = {
        "documents": f"{result.documents:,} ({result.empty_documents:,} empty ones left out)",
        "tokens": result.tokens,
        "bytes per token": result.bytes_per_token,
        "unknown": f"{100 * result.unknown_rate:.2g} % of the tokens",
        "training": f"{result.train_tokens:,} tokens of {_documents(result.train_documents)}",
        "validation": f"{result.val_tokens:,} tokens of {_documents(result.val_documents)}",
        "tokenizer": f"{result.tokenizer}, {result.vocabulary:,} tokens, "
        f"ready in {result.seconds_training_tokenizer:.1f} seconds",
        "encoding": f"{result.seconds_encoding:.1f} seconds, {result.megabytes_per_second:.1f} MB/s",
    }
    return table(rows, title=f"{result.out}{' (unchanged)' if result.unchanged else ''}")


def _documents(number: int) -> str:
    return f"{number:,} document{'' if number == 1 else 's'}"


def _check(settings: Prepare) -> None:
    check_encoding(settings.encoding)
    for name in (*settings.inputs, *settings.val):
        if (Path(name) / "manifest.json").is_file() and (Path(name) / "train-00000.bin").is_file():
            raise UserError(f"{name} is prepared already; train on it: `gpt1 pretrain {name} --out RUN`")
        if (Path(name) / "gpt1.json").is_file():
            raise UserError(
                f"{name} is a run, not text; to train it further, `gpt1 pretrain DATA --init {name} --out RUN`"
            )
    if not settings.val and not 0 < settings.val_fraction < 1:
        raise UserError(
            f"{setting('val_fraction')} {settings.val_fraction:g} must be between 0 and 1, since training needs "
            f"validation text; name files with {setting('val')} to choose it"
        )
    if settings.device not in ("auto", "cpu"):
        raise UserError(f"{setting('device')} {settings.device}: text is prepared on the CPU; leave it out")
    if settings.vocabulary and settings.tokenizer not in TRAINED:
        raise UserError(
            f"{setting('vocabulary')} is for a tokenizer to be trained; {settings.tokenizer} has its vocabulary"
        )
    if settings.words and settings.tokenizer in TRAINED:
        raise UserError(
            f"{setting('words')} {settings.words} is for OpenAI's vocabulary; name its folder with "
            f"{setting('tokenizer')}"
        )
    if settings.tokenizer not in TRAINED and not find_run(settings.tokenizer).exists():
        raise UserError(
            f"{setting('tokenizer')} {settings.tokenizer} is neither {' nor '.join(TRAINED)}, nor a file or folder"
        )
    if settings.threads not in (0, threads := polars.thread_pool_size()):
        say(
            f"{setting('threads')} {settings.threads} came too late: polars was imported with {threads}; set "
            "POLARS_MAX_THREADS and RAYON_NUM_THREADS before Python starts"
        )


def _corpus(settings: Prepare) -> Corpus:
    options = ReadOptions.of(settings)
    val = text_files(settings.val, options)
    val_paths = {file.path.resolve() for file in val}
    train = [file for file in text_files(settings.inputs, options) if file.path.resolve() not in val_paths]
    if not train:
        raise UserError(
            f"{', '.join(settings.inputs)}: no file left to train on; add files that {setting('val')} does not name"
        )
    return Corpus(train, val, options, settings.val_fraction, settings.seed)


def _check_out(settings: Prepare, corpus: Corpus) -> None:
    out, place = Path(settings.out), Path(settings.out).resolve()
    for name in (*settings.inputs, *settings.val):
        folder = Path(name).resolve()
        if folder.is_dir() and (place == folder or folder in place.parents):
            raise UserError(f"{setting('out')} {out} lies inside the input folder {name}; choose a folder elsewhere")
    for file in (*corpus.train, *corpus.val):
        if place in file.path.resolve().parents:
            raise UserError(f"{setting('out')} {out} holds the input {file.path}; choose another folder")
    check_folder(out)
    names = sorted(path.name for path in out.iterdir() if path.name != LOCK) if out.exists() else []
    if names and not {"manifest.json", UNFINISHED} & set(names):
        raise UserError(
            f"{setting('out')} {out} holds something else ({', '.join(names[:3])}); choose an empty or a new folder"
        )


def _tokenizer(settings: Prepare) -> Tokenizer | BpeTrainer:
    """Return the tokenizer that the settings name, or what trains one."""
    if kind := TRAINED.get(settings.tokenizer):
        return BpeTrainer(kind, settings.vocabulary)
    from gpt1.tokenizer.openai import find_tokenizer

    return find_tokenizer(find_run(settings.tokenizer), settings.words)


def _warn_of_large_validation(settings: Prepare, manifest: Manifest) -> None:
    share = manifest.val.tokens / (manifest.train.tokens + manifest.val.tokens)
    if not settings.val and share > LARGE * settings.val_fraction:  # of a few documents, one may hold most of the text
        warn(
            f"{share:.0%} of the tokens are validation text, since whole documents are held out; for an even "
            f"split, name files with {setting('val')}, split the text with {setting('documents')} blank-line, or "
            f"change {setting('seed')}"
        )
