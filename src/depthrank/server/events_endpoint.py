"""POST /v1/events."""

from __future__ import annotations

import numpy as np
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.events import EventBatch
from depthrank.events.batch import NO_POSITION
from depthrank.schema.wire import EventColumns, decode_events
from depthrank.server.answers import Appended, json_answer
from depthrank.server.bodies import read_body
from depthrank.server.service import Service


async def append_events(http: HttpRequest) -> Response:
    """Append one event or columns of many; answers when they are durable and readable."""
    service: Service = http.app.state.service
    body = await read_body(http, service.settings)
    events = await service.decode(_decode, body, service)
    result = await service.append(events)
    newest = int(result.positions.max()) if result.appended else None
    return json_answer(Appended(result.appended, result.duplicates, newest))


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
