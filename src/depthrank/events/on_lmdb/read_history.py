"""Read histories from chunks, newest chunk first, inside one short read transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import lmdb
import numpy as np

from depthrank.events.batch import Int64
from depthrank.events.history import (
    NO_HISTORY,
    NO_ROWS,
    ROW,
    ROW_BYTES,
    History,
    HistoryBatch,
    Rows,
    batch_of_one,
    batch_of_rows,
    history_of_rows,
    join_rows,
    visible_rows,
    with_actions,
)
from depthrank.events.on_lmdb.generation import Generation
from depthrank.events.on_lmdb.place_rows import seek_before, seek_end
from depthrank.events.on_lmdb.records import CHUNK_BYTES, CODE_KEY, CODE_VALUE, HEAD, Head, id_key


def read_history(
    transaction: lmdb.Transaction[bytes],
    tables: Generation,
    key: bytes,
    as_of_ms: int,
    limit: int,
    actions: Sequence[str] | None,
) -> History:
    """The last ``limit`` visible events, none for 0; ``key`` is the user's ``id_key``."""
    packed = transaction.get(key, db=tables.users) if limit > 0 else None
    if packed is None:
        return NO_HISTORY
    head = Head(*HEAD.unpack(packed))
    if actions is None and head.last_time_ms < as_of_ms and head.last_appended_ms <= as_of_ms:
        return history_of_rows(_last_rows(transaction, tables, head.code, limit))
    codes = None if actions is None else action_codes(transaction, tables, actions)
    return history_of_rows(_last_visible_rows(transaction, tables, head, as_of_ms, limit, codes))


def read_histories(
    transaction: lmdb.Transaction[bytes],
    tables: Generation,
    keys: Sequence[bytes],
    user_of_request: Int64,
    as_of_ms: Int64,
    limit: int,
    actions: Sequence[str] | None,
) -> HistoryBatch:
    """The histories of n requests; keys: the ``id_key`` of each distinct user."""
    if len(as_of_ms) == 1:  # a request being served: nothing to group
        return batch_of_one(read_history(transaction, tables, keys[0], int(as_of_ms[0]), limit, actions))
    codes = None if actions is None else action_codes(transaction, tables, actions)
    earliest, latest = _as_of_range(len(keys), user_of_request, as_of_ms)
    rows_of_user = []
    with transaction.cursor(db=tables.chunks) as cursor:
        for user, key in enumerate(keys):
            packed = transaction.get(key, db=tables.users)
            if packed is None:
                rows_of_user.append(NO_ROWS)
                continue
            code = HEAD.unpack(packed)[0]
            rows_of_user.append(_rows_between(cursor, code, int(earliest[user]), int(latest[user]), limit, codes))
    return batch_of_rows(rows_of_user, user_of_request, as_of_ms, limit)


def action_codes(transaction: lmdb.Transaction[bytes], tables: Generation, actions: Sequence[str]) -> list[int]:
    """The codes of those actions that some event has."""
    packed = (transaction.get(id_key(action.encode()), db=tables.actions) for action in actions)
    return [CODE_VALUE.unpack(value)[0] for value in packed if value is not None]


def _last_rows(transaction: lmdb.Transaction[bytes], tables: Generation, code: int, limit: int) -> Rows:
    """The user's last rows, all of them visible: nothing to compare."""
    prefix, parts, missing = CODE_KEY.pack(code), [], limit * ROW_BYTES
    cursor = transaction.cursor(db=tables.chunks)
    if seek_end(cursor, code):
        for key, value in cursor.iterprev():
            if not key.startswith(prefix):
                break
            parts.append(value)
            missing -= len(value)
            if missing <= 0:
                break
    parts.reverse()
    return join_rows(parts)[-limit:]


def _last_visible_rows(
    transaction: lmdb.Transaction[bytes],
    tables: Generation,
    head: Head,
    as_of_ms: int,
    limit: int,
    codes: Collection[int] | None,
) -> Rows:
    """The user's last rows that are visible and listed; reads on, twice as far each time, while some are missing."""
    all_arrived = head.last_appended_ms <= as_of_ms
    cursor = transaction.cursor(db=tables.chunks)
    if as_of_ms <= 0 or not seek_before(cursor, head.code, as_of_ms, 0):
        return NO_ROWS

    def listed(newer_first: list[bytes]) -> Rows:
        return with_actions(visible_rows(join_rows(newer_first[::-1]), as_of_ms, all_arrived), codes)

    prefix, newer_first, size = CODE_KEY.pack(head.code), list[bytes](), 0
    newer_parts, missing = list[Rows](), limit
    wanted = (limit if codes is None else 2 * limit) * ROW_BYTES + CHUNK_BYTES
    for key, value in cursor.iterprev():
        if not key.startswith(prefix):
            break
        newer_first.append(value)
        size += len(value)
        if size >= wanted:
            newer_parts.append(listed(newer_first))
            missing -= len(newer_parts[-1])
            newer_first, wanted = [], 2 * size
            if missing <= 0:
                break
    if newer_first:
        newer_parts.append(listed(newer_first))
    rows = newer_parts[0] if len(newer_parts) == 1 else join_rows(newer_parts[::-1])
    return rows[-limit:]


def _rows_between(
    cursor: lmdb.Cursor[bytes], code: int, earliest_ms: int, latest_ms: int, limit: int, codes: Collection[int] | None
) -> Rows:
    """The user's rows of those actions that any time from ``earliest_ms`` to ``latest_ms`` may need, visible or not."""
    prefix, parts, missing = CODE_KEY.pack(code), [], limit
    if latest_ms > 0 and seek_before(cursor, code, latest_ms, 0):
        for key, value in cursor.iterprev():
            if not key.startswith(prefix) or missing <= 0:
                break
            rows = with_actions(np.frombuffer(value, ROW), codes)
            parts.append(rows)
            if rows.size and rows["time_ms"][0] < earliest_ms:
                missing -= len(visible_rows(rows, earliest_ms))
    parts.reverse()
    return join_rows(parts)


def _as_of_range(users: int, user_of_request: Int64, as_of_ms: Int64) -> tuple[Int64, Int64]:
    earliest = np.full(users, np.iinfo(np.int64).max)
    latest = np.full(users, np.iinfo(np.int64).min)
    np.minimum.at(earliest, user_of_request, as_of_ms)
    np.maximum.at(latest, user_of_request, as_of_ms)
    return earliest, latest
