"""One loaded model version: its ranker, how many requests hold it, and how it does."""

from __future__ import annotations

import threading
from collections.abc import Callable

from depthrank.server.models.recent_answers import RecentAnswers
from depthrank.server.ranker_port import ServedRanker


class Version:
    """``leases`` and ``retired`` are guarded by the lock of ``Models``. ``owned``: closed here once it is done."""

    def __init__(self, ranker: ServedRanker, path: str | None, owned: bool, clock_s: Callable[[], float]) -> None:
        self.model = str(ranker.info()["model"])
        self.path = path
        self.recent = RecentAnswers(clock_s)
        self.leases = 0
        self.retired = False
        self.note = ""  # what an operator should know, such as why it was rolled back
        self.closed = threading.Event()
        self._ranker: ServedRanker | None = ranker
        self._owned = owned

    @property
    def ranker(self) -> ServedRanker:
        """The ranker; only for who holds a lease."""
        assert self._ranker is not None, f"{self.model} was closed while somebody held it"
        return self._ranker

    def close(self) -> None:
        """Let go of the ranker."""
        ranker, self._ranker = self._ranker, None
        try:
            if ranker is not None and self._owned:
                ranker.close()
        finally:
            self.closed.set()
