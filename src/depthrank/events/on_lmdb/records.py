"""What the LMDB backend stores, byte by byte (see docs/events.md); little-endian unless a key.

Keys are big-endian, so that their byte order is their numeric order.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from blake3 import blake3

from depthrank.errors import LogError
from depthrank.events.history import ROW_BYTES

CHUNK_ROWS = 255  # 255 rows of 32 bytes and LMDB's page header fill two pages of 4096 bytes
CHUNK_BYTES = CHUNK_ROWS * ROW_BYTES
SEGMENT_ROWS = 1024
LONGEST_PLAIN_KEY = 255  # longer ids are looked up by hash; LMDB's own limit is 511 bytes

CHUNK_KEY = struct.Struct(">IQQ")  # user code, time_ms and log position of the chunk's first event
CODE_KEY = struct.Struct(">I")
POSITION_KEY = struct.Struct(">Q")
CODE_VALUE = struct.Struct("<i")
POSITION_VALUE = struct.Struct("<q")
UPSERT_HEADER = struct.Struct("<I")  # CRC-32 of the payload that follows
SEGMENT_HEADER = struct.Struct("<II")  # CRC-32 of everything after it, number of rows

LOG_ROW = np.dtype(
    [
        ("time_ms", "<i8"),
        ("appended_ms", "<i8"),
        ("log_position", "<i8"),
        ("user_code", "<u4"),
        ("item_code", "<i4"),
        ("position", "<i4"),
        ("action_code", "<i2"),
        ("reserved", "<u2"),
    ]
)
assert LOG_ROW.itemsize == 40
Value = TypeVar("Value", str, bytes)
LogRows = npt.NDArray[np.void]


class Meta(msgspec.Struct, array_like=True):
    """The counters of a log; one value under the key ``meta``."""

    next_position: int = 0
    next_user: int = 0
    next_item: int = 0
    next_action: int = 0
    next_epoch: int = 1
    events: int = 0
    users: int = 0
    items: int = 0
    actions: int = 0
    first_time_ms: int | None = None
    last_time_ms: int | None = None
    restoring: bool = False
    next_upsert: int = 0


def pack_meta(meta: Meta) -> bytes:
    return msgspec.msgpack.encode(meta)


class Head(NamedTuple):
    """What the log knows of a user without reading the events."""

    code: int
    events: int
    position: int
    epoch: int
    last_time_ms: int
    last_appended_ms: int

    def packed(self) -> bytes:
        return HEAD.pack(*self)


HEAD = struct.Struct("<Iqqqqq")


class Texts(NamedTuple):
    """The fields of a segment that have no fixed width, a list each or None where no row has one."""

    event_id: list[str | None] | None
    request_id: list[str | None] | None
    extra: list[bytes | None] | None

    def at(self, rows: slice | Sequence[int]) -> Texts:
        return Texts(_picked(self.event_id, rows), _picked(self.request_id, rows), _picked(self.extra, rows))


NO_TEXTS = Texts(None, None, None)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Consecutive events of the log."""

    rows: LogRows
    texts: Texts


def id_key(encoded: bytes) -> bytes:
    """The key an id is looked up by; injective, as a plain and a hashed key differ in the first byte."""
    return b"=" + encoded if len(encoded) <= LONGEST_PLAIN_KEY else b"#" + blake3(encoded).digest()


def pack_segment(segment: Segment) -> bytes:
    texts = b"" if segment.texts == NO_TEXTS else msgspec.msgpack.encode(segment.texts)
    body = segment.rows.tobytes() + texts
    return SEGMENT_HEADER.pack(zlib.crc32(body), len(segment.rows)) + body


def unpack_segment(value: bytes) -> Segment:
    """Raises ``LogError`` where the bytes are not those that were written."""
    crc, count = SEGMENT_HEADER.unpack_from(value)
    body = memoryview(value)[SEGMENT_HEADER.size :]
    if zlib.crc32(body) != crc:
        raise LogError("a segment of the event log is damaged (checksum); restore the log from a backup")
    size = count * LOG_ROW.itemsize
    texts = _TEXTS.decode(body[size:]) if len(body) > size else NO_TEXTS
    return Segment(np.frombuffer(body[:size], LOG_ROW), texts)


def pack_upsert(payload: bytes) -> bytes:
    return UPSERT_HEADER.pack(zlib.crc32(payload)) + payload


def unpack_upsert(value: bytes) -> bytes:
    """Raises ``LogError`` where the bytes are not those that were written."""
    payload = value[UPSERT_HEADER.size :]
    if len(value) < UPSERT_HEADER.size or UPSERT_HEADER.unpack_from(value)[0] != zlib.crc32(payload):
        raise LogError("an upsert in the event log is damaged (checksum); restore the log from a backup")
    return payload


def join_segments(segments: Sequence[Segment]) -> Segment:
    """The segments as one."""
    if len(segments) == 1:
        return segments[0]
    counts = [len(s.rows) for s in segments]
    rows = np.concatenate([s.rows for s in segments]) if segments else np.empty(0, LOG_ROW)
    texts = Texts(
        _joined([s.texts.event_id for s in segments], counts),
        _joined([s.texts.request_id for s in segments], counts),
        _joined([s.texts.extra for s in segments], counts),
    )
    return Segment(rows, texts)


def _joined(columns: Sequence[list[Value | None] | None], counts: list[int]) -> list[Value | None] | None:
    if all(column is None for column in columns):
        return None
    joined: list[Value | None] = []
    for column, count in zip(columns, counts):
        joined.extend([None] * count if column is None else column)
    return joined


def _picked(column: list[Value | None] | None, rows: slice | Sequence[int]) -> list[Value | None] | None:
    if column is None:
        return None
    picked = column[rows] if isinstance(rows, slice) else [column[row] for row in rows]
    return None if all(value is None for value in picked) else picked


_TEXTS = msgspec.msgpack.Decoder(Texts)
