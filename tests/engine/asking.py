"""Requests to the planted world, and answers in a form that compares."""

from __future__ import annotations

from typing import Any

import numpy as np

from depthrank.events import EventBatch
from depthrank.schema import Answer, Request

IDS = [f"i{i}" for i in range(80)]


def ask(user: str = "u1", candidates: Any = None, **fields: Any) -> Request:
    """A request for priced candidates, at full depth unless told otherwise; ``candidates``: ids, or "all"."""
    given = IDS[:30] if candidates is None else candidates
    if isinstance(given, list):
        given = {"item": given, "price": [1.0 + (7 * i) % 9 for i in range(len(given))]}
    usual = {"top": 1000, "mode": "full", "context": {"device": "ios"}}
    return Request(**{"user": user, "candidates": given, **usual, **fields})


def shown(answer: Answer) -> list[tuple[str, int, float]]:
    return [(item.item, item.level, item.value) for item in answer.items]


def one_event(user: str, item: str, action: str, time_ms: int, **columns: Any) -> EventBatch:
    return EventBatch([user], [item], [action], np.array([time_ms]), **columns)
