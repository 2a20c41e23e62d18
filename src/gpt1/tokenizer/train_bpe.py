"""A tokenizer learnt from a stream of texts, in bounded memory: count the distinct words, then learn merges."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import polars as pl

from gpt1.errors import UserError
from gpt1.tokenizer.merges import learn_merges
from gpt1.tokenizer.pretokenize import PATTERNS
from gpt1.tokenizer.tokenizer import UNKNOWN, Tokenizer, blank, byte_symbols

CHUNK = 8_000_000
"""Characters of text that are split and counted at once."""
MOST_WORDS = 1_000_000
"""Distinct words to learn from, the most frequent. While counting, twice as many are kept: the counts of words seen
once or twice in a large corpus become approximate, those of words frequent enough to be merged stay."""
MOST_BYTES = 16_000_000
"""Bytes of all distinct words to learn from, likewise. A script without spaces has long words, most of them seen once;
of words seen equally often a sample stays, the same whatever the order of the texts."""
MOST_CHARACTERS = 1_000
"""Characters that a `gpt1` vocabulary knows, the most frequent, at most a quarter of its size; others are <unk>."""
SPECIALS = 2
"""End and pad, which every tokenizer of ours appends."""
SMALLEST = 256 + SPECIALS
"""Ids that a `bytes` vocabulary cannot do without; `gpt1` keeps to the same."""


def train(texts: Iterable[str], kind: Literal["bytes", "gpt1"], vocabulary: int = 0) -> Tokenizer:
    """Learn a tokenizer with `vocabulary` ids, special tokens included; 0 leaves the number to the corpus.

    The same texts give the same tokenizer, in whatever order they come.
    Raises UserError if `vocabulary` is too small for the kind, or more than the corpus can give.
    """
    if 0 < vocabulary < SMALLEST:
        raise UserError(
            f"a vocabulary of {vocabulary} is too small: it needs at least {SMALLEST}, one a byte, end and pad"
        )
    words, seen_bytes = _count(texts, kind)
    wanted = vocabulary or choose_vocabulary(seen_bytes)
    learn = _learn_bytes if kind == "bytes" else _learn_gpt1
    tokenizer = learn(words, wanted)
    if vocabulary and tokenizer.vocabulary < vocabulary:
        raise UserError(
            f"a vocabulary of {vocabulary:,} is more than the corpus can give: its repeated words make "
            f"{tokenizer.vocabulary:,} tokens; ask for fewer, or give more text"
        )
    return tokenizer


def choose_vocabulary(corpus_bytes: int) -> int:
    """Vocabulary size for a corpus: 1,024 times the root of its megabytes, a multiple of 256 from 512 to 40,192.

    So 1 MB gets 1,024, 60 MB 7,936, 1 GB 32,256. A token's embedding needs examples to learn from: with the number of
    tokens growing as the root, so does the number of times each is seen.
    """
    size = 1024 * (corpus_bytes / 1e6) ** 0.5
    return min(max(round(size / 256) * 256, 512), 40_192)


def _count(texts: Iterable[str], kind: str) -> tuple[pl.DataFrame, int]:
    """The distinct words (columns word, n), in a fixed order, and the bytes of all texts."""
    seen_bytes = 0
    table = pl.DataFrame(schema={"word": pl.String, "n": pl.UInt64})
    for chunk in _chunks(texts):
        series = pl.Series(chunk, dtype=pl.String)
        seen_bytes += int(series.str.len_bytes().sum())
        words = series.str.extract_all(PATTERNS[kind]).explode().drop_nulls().alias("word")
        counted = words.value_counts(name="n").cast({"n": pl.UInt64})
        table = pl.concat([table, counted]).group_by("word").agg(pl.col("n").sum())
        table = _frequent(table, 2)
    return _frequent(table, 1).sort("n", "word", descending=[True, False]), seen_bytes


def _frequent(table: pl.DataFrame, times: int) -> pl.DataFrame:
    """The table, if it is within `times` the limits; else its most frequent words, as many as the limits allow."""
    size = pl.col("word").str.len_bytes()
    if len(table) <= times * MOST_WORDS and table.select(size.sum()).item() <= times * MOST_BYTES:
        return table
    # Where one "word" of a text without spaces would take the place of all others, it is no loss.
    table = table.filter(size <= MOST_BYTES // 1000)
    # Sorted by the words themselves, a tie at the limit would leave those of one end of the alphabet.
    order = table.sort("n", pl.col("word").hash(), descending=[True, False])
    return order.head(MOST_WORDS).filter(size.cum_sum() <= MOST_BYTES)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _learn_bytes(table: pl.DataFrame, size: int) -> Tokenizer:
    symbols = byte_symbols()
    names = sorted(symbols)
    id_of_byte = np.array([names.index(symbol) for symbol in symbols], np.uint8)
    joined = id_of_byte[np.frombuffer("".join(table["word"]).encode(), np.uint8)]
    lengths = table["word"].str.len_bytes().to_numpy()
    pairs = learn_merges(joined, lengths, table["n"].to_numpy(), names, size - SPECIALS)
    merges = [(names[a], names[b]) for a, b in pairs]
    return blank("bytes", {name: i for i, name in enumerate(names)}, merges)


def _learn_gpt1(table: pl.DataFrame, size: int) -> Tokenizer:
    counts = _bert_words(table)
    characters: Counter[str] = Counter()
    for word, n in counts.items():
        for character in word:
            characters[character] += n
    kept = sorted(characters, key=lambda c: (-characters[c], c))[: min(MOST_CHARACTERS, size // 4)]
    names = [UNKNOWN, *sorted(kept), *(f"{c}</w>" for c in sorted(kept))]
    ids = {name: i for i, name in enumerate(names)}
    known = {word: n for word, n in sorted(counts.items()) if all(c in ids for c in word)}
    joined = np.array([ids[symbol] for word in known for symbol in (*word[:-1], word[-1] + "</w>")], np.int64)
    lengths = np.fromiter(map(len, known), np.int64, len(known))
    pairs = learn_merges(joined, lengths, np.fromiter(known.values(), np.int64, len(known)), names, size - SPECIALS)
    merges = [(names[a], names[b]) for a, b in pairs]
    return blank("gpt1", {name: i for i, name in enumerate(names)}, merges)


def _bert_words(table: pl.DataFrame) -> Counter[str]:
    """The table's space-separated words, normalised and cut at punctuation as the `gpt1` tokenizer does."""
    own = blank("gpt1", {UNKNOWN: 0}, [])
    counts: Counter[str] = Counter()
    for word, n in table.iter_rows():
        for piece in own.split(word):
            counts[piece] += n
    return counts
