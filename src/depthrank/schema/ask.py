"""One of several requests that are ranked together, and on what terms."""

from __future__ import annotations

from dataclasses import dataclass

from depthrank.schema.request import Request


@dataclass(frozen=True)
class Ask:
    """A checked request. ``arrived_s`` (monotonic): when its deadline starts; ``price``: of compute to it (None: the
    ranker's own); ``record``: the answer holds what it takes to rank again exactly so."""

    request: Request
    request_id: str
    arrived_s: float
    price: float | None = None
    record: bool = False
