"""The latest few counter snapshots of each feature. A snapshot is valid until an event arrives in a bucket before its
own.

Events carry the time they arrived at, so that happens only for a snapshot taken ahead of the clock, or when past events
are imported into a log that already serves.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from depthrank.features.counter_windows import Snapshot

_KEPT_PER_FEATURE = 4


class SnapshotCache:
    """Safe for several threads; two that miss at once both build, and give equal snapshots."""

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[int, Snapshot]] = {}
        self._newest = -(2**62)  # the highest bucket ever asked for
        self._epoch = 0  # moves on when an arrival may have invalidated something kept or being built
        self._lock = threading.Lock()

    def get(self, feature: str, bucket: int, build: Callable[[], Snapshot]) -> Snapshot:
        """The snapshot of a feature as of ``bucket``, built where it is not kept."""
        with self._lock:
            kept = self._kept.setdefault(feature, OrderedDict())
            found = kept.get(bucket)
            if found is not None:
                kept.move_to_end(bucket)
                return found
            self._newest = max(self._newest, bucket)
            epoch = self._epoch
        built = build()
        with self._lock:
            if epoch == self._epoch:
                kept[bucket] = built
                while len(kept) > _KEPT_PER_FEATURE:
                    kept.popitem(last=False)
        return built

    def arrived(self, first_bucket: int) -> None:
        """Events were added, the earliest in ``first_bucket``: drop what they change."""
        with self._lock:
            if first_bucket < self._newest:
                self._epoch += 1
                for kept in self._kept.values():
                    for bucket in [b for b in kept if b > first_bucket]:
                        del kept[bucket]

    def clear(self) -> None:
        with self._lock:
            self._epoch += 1
            for kept in self._kept.values():
                kept.clear()
