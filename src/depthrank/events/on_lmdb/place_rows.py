"""Where a user's rows go: chunks of up to 255 rows, keyed by their first event, in (time_ms, log position) order.

New events in time order go into the last chunk and onwards. A late one goes into the chunk that covers its time; a
chunk that overflows splits in halves, as a B-tree page does: a late event rewrites one chunk, however long the history.
"""

from __future__ import annotations

import lmdb
import numpy as np

from depthrank.events.history import ROW, Rows, join_rows
from depthrank.events.on_lmdb.records import CHUNK_KEY, CHUNK_ROWS, CODE_KEY

LAST_CODE = (1 << 32) - 1


def chunk_key(code: int, rows: Rows) -> bytes:
    """The key of a chunk that holds these rows."""
    return CHUNK_KEY.pack(code, rows["time_ms"][0], rows["log_position"][0])


def seek_before(cursor: lmdb.Cursor[bytes], code: int, time_ms: int, position: int) -> bool:
    """Move to the last chunk of the table whose key is below (code, time_ms, position); it may be another user's."""
    if cursor.set_range(CHUNK_KEY.pack(code, time_ms, position)):
        return bool(cursor.prev())
    return bool(cursor.last())


def seek_end(cursor: lmdb.Cursor[bytes], code: int) -> bool:
    """Move to the last chunk of the table whose user code is at most ``code``; it may be another user's."""
    if cursor.set_range(CODE_KEY.pack(code + 1)):
        return bool(cursor.prev())
    return bool(cursor.last())


def place_rows(cursor: lmdb.Cursor[bytes], code: int, rows: Rows, is_new: bool) -> None:
    """Add a user's new rows, which are in order and of larger log positions than all that are stored."""
    if is_new:
        _put_pieces(cursor, code, rows, CHUNK_ROWS)
        return
    prefix = CODE_KEY.pack(code)
    while len(rows):
        _seek_chunk_of(cursor, code, rows, prefix)
        key, value = cursor.item()
        count = len(rows)
        is_last = not (cursor.next() and cursor.key().startswith(prefix))
        if not is_last:
            next_time_ms = CHUNK_KEY.unpack(cursor.key())[1]
            count = int(np.searchsorted(rows["time_ms"], next_time_ms))
        stored = np.frombuffer(value, ROW)
        merged = join_rows([stored, rows[:count]])
        in_order = rows["time_ms"][0] >= stored["time_ms"][-1]
        if not in_order:
            merged = merged.take(np.argsort(merged["time_ms"], kind="stable"))
        if chunk_key(code, merged) != key:
            cursor.set_key(key)
            cursor.delete()
        _put_pieces(cursor, code, merged, CHUNK_ROWS if is_last and in_order else _half(len(merged)))
        rows = rows[count:]


def _seek_chunk_of(cursor: lmdb.Cursor[bytes], code: int, rows: Rows, prefix: bytes) -> None:
    """Move to the user's last chunk that starts before the first row, or to the user's first chunk."""
    found = seek_before(cursor, code, int(rows["time_ms"][0]), int(rows["log_position"][0]))
    if not (found and cursor.key().startswith(prefix)):
        found = cursor.set_range(prefix)
    assert found, "a user with a head has a chunk"


def _half(count: int) -> int:
    """The size of equal pieces, none above a chunk, none below half of one unless all fits."""
    pieces = -(-count // CHUNK_ROWS)
    return -(-count // pieces)


def _put_pieces(cursor: lmdb.Cursor[bytes], code: int, rows: Rows, size: int) -> None:
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        cursor.put(chunk_key(code, piece), piece.tobytes())
