"""Who goes without when not even the router can serve all: low priority first, and in a class whole users, in turns.

If every request were as likely to be refused, every user would see a broken page now and then. Users are therefore
ordered by a hash of their id and the hour; of a class that cannot be served in full, the first share is refused for
that hour, and the next hour others are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from depthrank.schema.request import Priority
from depthrank.server.admission.claim import PRIORITIES

HOUR_MS = 3_600_000
MEMORY_S = 2.0
LEAST_SHED = 0.01
MOST_SCALE = 2.0


def cohort_of(user: str, time_ms: int) -> float:
    """The user's place in this hour's order, from 0 to 1."""
    digest = blake2b(f"{time_ms // HOUR_MS}\0{user}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def shares_to_shed(work_ms_per_s: Mapping[Priority, float], room_ms_per_s: float) -> dict[Priority, float]:
    """Which share of each class does not fit: higher classes take the room first."""
    left, shares = max(room_ms_per_s, 0.0), {}
    for priority in PRIORITIES:
        work = max(work_ms_per_s.get(priority, 0.0), 0.0)
        served = min(work, left)
        left -= served
        shares[priority] = 0.0 if work <= 0 else 1 - served / work
    return shares


@dataclass
class Cohorts:
    """The shares, from the router's work that clients offer, smoothed over some seconds."""

    shed_load: float
    interval_s: float
    shares: dict[Priority, float] = field(default_factory=lambda: dict.fromkeys(PRIORITIES, 0.0))
    _rate: dict[Priority, float] = field(default_factory=lambda: dict.fromkeys(PRIORITIES, 0.0))
    _offered_ms: dict[Priority, float] = field(default_factory=lambda: dict.fromkeys(PRIORITIES, 0.0))
    _kept_ms: float = 0.0
    _scale: float = 1.0  # users are not alike: those whose turn it is may ask more or less than the others
    _since_s: float | None = None

    def offered(self, priority: Priority, floor_ms: float) -> None:
        """A request has come, whatever becomes of it."""
        self._offered_ms[priority] += floor_ms

    def sheds(self, priority: Priority, cohort: float) -> bool:
        """Whether it is this user's turn to go without."""
        share = self.shares[priority]
        return share >= LEAST_SHED and cohort < share

    def kept(self, floor_ms: float) -> None:
        """A request whose turn it is not."""
        self._kept_ms += floor_ms

    def tick(self, now_s: float, capacity_ms_per_s: float) -> None:
        """Follow the load where an interval is over."""
        if self._since_s is None or now_s < self._since_s:
            self._since_s, self._kept_ms = now_s, 0.0
            self._offered_ms = dict.fromkeys(PRIORITIES, 0.0)
            return
        seconds = now_s - self._since_s
        if seconds < self.interval_s:
            return
        weight = 1 - math.exp(-seconds / MEMORY_S)
        for priority in PRIORITIES:
            now = self._offered_ms[priority] / seconds
            self._rate[priority] += weight * (now - self._rate[priority])
        room = capacity_ms_per_s * self.shed_load
        if any(share > 0 for share in self.shares.values()) and self._kept_ms > 0:
            error = room / (self._kept_ms / seconds)
            self._scale = min(MOST_SCALE, max(1 / MOST_SCALE, self._scale * error ** (weight * 0.5)))
        else:
            self._scale += weight * (1.0 - self._scale)
        self.shares = shares_to_shed(self._rate, room * self._scale)
        self._since_s, self._kept_ms = now_s, 0.0
        self._offered_ms = dict.fromkeys(PRIORITIES, 0.0)
