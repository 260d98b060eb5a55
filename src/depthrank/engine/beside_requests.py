"""Long work in small pieces beside requests: while there are some, it rests most of its time.

Encoding a catalogue is mostly Python, and Python threads share one lock: 180 ms of it kept requests of 11 ms waiting
for 130 (docs/log.md). A piece of half a millisecond, and then a rest, is what a request hardly notices.

Legend: N rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

PIECE_ROWS = 32
SHARE_OF_TIME = 0.07

Rows = NDArray[np.int64]


class BesideRequests:
    """Knows how many requests run; safe for several threads."""

    def __init__(
        self, *, clock_s: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock_s, self._sleep = clock_s, sleep
        self._lock = threading.Lock()
        self._running, self._begun, self._rested = 0, 0, 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """While a request, or several in one call, is ranked."""
        with self._lock:
            self._running += 1
            self._begun += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def rest(self, seconds: float) -> None:
        """Sleep so long while requests are served; a tenth of it otherwise."""
        with self._lock:
            served, self._rested = bool(self._running) or self._begun != self._rested, self._begun
        self._sleep(seconds if served else seconds / 10)

    def pieces(self, rows_N: Rows) -> Iterator[Rows]:
        """The rows in pieces, in their order (none: one empty piece), with a rest after each that met a request."""
        for start in range(0, max(rows_N.size, 1), PIECE_ROWS):
            before, started_s = self._begun, self._clock_s()
            yield rows_N[start : start + PIECE_ROWS]
            if self._running or self._begun != before:
                self._sleep((self._clock_s() - started_s) * (1 / SHARE_OF_TIME - 1))
