"""Figures of the last seconds: a ring of one-second buckets, each with counts and a histogram of latencies.

A bucket is a dozen integers and 162 bins of 9 % width, so that recording is a few additions and a percentile of any
window a sum of bins. The second that runs is left out of windows, as it is not over.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

LEAST_MS = 0.05
BINS_AN_OCTAVE = 8
NUM_BINS = 162  # up to a minute
_PER_LOG2 = float(BINS_AN_OCTAVE)


def bin_of(milliseconds: float) -> int:
    """The bin of a latency; the first and the last hold what is beyond."""
    if milliseconds <= LEAST_MS:
        return 0
    return min(NUM_BINS - 1, 1 + int(_PER_LOG2 * math.log2(milliseconds / LEAST_MS)))


def edge_ms(index: int) -> float:
    """The lower edge of a bin."""
    return 0.0 if index == 0 else LEAST_MS * math.exp2((index - 1) / _PER_LOG2)


@dataclass
class Bucket:
    """One second, or the sum of several. ``deepest[k]``: answers whose deepest level was k; ``scored[k]``: candidates
    that level k scored."""

    second: int = -1
    answered: int = 0
    good: int = 0
    degraded: int = 0
    refused: int = 0
    thread_ms: float = 0.0
    took_ms: float = 0.0
    deepest: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    bins: list[int] = field(default_factory=lambda: [0] * NUM_BINS)

    def add(self, other: Bucket) -> None:
        """Sum ``other`` into this."""
        for name in ("answered", "good", "degraded", "refused", "thread_ms", "took_ms"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        _add(self.deepest, other.deepest)
        _add(self.scored, other.scored)
        if other.answered:
            _add(self.bins, other.bins)

    def percentile_ms(self, share: float) -> float | None:
        """The latency that ``share`` of the answers did not exceed, within half a bin; None without an answer."""
        total = sum(self.bins)
        if not total:
            return None
        rank, below = share * total, 0
        for index, count in enumerate(self.bins):
            if count and below + count >= rank:
                low, high = edge_ms(index), edge_ms(index + 1)
                return low + (high - low) * max(0.0, rank - below) / count
            below += count
        raise AssertionError("the bins hold every answer")


def _add(into: list[int], more: list[int]) -> None:
    into += [0] * (len(more) - len(into))
    for index, number in enumerate(more):
        into[index] += number


class Rolling:
    """The last ``seconds``; safe for several threads. ``monotonic_s`` is the clock."""

    def __init__(self, seconds: int, monotonic_s: Callable[[], float]) -> None:
        self._now = monotonic_s
        self._lock = threading.Lock()
        self._ring = [Bucket() for _ in range(seconds + 1)]  # and the one that runs

    @property
    def seconds(self) -> int:
        return len(self._ring) - 1

    def answered(self, took_ms: float, scored: list[int], *, good: bool, degraded: bool, thread_ms: float) -> None:
        """An answer left; ``scored``: candidates by level."""
        deepest = len(scored) - 1
        while deepest > 0 and not scored[deepest]:
            deepest -= 1
        with self._lock:
            bucket = self._bucket()
            bucket.answered += 1
            bucket.good += good
            bucket.degraded += degraded
            bucket.thread_ms += thread_ms
            bucket.took_ms += took_ms
            bucket.bins[bin_of(took_ms)] += 1
            if len(bucket.scored) < len(scored):
                bucket.scored += [0] * (len(scored) - len(bucket.scored))
                bucket.deepest += [0] * (len(scored) - len(bucket.deepest))
            if scored:
                bucket.deepest[deepest] += 1
            for level, number in enumerate(scored):
                bucket.scored[level] += number

    def refused(self) -> None:
        """A request was turned away."""
        with self._lock:
            self._bucket().refused += 1

    def window(self, seconds: int) -> Bucket:
        """The sum of the last ``seconds`` whole seconds."""
        return summed(self.each(seconds))

    def each(self, seconds: int) -> list[Bucket]:
        """The last ``seconds`` whole seconds, oldest first."""
        now = int(self._now())
        with self._lock:
            return [_copy(self._ring[s % len(self._ring)], s) for s in range(now - min(seconds, self.seconds), now)]

    def _bucket(self) -> Bucket:
        """The bucket of now; under the lock."""
        second = int(self._now())
        index = second % len(self._ring)
        bucket = self._ring[index]
        if bucket.second != second:
            bucket = self._ring[index] = Bucket(second)
        return bucket


def summed(buckets: Iterable[Bucket]) -> Bucket:
    """One bucket of many."""
    total = Bucket()
    for bucket in buckets:
        total.add(bucket)
    return total


def _copy(bucket: Bucket, second: int) -> Bucket:
    """A copy of a bucket of the ring; an empty one where the ring holds another second there."""
    found = Bucket(second)
    if bucket.second == second:
        found.add(bucket)
    return found
