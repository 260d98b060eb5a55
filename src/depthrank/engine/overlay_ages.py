"""How long user states that were encoded before a delta may serve.

A delta may change the vectors of items in many histories, or the encoder itself; encoding every user anew at once would
be a surge of work at the moment of publication. So a state that a delta outdated serves up to ``state_max_age_s``, each
user up to a share of it that is the user's own: the encoding spreads evenly over that time.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable


class StateAges:
    """When each delta was published here; ``monotonic_s`` is the clock. Safe for several threads."""

    def __init__(self, state_max_age_s: float, monotonic_s: Callable[[], float]) -> None:
        self.state_max_age_s = state_max_age_s
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._published_s: dict[int, float] = {}

    def publish(self, sequence: int) -> None:
        """Note that a delta serves from now on."""
        with self._lock:
            self._published_s[sequence] = self._monotonic_s()

    def may_serve(self, made_by: int, user: str) -> bool:
        """Whether a state of the user, made when ``made_by`` was the newest delta, may serve though it is outdated."""
        outdated_s = self._published_s.get(made_by + 1)
        if outdated_s is None or not self.state_max_age_s:
            return False
        return self._monotonic_s() < outdated_s + self.state_max_age_s * share_of(user)


def share_of(user: str) -> float:
    """A number of the user's own, evenly from above 0 to 1."""
    return (zlib.crc32(user.encode(errors="surrogatepass")) + 1) / 2**32
