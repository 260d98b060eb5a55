"""Point-in-time counters: events of a key by actions over windows, the same numbers in training and in serving.

An event belongs to bucket max(time_ms, appended_ms) // bucket_ms; the count as of t over window w takes the buckets
[t // b - w // b, t // b), complete ones only. So every event counted was both past and known at t, and the number
depends on t and the log alone, not on when or where it is asked. What is given up: the events of the bucket that t lies
in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import Catalogue
from depthrank.errors import FieldProblem, SpecError
from depthrank.events import EventBatch
from depthrank.features.count_table import Counts, CountTable, TableState
from depthrank.features.counter_files import SavedCounters, load_counters, save_counters
from depthrank.features.counter_keys import KeyDictionary, RowKeys
from depthrank.features.counter_plan import CounterFeature, KeyPart, TableKey, counter_features
from depthrank.features.counter_query import CounterQuery
from depthrank.features.counter_windows import CountIndex, Snapshot, SparseSnapshot, dense_snapshot
from depthrank.features.snapshot_cache import SnapshotCache
from depthrank.features.window_counts import Places, WindowCounts, window_counts
from depthrank.schema import Spec

Int64 = NDArray[np.int64]
BATCH_EVENTS = 8_192  # a version that loads beside requests holds the interpreter's lock for a batch's longest step


class Scannable(Protocol):
    """What is read of an event log."""

    def scan(self, after: int = -1, until: int | None = None, *, batch_size: int = ...) -> Iterator[EventBatch]: ...


class Counters:
    """All counters of a spec. Any number of threads may read while one appends.

    ``log_position``: the last log position counted. Column values are those the catalogue holds when an event is
    counted; an event of an item that the catalogue does not know counts for the item, and for none of its columns.
    """

    def __init__(self, spec: Spec, items: Catalogue, users: Catalogue | None = None) -> None:
        self.features = counter_features(spec.features)
        tables = {key for f in self.features.values() for key in (f.table, f.per) if key is not None}
        self.tables = {key: CountTable() for key in sorted(tables, key=repr)}
        parts = sorted({part for key in tables for part in key.parts}, key=str)
        self.keys = {part: _row_keys(part, items, users, KeyDictionary()) for part in parts}
        self._items, self._users = items, users
        self.log_position = -1
        self._snapshots = {bucket_ms: SnapshotCache() for bucket_ms in {key.bucket_ms for key in tables}}
        self._indexes: dict[TableKey, tuple[object, CountIndex]] = {}
        self._places: dict[TableKey, tuple[Counts, Places]] = {}
        self._last: dict[tuple[TableKey, tuple[int, ...]], tuple[TableState, WindowCounts]] = {}
        self._write_lock = threading.Lock()

    @classmethod
    def rebuild(
        cls, spec: Spec, log: Scannable, items: Catalogue, users: Catalogue | None = None, until: int | None = None
    ) -> Counters:
        """Counters of all events of a log, or of those up to log position ``until``."""
        counters = cls(spec, items, users)
        counters.catch_up(log, until)
        return counters

    def catch_up(self, log: Scannable, until: int | None = None) -> int:
        """Count what the log holds beyond ``log_position``; returns how many events were read."""
        if not self.tables:
            return 0
        read = 0
        for batch in log.scan(after=self.log_position, until=until, batch_size=BATCH_EVENTS):
            self.append(batch)
            read += len(batch)
        return read

    def append(self, events: EventBatch) -> None:
        """Count events as the log holds them, with ``appended_ms``. Events at or below ``log_position`` are skipped, so
        a batch may come twice; without log positions every event counts."""
        assert events.appended_ms is not None, "count events as the log gives them back: with appended_ms"
        with self._write_lock:
            fresh = np.arange(len(events))
            if events.log_position is not None:
                fresh = np.flatnonzero(np.asarray(events.log_position) > self.log_position)
            if not len(fresh):
                return
            self._count(events, fresh)
            if events.log_position is not None:
                self.log_position = int(np.asarray(events.log_position)[fresh].max())

    def _count(self, events: EventBatch, fresh: Int64) -> None:
        arrived_ms = np.maximum(np.asarray(events.time_ms)[fresh], np.asarray(events.appended_ms)[fresh])
        ids = {"user": [events.user[i] for i in fresh.tolist()], "item": [events.item[i] for i in fresh.tolist()]}
        codes = {part: keys.intern_ids(ids[part.entity]) for part, keys in self.keys.items()}
        actions = np.array([events.action[i] for i in fresh.tolist()], object)
        for key, table in self.tables.items():
            counted = np.isin(actions, key.actions)
            for part in key.parts:
                counted &= codes[part] > 0
            rows = np.flatnonzero(counted)
            if len(rows):
                table.add(arrived_ms[rows] // key.bucket_ms, pack([codes[part][rows] for part in key.parts]))
                if key in self._places:  # a new base is ordered here, not in the first request of a bucket
                    self._places_of(key, table.state.base)
        for bucket_ms, snapshots in self._snapshots.items():
            snapshots.arrived(int(arrived_ms.min()) // bucket_ms)

    def query(
        self,
        users: Sequence[str],
        time_ms: Int64,
        item_rows: Int64 | None = None,
        request_of_candidate: Int64 | None = None,
    ) -> CounterQuery:
        """Counter features of R requests (and N candidates); see ``CounterQuery.floats``."""
        return CounterQuery(self, users, time_ms, item_rows, request_of_candidate)

    def warm(self, time_ms: int) -> None:
        """Build the snapshots that requests at ``time_ms`` need."""
        for feature in self.features.values():
            self.snapshot(feature, time_ms // feature.table.bucket_ms)

    def snapshot(self, feature: CounterFeature, bucket: int) -> Snapshot:
        """The features of every key as of ``bucket``."""

        def build() -> Snapshot:
            windows = feature.windows
            counts = self._window_counts(feature.table, windows.lengths, bucket)
            per = self._window_counts(feature.per, windows.lengths, bucket) if feature.per else None
            if len(feature.parts) == 1:
                num_keys = len(self.keys[feature.parts[0]].dictionary)
                return dense_snapshot(counts, per, windows.prior, num_keys)
            return SparseSnapshot(counts, per, windows.prior)

        return self._snapshots[feature.table.bucket_ms].get(feature.name, bucket, build)

    def _window_counts(self, key: TableKey, lengths: tuple[int, ...], bucket: int) -> WindowCounts:
        """Counts as of ``bucket``, made of the last ones that were asked for; features share them."""
        state = self.tables[key].state
        last = self._last.get((key, lengths))
        if last is not None and last[0] is state and last[1].bucket == bucket:
            return last[1]
        places = self._places_of(key, state.base)
        found = window_counts(state, lengths, bucket, places, last[1] if last is not None else None)
        if last is None or last[1].bucket <= bucket:
            self._last[key, lengths] = (state, found)
        return found

    def _places_of(self, key: TableKey, base: Counts) -> Places:
        kept = self._places.get(key)
        if kept is None or kept[0] is not base:
            of_base = Places.dense if len(key.parts) == 1 else Places.sparse
            kept = self._places[key] = (base, of_base(base))
        return kept[1]

    def index(self, key: TableKey) -> CountIndex:
        """The index of a table's present events, kept until the next one arrives."""
        state = self.tables[key].state
        kept = self._indexes.get(key)
        if kept is None or kept[0] is not state:
            kept = self._indexes[key] = (state, CountIndex(state.merged()))
        return kept[1]

    def index_all(self) -> None:
        """Build the index of every table. Queries use an index while it is current: for training and evaluation, which
        ask about many times of a log that does not grow."""
        for key in self.tables:
            self.index(key)

    def has_index(self, feature: CounterFeature) -> bool:
        """Whether the feature's tables have an index of all their events."""
        if not self._indexes:  # as where requests are served
            return False
        keys = (feature.table,) if feature.per is None else (feature.table, feature.per)
        return all(key in self._indexes and self._indexes[key][0] is self.tables[key].state for key in keys)

    def forget_user(self, user: str) -> int:
        """Remove a user's own counts (keys ``user`` and pairs with it) and id; returns how many counted events went.

        What the user added to the counts of items and columns stays: it names nobody. Saved files hold the user until
        the next ``save``.
        """
        own = KeyPart("user", None)
        if own not in self.keys:
            return 0
        with self._write_lock:
            code = self.keys[own].dictionary.forget(user)
            removed = 0
            for key, table in self.tables.items():
                if code and own in key.parts:
                    merged = table.state.merged()
                    of_user = merged.key if len(key.parts) == 1 else merged.key >> 32
                    removed += table.forget(of_user == code, merged)
            for kept in (self._indexes, self._places, self._last):
                kept.clear()
            for snapshots in self._snapshots.values():
                snapshots.clear()
            return removed

    def save(self, folder: str | Path) -> list[Path]:
        """Write the counters into ``folder`` (made where it is missing); returns the files written."""
        with self._write_lock:
            tables = {key: table.state.merged() for key, table in self.tables.items()}
            texts = {str(part): list(keys.dictionary.texts) for part, keys in self.keys.items()}
            return save_counters(Path(folder), SavedCounters(self.log_position, texts, tables))

    @classmethod
    def load(cls, folder: str | Path, spec: Spec, items: Catalogue, users: Catalogue | None = None) -> Counters:
        """Saved counters, mapped; ``catch_up`` brings them to the log's end. Raises ArtifactError where files are
        missing or altered, or were made for other counters."""
        counters = cls(spec, items, users)
        saved = load_counters(Path(folder), list(counters.tables), [str(part) for part in counters.keys])
        counters.log_position = saved.log_position
        for part in counters.keys:
            counters.keys[part] = _row_keys(part, items, users, KeyDictionary(saved.texts[str(part)]))
        for key, table in counters.tables.items():
            table.replace(saved.tables[key])
        return counters


def pack(codes: Sequence[Int64]) -> Int64:
    """One key of one or two codes."""
    return codes[0] if len(codes) == 1 else (codes[0] << 32) | codes[1]


def _row_keys(part: KeyPart, items: Catalogue, users: Catalogue | None, dictionary: KeyDictionary) -> RowKeys:
    catalogue = items if part.entity == "item" else users
    if part.column is None:
        return RowKeys(catalogue if part.entity == "item" else None, None, dictionary)
    if catalogue is None:
        expected = "user, or a dataset with a users file (there is none)"
        raise SpecError("a counter has no column to count by:", [FieldProblem(f"of: {part}", str(part), expected)])
    return RowKeys(catalogue, part.column if part.column != catalogue.id_column else None, dictionary)
