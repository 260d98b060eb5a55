"""What the Redis backend stores for an event and for a user."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from depthrank.events.batch import EventBatch
from depthrank.events.event_key import event_key

KEY_BYTES = 16
NO_KEY = bytes(KEY_BYTES)


class Record(msgspec.Struct, frozen=True, array_like=True):
    """An event with all its fields; stored as its event key (``NO_KEY``: none) and these fields in msgpack."""

    user: str
    item: str
    action: str
    time_ms: int
    appended_ms: int
    event_id: str | None
    request_id: str | None
    position: int
    extra: bytes | None

    @property
    def event_key(self) -> bytes:
        return NO_KEY if self.event_id is None else event_key(self.event_id)

    def packed(self) -> bytes:
        return self.event_key + msgspec.msgpack.encode(self)


def unpack_record(value: bytes) -> Record:
    return _decoder.decode(memoryview(value)[KEY_BYTES:])


_decoder = msgspec.msgpack.Decoder(Record)


class Head(NamedTuple):
    """What the log knows of a user without reading the events."""

    events: int
    position: int
    epoch: int
    first_time_ms: int
    last_time_ms: int
    last_appended_ms: int


HEAD = struct.Struct("<qqqqqq")


def batch_of_records(records: Sequence[tuple[int, Record]]) -> EventBatch:
    """Events read back, from (log position, record) pairs."""
    rows = [record for _, record in records]
    event_id, request_id, extra = [r.event_id for r in rows], [r.request_id for r in rows], [r.extra for r in rows]
    return EventBatch(
        user=[r.user for r in rows],
        item=[r.item for r in rows],
        action=[r.action for r in rows],
        time_ms=np.array([r.time_ms for r in rows], np.int64),
        appended_ms=np.array([r.appended_ms for r in rows], np.int64),
        event_id=event_id if any(e is not None for e in event_id) else None,
        request_id=request_id if any(r is not None for r in request_id) else None,
        position=np.array([r.position for r in rows], np.int32),
        extra=extra if any(e is not None for e in extra) else None,
        log_position=np.array([position for position, _ in records], np.int64),
    )
