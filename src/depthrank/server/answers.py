"""What the smaller endpoints answer, as HTTP; ``/openapi.json`` is made from these."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from depthrank.schema.wire_answers import (
    Appended,
    Erased,
    Health,
    HistoryEvent,
    HistoryView,
    ItemView,
    ItemViews,
    Models,
    ModelView,
    Sample,
    SettingsView,
    Upsert,
)

__all__ = [
    "Appended",
    "Erased",
    "Health",
    "HistoryEvent",
    "HistoryView",
    "ItemView",
    "ItemViews",
    "ModelView",
    "Models",
    "Sample",
    "SettingsView",
    "Upsert",
    "json_answer",
]


def json_answer(body: msgspec.Struct, status: int = 200) -> Response:
    """A struct as a JSON answer."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")
