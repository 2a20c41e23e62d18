"""Learn a tokenizer from a stream of texts, in bounded memory: count the distinct words, then learn merges (BPE)."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpt1.errors import UserError, setting
from gpt1.tokenizer.pretokenize import PATTERNS
from gpt1.tokenizer.tokenizer import UNKNOWN, Tokenizer, bpe_tokenizer, byte_symbols

CHUNK = 8_000_000  # characters of text that are split and counted at once
# Number of distinct words to learn from, the most frequent ones. While counting, twice as many are kept, so only counts
# of words that occur once or twice in a large corpus become approximate; words frequent enough to be merged stay.
MAX_WORDS = 1_000_000
# Total bytes of the distinct words, a limit for scripts without spaces, whose "words" are long and mostly occur once.
# Among equally frequent words, a sample that does not depend on the order of the texts is kept.
MAX_BYTES = 16_000_000
MAX_CHARACTERS = 1_000  # characters in a `gpt1` vocabulary, at most a quarter of its size; others become <unk>
SPECIALS = 2  # end and pad, which `Tokenizer` appends
MIN_VOCABULARY = 256 + SPECIALS  # ids that a `bytes` vocabulary needs; `gpt1` has the same minimum
MIN_PAIR_COUNT = 2  # occurrences that a pair needs to be merged
NONE = -1  # as a neighbour: the edge of a word; as a symbol: a place that a merge has emptied

Ints = NDArray[np.integer]


class WordCounts(NamedTuple):
    """How often each distinct word occurs in some texts."""

    table: pl.DataFrame
    """columns word, n"""
    bytes: int
    """size of the texts as UTF-8"""


@dataclass(frozen=True)
class BpeTrainer:
    """Learns a tokenizer with `vocabulary` ids, special tokens included; 0 chooses the number by the corpus size."""

    kind: Literal["bytes", "gpt1"]
    vocabulary: int = 0

    def count(self, texts: Iterable[str]) -> WordCounts:
        """Return the counts of a part of the corpus, which memory holds."""
        series = pl.Series(texts, dtype=pl.String)
        words = series.str.extract_all(PATTERNS[self.kind]).explode().drop_nulls().alias("word")
        counted = words.value_counts(name="n").cast({"n": pl.UInt64})
        return WordCounts(counted, int(series.str.len_bytes().sum()))

    def learn(self, parts: Iterable[WordCounts]) -> Tokenizer:
        """Return the tokenizer of a corpus whose parts were counted.

        Raises UserError if the vocabulary is below the minimum, or larger than the corpus supports.
        """
        if 0 < self.vocabulary < MIN_VOCABULARY:
            raise UserError(
                f"{setting('vocabulary')} {self.vocabulary} must be at least {MIN_VOCABULARY}: one token per byte, end "
                "and pad"
            )
        total = _sum(parts)
        learn = _learn_bytes if self.kind == "bytes" else _learn_gpt1
        tokenizer = learn(total.table, self.vocabulary or choose_vocabulary(total.bytes))
        if self.vocabulary and tokenizer.vocabulary < self.vocabulary:
            raise UserError(
                f"{setting('vocabulary')} {self.vocabulary:,} is too large for this corpus: its repeated words give "
                f"only {tokenizer.vocabulary:,} tokens; lower it or add text"
            )
        return tokenizer


def train(texts: Iterable[str], kind: Literal["bytes", "gpt1"], vocabulary: int = 0) -> Tokenizer:
    """Learn a tokenizer from a stream of texts, see `BpeTrainer`. The same texts in any order give the same one."""
    trainer = BpeTrainer(kind, vocabulary)
    return trainer.learn(map(trainer.count, _chunks(texts)))


def choose_vocabulary(corpus_bytes: int) -> int:
    """Return the vocabulary size for a corpus: 1,024 sqrt(megabytes), a multiple of 256 from 512 to 40,192.

    That is 1,024 for 1 MB, 7,936 for 60 MB, 32,256 for 1 GB. An embedding needs examples to learn from: as the number
    of tokens grows with the square root of the corpus, so does the number of times each one occurs.
    """
    size = 1024 * (corpus_bytes / 1e6) ** 0.5
    return min(max(round(size / 256) * 256, 512), 40_192)


def _sum(parts: Iterable[WordCounts]) -> WordCounts:
    """Return the counts of all parts together, the words in a fixed order."""
    table, size = pl.DataFrame(schema={"word": pl.String, "n": pl.UInt64}), 0
    for part in parts:
        table = pl.concat([table, part.table]).group_by("word").agg(pl.col("n").sum())
        table = _frequent(table, 2)
        size += part.bytes
    return WordCounts(_frequent(table, 1).sort("n", "word", descending=[True, False]), size)


def _frequent(table: pl.DataFrame, times: int) -> pl.DataFrame:
    """Return the table if it is within `times` the limits, else as many of its most frequent words as they allow."""
    size = pl.col("word").str.len_bytes()
    if len(table) <= times * MAX_WORDS and table.select(size.sum()).item() <= times * MAX_BYTES:
        return table
    # Drop "words" so long (text without spaces) that one would take the place of all others.
    table = table.filter(size <= MAX_BYTES // 1000)
    # By hash, since in alphabetical order a tie at the limit would keep one end of the alphabet.
    order = table.sort("n", pl.col("word").hash(), descending=[True, False])
    return order.head(MAX_WORDS).filter(size.cum_sum() <= MAX_BYTES)


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
    return bpe_tokenizer("bytes", {name: i for i, name in enumerate(names)}, merges)


def _learn_gpt1(table: pl.DataFrame, size: int) -> Tokenizer:
    counts = _bert_words(table)
    characters: Counter[str] = Counter()
    for word, n in counts.items():
        for character in word:
            characters[character] += n
    kept = sorted(characters, key=lambda c: (-characters[c], c))[: min(MAX_CHARACTERS, size // 4)]
    names = [UNKNOWN, *sorted(kept), *(f"{c}</w>" for c in sorted(kept))]
    ids = {name: i for i, name in enumerate(names)}
    known = {word: n for word, n in sorted(counts.items()) if all(c in ids for c in word)}
    joined = np.array([ids[symbol] for word in known for symbol in (*word[:-1], word[-1] + "</w>")], np.int64)
    lengths = np.fromiter(map(len, known), np.int64, len(known))
    pairs = learn_merges(joined, lengths, np.fromiter(known.values(), np.int64, len(known)), names, size - SPECIALS)
    merges = [(names[a], names[b]) for a, b in pairs]
    return bpe_tokenizer("gpt1", {name: i for i, name in enumerate(names)}, merges)


def _bert_words(table: pl.DataFrame) -> Counter[str]:
    """Return the counts of the table's words once they are normalized and split at punctuation, as kind `gpt1` does."""
    own = bpe_tokenizer("gpt1", {UNKNOWN: 0}, [])
    counts: Counter[str] = Counter()
    for word, n in table.iter_rows():
        for piece in own.pretokenize(word):
            counts[piece] += n
    return counts


