"""The body of ``POST /v1/events`` -> columns: one event, or columns of many."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from depthrank.schema.request import EventIn, Limits
from depthrank.schema.wire_fields import A_NAME, AN_ID, FieldChecks
from depthrank.schema.wire_json import Plain, check_length, decode_json
from depthrank.schema.wire_request import equal_lengths

KNOWN = EventIn.__struct_fields__
REQUIRED = ("user", "item", "action")
INT32_MAX = 2**31 - 1
# Other words for known fields: kept as extra fields, they would silently lose what the client meant.
ALIASES = {"time": "time_ms", "timestamp": "time_ms", "timestamp_ms": "time_ms", "ts": "time_ms"} | {
    "user_id": "user",
    "item_id": "item",
}


@dataclass(frozen=True, slots=True)
class EventColumns:
    """n events as columns of n rows; ``extra`` packs the fields nobody knows (msgpack). None: no row has one."""

    user: list[str]
    item: list[str]
    action: list[str]
    time_ms: list[int]
    event_id: list[str | None] | None = None
    request_id: list[str | None] | None = None
    position: list[int | None] | None = None
    extra: list[bytes | None] | None = None

    def __len__(self) -> int:
        return len(self.user)


def decode_events(body: bytes, limits: Limits, now_ms: int, *, wall_clock: bool = True) -> EventColumns:
    """The events in ``body``. Times default to ``now_ms``; more than ``limits.future_ms`` after it is a problem.

    ``item`` as a list means columns; a single value of another field then stands for every row (not for ``event_id``).
    ``wall_clock`` is False where the log's times are row numbers (``time: order``).
    Raises MalformedBodyError (400), TooLargeError (413), RequestError with every wrong field (422).
    """
    plain = decode_json(body, limits)
    if plain.get("time_ms") is None:
        plain["time_ms"] = now_ms
    reader = _EventReader(FieldChecks(limits), now_ms, wall_clock)
    many = isinstance(plain.get("item"), list)
    columns = reader.many(plain) if many else reader.one(plain)
    reader.checks.raise_problems("the events have wrong fields:" if many else "the event has wrong fields:")
    return EventColumns(**columns)


class _EventReader:
    def __init__(self, checks: FieldChecks, now_ms: int, wall_clock: bool) -> None:
        self.checks = checks
        self.now_ms = now_ms
        self.wall_clock = wall_clock

    def one(self, plain: Plain) -> dict[str, Any]:
        """The columns (of one row) of one event."""
        self._check_names(plain)
        columns = {name: [self._one(name, plain[name], f"$.{name}")] for name in KNOWN if plain.get(name) is not None}
        extra = self._pack({k: v for k, v in plain.items() if k not in KNOWN}, "$")
        return columns | ({"extra": [extra]} if extra else {})

    def many(self, plain: Plain) -> dict[str, Any]:
        """The columns of many events."""
        self._check_names(plain)
        num_events = len(plain["item"])
        check_length(num_events, self.checks.limits.max_events, "$.item")
        equal_lengths({k: v for k, v in plain.items() if isinstance(v, list)}, "item", "$", self.checks)
        columns = {name: self._column(name, plain[name], num_events) for name in KNOWN if plain.get(name) is not None}
        return columns | self._extras({k: v for k, v in plain.items() if k not in KNOWN}, num_events)

    def _check_names(self, plain: Plain) -> None:
        for name in REQUIRED:
            if plain.get(name) is None:
                self.checks.missing(
                    f"$.{name}", A_NAME if name == "action" else AN_ID, [k for k in plain if k not in KNOWN]
                )
        for name in [k for k in plain if k not in KNOWN]:
            meant = ALIASES.get(name) or _nearly(name)
            if meant:
                hint = f"did you mean {meant!r}? an extra field needs a name of its own"
                self.checks.wrong(f"$.{name}", name, f"another name than nearly {meant}", hint)

    def _one(self, name: str, value: Any, path: str) -> Any:
        latest_ms = self.now_ms + self.checks.limits.future_ms
        if name == "time_ms":
            return self.checks.time_ms(value, path, latest_ms, self.wall_clock)
        if name == "position":
            return self.checks.integer(value, path, 0, INT32_MAX)
        return self.checks.name(value, path) if name == "action" else self.checks.id(value, path)

    def _column(self, name: str, value: Any, num_events: int) -> list[Any]:
        path = f"$.{name}"
        if not isinstance(value, list):
            if name == "event_id" and num_events > 1:
                self.checks.wrong(path, value, f"a list of {num_events} ids: every event needs its own")
            return [self._one(name, value, path)] * num_events
        latest_ms = self.now_ms + self.checks.limits.future_ms
        if name == "time_ms":
            return self.checks.times_ms(value, path, latest_ms, self.wall_clock)
        if name == "position":
            return self.checks.integers(value, path, 0, INT32_MAX)
        if name == "action":
            return self.checks.all_names(value, path)
        return self.checks.ids(value, path) if name in REQUIRED else self.checks.optional_ids(value, path)

    def _extras(self, fields: Plain, num_events: int) -> dict[str, Any]:
        """The fields nobody knows, packed row by row."""
        if not fields or self.checks.problems:
            return {}
        names = list(fields)
        values: Sequence[Any] = [v if isinstance(v, list) else [v] * num_events for v in fields.values()]
        rows = [
            self._pack({k: v for k, v in zip(names, row, strict=True) if v is not None}, f"$.{names[0]}[{i}]")
            for i, row in enumerate(zip(*values, strict=True))
        ]
        return {"extra": rows}

    def _pack(self, fields: Plain, path: str) -> bytes | None:
        if not fields:
            return None
        try:
            return msgspec.msgpack.encode(fields)
        except OverflowError:
            self.checks.wrong(path, fields, "extra fields with integers of at most 64 bits")
            return None


def _nearly(name: str) -> str | None:
    """The known field that a name misspells by a letter or so (stricter than ``did_you_mean``: extras are welcome)."""
    near = difflib.get_close_matches(name[:80].lower(), KNOWN, n=1, cutoff=0.82)
    return near[0] if near else None
