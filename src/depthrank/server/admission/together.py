"""Which waiting requests start together with one that starts now, so that their narrow deeper levels share a pass.

Only where what their depth is expected to cost is less in one pass than one by one (``Economy.pays_together``), where
all of them end in time, and where whoever waits behind them can still be served. What really shares a pass is decided
by the engine, when level 0 has scored and each knows how deep it goes; its deadlines are asked again then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from depthrank.routing.economy import Economy
from depthrank.server.admission.claim import Claim
from depthrank.server.admission.lane_queue import SURE, LaneQueue


@dataclass(frozen=True)
class Together:
    """Claims that start together, and the thread time that all of them are expected to take: by what depth took
    lately, shared or not."""

    claims: tuple[Claim, ...]
    work_ms: float


def companions(
    lane: LaneQueue,
    first: Claim,
    start_s: float,
    most: int,
    economy: Economy | None,
    wanted_ms: Callable[[Claim], float],
) -> Together:
    """``first``, which no longer waits, and the next ones in the lane's order that may start with it."""
    alone = Together((first,), wanted_ms(first))
    if most < 2 or economy is None or not _may_share(first, first) or lane.running:
        return alone
    found, members = alone, [first]
    for other in lane.waiting:
        if len(members) == most or not _may_share(first, other):
            break
        members.append(other)
        tried = Together(tuple(members), sum(map(wanted_ms, members)))
        if not economy.pays_together(_depth_ms(members, wanted_ms), len(members)):
            continue
        if not _in_time(lane, tried, start_s):
            break
        found = tried
    return found


def _may_share(first: Claim, other: Claim) -> bool:
    """Whether two could share a pass at all: models and modes that do."""
    return other.version == first.version and other.mode == "adaptive"


def _depth_ms(members: list[Claim], wanted_ms: Callable[[Claim], float]) -> float:
    """Mean cost of depth of the members, one by one."""
    return sum(max(0.0, wanted_ms(one) - one.forecast.router_ms) for one in members) / len(members)


def _in_time(lane: LaneQueue, tried: Together, start_s: float) -> bool:
    """Whether all that start together end in time for sure, and leave those behind them the time for the router."""
    took_s = lane.wall_s(tried.work_ms)
    if any(start_s + took_s > start_s + SURE * (one.latest_s - start_s) for one in tried.claims):
        return False
    behind_s = took_s
    for other in lane.waiting[len(tried.claims) - 1 :]:
        behind_s += lane.wall_s(other.floor_ms)
        if behind_s > SURE * (other.latest_s - start_s) and lane.wall_s(other.floor_ms) <= other.latest_s - start_s:
            return False
    return True
