"""Write a new generation that holds everything but some events; nothing of them is in its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import numpy as np
import numpy.typing as npt

from depthrank.events.batch import Int64
from depthrank.events.history import ROW, Rows
from depthrank.events.on_lmdb.generation import TABLES, Generation, get_stored
from depthrank.events.on_lmdb.insert import META_KEY, read_meta
from depthrank.events.on_lmdb.place_rows import chunk_key
from depthrank.events.on_lmdb.records import (
    CHUNK_KEY,
    CHUNK_ROWS,
    CODE_KEY,
    CODE_VALUE,
    HEAD,
    POSITION_KEY,
    POSITION_VALUE,
    SEGMENT_ROWS,
    Head,
    Meta,
    Segment,
    id_key,
    join_segments,
    pack_meta,
    pack_segment,
    unpack_segment,
)

EVENT_IDS_A_STEP = 65_536
BYTES_A_COMMIT = 8 << 20  # LMDB holds what is not committed in memory, 4 KiB a page: an erasure took as much as the log


@dataclass(frozen=True, slots=True)
class Removal:
    """Which events go: a user's, or those before a time; and, once done, how many events and item ids went."""

    user_key: bytes | None = None
    before_ms: int = 0
    events: int = 0
    items: int = 0


def write_without(
    source: lmdb.Transaction[bytes], tables: Generation, removal: Removal, make_folder: Callable[[], Path]
) -> Removal:
    """Copy all that stays into an environment in a new folder, synced; writes nothing where nothing goes.

    source: the write transaction of the old generation, so that no append comes in between.
    """
    meta = read_meta(source, tables)
    user_code = _user_code(source, tables, removal)
    nothing_before = meta.first_time_ms is None or meta.first_time_ms >= removal.before_ms
    if user_code is None and nothing_before:
        return removal
    path = make_folder()
    map_bytes = 2 * int(tables.env.info()["map_size"])  # address space; never too small for less data
    env = lmdb.open(str(path), map_size=map_bytes, max_dbs=len(TABLES), sync=False)
    try:
        target_tables = {name: env.open_db(name.encode()) for name in TABLES}
        copy = _Copy(source, tables, _Target(env, target_tables), meta, user_code, removal.before_ms)
        copy.run()
        env.sync(True)
    finally:
        env.close()
    return replace(removal, events=meta.events - copy.new_meta.events, items=meta.items - copy.new_meta.items)


def _user_code(source: lmdb.Transaction[bytes], tables: Generation, removal: Removal) -> int | None:
    packed = None if removal.user_key is None else source.get(removal.user_key, db=tables.users)
    return None if packed is None else int(HEAD.unpack(packed)[0])


class _Target:
    """The environment written to, committed step by step: nobody reads it before it is whole."""

    def __init__(self, env: lmdb.Environment, tables: dict[str, Any]) -> None:
        self._env, self._tables = env, tables
        self._transaction = env.begin(write=True)
        self._uncommitted = 0

    def put(self, table: str, key: bytes, value: bytes, *, append: bool = False) -> None:
        """``append``: the key is behind all others of the table."""
        self._transaction.put(key, value, append=append, db=self._tables[table])
        self._uncommitted += len(key) + len(value)
        if self._uncommitted >= BYTES_A_COMMIT:
            self.commit()
            self._transaction, self._uncommitted = self._env.begin(write=True), 0

    def commit(self) -> None:
        """What was put is in the files, though not synced."""
        self._transaction.commit()


