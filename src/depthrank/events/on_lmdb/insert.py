"""Insert checked events inside one write transaction: codes, the log, each user's chunks, the counters."""

from __future__ import annotations

from dataclasses import dataclass

import lmdb
import msgspec
import numpy as np

from depthrank.errors import LogError
from depthrank.events.batch import Int64
from depthrank.events.check_events import CheckedEvents, IdColumn
from depthrank.events.event_key import event_key
from depthrank.events.history import ROW
from depthrank.events.log import AppendResult
from depthrank.events.on_lmdb.generation import Generation, Table, get_stored
from depthrank.events.on_lmdb.place_rows import place_rows
from depthrank.events.on_lmdb.records import (
    CODE_KEY,
    CODE_VALUE,
    HEAD,
    LOG_ROW,
    POSITION_KEY,
    POSITION_VALUE,
    SEGMENT_ROWS,
    Head,
    LogRows,
    Meta,
    Segment,
    Texts,
    id_key,
    pack_meta,
    pack_segment,
    pack_upsert,
)

MOST_ACTIONS = 1 << 15  # action_code is int16
MOST_ITEMS = 1 << 31
MOST_USERS = (1 << 32) - 2

META_KEY = b"meta"


def read_meta(transaction: lmdb.Transaction[bytes], tables: Generation) -> Meta:
    return msgspec.msgpack.decode(get_stored(transaction, META_KEY, tables.meta), type=Meta)


def write_meta(transaction: lmdb.Transaction[bytes], tables: Generation, meta: Meta) -> None:
    transaction.put(META_KEY, pack_meta(meta), db=tables.meta)


