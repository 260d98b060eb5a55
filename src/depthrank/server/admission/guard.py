"""How much may wait: as much as was in time lately. Additive increase, multiplicative decrease.

Planning by predicted costs is only as good as the predictions. Where answers come late although they were let in, less
is let in, until they are in time again; it costs nothing while predictions hold.
"""

from __future__ import annotations

from dataclasses import dataclass

DECREASE = 0.85
INCREASE_MS = 1.0
PAUSE_S = 0.1


@dataclass
class ConcurrencyGuard:
    """``limit_ms`` bounds the time that everything in one lane takes at its floor."""

    limit_ms: float
    least_ms: float
    most_ms: float
    _decreased_s: float = -1.0

    def allows(self, backlog_ms: float) -> bool:
        """Whether one more may wait behind this much."""
        return backlog_ms <= self.limit_ms

    def observed(self, late: bool, backlog_ms: float, now_s: float) -> None:
        """An answer that was let in behind ``backlog_ms`` was late, or was in time. One burst of late ones counts
        once."""
        if not late:
            self.limit_ms = min(self.most_ms, self.limit_ms + INCREASE_MS)
        elif now_s - self._decreased_s >= PAUSE_S or now_s < self._decreased_s:
            self.limit_ms = max(self.least_ms, min(self.limit_ms, backlog_ms) * DECREASE)
            self._decreased_s = now_s