def learn_merges(symbols: Ints, lengths: Ints, counts: Ints, names: list[str], size: int) -> list[tuple[int, int]]:
    """Return the pairs of ids to merge, in order, until `names` (id -> string, extended in place) has `size` entries.

    symbols: the ids of all words' symbols, joined; lengths: symbols in each word; counts: how often each word occurs.
    Stops early when no pair occurs `MIN_PAIR_COUNT` times. Two merges that spell the same string share its id.

    This is byte-pair encoding (Sennrich et al. 2016, algorithm 1), with the merges of `tokenizers.trainers.BpeTrainer`:
    the most frequent pair first; on a tie, the one with the smaller ids. That trainer takes texts only,
    and splits every occurrence of a word again; this takes each distinct word once. All words lie in one array, as
    doubly linked lists of symbols, and a merge visits only the places of its pair, all at once. Time and memory grow
    with the number of symbols, about half a microsecond and 40 bytes each, and hardly with the number of merges.
    """
    table = _PairTable(symbols, lengths, counts, size)
    ids = {name: i for i, name in enumerate(names)}
    merges = []
    while len(names) < size and (pair := table.most_frequent()):
        name = names[pair[0]] + names[pair[1]]
        new = ids.setdefault(name, len(names))
        if new == len(names):
            names.append(name)
        table.merge(*pair, new)
        merges.append(pair)
    return merges