@dataclass(slots=True)
class Insertion:
    """One write transaction's view of the log; ``meta`` is written back by whoever commits."""

    transaction: lmdb.Transaction[bytes]
    tables: Generation
    meta: Meta

    def insert(self, events: CheckedEvents, appended_ms: Int64, positions: Int64 | None = None) -> AppendResult:
        """Add the events that are not duplicates.

        appended_ms: int64 [n]. positions: int64 [n], increasing and not yet used (a restore); None: the next ones.
        """
        kept, keys = self._without_duplicates(events)
        result = np.full(len(events), -1, np.int64)
        if len(kept) == 0:
            return AppendResult(result, 0, len(events))
        if positions is None:
            positions = np.arange(self.meta.next_position, self.meta.next_position + len(kept))
        result[kept] = positions
        user_codes, heads = self._users(events.user, kept)
        rows = np.zeros(len(kept), LOG_ROW)
        rows["time_ms"], rows["appended_ms"] = events.time_ms[kept], appended_ms[kept]
        rows["log_position"], rows["user_code"] = positions, user_codes
        rows["position"] = events.position[kept]
        rows["item_code"], rows["action_code"] = self._items(events.item, kept), self._actions(events.action, kept)
        self._put_event_ids(keys, positions)
        self._put_segments(rows, _texts(events, kept))
        self._put_rows(rows, heads)
        self._count(rows)
        return AppendResult(result, len(kept), len(events) - len(kept))

    def insert_upsert(self, payload: bytes) -> int:
        """Keep a catalogue upsert; returns its number."""
        number = self.meta.next_upsert
        self.transaction.put(POSITION_KEY.pack(number), pack_upsert(payload), append=True, db=self.tables.upserts)
        self.meta.next_upsert += 1
        return number

    def _without_duplicates(self, events: CheckedEvents) -> tuple[Int64, list[bytes | None]]:
        """The rows to insert, and the event-id key of each."""
        if events.event_id is None:
            return np.arange(len(events)), []
        kept: list[int] = []
        keys: list[bytes | None] = []
        seen: set[bytes] = set()
        for row, event_id in enumerate(events.event_id):
            key = None if event_id is None else event_key(event_id)
            if key is not None:
                if key in seen or self.transaction.get(key, db=self.tables.event_ids) is not None:
                    continue
                seen.add(key)
            kept.append(row)
            keys.append(key)
        return np.array(kept, np.int64), keys

    def _users(self, column: IdColumn, kept: Int64) -> tuple[Int64, dict[int, tuple[bytes, Head | None]]]:
        """The code of each row, and by code the user's key and head (None: a new user)."""
        codes, heads = np.zeros(len(column.distinct), np.int64), {}
        of_row = column.of_row[kept]
        for number in _used(of_row, len(column.distinct)):
            encoded = column.distinct[number]
            key = id_key(encoded)
            packed = self.transaction.get(key, db=self.tables.users)
            head = None if packed is None else Head(*HEAD.unpack(packed))
            code = self._new_user(encoded) if head is None else head.code
            codes[number], heads[code] = code, (key, head)
        return codes[of_row], heads

    def _new_user(self, encoded: bytes) -> int:
        code = self.meta.next_user
        if code >= MOST_USERS:
            raise LogError(f"the log cannot hold more than {MOST_USERS:,} users")
        self.meta.next_user += 1
        self.meta.users += 1
        self.transaction.put(CODE_KEY.pack(code), encoded, append=True, db=self.tables.user_ids)
        return code

    def _items(self, column: IdColumn, kept: Int64) -> Int64:
        before = self.meta.next_item
        codes, self.meta.next_item = self._codes(column, kept, self.tables.items, self.tables.item_ids, before)
        if self.meta.next_item > MOST_ITEMS:
            raise LogError(f"the log cannot hold more than {MOST_ITEMS:,} different items")
        self.meta.items += self.meta.next_item - before
        return codes

    def _actions(self, column: IdColumn, kept: Int64) -> Int64:
        before = self.meta.next_action
        codes, self.meta.next_action = self._codes(column, kept, self.tables.actions, self.tables.action_ids, before)
        if self.meta.next_action > MOST_ACTIONS:
            raise LogError(
                f"the log cannot hold more than {MOST_ACTIONS:,} different actions; is the column an action?"
            )
        self.meta.actions += self.meta.next_action - before
        return codes

    def _codes(
        self, column: IdColumn, kept: Int64, codes_table: Table, ids_table: Table, next_code: int
    ) -> tuple[Int64, int]:
        """The code of each row; ids seen first get the next ones."""
        get, put = self.transaction.get, self.transaction.put
        codes = np.zeros(len(column.distinct), np.int64)
        of_row = column.of_row[kept]
        for number in _used(of_row, len(column.distinct)):
            encoded = column.distinct[number]
            key = id_key(encoded)
            packed = get(key, db=codes_table)
            if packed is None:
                codes[number] = next_code
                put(key, CODE_VALUE.pack(next_code), db=codes_table)
                put(CODE_KEY.pack(next_code), encoded, append=True, db=ids_table)
                next_code += 1
            else:
                codes[number] = CODE_VALUE.unpack(packed)[0]
        return codes[of_row], next_code

    def _put_event_ids(self, keys: list[bytes | None], positions: Int64) -> None:
        pairs = sorted((key, at) for key, at in zip(keys, positions.tolist()) if key is not None)
        for key, at in pairs:
            self.transaction.put(key, POSITION_VALUE.pack(at), db=self.tables.event_ids)

    def _put_segments(self, rows: LogRows, texts: Texts) -> None:
        for start in range(0, len(rows), SEGMENT_ROWS):
            part = slice(start, start + SEGMENT_ROWS)
            segment = Segment(rows[part], texts.at(part))
            key = POSITION_KEY.pack(segment.rows["log_position"][0])
            self.transaction.put(key, pack_segment(segment), append=True, db=self.tables.log)

    def _put_rows(self, log_rows: LogRows, heads: dict[int, tuple[bytes, Head | None]]) -> None:
        rows = np.zeros(len(log_rows), ROW)
        for name in ("time_ms", "appended_ms", "log_position", "item_code", "action_code"):
            rows[name] = log_rows[name]
        order = np.lexsort((log_rows["time_ms"], log_rows["user_code"]))  # stable: equal times stay in log order
        rows, codes = rows.take(order), log_rows["user_code"][order]
        starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]])).tolist()
        with self.transaction.cursor(db=self.tables.chunks) as cursor:
            for start, stop in zip(starts, [*starts[1:], len(rows)]):
                own, code = rows[start:stop], int(codes[start])
                key, head = heads[code]
                place_rows(cursor, code, own, is_new=head is None)
                self.transaction.put(key, self._new_head(code, head, own).packed(), db=self.tables.users)

    def _new_head(self, code: int, head: Head | None, own: np.ndarray) -> Head:
        last_time_ms, position = int(own["time_ms"][-1]), int(own["log_position"].max())
        last_appended_ms = int(own["appended_ms"].max())
        if head is None:
            return Head(code, len(own), position, self._new_epoch(), last_time_ms, last_appended_ms)
        is_late = int(own["time_ms"][0]) < head.last_time_ms
        return Head(
            code,
            head.events + len(own),
            position,
            self._new_epoch() if is_late else head.epoch,
            max(head.last_time_ms, last_time_ms),
            max(head.last_appended_ms, last_appended_ms),
        )

    def _new_epoch(self) -> int:
        self.meta.next_epoch += 1
        return self.meta.next_epoch - 1

    def _count(self, rows: LogRows) -> None:
        meta, first, last = self.meta, int(rows["time_ms"].min()), int(rows["time_ms"].max())
        meta.next_position = int(rows["log_position"][-1]) + 1
        meta.events += len(rows)
        meta.first_time_ms = first if meta.first_time_ms is None else min(meta.first_time_ms, first)
        meta.last_time_ms = last if meta.last_time_ms is None else max(meta.last_time_ms, last)


def _used(of_row: Int64, distinct: int) -> list[int]:
    """The distinct values that some row has, in order."""
    mask = np.zeros(distinct, bool)
    mask[of_row] = True
    return np.flatnonzero(mask).tolist()


def _texts(events: CheckedEvents, kept: Int64) -> Texts:
    rows = kept.tolist()
    event_id, request_id, extra = events.event_id, events.request_id, events.extra
    return Texts(
        None if event_id is None else [event_id[row] for row in rows],
        None if request_id is None else [request_id[row] for row in rows],
        None if extra is None else [extra[row] for row in rows],
    )
