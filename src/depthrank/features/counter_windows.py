"""Window counts -> counter features, and the two ways to find the counts.

A *snapshot* holds what is known of every key as of one bucket: a gather per request (of pairs: a search). An *index*
answers single (key, bucket) questions: for training batches, whose requests lie in many buckets. Both give the same
integers, and ``counter_floats`` works on each row by itself, so both give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from depthrank.features.count_table import Counts
from depthrank.features.exact_math import log1p_of_count
from depthrank.features.window_counts import WindowCounts, distinct, find

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
_MAX_RATE = 100.0
_MAX_DENSE = 65_536  # second keys below this are looked up in an array: several times faster than searching
_MOST_FIRST = 4_096  # users whose pairs a snapshot keeps ready


@dataclass(frozen=True)
class Windows:
    """A counter feature's numbers: window lengths in buckets, and the weight of the global rate (None: no rate)."""

    lengths: tuple[int, ...]
    prior: float | None

    @property
    def num_floats(self) -> int:
        return len(self.lengths) * (1 if self.prior is None else 2)


def counter_floats(
    counts_WN: Int64, per_WN: Int64 | None, totals_WN: Int64, per_totals_WN: Int64 | None, prior: float | None
) -> Float32:
    """float32 [N, W] ln(1 + count), then with ``per`` W smoothed rates (count + prior g) / (per + prior), at most 100.

    g, the global rate, is total / per total of the same window (0 where nothing happened), and a key without any
    ``per`` event and without prior has it too. Totals broadcast to N.
    """
    parts = [log1p_of_count(counts_WN)]
    if prior is not None:
        assert per_WN is not None and per_totals_WN is not None
        overall = totals_WN / np.maximum(per_totals_WN, 1)
        weight = per_WN + prior
        rate = (counts_WN + prior * overall) / np.where(weight > 0, weight, 1.0)
        parts.append(np.minimum(np.where(weight > 0, rate, overall), _MAX_RATE))
    return np.concatenate(parts).T.astype(np.float32, order="C")  # a key's features side by side: one gather


@dataclass(frozen=True, eq=False)
class DenseSnapshot:
    """``floats`` float32 [K, F] by key code; row 0 is a key without events."""

    floats: Float32

    def lookup(self, keys: Int64) -> Float32:
        if int(keys.max(initial=0)) >= len(self.floats):  # keys made since have no events as of this bucket
            keys = np.where(keys < len(self.floats), keys, 0)
        return self.floats.take(keys, axis=0)


@dataclass(frozen=True, eq=False)
class SparseSnapshot:
    """Counts of packed pairs of codes; features are made of the keys that a request asks for, and kept by first key."""

    counts: WindowCounts
    per: WindowCounts | None
    prior: float | None
    _of_first: dict[int, tuple[Int64, Float32]] = field(default_factory=dict)

    def lookup(self, keys: Int64) -> Float32:
        per_WN = self.per.of_keys(keys) if self.per is not None else None
        return _floats(self.counts.of_keys(keys), per_WN, self.counts, self.per, self.prior)

    def lookup_of_first(self, first: int, second: Int64) -> Float32:
        """Pairs with one first key: features of all that it was counted with, then searched or laid out by low second
        keys."""
        kept = self._of_first.get(first)
        if kept is None:
            if len(self._of_first) >= _MOST_FIRST:
                self._of_first.clear()
            kept = self._of_first[first] = self._stretch(first)
        stretch, floats = kept
        highest = int(second.max(initial=0))
        if highest < _MAX_DENSE:
            stretch = stretch[: stretch.searchsorted(highest, side="right")]
            row_of = np.zeros(highest + 1, np.int64)
            row_of[stretch] = np.arange(1, 1 + len(stretch))
            return floats.take(row_of.take(second), axis=0)
        return floats.take(find(stretch, second), axis=0)

    def _stretch(self, first: int) -> tuple[Int64, Float32]:
        """The second keys n that were counted with ``first``, ascending, and float32 [n + 1, F]: features of a key
        without events, then theirs."""
        begin, stop = first << 32, (first + 1) << 32
        found = [counts.between(begin, stop) if counts is not None else [] for counts in (self.counts, self.per)]
        keys = distinct(np.concatenate([np.zeros(0, np.int64), *(keys for parts in found for keys, _ in parts)]))
        counts_WN, per_WN = np.zeros((2, len(self.counts.base_WP), 1 + len(keys)), np.int64)
        for out_WN, parts in zip((counts_WN, per_WN), found, strict=True):
            for part_keys, part_WN in parts:
                out_WN[:, 1 + keys.searchsorted(part_keys)] += part_WN
        per = per_WN if self.per is not None else None
        return keys - begin, _floats(counts_WN, per, self.counts, self.per, self.prior)


Snapshot = DenseSnapshot | SparseSnapshot


def dense_snapshot(counts: WindowCounts, per: WindowCounts | None, prior: float | None, num_keys: int) -> DenseSnapshot:
    """Features of key codes 0..num_keys - 1."""
    per_WK = per.all_keys(num_keys) if per is not None else None
    return DenseSnapshot(_floats(counts.all_keys(num_keys), per_WK, counts, per, prior))


def _floats(
    counts_WN: Int64, per_WN: Int64 | None, counts: WindowCounts, per: WindowCounts | None, prior: float | None
) -> Float32:
    per_totals = per.totals_W[:, None] if per is not None else None
    return counter_floats(counts_WN, per_WN, counts.totals_W[:, None], per_totals, prior)


class CountIndex:
    """Counts of single keys over single windows: binary search in (key, bucket) order, with running sums."""

    def __init__(self, counts: Counts) -> None:
        self._keys, key = np.unique(counts.key, return_inverse=True)
        self._buckets, bucket = np.unique(counts.bucket, return_inverse=True)
        self._stride = len(self._buckets) + 1
        place = key * self._stride + bucket
        order = np.argsort(place, kind="stable")
        self._place = place[order]
        self._running = np.concatenate([[0], np.cumsum(counts.count[order])])
        self._totals = np.concatenate([[0], np.cumsum(np.bincount(bucket, counts.count, len(self._buckets)))])

    def count(self, keys: Int64, first: Int64, stop: Int64) -> Int64:
        """Events of each key with first <= bucket < stop, int64 [n]."""
        found = find(self._keys, keys)
        row = (found - 1) * self._stride
        after = self._running[np.searchsorted(self._place, row + np.searchsorted(self._buckets, stop))]
        before = self._running[np.searchsorted(self._place, row + np.searchsorted(self._buckets, first))]
        return np.where(found > 0, after - before, 0)

    def total(self, first: Int64, stop: Int64) -> Int64:
        """Events of all keys with first <= bucket < stop, int64 [n]."""
        after, before = (self._totals[np.searchsorted(self._buckets, bucket)] for bucket in (stop, first))
        return np.asarray(after - before, np.int64)


def indexed_floats(table: CountIndex, per: CountIndex | None, windows: Windows, keys: Int64, bucket: Int64) -> Float32:
    """Features of n (key, bucket) pairs, float32 [n, F]."""

    def counts(index: CountIndex) -> tuple[Int64, Int64]:
        firsts = [bucket - length for length in windows.lengths]
        of_key = np.stack([index.count(keys, first, bucket) for first in firsts])
        return of_key, np.stack([index.total(first, bucket) for first in firsts])

    of_key, totals = counts(table)
    per_key, per_totals = counts(per) if per is not None else (None, None)
    return counter_floats(of_key, per_key, totals, per_totals, windows.prior)
