"""Each call as data: method, path, body and how its answer is read. No network here."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from depthrank.schema import Answer, Request
from depthrank.schema.wire_answers import Appended, Erased, HistoryView, Models, Upsert

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
MSGPACK = "application/msgpack"
JSON = "application/json"
INTEGERS, FLOATS = 2, 4  # MessagePack extension types of a column: int64, float64


@dataclass(frozen=True)
class Call(Generic[T]):
    """``body`` is made anew for each attempt, from the seconds that are left. ``time_s``: for all attempts together,
    None: the client's. ``repeatable``: doing it twice is as doing it once."""

    method: str
    path: str
    decode: Callable[[bytes], T]
    body: Callable[[float], bytes] | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    media_type: str = JSON
    time_s: float | None = None
    repeatable: bool = True
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)


def rank(request: Request, request_id: str | None = None) -> Call[Answer]:
    """Rank. A deadline is what is left of it at each attempt; the request id stays, so impressions are logged once."""
    deadline_s = None if request.deadline_ms is None else request.deadline_ms / 1000
    return Call(
        "POST",
        "/v1/rank",
        partial(msgspec.msgpack.decode, type=Answer),
        partial(_rank_body, request),
        media_type=MSGPACK,
        time_s=deadline_s,
        request_id=request_id or uuid.uuid4().hex,
    )


def append(fields: Mapping[str, Any]) -> Call[Appended]:
    """Append one event, or columns where ``item`` is a list. What has no ``event_id`` gets one, so that an append that
    is tried again is not appended twice."""
    given = {name: value for name, value in fields.items() if value is not None}
    if "event_id" not in given:
        item = given.get("item")
        given["event_id"] = [uuid.uuid4().hex for _ in item] if isinstance(item, list) else uuid.uuid4().hex
    return _json("POST", "/v1/events", Appended, given)


def upsert(columns: Mapping[str, Any]) -> Call[Upsert]:
    """Insert or change items: columns with ``item``, or one item."""
    return _json("POST", "/v1/items", Upsert, dict(columns))


def history(user: str | int, limit: int, actions: Sequence[str]) -> Call[HistoryView]:
    """A user's last events, newest first."""
    params = {"limit": str(limit)} | ({"actions": ",".join(actions)} if actions else {})
    return _json("GET", f"/v1/users/{quote(str(user), safe='')}/history", HistoryView, params=params)


def erase(user: str | int) -> Call[Erased]:
    """Remove a user."""
    return _json("DELETE", f"/v1/users/{quote(str(user), safe='')}", Erased)


def models() -> Call[Models]:
    """The loaded versions."""
    return _json("GET", "/v1/models", Models)


def change_models(action: Mapping[str, Any]) -> Call[Models]:
    """Load, label, unload, promote or roll back. Not tried again where nobody knows whether it was done."""
    given = {name: value for name, value in action.items() if value is not None}
    return _json("POST", "/v1/models", Models, given, repeatable=False)


def _json(
    method: str,
    path: str,
    kind: type[S],
    body: dict[str, Any] | None = None,
    params: Mapping[str, str] | None = None,
    repeatable: bool = True,
) -> Call[S]:
    encoded = None if body is None else msgspec.json.encode(body)
    return Call(
        method,
        path,
        partial(msgspec.json.decode, type=kind),
        None if encoded is None else lambda _left_s: encoded,
        params or {},
        repeatable=repeatable,
    )


def _rank_body(request: Request, left_s: float) -> bytes:
    if request.deadline_ms is not None:
        request = msgspec.structs.replace(request, deadline_ms=max(left_s * 1000, 0.001))
    plain = {name: value for name, value in msgspec.structs.asdict(request).items() if value is not None}
    return msgspec.msgpack.encode(plain, enc_hook=_column)


def _column(value: Any) -> Any:
    """A numpy column as an extension value (numpy itself is not needed here); a numpy number as a number."""
    if not hasattr(value, "dtype"):
        raise TypeError(f"a {type(value).__name__} cannot be sent; lists, texts, numbers and numpy arrays can")
    if value.ndim == 0:
        return value.item()
    if value.ndim == 1 and value.dtype.kind in "iu":
        return msgspec.msgpack.Ext(INTEGERS, value.astype("<i8").tobytes())
    if value.ndim == 1 and value.dtype.kind == "f":
        return msgspec.msgpack.Ext(FLOATS, value.astype("<f8").tobytes())
    return value.tolist()
