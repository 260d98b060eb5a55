"""POST /v1/events."""

from __future__ import annotations

from collections import Counter

import numpy as np
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.errors import did_you_mean
from depthrank.events import EventBatch
from depthrank.events.batch import NO_POSITION
from depthrank.schema.wire import EventColumns, decode_events
from depthrank.server.answers import Appended, json_answer
from depthrank.server.bodies import read_body
from depthrank.server.service import Service

MOST_WARNINGS = 20
SHOWN_CHARS = 100


async def append_events(http: HttpRequest) -> Response:
    """Append one event or columns of many; answers when they are durable and readable."""
    service: Service = http.app.state.service
    body = await read_body(http, service.settings)
    events = await service.decode(_decode, body, service)
    result = await service.append(events)
    newest = int(result.positions.max()) if result.appended else None
    return json_answer(Appended(result.appended, result.duplicates, newest, unread_actions(service, events)))


def unread_actions(service: Service, events: EventBatch) -> list[str]:
    """A line for each action that the served spec does not read, and counted: it is kept, for the spec may come to read
    it, but as yet nobody learns from it; most often it is misspelt."""
    known = service.actions_read()
    unread = {action: count for action, count in Counter(events.action).items() if action not in known}
    service.metrics.events_unread.inc(sum(unread.values()))
    lines = []
    for action in list(unread)[:MOST_WARNINGS]:
        meant = did_you_mean(action[:SHOWN_CHARS], known)
        hint = f"did you mean {meant!r}?" if meant else f"it reads {', '.join(sorted(known))}"
        lines.append(f"$.action: {action[:SHOWN_CHARS]!r} was appended, but the model reads no such action; {hint}")
    return lines


def _decode(body: bytes, service: Service) -> EventBatch:
    columns = decode_events(body, service.settings.limits, service.clock(), wall_clock=service.wall_clock)
    return event_batch(columns)


def event_batch(columns: EventColumns) -> EventBatch:
    """Decoded columns as the log takes them."""
    position = None
    if columns.position is not None:
        position = np.array([NO_POSITION if p is None else p for p in columns.position], np.int32)
    return EventBatch(
        user=columns.user,
        item=columns.item,
        action=columns.action,
        time_ms=np.array(columns.time_ms, np.int64),
        event_id=columns.event_id,
        request_id=columns.request_id,
        position=position,
        extra=columns.extra,
    )
