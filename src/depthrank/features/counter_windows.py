"""Window counts -> counter features, and the two ways to find the counts.

A *snapshot* holds the features of every key as of one bucket: a gather per request. An *index* answers single
(key, bucket) questions: for training batches, whose requests lie in many buckets. Both give the same integers, and
``counter_floats`` works on each row by itself, so both give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthrank.features.count_table import Counts, TableState
from depthrank.features.exact_math import log1p

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
_MAX_RATE = 100.0
_MAX_DENSE = 65_536  # second keys below this are looked up in an array: several times faster than searching


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
    parts = [log1p(counts_WN.astype(np.float64))]
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
    """``keys`` int64 [P] ascending; ``floats`` float32 [P + 1, F], row 0 a key without events, row i + 1 key i."""

    keys: Int64
    floats: Float32

    def lookup(self, keys: Int64) -> Float32:
        return self.floats.take(_find(self.keys, keys), axis=0)

    def lookup_of_first(self, first: int, second: Int64) -> Float32:
        """Pairs with one first key: only that key's stretch is searched, or laid out by low second keys."""
        start, stop = self.keys.searchsorted([first << 32, (first + 1) << 32])
        stretch = self.keys[start:stop] - (first << 32)
        highest = int(second.max(initial=0))
        if highest < _MAX_DENSE:
            stretch = stretch[: stretch.searchsorted(highest, side="right")]
            row_of = np.zeros(highest + 1, np.int64)
            row_of[stretch] = np.arange(start + 1, start + 1 + len(stretch))
            return self.floats.take(row_of.take(second), axis=0)
        found = _find(stretch, second)
        return self.floats.take(np.where(found > 0, found + start, 0), axis=0)


Snapshot = DenseSnapshot | SparseSnapshot


def _find(sorted_keys: Int64, keys: Int64) -> Int64:
    """Place + 1 of each key, 0 where it is absent."""
    if not len(sorted_keys):
        return np.zeros(len(keys), np.int64)
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[place] == keys, place + 1, 0)


def dense_snapshot(
    table: TableState, per: TableState | None, windows: Windows, bucket: int, num_keys: int
) -> DenseSnapshot:
    """Features of key codes 0..num_keys - 1 as of ``bucket``."""

    def counts(state: TableState) -> tuple[Int64, Int64]:
        found = [state.window(bucket - length, bucket) for length in windows.lengths]
        # Code 0 is no key: nothing is counted under it.
        dense = [np.bincount(k, c, num_keys)[:num_keys].astype(np.int64) for k, c in found]
        return np.stack(dense), np.array([[c.sum()] for _, c in found], np.int64)

    return DenseSnapshot(_floats(counts, table, per, windows))


def sparse_snapshot(table: TableState, per: TableState | None, windows: Windows, bucket: int) -> SparseSnapshot:
    """Features of every key with an event in a window as of ``bucket``."""
    longest = max(windows.lengths)
    states = [state for state in (table, per) if state is not None]
    keys = np.unique(np.concatenate([state.window(bucket - longest, bucket)[0] for state in states]))

    def counts(state: TableState) -> tuple[Int64, Int64]:
        found = [state.window(bucket - length, bucket) for length in windows.lengths]
        places = [np.bincount(np.searchsorted(keys, k) + 1, c, len(keys) + 1).astype(np.int64) for k, c in found]
        return np.stack(places), np.array([[c.sum()] for _, c in found], np.int64)

    return SparseSnapshot(keys, _floats(counts, table, per, windows))


def _floats(counts: object, table: TableState, per: TableState | None, windows: Windows) -> Float32:
    assert callable(counts)
    of_key, totals = counts(table)
    per_key, per_totals = counts(per) if per is not None else (None, None)
    return counter_floats(of_key, per_key, totals, per_totals, windows.prior)


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
        found = _find(self._keys, keys)
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
