"""What the page polls: throughput, latencies, depth, the ladder with its operating point, recent requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from depthrank.routing.economy import Economy
from depthrank.schema import Answer, Request
from depthrank.server.status.recent import RecentRequests, Seen, seen_of, told
from depthrank.server.status.rolling import Bucket, Rolling, summed

SERIES_S = 60
WINDOW_S = 10
RECENT = 20
ASKED_FOR_POINT = 64
"""Requests that the operating point is the mean of."""


class LiveStatus:
    """Told of every request by the service; costs it a few microseconds. Safe for several threads."""

    def __init__(self, clock_ms: Callable[[], int], monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_ms, self._started_s, self._now = clock_ms, monotonic_s(), monotonic_s
        self.rolling = Rolling(SERIES_S, monotonic_s)
        self.recent = RecentRequests()

    def answered(self, request: Request, answer: Answer, seconds: float) -> None:
        """A request has its answer."""
        took_ms, items = seconds * 1e3, answer.items
        seen = seen_of(request, answer, self._clock_ms(), took_ms)
        in_time = request.deadline_ms is None or took_ms <= request.deadline_ms
        self.rolling.answered(
            took_ms,
            answer.candidates_scored,
            good=in_time and (not items or items[-1].level >= 0),  # the order ends with the shallowest
            degraded=answer.degraded.is_,
            thread_ms=0.0 if seen.spent is None else seen.spent.thread_ms,
        )
        self.recent.put(seen)

    def refused(self, request: Request, reason: str, request_id: str = "", seconds: float = 0.0) -> None:
        """A request was turned away, or its deadline passed before it was scored."""
        self.rolling.refused()
        asked = str(request.user), request.mode, request.top, request.deadline_ms
        self.recent.put(Seen(self._clock_ms(), request_id, *asked, seconds * 1e3, refused=reason))

    def plain(self, economy: Economy | None, show_users: bool) -> dict[str, Any]:
        """Figures for JSON; ``economy`` of the model that most requests get."""
        series = self.rolling.each(SERIES_S)
        window = summed(series[-WINDOW_S:])
        newest = self.recent.newest(ASKED_FOR_POINT)
        return {
            "at_ms": self._clock_ms(),
            "uptime_s": round(self._now() - self._started_s, 1),
            "window_s": WINDOW_S,
            "now": _now(window),
            "depth": _depth(window),
            "series": _series(series),
            "ladder": None if economy is None else ladder(economy, newest),
            "recent": [told(seen, show_users) for seen in newest[:RECENT]],
        }


def _now(window: Bucket) -> dict[str, Any]:
    answered = window.answered
    named = (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99))
    return {
        "throughput_rps": answered / WINDOW_S,
        "goodput_rps": window.good / WINDOW_S,
        "refused_rps": window.refused / WINDOW_S,
        "degraded_share": window.degraded / answered if answered else None,
        **{name: _rounded(window.percentile_ms(share)) for name, share in named},
        "thread_ms": _rounded(window.thread_ms / answered) if answered else None,
    }


def _depth(window: Bucket) -> list[dict[str, Any]]:
    """By level: the share of answers that went that deep and no deeper, and the candidates it scored on average."""
    answered = max(1, window.answered)
    levels = zip(window.deepest, window.scored, strict=True)
    return [
        {"level": level, "share": deepest / answered, "candidates": round(scored / answered, 2)}
        for level, (deepest, scored) in enumerate(levels)
    ]


def _series(buckets: Sequence[Bucket]) -> dict[str, list[Any]]:
    """A value a second, oldest first; None where nothing was answered."""
    return {
        "throughput_rps": [bucket.answered for bucket in buckets],
        "goodput_rps": [bucket.good for bucket in buckets],
        "refused_rps": [bucket.refused for bucket in buckets],
        "p50_ms": [_rounded(bucket.percentile_ms(0.5)) for bucket in buckets],
        "p99_ms": [_rounded(bucket.percentile_ms(0.99)) for bucket in buckets],
    }


def ladder(economy: Economy, seen: Sequence[Seen]) -> dict[str, Any] | None:
    """The plan ladder, and where recent requests stand on it: their mean cost as a fraction of full depth's, and the
    gain that the ladder keeps at that cost. None where the model has no ladder."""
    if not economy.rungs:
        return None
    rungs = [{"cost": cost, "kept_gain": gain, "widths": list(widths)} for cost, gain, widths in economy.rungs]
    cost = operating_cost(economy, seen)
    point = None
    if cost is not None:
        costs, gains = ([rung[k] for rung in economy.rungs] for k in (0, 1))
        point = {"cost": cost, "kept_gain": float(np.interp(cost, costs, gains))}
    return {"rungs": rungs, "usual": economy.usual, "point": point, "default_price": economy.default_price}


def operating_cost(economy: Economy, seen: Sequence[Seen]) -> float | None:
    """Predicted cost of these requests over that of full depth; None where the engine told of none."""
    spent_ms = full_ms = 0.0
    for one in seen:
        if one.spent is not None and one.scored:
            spent_ms += one.spent.predicted_ms
            full_ms += economy.full_ms(one.scored[0], one.spent.history_length, warm=one.spent.warm)
    return min(1.0, spent_ms / full_ms) if full_ms else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
