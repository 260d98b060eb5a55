"""What goes over the wire: requests, answers, events and upserts. Strict on types, told with paths."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Id = str | int
Candidates = list[Id] | dict[str, list[Any]] | str
Mode = Literal["adaptive", "full", "router"]
Priority = Literal["high", "normal", "low"]


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """One ranking request.

    ``candidates``: item ids, or columns with an ``item`` column, or ``"all"``; ids and columns of numbers may be numpy
    arrays (int64, float64). ``time_ms``: the time it is asked as of (default now). ``deadline_ms``: how long the answer
    may take. ``budget``: at most this fraction of the full-depth cost. ``priority``: which of them a busy server
    degrades and refuses last. Raises nothing here: ``check_request`` says what is wrong.
    """

    user: Id
    candidates: Candidates
    context: dict[str, Any] = {}
    top: int = 10
    time_ms: int | None = None
    deadline_ms: float | None = None
    budget: float | None = None
    mode: Mode = "adaptive"
    explain: bool = False
    priority: Priority = "normal"


class Spent(msgspec.Struct, frozen=True):
    """What one request took: thread time of its stages, as it was and as predicted, and what the next prediction needs
    to know of its user: the history's length, and whether its state was cached. ``stopped`` and ``words``: why it went
    no deeper, and how its plan was chosen."""

    thread_ms: float
    predicted_ms: float
    history_length: int
    warm: bool
    stopped: str = ""
    words: tuple[str, ...] = ()


class RankedItem(msgspec.Struct):
    """One returned candidate; ``level`` scored it last (-1: ranked by nothing better than input order).

    ``index``: its place among the request's candidates (not where all were asked for).
    """

    item: str
    value: float
    scores: dict[str, float]
    level: int
    index: int | msgspec.UnsetType = msgspec.UNSET


class Degraded(msgspec.Struct, rename={"is_": "is"}):
    """Whether the answer is less than was asked for, and why."""

    is_: bool = False
    reasons: list[str] = []


class Answer(msgspec.Struct, omit_defaults=False):
    """The ranking: ordered by deepest level reached, then value, then item id.

    ``after``: what filters, caps, diversity and exploration made of that order, where there are any. ``warnings``: what
    the request probably got wrong, such as columns that the model reads and it does not carry; absent where there are
    none. ``record``: what it takes to rank again exactly so, where that was asked for, and ``spent`` what it cost; they
    never reach a client.
    """

    request_id: str
    model: str
    items: list[RankedItem]
    plan: list[int]
    candidates_scored: list[int]
    timings_ms: dict[str, float]
    degraded: Degraded
    explain: dict[str, Any] | None = None
    after: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET
    record: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    spent: Spent | msgspec.UnsetType = msgspec.UNSET


class EventIn(msgspec.Struct):
    """One event as a client sends it; unknown fields are kept in ``extra``."""

    user: Id
    item: Id
    action: str
    time_ms: int | None = None
    event_id: str | None = None
    request_id: str | None = None
    position: int | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the edge lets in; above a limit is a 413 (body, candidates) or a 422 (fields)."""

    max_body_bytes: int = 16 * 1024 * 1024
    max_candidates: int = 50_000
    max_events: int = 50_000
    max_items: int = 50_000
    max_id_chars: int = 1_000_000
    max_top: int = 50_000
    max_depth: int = 32
    future_ms: int = 60_000
