"""How often each key of a table was counted over windows that end at a bucket, moved on from bucket to bucket.

What a new bucket changes is little: the rows of the buckets that enter a window and of those that leave it. So counts
of the table's base are those of the last bucket that was asked for, corrected by these rows, and only the short tail
is counted anew. A request that is the first of a bucket pays for that, so it must not cost a pass over the whole log.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthrank.features.count_table import Counts, TableState

Int64 = NDArray[np.int64]
Integers = NDArray[np.integer]


def distinct(values: Int64) -> Int64:
    """Distinct values, ascending. ``np.unique`` hashes, and packed pairs of codes collide: 14 times slower there."""
    ordered = np.sort(values)
    return ordered[_begins(ordered)]


def _begins(ordered: Int64) -> NDArray[np.bool_]:
    """Where a new value begins."""
    begins = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    return begins


def find(sorted_keys: Int64, keys: Int64) -> Int64:
    """Place + 1 of each key, 0 where it is absent."""
    if not len(sorted_keys):
        return np.zeros(len(keys), np.int64)
    place = np.minimum(sorted_keys.searchsorted(keys), len(sorted_keys) - 1)
    return np.where(sorted_keys.take(place) == keys, place + 1, 0)


@dataclass(frozen=True, eq=False)
class Places:
    """Where each row of a base is counted: ``place`` [rows], below ``size``; place 0 is a key without events."""

    place: Integers
    size: int
    keys: Int64 | None  # sparse: the keys of places 1.. in order; None: a place is the key itself

    @classmethod
    def dense(cls, base: Counts) -> Places:
        return cls(base.key, int(base.key.max(initial=0)) + 1, None)

    @classmethod
    def sparse(cls, base: Counts) -> Places:
        order = np.argsort(base.key, kind="stable")
        ordered = base.key[order]
        begins = _begins(ordered)
        keys = ordered[begins]
        place: Integers = np.empty(len(ordered), np.int32 if len(keys) < 1 << 31 else np.int64)
        place[order] = np.cumsum(begins)
        return cls(place, len(keys) + 1, keys)


@dataclass(frozen=True, eq=False)
class WindowCounts:
    """Events by place over W windows that end before ``bucket``.

    base_WP: those of the table's base, place 0 empty. Sparse: tail_keys int64 [T] ascending and tail_WT for those that
    arrived since; dense: ``tail_keys`` is None and tail_WT is by key. totals_W: all of them.
    """

    base: Counts
    places: Places
    bucket: int
    base_WP: Integers
    tail_keys: Int64 | None
    tail_WT: Int64
    totals_W: Int64

    def of_keys(self, keys: Int64) -> Int64:
        """Events of each key by window, int64 [W, n]."""
        if self.places.keys is None:
            return _taken(self.base_WP, keys) + _taken(self.tail_WT, keys)
        counts_WN = self.base_WP.take(find(self.places.keys, keys), axis=1).astype(np.int64)
        if self.tail_keys is not None and len(self.tail_keys):
            counts_WN += self.tail_WT.take(find(self.tail_keys, keys), axis=1)
        return counts_WN

    def all_keys(self, num_keys: int) -> Int64:
        """Dense: events of key codes 0..num_keys - 1 by window, int64 [W, num_keys]."""
        counts_WK = np.zeros((len(self.base_WP), num_keys), np.int64)
        for part in (self.base_WP, self.tail_WT):
            known = min(part.shape[1], num_keys)
            counts_WK[:, :known] += part[:, :known]
        return counts_WK

    def between(self, first: int, stop: int) -> list[tuple[Int64, Integers]]:
        """Sparse: keys with first <= key < stop, ascending, and their events [W, n], of the base and of the tail."""
        found = []
        for keys, counts_WP in ((self.places.keys, self.base_WP), (self.tail_keys, self.tail_WT)):
            assert keys is not None
            start, end = keys.searchsorted((first, stop)).tolist()
            if start < end:
                found.append((keys[start:end], counts_WP[:, 1 + start : 1 + end]))
        return found


def _taken(part_WK: Integers, keys: Int64) -> Int64:
    known = keys < part_WK.shape[1]
    counts_WN: Int64 = part_WK.take(np.where(known, keys, 0), axis=1).astype(np.int64)
    counts_WN[:, ~known] = 0
    return counts_WN


def window_counts(
    state: TableState, lengths: tuple[int, ...], bucket: int, places: Places, previous: WindowCounts | None
) -> WindowCounts:
    """Counts over the ``lengths`` buckets before ``bucket``. ``places``: of the state's base; ``previous``: those of
    another bucket, or of other rows (then it is of no use)."""
    base = state.base
    if previous is None or previous.base is not base or not _is_near(base, previous.bucket, bucket, lengths):
        base_WP = np.stack([_counted(base, places, bucket - length, bucket) for length in lengths])
    else:
        base_WP = previous.base_WP.copy()
        for counts_P, length in zip(base_WP, lengths, strict=True):
            _add(counts_P, base, places, previous.bucket, bucket, 1)
            _add(counts_P, base, places, previous.bucket - length, bucket - length, -1)
    tail_keys, tail_WT = _tail(state, lengths, bucket, dense=places.keys is None)
    totals_W = base_WP.sum(axis=1, dtype=np.int64) + tail_WT.sum(axis=1)
    return WindowCounts(base, places, bucket, base_WP, tail_keys, tail_WT, totals_W)


def _rows(base: Counts, first: int, stop: int) -> slice:
    start, end = base.bucket.searchsorted((first, stop))
    return slice(int(start), int(end))


def _is_near(base: Counts, was: int, bucket: int, lengths: tuple[int, ...]) -> bool:
    """Whether moving on from ``was`` reads fewer rows than counting anew."""

    def size(first: int, stop: int) -> int:
        rows = _rows(base, first, stop)
        return int(rows.stop - rows.start)

    moved = sum(size(was, bucket) + size(was - n, bucket - n) for n in lengths)
    return bucket >= was and moved < sum(size(bucket - n, bucket) for n in lengths)


def _counted(base: Counts, places: Places, first: int, stop: int) -> Integers:
    rows = _rows(base, first, stop)
    counts = np.bincount(places.place[rows], base.count[rows], places.size)
    return counts.astype(np.int32 if counts.sum() < 1 << 31 else np.int64)


def _add(counts_P: Integers, base: Counts, places: Places, first: int, stop: int, sign: int) -> None:
    rows = _rows(base, first, stop)
    np.add.at(counts_P, places.place[rows], (sign * base.count[rows]).astype(counts_P.dtype))


def _tail(state: TableState, lengths: tuple[int, ...], bucket: int, dense: bool) -> tuple[Int64 | None, Int64]:
    late, key = state.tail_bucket[: state.num_tail], state.tail_key[: state.num_tail]
    inside = [(late >= bucket - length) & (late < bucket) for length in lengths]
    if dense:
        size = int(key.max(initial=0)) + 1
        return None, np.stack([np.bincount(key[rows], minlength=size) for rows in inside])
    keys = distinct(key[(late >= bucket - max(lengths)) & (late < bucket)])
    return keys, np.stack([np.bincount(find(keys, key[rows]), minlength=len(keys) + 1) for rows in inside])
