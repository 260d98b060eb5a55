"""Recent requests with their story: which level scored what, and why it went no deeper."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from depthrank.schema import Answer, Request
from depthrank.schema.request import Spent

KEPT = 128
MOST_WORDS = 200


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer, or a refusal, without its items: what a page shows of it. ``spent`` None: the engine told nothing."""

    at_ms: int
    request_id: str
    user: str
    mode: str
    top: int
    deadline_ms: float | None
    took_ms: float
    model: str | None = None
    plan: tuple[int, ...] = ()
    scored: tuple[int, ...] = ()
    timings_ms: dict[str, float] | None = None
    reasons: tuple[str, ...] = ()
    spent: Spent | None = None
    refused: str | None = None


def seen_of(request: Request, answer: Answer, at_ms: int, took_ms: float) -> Seen:
    """What is kept of an answer."""
    return Seen(
        at_ms,
        answer.request_id,
        str(request.user),
        request.mode,
        request.top,
        request.deadline_ms,
        took_ms,
        answer.model,
        tuple(answer.plan),
        tuple(answer.candidates_scored),
        answer.timings_ms,
        tuple(answer.degraded.reasons),
        None if answer.spent is msgspec.UNSET else answer.spent,
    )


class RecentRequests:
    """The last requests, newest first; safe for several threads."""

    def __init__(self, kept: int = KEPT) -> None:
        self._seen: deque[Seen] = deque(maxlen=kept)
        self._lock = threading.Lock()

    def put(self, seen: Seen) -> None:
        with self._lock:
            self._seen.appendleft(seen)

    def newest(self, number: int) -> list[Seen]:
        with self._lock:
            return list(islice(self._seen, number))


def told(seen: Seen, show_user: bool) -> dict[str, Any]:
    """A request as plain data; who asked only where that may be shown."""
    return {
        "at_ms": seen.at_ms,
        "request_id": seen.request_id,
        "user": seen.user if show_user else None,
        "mode": seen.mode,
        "took_ms": round(seen.took_ms, 3),
        "model": seen.model,
        "plan": list(seen.plan),
        "candidates_scored": list(seen.scored),
        "timings_ms": {stage: round(ms, 3) for stage, ms in (seen.timings_ms or {}).items()},
        "degraded": [reason[:MOST_WORDS] for reason in seen.reasons],
        "refused": seen.refused,
        "story": story_of(seen),
    }


def story_of(seen: Seen) -> list[str]:
    """The request's way in sentences."""
    if seen.refused is not None:
        return [f"Turned away after {seen.took_ms:.1f} ms: {seen.refused[:MOST_WORDS]}."]
    lines = _levels(seen)
    spent = seen.spent
    if spent is not None:
        lines += [f"Plan: {words}." for words in spent.words]
        if spent.stopped:
            lines.append(f"It stopped because {spent.stopped}.")
        state = "cached" if spent.warm else "encoded anew or extended"
        lines.append(
            f"The user has {spent.history_length} events, {state}. It cost {spent.thread_ms:.1f} ms of a thread; "
            f"{spent.predicted_ms:.1f} ms were predicted."
        )
    lines += [f"Less than asked for: {reason[:MOST_WORDS]}." for reason in seen.reasons]
    return lines


def _levels(seen: Seen) -> list[str]:
    """Which level scored how many, in what time."""
    timings, lines = seen.timings_ms or {}, []
    for level, number in enumerate(seen.scored):
        if number:
            ms = timings.get(f"level{level}")
            name = "Level 0 (the router)" if level == 0 else f"Level {level}"
            lines.append(f"{name} scored {number:,}" + ("." if ms is None else f" in {ms:.1f} ms."))
    if not lines:
        lines.append("Nothing was scored: the candidates are in input order.")
    planned = sum(1 for width in seen.plan if width)
    reached = sum(1 for number in seen.scored if number)
    if reached < planned:
        lines.append(f"{planned} levels were planned, {reached} ran.")
    return lines
