"""Where a request's time goes, by stage, in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Timings:
    """Adds up wall time per stage."""

    def __init__(self, monotonic_s: Callable[[], float] = time.perf_counter) -> None:
        self._now_s = monotonic_s
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything inside counts for ``name``."""
        started = self._now_s()
        try:
            yield
        finally:
            self.ms[name] = self.ms.get(name, 0.0) + (self._now_s() - started) * 1e3
