"""Write a prepared folder from documents: a tokenizer, token shards and a manifest; no torch.

The corpus is read three times as a stream: to survey and split it, to train the tokenizer, and to encode it. The result
is made in the folder `unfinished` and moved into place when it is complete, so an earlier result stays until then. The
state is saved after each pair of shards, and an interrupted preparation continues from there.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from rich.progress import Progress

from gpt1.console import bar, say
from gpt1.data.documents import Corpus, Cut, Portion, SplitBlock, TextBlock, at_whitespace, utf8_size
from gpt1.data.engine import Engine, map_ahead
from gpt1.data.files import sha256_of
from gpt1.data.shards import (
    UNFINISHED,
    Manifest,
    Shard,
    ShardWriter,
    Split,
    check_content,
    check_shards,
    dtype_for,
    read_manifest,
    write_manifest,
)  # fmt: skip
from gpt1.errors import RunFailed, UserError, setting
from gpt1.resume import RUNTIME_SETTINGS, Record, hold
from gpt1.storage import write_json
from gpt1.tokenizer.bulk import encode_bulk
from gpt1.tokenizer.clean import clean
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import BpeTrainer, WordCounts

SHARD_TOKENS = 1 << 26  # tokens after which shards are closed: the most work that an interruption can cost
CONTEXT = 512  # the longest text in tokenizer_config.json; a run writes its own
CUT_WINDOW = 1000  # characters on either side of a possible cut that are encoded to test it
MAX_CUTS_TRIED = 100  # most places of each kind that are tested

BEGUN, STATE = "begun.json", "state.json"  # files in `unfinished`: the request, and how far it is done
# Recorded settings that do not decide the result by themselves; the content of files and tokenizers does.
MAY_CHANGE = RUNTIME_SETTINGS | {"inputs", "val", "dtype", "words"}
LOCAL: Engine = nullcontext(map_ahead)  # encodes in this process


@dataclass
class State:
    """How far a preparation is done. Portions and shards depend only on inputs and settings, so it can continue."""

    portions: int = 0
    """portions of the corpus that are in the shards"""
    unknown: int = 0
    """unknown tokens in the shards"""
    train: list[Shard] = field(default_factory=list)
    val: list[Shard] = field(default_factory=list)
    seconds_tokenizer: float = 0.0
    seconds_encoding: float = 0.0

    def save(self, folder: Path) -> None:
        """Write the state, atomically."""
        write_json(folder / STATE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "State | None":
        """Return the state in `folder`; None without one, or if a shard has changed since."""
        try:
            value = json.loads((folder / STATE).read_text(encoding="utf-8"))
            train, val = ([Shard(**shard) for shard in value.pop(split)] for split in ("train", "val"))
            if all(sha256_of(folder / shard.file) == shard.sha256 for shard in train + val):
                return cls(train=train, val=val, **value)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None


def prepare_folder(
    out: Path,
    corpus: Corpus,
    tokenizer: Tokenizer | BpeTrainer,
    repair: bool,
    settings: Mapping[str, Any],
    fresh: bool,
    engine: Engine = LOCAL,
) -> bool:
    """Write tokenizer, shards and manifest into `out`, continuing an interrupted preparation unless `fresh`.

    With `repair`, texts are cleaned first. `settings` are what the manifest records: with the same settings and inputs
    as before there is nothing to do, with others the request is refused unless `fresh`. The engine counts words and
    encodes; it is entered only if there is something to do. Returns whether there was nothing to do. Raises UserError,
    and leaves the folder as it was, if the request cannot be met or another process works in the folder; RunFailed if
    an input changes meanwhile.
    """
    with hold(out):
        inputs, may_change, work = _describe_inputs(corpus), MAY_CHANGE, out / UNFINISHED
        hashes = _input_hashes(inputs)
        if isinstance(tokenizer, Tokenizer):
            hashes["tokenizer"], may_change = tokenizer.hash, may_change | {"tokenizer"}
        record = Record(dict(settings), hashes)
        if not fresh and _is_done(out, record, may_change):
            return True
        began = None if fresh else Record.read(work / BEGUN)
        continues = began is not None and not began.difference(record, may_change)
        if not fresh and not continues:
            _check_replacing(out, began, record, may_change)
        if not (continues and (work / "manifest.json").exists()):
            state = State.load(work) if continues else None
            if state:
                say(f"{work}: continuing an interrupted preparation after {state.portions:,} portions of text")
            try:
                state = _train_and_encode(corpus, tokenizer, repair, work, record, state, engine)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("stopped; the same command continues") from None
            write_manifest(work, _manifest(corpus, work, state, inputs, record, may_change))
        _publish(work, out)
    return False


# What is already done


def _describe_inputs(corpus: Corpus) -> list[dict[str, Any]]:
    return [
        {"path": str(f.path), "split": split, "bytes": f.path.stat().st_size, "sha256": sha256_of(f.path)}
        for split, files in (("train", corpus.train), ("val", corpus.val))
        for f in files
    ]


def _input_hashes(inputs: list[dict[str, Any]]) -> dict[str, str]:
    """Return one hash of the training files and, if there are any, one of the validation files."""
    found = {}
    for role, split in (("the input files", "train"), ("val", "val")):
        if hashes := [entry["sha256"] for entry in inputs if entry["split"] == split]:
            found[role] = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return found


def _is_done(out: Path, record: Record, may_change: Set[str]) -> bool:
    """Return whether `out` holds the complete result of this request."""
    if not (out / "manifest.json").exists():
        return False
    manifest = read_manifest(out)
    if _record_of(manifest, record).difference(record, may_change):
        return False
    try:
        check_shards(out, manifest.train.shards + manifest.val.shards, manifest.dtype)
        check_content(out, manifest)
        if Tokenizer.load(out).hash != manifest.tokenizer:
            raise UserError(f"{out / 'tokenizer.json'} is not the one that the shards were encoded with")
    except UserError as error:
        say(f"{error}: preparing again")
        return False
    return True


def _record_of(manifest: Manifest, now: Record) -> Record:
    """Return the record of the request that made a prepared folder, to compare with that of the current one."""
    tokenizer = {"tokenizer": manifest.tokenizer} if "tokenizer" in now.inputs else {}
    return Record(manifest.settings, _input_hashes(manifest.inputs) | tokenizer)


def _check_replacing(out: Path, began: Record | None, record: Record, may_change: Set[str]) -> None:
    """Raise UserError if `out` holds the result of another request, or `began` another that has encoded something."""
    if (out / "manifest.json").exists():
        if difference := _record_of(read_manifest(out), record).difference(record, may_change):
            raise UserError(
                f"{out} was made with {difference}; choose another {setting('out')}, or start over with "
                f"{setting('fresh')}"
            )
    elif began and any((out / UNFINISHED).glob("*.bin")):
        began.check(record, out, may_change)


# Encoding


@dataclass(frozen=True)
class EncodedPart:
    """What a block adds to one split."""

    ids: np.ndarray
    documents: int
    """documents that end in `ids`, each followed by an end token"""
    bytes: int
    """UTF-8 bytes of the text, before cleaning"""
    unknown: int
    """number of unknown tokens"""


class EncodedBlock(NamedTuple):
    """What a block adds to both splits."""

    train: EncodedPart
    val: EncodedPart

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the block's text."""
        return self.train.bytes + self.val.bytes


