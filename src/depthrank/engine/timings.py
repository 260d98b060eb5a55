"""Where a request's time goes, by stage, in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable


class Timings:
    """Adds up wall time per stage."""

    def __init__(self, monotonic_s: Callable[[], float] = time.perf_counter) -> None:
        self._now_s = monotonic_s
        self.ms: dict[str, float] = {}

    def stage(self, name: str) -> Stage:
        """Everything inside counts for ``name``."""
        return Stage(self, name, self._now_s)

    def add(self, name: str, seconds: float) -> None:
        """So much more for ``name``."""
        self.ms[name] = self.ms.get(name, 0.0) + seconds * 1e3


class Stage:
    """A stage under way. (A class: a generator's context manager takes three times as long.)"""

    __slots__ = ("_name", "_now_s", "_started_s", "_timings")

    def __init__(self, timings: Timings, name: str, now_s: Callable[[], float]) -> None:
        self._timings, self._name, self._now_s = timings, name, now_s

    def __enter__(self) -> None:
        self._started_s = self._now_s()

    def __exit__(self, *error: object) -> None:
        self._timings.add(self._name, self._now_s() - self._started_s)