class _PairTable:
    """All words' symbols, and the count and the places of each pair of neighbours."""

    def __init__(self, symbols: Ints, lengths: Ints, counts: Ints, size: int) -> None:
        # numpy sorts 16-bit integers with a radix sort, in linear time, and wider ones by comparison.
        self.sortable = np.uint16 if size <= 1 << 16 else np.int32
        self.symbol = symbols.astype(np.int32)
        self.weight = np.repeat(counts.astype(_smallest(counts.max(initial=0))), lengths)
        places = np.arange(len(self.symbol), dtype=_smallest(len(self.symbol)))
        self.left, self.right = places - 1, places + 1
        ends = np.cumsum(lengths)
        self.left[(ends - lengths)[lengths > 0]] = NONE
        self.right[(ends - 1)[lengths > 0]] = NONE
        self.count: dict[int, int] = {}
        self.places: dict[int, Ints] = {}
        self.heap: list[tuple[int, int]] = []
        inner = places[self.right != NONE]
        self._add(self.symbol[inner], self.symbol[inner + 1], inner)

    def most_frequent(self) -> tuple[int, int] | None:
        """Return the next pair to merge, or None. Counts in the heap may be too high; they are corrected here."""
        while self.heap:
            count, key = self.heap[0]
            now = self.count.get(key, 0)
            if -count == now >= MIN_PAIR_COUNT:
                heapq.heappop(self.heap)
                return key >> 32, key & 0xFFFFFFFF
            if now < MIN_PAIR_COUNT:
                heapq.heappop(self.heap)
            else:
                heapq.heapreplace(self.heap, (-now, key))
        return None

    def merge(self, a: int, b: int, new: int) -> None:
        """Replace each `a b` by `new`, from left to right in every word, and recount the neighbouring pairs."""
        symbol, left, right = self.symbol, self.left, self.right
        key = a << 32 | b
        del self.count[key]
        first = self._remaining(self.places.pop(key), a, b)
        second = right[first]
        before, after = left[first], right[second]
        has_after = after != NONE
        self._remove(b, symbol[after[has_after]], second[has_after])
        symbol[second] = NONE
        # Where two merges touch (a b a b), the pair between them was already removed with the left one.
        has_before = before != NONE
        has_before[has_before] = symbol[before[has_before]] != NONE
        before = before[has_before]
        self._remove(symbol[before], a, before)

        symbol[first] = new
        right[first] = after
        left[after[has_after]] = first[has_after]
        followed = first[has_after]
        self._add(symbol[before], new, before)
        self._add(new, symbol[right[followed]], followed)

    def _remaining(self, places: Ints, a: int, b: int) -> Ints:
        """Return those of `places` that still hold `a b`; if they overlap (a a a), every other one from the first."""
        symbol, right = self.symbol, self.right
        places = places[symbol[places] == a]
        following = right[places]
        # `right` may be NONE, which would index the last symbol, so check that too.
        places = places[(symbol[following] == b) & (following != NONE)]
        if a != b:
            return places
        places = np.sort(places)
        index = np.arange(len(places))
        starts_run = np.ones(len(places), bool)
        starts_run[1:] = right[places[:-1]] != places[1:]
        return places[(index - np.maximum.accumulate(np.where(starts_run, index, 0))) % 2 == 0]

    def _remove(self, a: Ints | int, b: Ints | int, places: Ints) -> None:
        if not len(places):
            return
        keys, starts, places = self._grouped(a, b, places)
        for key, lost in zip(keys, self._weights(places, starts), strict=True):
            # The pair being merged may be its own neighbour (a a a); it is no longer counted.
            if key in self.count:
                self.count[key] -= lost

    def _add(self, a: Ints | int, b: Ints | int, places: Ints) -> None:
        if not len(places):
            return
        keys, starts, places = self._grouped(a, b, places)
        gained = self._weights(places, starts)
        bounds = [*starts.tolist(), len(places)]
        for key, count, start, end in zip(keys, gained, bounds, bounds[1:], strict=False):
            mine = places[start:end]
            if key in self.places:
                mine = np.concatenate((self.places[key], mine))
            self.places[key] = mine
            self.count[key] = count = self.count.get(key, 0) + count
            heapq.heappush(self.heap, (-count, key))

    def _grouped(self, a: Ints | int, b: Ints | int, places: Ints) -> tuple[list[int], Ints, Ints]:
        """Return the distinct pairs `a b` as keys, where the group of each starts, and the places in that order."""
        varied = [symbols.astype(self.sortable) for symbols in (b, a) if isinstance(symbols, np.ndarray)]
        order = np.lexsort(varied)
        keys = _key(a if isinstance(a, int) else a[order], b if isinstance(b, int) else b[order])
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        return keys[starts].tolist(), starts, places[order]

    def _weights(self, places: Ints, starts: Ints) -> list[int]:
        """Return how often the words of each group occur, in total."""
        return np.add.reduceat(self.weight[places], starts, dtype=np.int64).tolist()


def _smallest(largest: int) -> type[np.signedinteger]:
    """Return the smaller of two integer types that holds values up to `largest` + 1."""
    return np.int32 if largest < np.iinfo(np.int32).max else np.int64


def _key(a: Ints | int, b: Ints | int) -> NDArray[np.int64]:
    return np.asarray(np.asarray(a, np.int64) << 32 | b, np.int64)
