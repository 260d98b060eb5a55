"""Whether a shard that failed is asked again: not for a while, then by one request, by all once that one succeeds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

CircuitState = Literal["closed", "open", "half-open"]


class Circuit:
    """Open after ``failures`` failures in a row, for ``open_s`` seconds of ``monotonic_s``. Safe for threads."""

    def __init__(self, monotonic_s: Callable[[], float], *, failures: int = 2, open_s: float = 1.0) -> None:
        self._monotonic_s, self._failures, self._open_s = monotonic_s, failures, open_s
        self._lock = threading.Lock()
        self._failed = 0
        self._opened_s: float | None = None
        self._probing = False

    @property
    def state(self) -> CircuitState:
        """Closed: asked. Open: not asked. Half-open: one request is trying it, or the next one will."""
        with self._lock:
            if self._opened_s is None:
                return "closed"
            return "half-open" if self._probing or self._is_over() else "open"

    def allows(self) -> bool:
        """Whether to ask now; who is allowed reports ``succeeded`` or ``failed``."""
        with self._lock:
            if self._opened_s is None:
                return True
            if self._probing or not self._is_over():
                return False
            self._probing = True
            return True

    def succeeded(self) -> None:
        """It answered in time."""
        with self._lock:
            self._failed, self._opened_s, self._probing = 0, None, False

    def failed(self) -> None:
        """It did not."""
        with self._lock:
            self._failed += 1
            if self._probing or self._failed >= self._failures:
                self._opened_s, self._probing = self._monotonic_s(), False

    def _is_over(self) -> bool:
        assert self._opened_s is not None
        return self._monotonic_s() - self._opened_s >= self._open_s
