"""Read the log in the order of arrival, and load it from a backup."""

from __future__ import annotations

from typing import Any

import lmdb
import numpy as np

from depthrank.events.batch import EventBatch
from depthrank.events.on_lmdb.generation import Generation, get_stored
from depthrank.events.on_lmdb.insert import Insertion
from depthrank.events.on_lmdb.read_history import action_codes
from depthrank.events.on_lmdb.records import (
    CODE_KEY,
    CODE_VALUE,
    POSITION_KEY,
    Segment,
    id_key,
    join_segments,
    unpack_segment,
    unpack_upsert,
)

UPSERT_BYTES_A_STEP = 16 << 20


def scan_batch(
    transaction: lmdb.Transaction[bytes],
    tables: Generation,
    after: int,
    until: int | None,
    actions: set[str] | None,
    batch_size: int,
) -> tuple[EventBatch, int, bool]:
    """The next ``batch_size`` events or a few more, the position read up to, and whether there are others."""
    segments, count, more, last = [], 0, False, after
    with transaction.cursor(db=tables.log) as cursor:
        found = _seek_segment_of(cursor, after + 1)
        while found and not more:
            segment = _between(unpack_segment(cursor.value()), after, until)
            segments.append(segment)
            count += len(segment.rows)
            found = cursor.next()
            next_position = POSITION_KEY.unpack(cursor.key())[0] if found else 0
            found = found and (until is None or next_position <= until)
            more = found and count >= batch_size
    joined = join_segments(segments)
    if len(joined.rows):
        last = int(joined.rows["log_position"][-1])
    if actions is not None:
        codes = action_codes(transaction, tables, sorted(actions))
        mask = np.isin(joined.rows["action_code"], np.array(codes, np.int16))
        joined = Segment(joined.rows[mask], joined.texts.at(np.flatnonzero(mask).tolist()))
    return _batch(transaction, tables, joined), last, more


def upserts_after(transaction: lmdb.Transaction[bytes], tables: Generation, after: int) -> list[tuple[int, bytes]]:
    """The next upserts, about ``UPSERT_BYTES_A_STEP`` of them; none at the end."""
    found: list[tuple[int, bytes]] = []
    size = 0
    with transaction.cursor(db=tables.upserts) as cursor:
        more = cursor.set_range(POSITION_KEY.pack(after + 1))
        while more and size < UPSERT_BYTES_A_STEP:
            payload = unpack_upsert(cursor.value())
            found.append((POSITION_KEY.unpack(cursor.key())[0], payload))
            size += len(payload)
            more = cursor.next()
    return found


def dictionary(transaction: lmdb.Transaction[bytes], table: Any) -> list[str]:
    """Ids by code; codes whose id was erased, or never used, hold ''."""
    ids: list[str] = []
    for key, value in transaction.cursor(db=table):
        code = CODE_KEY.unpack(key)[0]
        ids.extend([""] * (code - len(ids)))
        ids.append(value.decode())
    return ids


def load_dictionaries(insertion: Insertion, items: list[str], actions: list[str]) -> None:
    """Give the ids of a backup the codes they had, before its events come; marks the log as being restored."""
    put, tables, meta = insertion.transaction.put, insertion.tables, insertion.meta
    for ids, codes_table, ids_table in (
        (items, tables.items, tables.item_ids),
        (actions, tables.actions, tables.action_ids),
    ):
        for code, encoded in enumerate(map(str.encode, ids)):
            if encoded:
                put(id_key(encoded), CODE_VALUE.pack(code), db=codes_table)
                put(CODE_KEY.pack(code), encoded, append=True, db=ids_table)
    meta.next_item, meta.items = len(items), sum(map(bool, items))
    meta.next_action, meta.actions = len(actions), sum(map(bool, actions))
    meta.restoring = True


def finish_load(insertion: Insertion, next_position: int) -> None:
    insertion.meta.next_position = next_position
    insertion.meta.restoring = False


def _seek_segment_of(cursor: lmdb.Cursor[bytes], position: int) -> bool:
    """Move to the segment that holds the position, or to the first one after it."""
    if cursor.set_range(POSITION_KEY.pack(position)):
        if POSITION_KEY.unpack(cursor.key())[0] == position:
            return True
        return cursor.prev() or cursor.first()
    return bool(cursor.last())


def _between(segment: Segment, after: int, until: int | None) -> Segment:
    positions = segment.rows["log_position"]
    start = int(np.searchsorted(positions, after, "right"))
    stop = len(positions) if until is None else int(np.searchsorted(positions, until, "right"))
    if start == 0 and stop == len(positions):
        return segment
    return Segment(segment.rows[start:stop], segment.texts.at(slice(start, stop)))


def _batch(transaction: lmdb.Transaction[bytes], tables: Generation, segment: Segment) -> EventBatch:
    rows, texts = segment.rows, segment.texts
    return EventBatch(
        user=_ids(transaction, tables.user_ids, rows["user_code"]),
        item=_ids(transaction, tables.item_ids, rows["item_code"]),
        action=_ids(transaction, tables.action_ids, rows["action_code"]),
        time_ms=rows["time_ms"].astype(np.int64),
        appended_ms=rows["appended_ms"].astype(np.int64),
        event_id=texts.event_id,
        request_id=texts.request_id,
        position=rows["position"].astype(np.int32),
        extra=texts.extra,
        log_position=rows["log_position"].astype(np.int64),
    )


def _ids(transaction: lmdb.Transaction[bytes], table: Any, codes: np.ndarray) -> list[str]:
    distinct, number = np.unique(codes, return_inverse=True)
    ids = [get_stored(transaction, CODE_KEY.pack(code), table).decode() for code in distinct.tolist()]
    return [ids[i] for i in number.tolist()]
