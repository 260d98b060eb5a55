"""What the smaller endpoints answer: one struct each, for the server, its description and the client."""

from __future__ import annotations

from typing import Any

import msgspec


class Appended(msgspec.Struct, omit_defaults=True):
    """``log_position`` of the newest appended event; null where every event was a duplicate. ``warnings``: what was
    appended and is probably not meant so; absent where there is nothing."""

    appended: int
    duplicates: int
    log_position: int | None
    warnings: list[str] = []


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
    """What was removed, from the files too: events of the log, decision records, and how many backups were rewritten.

    ``pending``: what may still hold the user, each with what to do; empty where nothing does.
    """

    user: str
    events: int
    decisions: int = 0
    backups: int = 0
    pending: list[str] = []


class ModelView(msgspec.Struct):
    """One model version; ``tasks`` maps each task to the action that is its positive.

    ``labels``: ``stable`` answers, ``canary`` answers its ``share`` of the users, ``shadow`` is compared on its share
    of the requests, ``previous`` is what a rollback returns to. ``counts`` since it was loaded; ``shadowed``: agreement
    with stable. ``note``: what an operator should know.
    """

    name: str
    status: str
    items: int
    tasks: dict[str, str]
    info: dict[str, Any]
    model: str = ""
    labels: list[str] = []
    share: float | None = None
    counts: dict[str, float] = {}
    shadowed: dict[str, float] | None = None
    note: str = ""


class Models(msgspec.Struct):
    """The loaded versions, stable first; ``loading``: what is on its way; ``canary``: how the latest judgement went."""

    models: list[ModelView]
    loading: str | None = None
    canary: dict[str, Any] = {}


class SettingsView(msgspec.Struct):
    """The settings by name, secrets hidden; ``changed`` are the paths of those that are not their defaults."""

    settings: dict[str, Any]
    changed: list[str]


class Sample(msgspec.Struct):
    """Users that the log names, and items of the catalogue, spread over it."""

    users: list[str]
    items: list[str]


class Health(msgspec.Struct):
    """``trouble`` lists what works less than fully."""

    status: str
    trouble: list[str] = []