T = TypeVar("T", EncodedBlock, WordCounts)  # the result of a block


def _train_and_encode(
    corpus: Corpus,
    tokenizer: Tokenizer | BpeTrainer,
    repair: bool,
    work: Path,
    record: Record,
    state: State | None,
    engine: Engine,
) -> State:
    """Fill the folder `work` with a tokenizer and shards, continuing from `state` if there is one."""
    with bar() as progress:
        task = progress.add_task("reading", total=None)
        size = corpus.survey.bytes
        progress.remove_task(task)
        with engine as mapped:
            if state is None:
                started = time.perf_counter()
                if not isinstance(tokenizer, Tokenizer):
                    task = progress.add_task("training the tokenizer", total=None)  # counts, then merges pairs for long
                    count = partial(_count_block, trainer=tokenizer, repair=repair)
                    counts = mapped(partial(_map_blocks, count, corpus, at_whitespace), corpus.portions())
                    counts = _with_progress(counts, progress, "counting words, kB", 0, size)
                    tokenizer = tokenizer.learn(chain.from_iterable(counts))
                    progress.remove_task(task)
                shutil.rmtree(work, ignore_errors=True)
                tokenizer.save(work, CONTEXT)
                record.write(work / BEGUN)
                state = State(seconds_tokenizer=time.perf_counter() - started)
                state.save(work)
            tokenizer = Tokenizer.load(work)
            encode, cut = partial(_encode_block, tokenizer=tokenizer, repair=repair), safe_cut(tokenizer, repair)
            done = sum(shard.bytes for shard in state.train + state.val)
            left = islice(corpus.portions(cut), state.portions, None)
            encoded = mapped(partial(_map_blocks, encode, corpus, cut), left)
            encoded = _with_progress(encoded, progress, "encoding, kB", done, size)
            _write_shards(encoded, dtype_for(tokenizer.vocabulary), work, state)
    if sum(shard.bytes for shard in state.train + state.val) != corpus.survey.bytes:
        shutil.rmtree(work)
        raise RunFailed("an input changed while it was read; prepare again")
    return state


