"""A version's latest answers: counts for ever, and the figures of a window that a canary is judged by."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from depthrank.server.models.rollback_rule import Figures

MOST_KEPT = 20_000


class RecentAnswers:
    """``clock_s``: monotonic seconds. Keeps at most ``MOST_KEPT`` answers, however long the window."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._kept: deque[tuple[float, float, bool, bool]] = deque(maxlen=MOST_KEPT)
        self.answers = self.errors = self.degraded = 0
        self.seconds = 0.0

    def note(self, seconds: float, *, failed: bool = False, degraded: bool = False) -> None:
        """One answer, or one failure."""
        with self._lock:
            self._kept.append((self._clock_s(), seconds, failed, degraded))
            self.answers += 1
            self.errors += failed
            self.degraded += degraded
            self.seconds += seconds

    def figures(self, window_s: float, since_s: float = -np.inf) -> Figures:
        """Of the last ``window_s`` seconds, and not before ``since_s``."""
        after = max(self._clock_s() - window_s, since_s)
        with self._lock:
            while self._kept and self._kept[0][0] < self._clock_s() - window_s:
                self._kept.popleft()
            kept = [answer for answer in self._kept if answer[0] >= after]
        good_ms = [seconds * 1e3 for _, seconds, failed, _ in kept if not failed]
        return Figures(
            answers=len(kept),
            errors=sum(failed for _, _, failed, _ in kept),
            degraded=sum(degraded for _, _, _, degraded in kept),
            p99_ms=float(np.percentile(good_ms, 99)) if good_ms else 0.0,
        )