@dataclass(slots=True)
class _Copy:
    source: lmdb.Transaction[bytes]
    tables: Generation
    target: _Target
    meta: Meta
    user_code: int | None
    before_ms: int
    new_meta: Meta = field(init=False)

    def run(self) -> None:
        """Counters go on where they were: positions, codes and epochs are never used twice."""
        self.new_meta = msgspec.structs.replace(
            self.meta, events=0, users=0, items=0, actions=0, first_time_ms=None, last_time_ms=None
        )
        for encoded, head in self._users():
            self._copy_user(encoded, head)
        removed, used_items, used_actions = self._copy_log()
        self._copy_event_ids(removed)
        for key, payload in self.source.cursor(db=self.tables.upserts):
            self._append("upserts", key, payload)
        self.new_meta.items = self._copy_dictionary("items", "item_ids", used_items)
        self.new_meta.actions = self._copy_dictionary("actions", "action_ids", used_actions)
        self.target.put("meta", META_KEY, pack_meta(self.new_meta))
        self.target.commit()

    def _users(self) -> Iterator[tuple[bytes, Head]]:
        for _, encoded in self.source.cursor(db=self.tables.user_ids):
            head = Head(*HEAD.unpack(get_stored(self.source, id_key(encoded), self.tables.users)))
            if head.code != self.user_code:
                yield encoded, head

    def _copy_user(self, encoded: bytes, head: Head) -> None:
        rows = self._rows(head.code)
        kept = rows[rows["time_ms"] >= self.before_ms]
        if not len(kept):
            return
        if len(kept) < len(rows):
            position = int(kept["log_position"].max())
            head = Head(head.code, len(kept), position, self._new_epoch(), head.last_time_ms, head.last_appended_ms)
        for start in range(0, len(kept), CHUNK_ROWS):
            piece = kept[start : start + CHUNK_ROWS]
            self._append("chunks", chunk_key(head.code, piece), piece.tobytes())
        self._append("user_ids", CODE_KEY.pack(head.code), encoded)
        self.target.put("users", id_key(encoded), head.packed())
        self._count(kept)

    def _rows(self, code: int) -> Rows:
        prefix, parts = CODE_KEY.pack(code), []
        cursor = self.source.cursor(db=self.tables.chunks)
        found = cursor.set_range(CHUNK_KEY.pack(code, 0, 0))
        while found and cursor.key().startswith(prefix):
            parts.append(cursor.value())
            found = cursor.next()
        return np.frombuffer(b"".join(parts), ROW)

    def _count(self, kept: Rows) -> None:
        meta, first, last = self.new_meta, int(kept["time_ms"][0]), int(kept["time_ms"][-1])
        meta.users += 1
        meta.events += len(kept)
        meta.first_time_ms = first if meta.first_time_ms is None else min(first, meta.first_time_ms)
        meta.last_time_ms = last if meta.last_time_ms is None else max(last, meta.last_time_ms)

    def _new_epoch(self) -> int:
        self.new_meta.next_epoch += 1
        return self.new_meta.next_epoch - 1

    def _copy_log(self) -> tuple[Int64, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Returns the positions that went, in order, and which item and action codes are still used."""
        used_items = np.zeros(self.meta.next_item, bool)
        used_actions = np.zeros(self.meta.next_action, bool)
        removed: list[Int64] = []
        waiting: list[Segment] = []
        for _, value in self.source.cursor(db=self.tables.log):
            segment = unpack_segment(value)
            keep = segment.rows["time_ms"] >= self.before_ms
            if self.user_code is not None:
                keep &= segment.rows["user_code"] != self.user_code
            removed.append(segment.rows["log_position"][~keep])
            rows = segment.rows[keep]
            used_items[rows["item_code"]] = True
            used_actions[rows["action_code"]] = True
            waiting.append(Segment(rows, segment.texts.at(np.flatnonzero(keep).tolist())))
            if sum(len(s.rows) for s in waiting) >= SEGMENT_ROWS:
                self._put_segments(waiting)
                waiting = []
        self._put_segments(waiting)
        return np.concatenate([np.empty(0, np.int64), *removed]), used_items, used_actions

    def _put_segments(self, segments: list[Segment]) -> None:
        joined = join_segments(segments)
        for start in range(0, len(joined.rows), SEGMENT_ROWS):
            part = slice(start, start + SEGMENT_ROWS)
            rows = joined.rows[part]
            value = pack_segment(Segment(rows, joined.texts.at(part)))
            self._append("log", POSITION_KEY.pack(rows["log_position"][0]), value)

    def _copy_event_ids(self, removed: Int64) -> None:
        cursor = self.source.cursor(db=self.tables.event_ids)
        while pairs := [pair for _, pair in zip(range(EVENT_IDS_A_STEP), cursor.iternext())]:
            positions = np.array([POSITION_VALUE.unpack(value)[0] for _, value in pairs])
            for went, (key, value) in zip(np.isin(positions, removed).tolist(), pairs):
                if not went:
                    self._append("event_ids", key, value)
            if not cursor.next():
                return

    def _copy_dictionary(self, codes: str, ids: str, used: npt.NDArray[np.bool_]) -> int:
        """Returns how many ids stay."""
        for code in np.flatnonzero(used).tolist():
            key = CODE_KEY.pack(code)
            encoded = get_stored(self.source, key, getattr(self.tables, ids))
            self._append(ids, key, encoded)
            self.target.put(codes, id_key(encoded), CODE_VALUE.pack(code))
        return int(used.sum())

    def _append(self, table: str, key: bytes, value: bytes) -> None:
        self.target.put(table, key, value, append=True)
