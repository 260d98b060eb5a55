"""Read a whole generation and compare its tables with each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import lmdb
import numpy as np

from depthrank.errors import LogError
from depthrank.events.event_key import event_key
from depthrank.events.history import ROW, Rows
from depthrank.events.log import VerifyReport
from depthrank.events.on_lmdb.generation import Generation
from depthrank.events.on_lmdb.insert import read_meta
from depthrank.events.on_lmdb.records import (
    CHUNK_KEY,
    CODE_KEY,
    CODE_VALUE,
    HEAD,
    LOG_ROW,
    POSITION_KEY,
    POSITION_VALUE,
    Head,
    LogRows,
    id_key,
    unpack_segment,
    unpack_upsert,
)

SHARED_COLUMNS = ("log_position", "time_ms", "appended_ms", "item_code", "action_code")
MOST_PROBLEMS = 100


def verify_generation(transaction: lmdb.Transaction[bytes], tables: Generation) -> VerifyReport:
    """One snapshot: the log's segments, the users' chunks, heads, dictionaries, event ids and counters must agree."""
    return _Check(transaction, tables).run()


@dataclass(slots=True)
class _Check:
    transaction: lmdb.Transaction[bytes]
    tables: Generation
    problems: list[str] = field(default_factory=list)

    def run(self) -> VerifyReport:
        meta = read_meta(self.transaction, self.tables)
        log_rows = self._check_log(meta.next_position)
        rows, codes, heads = self._check_users()
        self._expect(len(log_rows) == meta.events, f"the log holds {len(log_rows)} events, the counter {meta.events}")
        self._expect(heads == meta.users, f"there are {heads} users, the counter says {meta.users}")
        self._expect(len(rows) == len(log_rows), f"chunks hold {len(rows)} events, the log {len(log_rows)}")
        if len(rows) == len(log_rows):
            order = np.argsort(rows["log_position"])
            for name in SHARED_COLUMNS:
                self._expect(np.array_equal(rows[name][order], log_rows[name]), f"chunks and log differ in {name}")
            self._expect(np.array_equal(codes[order], log_rows["user_code"]), "chunks and log differ in user_code")
        self._check_dictionary("items", "item_ids", log_rows["item_code"], meta.items, meta.next_item)
        self._check_dictionary("actions", "action_ids", log_rows["action_code"], meta.actions, meta.next_action)
        self._check_upserts(meta.next_upsert)
        return VerifyReport(len(log_rows), heads, tuple(self.problems[:MOST_PROBLEMS]))

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.problems.append(otherwise)

    def _check_log(self, next_position: int) -> LogRows:
        """Segments decode, positions rise, every event id is indexed and none else."""
        parts, event_ids = [], 0
        for key, value in self.transaction.cursor(db=self.tables.log):
            first = POSITION_KEY.unpack(key)[0]
            try:
                segment = unpack_segment(value)
            except LogError as error:
                self.problems.append(f"segment {first}: {error}")
                continue
            self._expect(segment.rows["log_position"][0] == first, f"segment {first} starts elsewhere")
            parts.append(segment.rows)
            for position, event_id in zip(segment.rows["log_position"].tolist(), segment.texts.event_id or ()):
                if event_id is not None:
                    event_ids += 1
                    packed = self.transaction.get(event_key(event_id), db=self.tables.event_ids)
                    indexed = packed is not None and POSITION_VALUE.unpack(packed)[0] == position
                    self._expect(indexed, f"event {position}: its event id is not indexed")
        rows = np.concatenate([np.empty(0, LOG_ROW), *parts])
        self._expect(bool((np.diff(rows["log_position"]) > 0).all()), "log positions do not rise")
        self._expect(not len(rows) or rows["log_position"][-1] < next_position, "a position is beyond the counter")
        indexed_ids = int(self.transaction.stat(db=self.tables.event_ids)["entries"])
        self._expect(indexed_ids == event_ids, f"{indexed_ids} event ids are indexed, the log holds {event_ids}")
        return rows

    def _check_upserts(self, count: int) -> None:
        """Payloads are whole, and numbered without a gap."""
        numbers = []
        for key, value in self.transaction.cursor(db=self.tables.upserts):
            numbers.append(POSITION_KEY.unpack(key)[0])
            try:
                unpack_upsert(value)
            except LogError as error:
                self.problems.append(f"upsert {numbers[-1]}: {error}")
        self._expect(numbers == list(range(count)), f"the log holds {len(numbers)} upserts, the counter says {count}")

    def _check_users(self) -> tuple[Rows, np.ndarray, int]:
        """Chunks are whole, in order and as the heads say; returns all rows, the user code of each, the users."""
        parts, codes, heads = [np.empty(0, ROW)], [np.empty(0, np.int64)], 0
        chunks = self._chunks()
        for key, encoded in self.transaction.cursor(db=self.tables.user_ids):
            code = CODE_KEY.unpack(key)[0]
            packed = self.transaction.get(id_key(encoded), db=self.tables.users)
            if packed is None:
                self.problems.append(f"user code {code} has no head")
                continue
            heads += 1
            rows = np.concatenate([np.empty(0, ROW), *chunks.pop(code, [])])
            self._check_user(code, Head(*HEAD.unpack(packed)), rows)
            parts.append(rows)
            codes.append(np.full(len(rows), code))
        self._expect(not chunks, f"chunks of unknown user codes {sorted(chunks)[:5]}")
        entries = int(self.transaction.stat(db=self.tables.users)["entries"])
        self._expect(entries == heads, f"{entries} heads, {heads} user ids")
        return np.concatenate(parts), np.concatenate(codes), heads

    def _chunks(self) -> dict[int, list[Rows]]:
        chunks: dict[int, list[Rows]] = {}
        for key, value in self.transaction.cursor(db=self.tables.chunks):
            code, time_ms, position = CHUNK_KEY.unpack(key)
            if len(value) % ROW.itemsize or not value:
                self.problems.append(f"user code {code}: a chunk of {len(value)} bytes")
                continue
            rows = np.frombuffer(value, ROW)
            is_keyed = rows["time_ms"][0] == time_ms and rows["log_position"][0] == position
            self._expect(is_keyed, f"user code {code}: a chunk does not start with the event of its key")
            chunks.setdefault(code, []).append(rows)
        return chunks

    def _check_user(self, code: int, head: Head, rows: Rows) -> None:
        order = np.lexsort((rows["log_position"], rows["time_ms"]))
        self._expect(np.array_equal(order, np.arange(len(rows))), f"user code {code}: events are out of order")
        if not len(rows):
            self.problems.append(f"user code {code} has no events")
            return
        found = (code, len(rows), int(rows["log_position"].max()), int(rows["time_ms"][-1]))
        told = (head.code, head.events, head.position, head.last_time_ms)
        self._expect(found == told, f"user code {code}: the head says {told}, the events {found}")
        newest = int(rows["appended_ms"].max())
        self._expect(newest <= head.last_appended_ms, f"user code {code}: an event arrived after the head's last one")

    def _check_dictionary(self, codes: str, ids: str, used: np.ndarray, count: int, next_code: int) -> None:
        known = set()
        for key, encoded in self.transaction.cursor(db=getattr(self.tables, ids)):
            code = CODE_KEY.unpack(key)[0]
            packed = self.transaction.get(id_key(encoded), db=getattr(self.tables, codes))
            self._expect(packed == CODE_VALUE.pack(code), f"{codes}: code {code} and its id disagree")
            known.add(code)
        missing = set(np.unique(used).tolist()) - known
        self._expect(not missing, f"{codes}: codes {sorted(missing)[:5]} have no id")
        self._expect(len(known) == count, f"{codes}: {len(known)} ids, the counter says {count}")
        self._expect(all(code < next_code for code in known), f"{codes}: a code is beyond the counter")
