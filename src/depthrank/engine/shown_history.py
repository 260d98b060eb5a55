"""A user's newest events as people read them."""

from __future__ import annotations

from typing import Any

from depthrank.events import EventLog


def shown_history(log: EventLog, user: str, as_of_ms: int, limit: int) -> list[dict[str, Any]]:
    """The last ``limit`` events before a time, of all actions, newest first. Raises LogError."""
    found = log.history(str(user), as_of_ms, limit)
    actions = log.action_dictionary()
    events = zip(log.item_ids(found.item_code.tolist()), found.action_code, found.time_ms, strict=True)
    return [{"item": item, "action": actions[action], "time_ms": int(at)} for item, action, at in events][::-1]
