"""How long answers take from the engine to the client's socket: time before a deadline in which no engine can help.

A front that is idle hands an answer on within a millisecond. One that shares a saturated core with its engine does not,
and answers that were computed in time leave late, most of them by a little. So the reserve before each deadline follows
what was seen: the mean and twice the mean deviation (as TCP sets its timer, Jacobson 1988), and that twice, since a
request waits as long on its way in before anybody looks at a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

SMOOTHING = 0.05
DEVIATIONS = 2.0
WAYS = 2.0


@dataclass
class WayBack:
    """Milliseconds of late, smoothed."""

    mean_ms: float = 0.0
    deviation_ms: float = 0.0

    def observed(self, took_ms: float) -> None:
        """An answer left so long after its engine was done with it."""
        error_ms = took_ms - self.mean_ms
        self.mean_ms += SMOOTHING * error_ms
        self.deviation_ms += SMOOTHING * (abs(error_ms) - self.deviation_ms)

    @property
    def reserve_ms(self) -> float:
        """What to keep free before a deadline."""
        return WAYS * (self.mean_ms + DEVIATIONS * self.deviation_ms)
