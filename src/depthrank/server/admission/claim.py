"""One request as admission sees it: who, until when, and what it would cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from depthrank.schema.request import Mode, Priority

CLASS_OF: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")


@dataclass(frozen=True)
class Forecast:
    """Thread-milliseconds that a request is predicted to take: by the router alone, and at full depth; and what it
    costs more where its user's state is not cached."""

    router_ms: float
    full_ms: float
    cold_ms: float = 0.0


@dataclass(eq=False)
class Claim:
    """``deadline_s`` is absolute, on the monotonic clock as all times here, and ``latest_s`` when its computing must
    be done; without a deadline of its own it is planned with one far off. ``floor_ms`` is the least that it can be
    served with (the router, or full depth where nothing less will do); ``wanted_ms`` what it takes at the price of
    now.

    ``backlog_ms``: what it was let in behind. ``shortened``: why it may not run until its deadline.
    ``held``: whose claim it is; nothing here looks at it. ``cohort``: from 0 to 1, the same for a user for an hour.
    """

    user: str
    version: str
    priority: Priority
    mode: Mode
    num_candidates: int
    arrived_s: float
    deadline_s: float
    latest_s: float
    has_deadline: bool
    forecast: Forecast
    floor_ms: float
    wanted_ms: float
    cohort: float
    budget: float | None = None
    held: Any = None
    backlog_ms: float = 0.0
    number: int = 0
    lane: int = -1
    price: float | None = None
    shortened: str = ""
    started_s: float = 0.0
    expected_ms: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def order(self) -> tuple[int, float, int]:
        """Higher classes first, then earlier deadlines, then first come."""
        return CLASS_OF[self.priority], self.deadline_s, self.number
