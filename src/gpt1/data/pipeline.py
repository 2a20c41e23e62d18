"""The passes of `gpt1 prepare` over a corpus: see what is in it, train a tokenizer, encode it into shards."""

import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from rich.progress import Progress

from gpt1 import config
from gpt1.console import bar, say
from gpt1.data import journal as journals
from gpt1.data.corpus import Corpus
from gpt1.data.documents import at_whitespace
from gpt1.data.encode import encode, mended, proven_cut
from gpt1.data.journal import Journal
from gpt1.data.shards import ShardWriter, dtype_for
from gpt1.data.split import Marked
from gpt1.errors import RunFailed
from gpt1.tokenizer.openai import find_tokenizer
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train

SHARD_TOKENS = 1 << 26
"""Tokens after which shards are closed: the most work that an interruption can cost."""
TRAINED: dict[str, Literal["bytes", "gpt1"]] = {"bytes": "bytes", "gpt1": "gpt1"}
"""Tokenizers that are made for the corpus; any other value of the setting is a path."""
CONTEXT = config.Model().context
"""Written as the tokenizer's longest text; a run writes its own."""


def encoded(settings: config.Prepare, corpus: Corpus, work: Path, fingerprint: str) -> Journal:
    """Fill the folder `work` with a tokenizer and shards, from where an earlier call stopped unless it is `fresh`.

    Raises UserError for text that cannot be had as asked, RunFailed if an input changes meanwhile.
    """
    journal = None if settings.fresh else journals.load(work, fingerprint)
    with bar() as progress:
        looking = progress.add_task("reading", total=None)
        size = corpus.survey.characters
        progress.remove_task(looking)
        if journal is None:
            journal = _begun(settings, corpus, work, fingerprint, progress)
        else:
            say(f"{work}: going on after the {journal.blocks:,} blocks that an interrupted run encoded")
        tokenizer = Tokenizer.load(work)
        marked = corpus.marked(proven_cut(tokenizer, settings.repair))
        _write_shards(_watched(marked, progress, "encoding, kB", size), tokenizer, settings.repair, work, journal)
    if sum(shard.bytes for shard in journal.train + journal.val) != corpus.survey.bytes:
        shutil.rmtree(work)
        raise RunFailed("an input changed while it was read; prepare again")
    return journal


def _begun(settings: config.Prepare, corpus: Corpus, work: Path, fingerprint: str, progress: Progress) -> Journal:
    """Make `work` anew, with a tokenizer in it."""
    started = time.perf_counter()
    if kind := TRAINED.get(settings.tokenizer):
        size = corpus.survey.characters
        marked = _watched(corpus.marked(at_whitespace), progress, "reading for the tokenizer, kB", size)
        tokenizer = train(_training_texts(marked, settings.repair), kind, settings.vocabulary)
    else:
        tokenizer = find_tokenizer(settings.tokenizer, settings.words)
    shutil.rmtree(work, ignore_errors=True)
    tokenizer.save(work, CONTEXT)
    journal = Journal(fingerprint, seconds_tokenizer=time.perf_counter() - started)
    journal.save(work)
    return journal


def _training_texts(marked: Iterator[Marked], mend: bool) -> Iterator[str]:
    for block, validates in marked:
        texts = mended(block) if mend else block.texts
        yield from (text for text, val in zip(texts, validates, strict=True) if not val)


def _watched(marked: Iterator[Marked], progress: Progress, name: str, characters: int) -> Iterator[Marked]:
    """The same blocks, with a bar that moves as they pass."""
    task = progress.add_task(name, total=characters / 1e3)
    for block, validates in marked:
        yield block, validates
        progress.advance(task, sum(map(len, block.texts)) / 1e3)


def _write_shards(marked: Iterator[Marked], tokenizer: Tokenizer, mend: bool, work: Path, journal: Journal) -> None:
    """Encode what the journal does not have yet. Both splits close their shards at the same block, to note it."""
    dtype, since = dtype_for(tokenizer.vocabulary), time.perf_counter() - journal.seconds_encoding
    with (
        ShardWriter(work, "train", dtype, journal.train) as train_shards,
        ShardWriter(work, "val", dtype, journal.val) as val_shards,
    ):
        writers = (train_shards, val_shards)

        def close() -> None:
            for writer in writers:
                writer.close_shard()
            journal.train, journal.val = train_shards.shards, val_shards.shards
            journal.seconds_encoding = time.perf_counter() - since
            journal.save(work)

        for parts in encode(islice(marked, journal.blocks, None), tokenizer, mend):
            for part, writer in zip(parts, writers, strict=True):
                writer.write(part.ids, part.documents, part.bytes)
                journal.unknown += part.unknown
            journal.blocks += 1
            if sum(writer.tokens for writer in writers) >= SHARD_TOKENS:
                close()
        close()