def _map_blocks(work: Callable[[SplitBlock], T], corpus: Corpus, cut: Cut, portion: Portion) -> list[T]:
    """Work on each block of a portion."""
    return [work(block) for block in corpus.split_blocks(portion, cut)]


def _with_progress(found: Iterable[list[T]], progress: Progress, name: str, done: int, total: int) -> Iterator[list[T]]:
    """Yield the results of the portions and show progress in bytes of text; an earlier call completed `done` bytes."""
    task = progress.add_task(name, total=total / 1e3, completed=done // 1000, done_before=done // 1000)
    for blocks in found:
        yield blocks
        progress.advance(task, sum(block.bytes for block in blocks) / 1e3)
    progress.update(task, completed=total / 1e3)  # validation text is not counted


def _write_shards(encoded: Iterable[list[EncodedBlock]], dtype: str, work: Path, state: State) -> None:
    """Write the portions that follow `state`. Both splits close their shards after the same one, to save the state."""
    started = time.perf_counter() - state.seconds_encoding  # as if encoding had begun without an interruption
    with (
        ShardWriter(work, "train", dtype, state.train) as train_shards,
        ShardWriter(work, "val", dtype, state.val) as val_shards,
    ):
        writers = (train_shards, val_shards)

        def close() -> None:
            for writer in writers:
                writer.close_shard()
            state.train, state.val = train_shards.shards, val_shards.shards
            state.seconds_encoding = time.perf_counter() - started
            state.save(work)

        for blocks in encoded:
            for part, writer in chain.from_iterable(zip(block, writers, strict=True) for block in blocks):
                writer.write(part.ids, part.documents, part.bytes)
                state.unknown += part.unknown
            state.portions += 1
            if sum(writer.tokens for writer in writers) >= SHARD_TOKENS:
                close()
        close()


def _count_block(split_block: SplitBlock, trainer: BpeTrainer, repair: bool) -> WordCounts:
    """Count the words of a block's training texts."""
    block, is_val = split_block
    return trainer.count([text for text, val in zip(_texts(block, repair), is_val, strict=True) if not val])


def _encode_block(split_block: SplitBlock, tokenizer: Tokenizer, repair: bool) -> EncodedBlock:
    """Return the training and the validation part of a block; with `repair`, texts are cleaned first."""
    block, is_val = split_block
    texts = _texts(block, repair)
    ids, offsets = encode_bulk(tokenizer, texts)
    lengths = np.diff(offsets)
    lengths[: block.ends] += 1
    ids = np.insert(ids, offsets[1 : block.ends + 1], tokenizer.end_id)
    sizes = np.array([utf8_size(text) for text in block.texts], np.int64)
    in_val = np.repeat(is_val, lengths)

    def part(ids: np.ndarray, chosen: np.ndarray) -> EncodedPart:
        unknown = 0 if tokenizer.unknown_id is None else int((ids == tokenizer.unknown_id).sum())
        return EncodedPart(ids, int(chosen[: block.ends].sum()), int(sizes[chosen].sum()), unknown)

    return EncodedBlock(part(ids[~in_val], ~is_val), part(ids[in_val], is_val))


def _texts(block: TextBlock, repair: bool) -> list[str]:
    """Return the texts of a block, with `repair` cleaned as their whole documents would be."""
    if not repair:
        return block.texts
    return [clean(text, html=block.html and number == 0) for number, text in enumerate(block.texts)]


def safe_cut(tokenizer: Tokenizer, repair: bool) -> Cut:
    """Return a `Cut` that changes no id: the two sides, cleaned and encoded apart, give the same as together.

    Our own tokenizers end a word where white space follows another character, and cleaning works line by line, so the
    last such line end will do, or a space if the text has no lines. Since custom tokenizers may differ, each place is
    tested on `CUT_WINDOW` characters on either side.
    """

    def ids(text: str) -> list[int]:
        return tokenizer.encode(clean(text) if repair else text)

    def cut(text: str) -> int:
        for at in chain(_places(text, "\n"), _places(text, " ")):
            left, right = text[max(0, at - CUT_WINDOW) : at], text[at : at + CUT_WINDOW]
            if ids(left) + ids(right) == ids(left + right):
                return at
        return 0

    return cut


def _places(text: str, mark: str) -> Iterator[int]:
    """Yield places where `mark` follows a character that is not white space, from the end, but not too close to it."""
    at = len(text) - CUT_WINDOW
    for _ in range(MAX_CUTS_TRIED):
        at = text.rfind(mark, 0, max(0, at))
        if at <= 0:
            return
        before = at - 1 if text[at - 1 : at + 1] == "\r\n" else at
        if before > 0 and not text[before - 1].isspace():
            yield before


# Publishing


def _manifest(
    corpus: Corpus, work: Path, state: State, inputs: list[dict[str, Any]], record: Record, may_change: Set[str]
) -> Manifest:
    tokenizer = Tokenizer.load(work)
    return Manifest(
        tokenizer=tokenizer.hash,
        kind=tokenizer.kind,
        lossless=tokenizer.lossless,
        vocabulary=tokenizer.vocabulary,
        dtype=dtype_for(tokenizer.vocabulary),
        train=Split(state.train),
        val=Split(state.val),
        empty_documents=corpus.survey.empty,
        unknown_tokens=state.unknown,
        inputs=inputs,
        settings=record.settings,
        fingerprint=record.fingerprint(may_change),
        seconds={"tokenizer": state.seconds_tokenizer, "encoding": state.seconds_encoding},
    )


def _publish(work: Path, out: Path) -> None:
    """Move the complete result into place, the manifest last. If interrupted, it can be repeated."""
    (out / "manifest.json").unlink(missing_ok=True)
    manifest = read_manifest(work)
    current = {shard.file for shard in manifest.train.shards + manifest.val.shards}
    try:
        for stale in (*out.glob("train-*.bin"), *out.glob("val-*.bin")):
            if stale.name not in current:
                stale.unlink()
        # By name, since a killed run may have left temporary files beside them.
        for name in (*sorted(current), "tokenizer.json", "tokenizer_config.json", "manifest.json"):
            if (work / name).exists():
                (work / name).replace(out / name)
    except PermissionError as error:  # on Windows, while a training has the earlier shards open
        raise RunFailed(f"{error.filename}: cannot be replaced ({error.strerror}); repeat the command later") from None
    shutil.rmtree(work, ignore_errors=True)
