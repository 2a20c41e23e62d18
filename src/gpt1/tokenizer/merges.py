"""Byte-pair encoding learnt from a table of words and counts (Sennrich et al. 2016, algorithm 1), on numpy arrays.

`tokenizers.trainers.BpeTrainer` takes texts only and splits every occurrence of every word again; this takes each
distinct word once. The merges are the same: the most frequent pair first, of equals the one with the smaller ids.

All words lie in one array, a doubly linked list of symbols. A merge visits the places of its pair only, all at once.
Time and memory grow with the number of symbols, about half a microsecond and 40 bytes each, hardly with the merges.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
RAREST = 2
"""Times a pair must be seen; a merge that one word alone asks for teaches nothing."""
NONE = -1
"""No neighbour: a word's edge. As a symbol: a place that a merge has emptied."""


def learn_merges(symbols: Ints, lengths: Ints, counts: Ints, names: list[str], size: int) -> list[tuple[int, int]]:
    """The pairs of ids to merge, in order, until `names` (id -> string, extended in place) holds `size`.

    symbols: the ids of all words' symbols, joined; lengths: symbols in each word; counts: how often each word occurs.
    Ends early where no pair is seen `RAREST` times. Two merges that spell the same string share its id.
    """
    table = _Words(symbols, lengths, counts, size)
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


class _Words:
    """Every word's symbols, the count of every pair of neighbours, and where each pair stands."""

    def __init__(self, symbols: Ints, lengths: Ints, counts: Ints, size: int) -> None:
        # numpy sorts 16 bits by their digits, in time linear in their number; wider integers by comparing them.
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
        """The next pair to merge, or None. The heap's counts may be too high; they are corrected on the way out."""
        while self.heap:
            count, key = self.heap[0]
            now = self.count.get(key, 0)
            if -count == now >= RAREST:
                heapq.heappop(self.heap)
                return key >> 32, key & 0xFFFFFFFF
            if now < RAREST:
                heapq.heappop(self.heap)
            else:
                heapq.heapreplace(self.heap, (-now, key))
        return None

    def merge(self, a: int, b: int, new: int) -> None:
        """Replace each `a b` by `new`, from left to right in every word, and recount its neighbours."""
        symbol, left, right = self.symbol, self.left, self.right
        key = a << 32 | b
        del self.count[key]
        first = self._still_there(self.places.pop(key), a, b)
        second = right[first]
        before, after = left[first], right[second]
        has_after = after != NONE
        self._remove(b, symbol[after[has_after]], second[has_after])
        symbol[second] = NONE
        # Where two merges touch (a b a b), the pair between them was already removed from its left side.
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

    def _still_there(self, places: Ints, a: int, b: int) -> Ints:
        """Those of `places` where `a b` still stands; of overlapping ones (a a a) the first, the third, and so on."""
        symbol, right = self.symbol, self.right
        places = places[symbol[places] == a]
        following = right[places]
        # right may be NONE, which would index the last symbol: that one is checked too
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
            # The pair being merged may neighbour itself (a a a); it is no longer counted.
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
        """The distinct pairs `a b`, as keys; where each one's group starts; the places in that order."""
        varied = [symbols.astype(self.sortable) for symbols in (b, a) if isinstance(symbols, np.ndarray)]
        order = np.lexsort(varied)
        keys = _key(a if isinstance(a, int) else a[order], b if isinstance(b, int) else b[order])
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        return keys[starts].tolist(), starts, places[order]

    def _weights(self, places: Ints, starts: Ints) -> list[int]:
        """How often the words of each group occur."""
        return np.add.reduceat(self.weight[places], starts, dtype=np.int64).tolist()


def _smallest(largest: int) -> type[np.signedinteger]:
    """The type for numbers up to one more than `largest`."""
    return np.int32 if largest < np.iinfo(np.int32).max else np.int64


def _key(a: Ints | int, b: Ints | int) -> NDArray[np.int64]:
    return np.asarray(np.asarray(a, np.int64) << 32 | b, np.int64)
