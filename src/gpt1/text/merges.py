"""Byte-pair encoding learnt from a table of words and counts (Sennrich et al. 2016, algorithm 1), on numpy arrays.

`tokenizers.trainers.BpeTrainer` takes texts only and splits every occurrence of every word again; this takes each
distinct word once. The merges are the same: the most frequent pair first, of equals the one with the smaller ids.

All words lie in one array, a doubly linked list of symbols. A merge visits the places of its pair only, all at once.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
RAREST = 2
"""Times a pair must be seen; a merge that one word alone asks for teaches nothing."""
NONE = -1
"""No neighbour: a word's edge. As a symbol: a place that a merge has emptied."""


def learn_merges(symbols: Ints, lengths: Ints, counts: Ints, names: list[str], size: int) -> list[tuple[int, int]]:
    """The pairs of ids to merge, in order, until `names` (id -> string, extended in place) holds `size`.

    symbols: the ids of all words' symbols, joined; lengths: symbols in each word; counts: how often each word occurs.
    Ends early where no pair is seen `RAREST` times. Two merges that spell the same string share its id.
    """
    table = _Words(symbols, lengths, counts)
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

    def __init__(self, symbols: Ints, lengths: Ints, counts: Ints) -> None:
        self.symbol = symbols.astype(np.int64)
        self.weight = np.repeat(counts.astype(np.int64), lengths)
        places = np.arange(len(self.symbol))
        self.left, self.right = places - 1, places + 1
        ends = np.cumsum(lengths)
        self.left[(ends - lengths)[lengths > 0]] = NONE
        self.right[(ends - 1)[lengths > 0]] = NONE
        self.count: dict[int, int] = {}
        self.places: dict[int, Ints] = {}
        self.heap: list[tuple[int, int]] = []
        inner = places[self.right != NONE]
        self._add(_key(self.symbol[inner], self.symbol[inner + 1]), inner)

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
        self._remove(_key(b, symbol[after[has_after]]), second[has_after])
        symbol[second] = NONE
        # Where two merges touch (a b a b), the pair between them was already removed from its left side.
        has_before = before != NONE
        has_before[has_before] = symbol[before[has_before]] != NONE
        before = before[has_before]
        self._remove(_key(symbol[before], a), before)

        symbol[first] = new
        right[first] = after
        left[after[has_after]] = first[has_after]
        followed = first[has_after]
        keys = np.concatenate((_key(symbol[before], new), _key(new, symbol[right[followed]])))
        self._add(keys, np.concatenate((before, followed)))

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

    def _remove(self, keys: Ints, places: Ints) -> None:
        unique, starts, order = _groups(keys)
        if len(unique):
            for key, lost in zip(unique, np.add.reduceat(self.weight[places[order]], starts).tolist(), strict=True):
                # The pair being merged may neighbour itself (a a a); it is no longer counted.
                if key in self.count:
                    self.count[key] -= lost

    def _add(self, keys: Ints, places: Ints) -> None:
        unique, starts, order = _groups(keys)
        if not len(unique):
            return
        places = places[order]
        gained = np.add.reduceat(self.weight[places], starts).tolist()
        ends = [*starts[1:].tolist(), len(places)]
        for key, count, start, end in zip(unique, gained, starts.tolist(), ends, strict=True):
            mine = places[start:end]
            if key in self.places:
                mine = np.concatenate((self.places[key], mine))
            self.places[key] = mine
            self.count[key] = count = self.count.get(key, 0) + count
            heapq.heappush(self.heap, (-count, key))


def _key(a: Ints | int, b: Ints | int) -> Ints:
    return np.asarray(a << 32 | b, np.int64)


def _groups(keys: Ints) -> tuple[list[int], Ints, Ints]:
    """The distinct keys, where each one's group starts in the sorted order, and that order."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = (
        np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(keys) else np.zeros(0, np.int64)
    )
    return ordered[starts].tolist(), starts, order
