"""How much may wait: as much as was in time lately. Additive increase, multiplicative decrease.

Planning by predicted costs is only as good as the predictions. Where answers come late although they were let in, less
is let in, until they are in time again; it costs nothing while predictions hold. The limit rises slowly while much
waits, and fast once little does.
"""

from __future__ import annotations

from dataclasses import dataclass

DECREASE = 0.85
INCREASE_MS = 0.1
FREE_INCREASE = 1.02
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
            opened_ms = self.limit_ms + INCREASE_MS
            if backlog_ms < self.limit_ms / 4:  # the limit was not why: it may go
                opened_ms = max(opened_ms, self.limit_ms * FREE_INCREASE)
            self.limit_ms = min(self.most_ms, opened_ms)
        elif backlog_ms < self.least_ms:
            return  # hardly anything was before it: waiting was not why
        elif now_s - self._decreased_s >= PAUSE_S or now_s < self._decreased_s:
            self.limit_ms = max(self.least_ms, min(self.limit_ms, backlog_ms) * DECREASE)
            self._decreased_s = now_s
