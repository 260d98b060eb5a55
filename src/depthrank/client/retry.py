"""Which failures are tried again, and when: pure decisions.

The pause before a further attempt is drawn evenly from nothing to a bound that doubles ("full jitter": clients that
failed together do not come back together), and is never shorter than what ``Retry-After`` asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from depthrank.client.errors import CallError

TRY_AGAIN = frozenset({429, 502, 503})
"""Refused for now. Not 500 (it would fail again) and not 504 (the deadline is over)."""
JITTER_AFTER = 0.25
"""Retry-After is stretched by up to so much of itself."""


@dataclass(frozen=True)
class RetryPolicy:
    """At most ``attempts`` in all; pauses up to ``first_s``, twice that, ... and at most ``longest_s``."""

    attempts: int = 4
    first_s: float = 0.05
    longest_s: float = 2.0

    def pause_s(
        self, failed: int, error: CallError, repeatable: bool, uniform: Callable[[float, float], float]
    ) -> float | None:
        """Seconds to wait after so many failed attempts; None where it is not tried again.

        ``repeatable``: doing it twice does no harm, so it is also tried again where nobody knows whether it was done.
        """
        if failed >= self.attempts:
            return None
        if error.status is None and not repeatable:
            return None
        if error.status is not None and error.status not in TRY_AGAIN:
            return None
        pause_s = uniform(0.0, min(self.longest_s, self.first_s * 2.0 ** (failed - 1)))
        if error.retry_after_s is not None:
            pause_s = max(pause_s, error.retry_after_s * uniform(1.0, 1.0 + JITTER_AFTER))
        return pause_s
