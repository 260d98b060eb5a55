"""Counts of events by (bucket of time, key): the one store behind all counters of a key and a set of actions.

A sorted base (mapped from a file, or in memory) holds distinct (bucket, key) pairs in that order; events that arrived
since lie in an unsorted tail and are merged into the base when the tail grows beyond a share of it. Readers work on one
published state; the writer fills the tail behind what is published. Keys are int64: a key code, or two packed as
``first << 32 | second``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
_MIN_TAIL = 65_536
_BASE_SHARE = 8


@dataclass(frozen=True, eq=False)
class Counts:
    """Distinct (bucket, key) pairs in that order with their number of events; three int64 arrays of equal length."""

    bucket: Int64
    key: Int64
    count: Int64

    @classmethod
    def of_events(cls, bucket: Int64, key: Int64, count: Int64) -> Counts:
        """Sorts and adds up; the input may hold a pair several times."""
        order = np.lexsort((key, bucket))
        bucket, key, count = bucket[order], key[order], count[order]
        begins = np.ones(len(key), np.bool_)
        begins[1:] = (bucket[1:] != bucket[:-1]) | (key[1:] != key[:-1])
        starts = np.flatnonzero(begins)
        added = np.add.reduceat(count, starts) if len(starts) else count
        return cls(bucket[starts], key[starts], added)

    def __len__(self) -> int:
        return len(self.key)


_NOTHING = Counts(*(np.zeros(0, np.int64) for _ in range(3)))


@dataclass(frozen=True, eq=False)
class TableState:
    """What a reader sees: the base, and the first ``num_tail`` events of the tail."""

    base: Counts
    tail_bucket: Int64
    tail_key: Int64
    num_tail: int

    def merged(self) -> Counts:
        """Base and tail as one. Base rows older than all of the tail are copied, not sorted again."""
        bucket, key = self.tail_bucket[: self.num_tail], self.tail_key[: self.num_tail]
        if not len(bucket):
            return self.base
        cut = int(np.searchsorted(self.base.bucket, bucket.min()))
        ones = np.ones(len(bucket), np.int64)
        newer = (self.base.bucket[cut:], self.base.key[cut:], self.base.count[cut:])
        end = Counts.of_events(*(np.concatenate(pair) for pair in zip(newer, (bucket, key, ones))))
        old = (self.base.bucket[:cut], self.base.key[:cut], self.base.count[:cut])
        return Counts(*(np.concatenate(pair) for pair in zip(old, (end.bucket, end.key, end.count))))


class CountTable:
    """``add`` and ``replace`` are called under the owner's lock; ``state`` may be read by any thread at any time."""

    def __init__(self, base: Counts = _NOTHING) -> None:
        self.state = self._fresh(base)

    @staticmethod
    def _fresh(base: Counts) -> TableState:
        return TableState(base, np.zeros(256, np.int64), np.zeros(256, np.int64), 0)

    def add(self, bucket: Int64, key: Int64) -> None:
        """Count one event a row."""
        state = self.state
        needed = state.num_tail + len(bucket)
        tail_bucket, tail_key = state.tail_bucket, state.tail_key
        if needed > len(tail_bucket):
            tail_bucket = np.concatenate([tail_bucket[: state.num_tail], np.zeros(needed, np.int64)])
            tail_key = np.concatenate([tail_key[: state.num_tail], np.zeros(needed, np.int64)])
        tail_bucket[state.num_tail : needed] = bucket
        tail_key[state.num_tail : needed] = key
        self.state = TableState(state.base, tail_bucket, tail_key, needed)
        if needed > max(_MIN_TAIL, len(state.base) // _BASE_SHARE):
            self.replace(self.state.merged())

    def replace(self, base: Counts) -> None:
        """All events anew."""
        self.state = self._fresh(base)

    def forget(self, erased: NDArray[np.bool_], merged: Counts) -> int:
        """Keep only the rows of ``merged`` that are not ``erased``; returns how many events went."""
        kept = ~erased
        self.replace(Counts(merged.bucket[kept], merged.key[kept], merged.count[kept]))
        return int(merged.count[erased].sum())
