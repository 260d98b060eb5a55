"""What the smaller endpoints answer; ``/openapi.json`` is made from these."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response


class Appended(msgspec.Struct):
    """``log_position`` of the newest appended event; null where every event was a duplicate."""

    appended: int
    duplicates: int
    log_position: int | None


class Upsert(msgspec.Struct):
    """What an upsert did; ``generation`` grows by one with each."""

    inserted: int
    updated: int
    generation: int


class ItemView(msgspec.Struct):
    """One item of the catalogue; ``known`` is false for an item the catalogue does not hold."""

    item: str
    known: bool
    columns: dict[str, Any]


class ItemViews(msgspec.Struct):
    """Items in the order asked for."""

    items: list[ItemView]


class HistoryEvent(msgspec.Struct):
    """One event of a history."""

    item: str
    action: str
    time_ms: int


class HistoryView(msgspec.Struct):
    """A user's last events, newest first."""

    user: str
    events: list[HistoryEvent]


class Erased(msgspec.Struct):
    """How many events of the user were removed, from the log's files too."""

    user: str
    events: int


class ModelView(msgspec.Struct):
    """One loaded model; ``tasks`` maps each task to the action that is its positive."""

    name: str
    status: str
    items: int
    tasks: dict[str, str]
    info: dict[str, Any]


class Models(msgspec.Struct):
    """The loaded models (one, for now)."""

    models: list[ModelView]


class Health(msgspec.Struct):
    """``trouble`` lists what works less than fully."""

    status: str
    trouble: list[str] = []


def json_answer(body: msgspec.Struct, status: int = 200) -> Response:
    """A struct as a JSON answer."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")
