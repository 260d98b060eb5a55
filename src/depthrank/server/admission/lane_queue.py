"""What waits for one engine, in the order it will run, and whether it can all be in time.

Time is planned with the least that each request can be served with (``floor_ms``): as long as those sums fit, everybody
gets at least the router's answer in time, and what is left of the time is depth. A request is let in only where it
fits and pushes nobody out. Depth is shared: one that starts gets as much of what it wants as everybody who waits can
have alike (``depth_share``), and it must end, whatever was predicted, before those behind it would be pushed out
(``until_s``). Both leave a part of the time unplanned, for whoever comes next and for predictions that are off.

Legend: times in seconds on the monotonic clock; work in thread-milliseconds; ``speed``: thread time an engine gets
out of wall time, below 1 where it shares its core.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from depthrank.server.admission.claim import Claim

FIRST_SPEED = 0.9
SPEED_MEMORY_S = 2.0
SLOWEST = 0.05
PLANNED = 0.7  # of the time until a deadline, for work with depth
SURE = 0.9  # of it, after which depth ends even where it was predicted to fit


@dataclass
class LaneQueue:
    """One engine: what waits, what runs, and how fast it is."""

    number: int
    up: bool = True
    speed: float = FIRST_SPEED
    waiting: list[Claim] = field(default_factory=list)
    running: list[Claim] = field(default_factory=list)
    _began_s: float = 0.0

    def wall_s(self, work_ms: float) -> float:
        """How long this work takes here."""
        return work_ms / self.speed / 1e3

    def free_s(self, now_s: float) -> float:
        """When what runs is expected to be done."""
        return max(now_s, self._began_s + self.wall_s(sum(claim.expected_ms for claim in self.running)))

    def backlog_ms(self, now_s: float) -> float:
        """Wall milliseconds until everything here is served at its floor."""
        return (self.free_s(now_s) - now_s) * 1e3 + self.wall_s(sum(c.floor_ms for c in self.waiting)) * 1e3

    def floors_ms(self, now_s: float) -> float:
        """The same, had what runs no depth either: what no price can make less."""
        running_s = min(self.free_s(now_s) - now_s, self.wall_s(sum(c.floor_ms for c in self.running)))
        return (running_s + self.wall_s(sum(c.floor_ms for c in self.waiting))) * 1e3

    def in_time(self, claim: Claim, end_s: float) -> bool:
        """Whether an answer that is computed by ``end_s`` is."""
        return end_s <= claim.latest_s

    def finish_s(self, claim: Claim, now_s: float, without: Iterable[Claim] = ()) -> float:
        """When ``claim``, queued now, would be served at its floor; infinite where it would push somebody out."""
        left_out = set(map(id, without))
        end_s, own_s, extra_s = self.free_s(now_s), math.nan, 0.0
        for other in self.waiting:
            if id(other) in left_out:
                continue
            if not extra_s and claim.order < other.order:
                extra_s = self.wall_s(claim.floor_ms)
                own_s = end_s + extra_s
            end_s += self.wall_s(other.floor_ms)
            if extra_s and self.in_time(other, end_s) and not self.in_time(other, end_s + extra_s):
                return math.inf
        return own_s if extra_s else end_s + self.wall_s(claim.floor_ms)

    def fits(self, claim: Claim, now_s: float, without: Iterable[Claim] = ()) -> bool:
        """Whether ``claim`` can be served in time, at its floor, without pushing anybody out."""
        return self.in_time(claim, self.finish_s(claim, now_s, without))

    def room_for(self, claim: Claim, now_s: float) -> list[Claim] | None:
        """Waiting claims of lower classes that must go so that ``claim`` fits: the lowest class first, in it the
        cohorts whose turn it is; None where even that does not make room."""
        lower = [other for other in self.waiting if other.order[0] > claim.order[0]]
        lower.sort(key=lambda other: (-other.order[0], other.cohort))
        if not lower or not self.fits(claim, now_s, lower):
            return None
        few, enough = 0, len(lower)  # too few to make room; enough
        while enough - few > 1:
            half = (few + enough) // 2
            few, enough = (few, half) if self.fits(claim, now_s, lower[:half]) else (half, enough)
        return lower[:enough]

    def depth_share(
        self, claim: Claim, start_s: float, wanted_ms: Callable[[Claim], float], most_s: float = math.inf
    ) -> float:
        """How much of what they want beyond their floors ``claim``, which starts now, and all that wait can have alike,
        from 0 to 1, each by ``PLANNED`` of the time until its deadline and of ``most_s``. Who is late anyway does not
        count."""
        share, floors_s, depth_s = 1.0, 0.0, 0.0
        for one in (claim, *self.waiting):
            floors_s += self.wall_s(one.floor_ms)
            depth_s += self.wall_s(max(0.0, wanted_ms(one) - one.floor_ms))
            left_s = one.latest_s - start_s
            if depth_s > 0 and left_s >= floors_s:
                share = min(share, (PLANNED * min(left_s, most_s) - floors_s) / depth_s)
        return max(0.0, share)

    def until_s(self, claim: Claim, start_s: float) -> float:
        """How long ``claim``, which starts now, may run so that all that wait can be served at their floors, and for
        sure; no less than its own floor. Who is late anyway does not count."""
        least_s = start_s + self.wall_s(claim.floor_ms)
        until_s, behind_s = self.own_until_s(claim, start_s), 0.0
        for other in self.waiting:
            behind_s += self.wall_s(other.floor_ms)
            if least_s <= other.latest_s - behind_s:
                until_s = min(until_s, start_s + SURE * (other.latest_s - start_s) - behind_s)
        return max(until_s, least_s)

    def own_until_s(self, claim: Claim, start_s: float) -> float:
        """How long ``claim``, which starts now, may run where nobody waits."""
        return max(start_s + SURE * (claim.latest_s - start_s), start_s + self.wall_s(claim.floor_ms))

    def put(self, claim: Claim) -> None:
        """Queue a claim."""
        claim.lane = self.number
        insort(self.waiting, claim, key=lambda waiting: waiting.order)

    def remove(self, claim: Claim) -> bool:
        """Take a waiting claim out; False where it does not wait here."""
        if claim not in self.waiting:
            return False
        self.waiting.remove(claim)
        return True

    def begin(self, claim: Claim, now_s: float) -> None:
        """A claim has been handed to the engine."""
        if not self.running:
            self._began_s = now_s
        claim.started_s = now_s
        self.running.append(claim)

    def end(self, claims: list[Claim], now_s: float, busy_s: float, thread_s: float) -> None:
        """Claims are done; their pass took so much time on the wall and of its thread."""
        self.running = [claim for claim in self.running if claim not in claims]
        self._began_s = now_s
        if busy_s > 0 and math.isfinite(thread_s):
            weight = 1 - math.exp(-busy_s / SPEED_MEMORY_S)
            now_speed = min(1.0, max(SLOWEST, thread_s / busy_s))
            self.speed += weight * (now_speed - self.speed)
