"""Events checked before anything is written: every wrong field of a batch is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from depthrank.errors import FieldProblem, RequestError
from depthrank.events.batch import NO_POSITION, EventBatch, Int32, Int64

MAX_ID_BYTES = 1 << 20  # of a user, item, action, event or request id, in UTF-8
MAX_EXTRA_BYTES = 16 << 20
MAX_UPSERT_BYTES = 64 << 20
MAX_TIME_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
MAX_PROBLEMS = 20  # a batch of a million wrong rows is told by its first ones


@dataclass(frozen=True, slots=True, eq=False)
class IdColumn:
    """A column of ids as its distinct values (UTF-8, in order of first appearance) and the value of each row."""

    distinct: list[bytes]
    of_row: Int64


@dataclass(frozen=True, slots=True, eq=False)
class CheckedEvents:
    """An ``EventBatch`` whose every field is known to be storable."""

    user: IdColumn
    item: IdColumn
    action: IdColumn
    time_ms: Int64
    appended_ms: Int64 | None
    event_id: Sequence[str | None] | None
    request_id: Sequence[str | None] | None
    position: Int32
    extra: Sequence[bytes | None] | None

    def __len__(self) -> int:
        return len(self.time_ms)


def check_events(events: EventBatch) -> CheckedEvents:
    """The batch, checked and with ids factorised. Raises ``RequestError`` with a path a problem, ``$.user[3]``."""
    problems: list[FieldProblem] = []
    _check_lengths(events, problems)
    _raise_if_any(problems)
    checked = CheckedEvents(
        user=_factorise("user", events.user, problems),
        item=_factorise("item", events.item, problems),
        action=_factorise("action", events.action, problems),
        time_ms=_times("time_ms", events.time_ms, problems),
        appended_ms=None if events.appended_ms is None else _times("appended_ms", events.appended_ms, problems),
        event_id=_optional_ids("event_id", events.event_id, problems),
        request_id=_optional_ids("request_id", events.request_id, problems),
        position=_positions(events, problems),
        extra=_extras(events.extra, problems),
    )
    _raise_if_any(problems)
    return checked


def check_upsert(payload: object) -> None:
    """Raise ``RequestError`` where an upsert cannot be stored."""
    if not isinstance(payload, bytes):
        problem = FieldProblem("$.payload", type(payload).__name__, "bytes")
    elif len(payload) > MAX_UPSERT_BYTES:
        found, expected = f"{len(payload):,} bytes", f"at most {MAX_UPSERT_BYTES:,}"
        problem = FieldProblem("$.payload", found, expected, "send the upsert in parts")
    else:
        return
    raise RequestError("the upsert cannot be stored:", [problem])


def check_times(time_ms: Int64, now_ms: int, max_future_ms: int = 60_000) -> None:
    """Raise ``RequestError`` where a live event claims to be from more than ``max_future_ms`` after now."""
    problems: list[FieldProblem] = []
    times = _times("time_ms", time_ms, problems)
    for row in np.flatnonzero(times > now_ms + max_future_ms)[:MAX_PROBLEMS]:
        ahead_s = (int(times[row]) - now_ms) / 1000
        found, expected = f"{times[row]} ({ahead_s:,.0f} s in the future)", f"at most {now_ms + max_future_ms}"
        hint = _unit_hint(int(times[row])) or "check the sender's clock"
        problems.append(FieldProblem(f"$.time_ms[{row}]", found, expected, hint))
    _raise_if_any(problems)


def check_id(name: str, value: object) -> bytes:
    """The id in UTF-8. Raises ``RequestError`` as for a column."""
    if (problem := _id_problem(f"$.{name}", value)) is not None:
        _raise_if_any([problem])
    return cast(str, value).encode()


def check_read(as_of_ms: Int64 | int, limit: int) -> None:
    """Raise ``RequestError`` for a limit or a time that no history has."""
    problems = []
    if limit < 0:
        problems.append(FieldProblem("$.limit", str(limit), "0 or more"))
    if isinstance(as_of_ms, np.ndarray) and as_of_ms.dtype.kind not in "iu":
        problems.append(FieldProblem("$.as_of_ms", f"dtype {as_of_ms.dtype}", "int64 milliseconds"))
    _raise_if_any(problems)


def _raise_if_any(problems: list[FieldProblem]) -> None:
    if problems:
        raise RequestError("these events cannot be stored", problems[:MAX_PROBLEMS])


def _check_lengths(events: EventBatch, problems: list[FieldProblem]) -> None:
    for name in ("item", "action", "time_ms", "appended_ms", "event_id", "request_id", "position", "extra"):
        column = getattr(events, name)
        if column is not None and len(column) != len(events.user):
            problems.append(FieldProblem(f"$.{name}", f"{len(column)} rows", f"{len(events.user)}, as in $.user"))


def _factorise(name: str, ids: Sequence[str], problems: list[FieldProblem]) -> IdColumn:
    number: dict[str, int] = {}
    try:
        of_row = np.fromiter((number.setdefault(i, len(number)) for i in ids), np.int64, len(ids))
        return IdColumn([_encoded(i) for i in number], of_row)
    except (TypeError, ValueError, AttributeError):  # some id is no id: find which
        problems += [p for row, i in enumerate(ids) if (p := _id_problem(f"$.{name}[{row}]", i)) is not None]
        assert problems, "an id was refused, and no row says why"
        return IdColumn([], np.empty(0, np.int64))


def _encoded(value: str) -> bytes:
    encoded = value.encode()
    if not 0 < len(encoded) <= MAX_ID_BYTES:
        raise ValueError
    return encoded


def _id_problem(path: str, value: object) -> FieldProblem | None:
    expected = f"a string of 1 to {MAX_ID_BYTES:,} bytes in UTF-8"
    if not isinstance(value, str):
        return FieldProblem(path, type(value).__name__, expected, "ids compare as strings: write str(id)")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return FieldProblem(path, f"{value[:40]!r}, which has a lone surrogate", expected)
    if size == 0:
        return FieldProblem(path, "an empty string", expected)
    if size > MAX_ID_BYTES:
        return FieldProblem(path, f"{value[:40]!r}... of {size:,} bytes", expected)
    return None


def _optional_ids(
    name: str, ids: Sequence[str | None] | None, problems: list[FieldProblem]
) -> Sequence[str | None] | None:
    if ids is None:
        return None
    for row, value in enumerate(ids):
        if value is not None and (problem := _id_problem(f"$.{name}[{row}]", value)) is not None:
            problems.append(problem)
    return ids if any(i is not None for i in ids) else None


def _times(name: str, times: Int64, problems: list[FieldProblem]) -> Int64:
    values = np.asarray(times)
    expected = f"int64 milliseconds since 1970, 0 to {MAX_TIME_MS}"
    if values.dtype.kind not in "iu" or values.ndim != 1:
        if len(values):
            problems.append(FieldProblem(f"$.{name}", f"{values.dtype} of {values.ndim} dimensions", expected))
        return np.empty(len(values), np.int64)
    for row in np.flatnonzero((values < 0) | (values > MAX_TIME_MS))[:MAX_PROBLEMS]:
        problems.append(FieldProblem(f"$.{name}[{row}]", str(values[row]), expected, _unit_hint(int(values[row]))))
    return values.astype(np.int64, copy=False)


def _unit_hint(time: int) -> str | None:
    for unit, per_ms in (("microseconds", 1_000), ("nanoseconds", 1_000_000)):
        if time > MAX_TIME_MS and time // per_ms < 4_102_444_800_000:  # the year 2100
            return f"looks like {unit}: divide by {per_ms:,}"
    return None


def _positions(events: EventBatch, problems: list[FieldProblem]) -> Int32:
    if events.position is None:
        return np.full(len(events), NO_POSITION, np.int32)
    values = np.asarray(events.position)
    if values.dtype.kind not in "iu":
        problems.append(FieldProblem("$.position", f"dtype {values.dtype}", "int32, -1 for none"))
        return np.full(len(events), NO_POSITION, np.int32)
    for row in np.flatnonzero((values < NO_POSITION) | (values > np.iinfo(np.int32).max))[:MAX_PROBLEMS]:
        problems.append(FieldProblem(f"$.position[{row}]", str(values[row]), "0 or more, -1 for none"))
    return values.astype(np.int32, copy=False)


def _extras(extra: Sequence[bytes | None] | None, problems: list[FieldProblem]) -> Sequence[bytes | None] | None:
    if extra is None:
        return None
    given: Sequence[object] = extra
    for row, value in enumerate(given):
        if value is not None and not isinstance(value, bytes):
            problems.append(FieldProblem(f"$.extra[{row}]", type(value).__name__, "bytes (msgpack) or None"))
        elif value is not None and len(value) > MAX_EXTRA_BYTES:
            problems.append(FieldProblem(f"$.extra[{row}]", f"{len(value):,} bytes", f"at most {MAX_EXTRA_BYTES:,}"))
    return extra if any(e is not None for e in extra) else None
