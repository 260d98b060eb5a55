"""The event log on Redis or Valkey: one server, appends by any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from depthrank.errors import LogError
from depthrank.events.backup import Contents
from depthrank.events.batch import EventBatch, Int64
from depthrank.events.check_events import CheckedEvents, check_events, check_id, check_read, check_upsert
from depthrank.events.history import (
    NO_HISTORY,
    NO_ROWS,
    History,
    HistoryBatch,
    Rows,
    batch_of_rows,
    history_of_rows,
    join_rows,
    visible_rows,
    with_actions,
)
from depthrank.events.log import (
    NO_VERSION,
    AppendResult,
    EraseResult,
    EventLog,
    LogStats,
    UserVersion,
    VerifyReport,
    now_ms,
)
from depthrank.events.on_redis.records import HEAD, Head, Record, batch_of_records, unpack_record
from depthrank.events.on_redis.scripts import APPEND, LAST_ROWS, REMOVE
from depthrank.events.on_redis.server import check_durable, connect, prefix_of, rewrite_files, said_to_a_person, shown
from depthrank.events.on_redis.verify import verify_server
from depthrank.events.on_redis.writes import Writes

FORMAT = "depthrank-events"
VERSION = 1
IMPORT_ROWS = 4096  # a script holds up everybody else
USERS_A_STEP = 256
BLOCKS_A_STEP = 32
UPSERTS_A_STEP = 64
END_OF_TIME_MS = 1 << 52


class RedisEventLog(EventLog):
    """A log in a Redis or Valkey server, under a key prefix (``?prefix=``, default ``depthrank``)."""

    may_hang = True

    def __init__(
        self, url: str, *, durable: bool = True, read_only: bool = False, clock: Callable[[], int] = now_ms
    ) -> None:
        self._client, self._writes, self.prefix = connect(url), Writes(url), prefix_of(url)
        self._secret_url, self.url = url, shown(url)
        self.durable, self.read_only = durable, read_only
        self._clock = clock
        self._is_closed = False
        self._append_script = self._client.register_script(APPEND)
        self._last_rows_script = self._client.register_script(LAST_ROWS)
        self._remove_script = self._client.register_script(REMOVE)
        with said_to_a_person(self.url):
            self._check_version()
            if durable and not read_only:
                check_durable(self._client, self.url)

    def _key(self, name: str) -> bytes:
        return f"{self.prefix}:{name}".encode()

    def _rows_key(self, user: bytes) -> bytes:
        return self._key("h:") + user

    def _check_version(self) -> None:
        meta = self._client.hgetall(self._key("meta"))
        if not meta and self.read_only:
            raise LogError(f"there is no event log at {self.url} under the prefix {self.prefix!r}")
        if not meta:
            start: dict[str, str | int] = {"format": FORMAT, "version": VERSION, "generation": 1, "restoring": 0}
            for name, value in start.items():
                self._client.hsetnx(self._key("meta"), name, value)
            return
        if meta.get(b"format") != FORMAT.encode():
            raise LogError(f"{self._key('meta').decode()} at {self.url} is not an event log; choose another ?prefix=")
        if int(meta[b"version"]) != VERSION:
            raise LogError(
                f"{self.url} holds an event log of version {int(meta[b'version'])}; "
                f"this program reads {VERSION}: update depthrank"
            )
        if int(meta.get(b"restoring", 0)):
            raise LogError(f"a restore into {self.url} broke off; delete the keys {self.prefix}:* and restore again")

    # ------------------------------------------------------------------ append

    def append(self, events: EventBatch) -> AppendResult:
        checked = check_events(events)
        appended_ms = np.full(len(checked), self._clock()) if checked.appended_ms is None else checked.appended_ms
        return self._append(checked, appended_ms, None)

    def import_events(self, events: EventBatch) -> AppendResult:
        """In pieces of 4,096 events, each of them all or nothing."""
        results = [AppendResult(np.empty(0, np.int64), 0, 0)]
        check_events(events)  # all of it before anything is written
        for piece in events.pieces(IMPORT_ROWS):
            checked = check_events(piece)
            appended_ms = checked.time_ms if checked.appended_ms is None else checked.appended_ms
            results.append(self._append(checked, appended_ms, None))
        return AppendResult(
            np.concatenate([r.positions for r in results]),
            sum(r.appended for r in results),
            sum(r.duplicates for r in results),
        )

    def _append(self, events: CheckedEvents, appended_ms: Int64, positions: Int64 | None) -> AppendResult:
        self._check_writable()
        if len(events) == 0:
            return AppendResult(np.empty(0, np.int64), 0, 0)
        arguments = _script_arguments(events, appended_ms, positions)
        with self._writes.asking() as client:
            found = np.array(self._append_script(keys=[self.prefix], args=arguments, client=client), np.int64)
        appended = int((found >= 0).sum())
        return AppendResult(found, appended, len(found) - appended)

    def append_upsert(self, payload: bytes) -> int:
        check_upsert(payload)
        self._check_writable()
        with self._writes.asking() as client:
            return int(client.rpush(self._key("upserts"), payload)) - 1

    # ------------------------------------------------------------------ read

    def history(self, user: str, as_of_ms: int, limit: int, actions: Sequence[str] | None = None) -> History:
        """One round trip where the last rows are the wanted ones; else more, each reading four times as far back."""
        check_read(as_of_ms, limit)
        self._check_open()
        encoded, window = check_id("user", user), limit if actions is None else 2 * limit
        if limit == 0:
            return NO_HISTORY
        while True:
            head, codes, rows = self._last_rows(encoded, window, actions)
            if head is None:
                return NO_HISTORY
            all_arrived = head.last_appended_ms <= as_of_ms
            found = with_actions(visible_rows(rows, as_of_ms, all_arrived), codes)
            if len(found) >= limit or len(rows) < window:
                return history_of_rows(found[-limit:])
            window *= 4

    def _last_rows(
        self, user: bytes, window: int, actions: Sequence[str] | None
    ) -> tuple[Head | None, list[int] | None, Rows]:
        with said_to_a_person(self.url):
            packed, rows, *codes = self._last_rows_script(keys=[self.prefix], args=[user, window, *(actions or ())])
        head = Head(*HEAD.unpack(packed)) if packed else None
        return head, None if actions is None else codes, join_rows([rows])

    def histories(
        self, users: Sequence[str], as_of_ms: Int64, limit: int, actions: Sequence[str] | None = None
    ) -> HistoryBatch:
        check_read(as_of_ms, limit)
        self._check_open()
        as_of_ms = np.asarray(as_of_ms, np.int64)
        assert len(users) == len(as_of_ms), "one time a user"
        number: dict[str, int] = {}
        user_of_request = np.fromiter((number.setdefault(u, len(number)) for u in users), np.int64, len(users))
        encoded = [check_id("users", user) for user in number]
        codes = None if actions is None else [c for a in actions if (c := self.action_code(a)) is not None]
        rows_of_user: list[Rows] = []
        for start in range(0, len(encoded), USERS_A_STEP):
            with said_to_a_person(self.url):
                found = self._client.mget([self._rows_key(u) for u in encoded[start : start + USERS_A_STEP]])
            rows_of_user += [NO_ROWS if rows is None else with_actions(join_rows([rows]), codes) for rows in found]
        return batch_of_rows(rows_of_user, user_of_request, as_of_ms, limit)

    def scan(
        self,
        after: int = -1,
        until: int | None = None,
        actions: Sequence[str] | None = None,
        batch_size: int = 65_536,
    ) -> Iterator[EventBatch]:
        wanted = None if actions is None else set(actions)
        end = self.position() if until is None else min(until, self.position())
        waiting: list[tuple[int, Record]] = []
        for position, record in self._records(after, end):
            if wanted is None or record.action in wanted:
                waiting.append((position, record))
            if len(waiting) >= batch_size:
                yield batch_of_records(waiting)
                waiting = []
        if waiting:
            yield batch_of_records(waiting)

    def _records(self, after: int, end: int) -> Iterator[tuple[int, Record]]:
        with said_to_a_person(self.url):
            blocks = [int(b) for b in self._client.zrange(self._key("blocks"), 0, -1)]
        blocks = [b for b in blocks if (b + 1) * 512 > after + 1 and b * 512 <= end]
        for start in range(0, len(blocks), BLOCKS_A_STEP):
            with said_to_a_person(self.url), self._client.pipeline(transaction=False) as pipeline:
                for block in blocks[start : start + BLOCKS_A_STEP]:
                    pipeline.hgetall(self._key(f"log:{block}"))
                found = pipeline.execute()
            for block_records in found:
                for position, packed in sorted((int(key), value) for key, value in block_records.items()):
                    if after < position <= end:
                        yield position, unpack_record(packed)

    def upserts(self, after: int = -1) -> Iterator[tuple[int, bytes]]:
        number = after + 1
        while True:
            self._check_open()
            with said_to_a_person(self.url):
                found = self._client.lrange(self._key("upserts"), number, number + UPSERTS_A_STEP - 1)
            if not found:
                return
            yield from enumerate(found, number)
            number += len(found)

    def user_version(self, user: str) -> UserVersion:
        encoded = check_id("user", user)
        with said_to_a_person(self.url):
            packed = self._client.hget(self._key("users"), encoded)
        if packed is None:
            return NO_VERSION
        head = Head(*HEAD.unpack(packed))
        return UserVersion(head.epoch, head.position)

    def position(self) -> int:
        return self._meta("next_position") - 1

    def item_dictionary(self) -> list[str]:
        return self._dictionary("item")

    def action_dictionary(self) -> list[str]:
        return self._dictionary("action")

    def item_ids(self, codes: Sequence[int] | Int64) -> list[str]:
        if not len(codes):
            return []
        with said_to_a_person(self.url):
            found = self._client.hmget(self._key("item_ids"), [int(c) for c in codes])
        return ["" if value is None else value.decode() for value in found]

    def item_code(self, item: str) -> int | None:
        return self._code("items", item)

    def action_code(self, action: str) -> int | None:
        return self._code("actions", action)

    def _code(self, table: str, value: str) -> int | None:
        encoded = check_id("id", value)
        with said_to_a_person(self.url):
            found = self._client.hget(self._key(table), encoded)
        return None if found is None else int(found)

    def _dictionary(self, kind: str) -> list[str]:
        with said_to_a_person(self.url):
            found = self._client.hgetall(self._key(f"{kind}_ids"))
        ids = [""] * (max(map(int, found), default=-1) + 1)
        for code, value in found.items():
            ids[int(code)] = value.decode()
        return ids

    # ------------------------------------------------------------------ remove

    def erase(self, user: str) -> EraseResult:
        events, items = self._remove(check_id("user", user), END_OF_TIME_MS)
        if events:
            with said_to_a_person(self.url):
                rewrite_files(self._client)
        return EraseResult(events, items, self._generation_number())

    def retain(self, before_ms: int) -> int:
        """User by user; each user's removal is atomic."""
        with said_to_a_person(self.url):
            heads = self._client.hgetall(self._key("users"))
        old = [user for user, packed in heads.items() if Head(*HEAD.unpack(packed)).first_time_ms < before_ms]
        removed = sum(self._remove(user, before_ms)[0] for user in old)
        if removed:
            with said_to_a_person(self.url):
                rewrite_files(self._client)
        return removed

    def _remove(self, user: bytes, before_ms: int) -> tuple[int, int]:
        self._check_writable()
        with said_to_a_person(self.url):
            events, items = self._remove_script(keys=[self.prefix], args=[user, before_ms])
        return events, items

    # ------------------------------------------------------------------ operate

    def stats(self) -> LogStats:
        with said_to_a_person(self.url):
            heads = [Head(*HEAD.unpack(packed)) for packed in self._client.hvals(self._key("users"))]
            items, actions = self._client.hlen(self._key("items")), self._client.hlen(self._key("actions"))
            memory = int(self._client.info("memory")["used_memory"])
        events = self._meta("events")
        return LogStats(
            backend="redis",
            url=self.url,
            durable=self.durable,
            generation=self._generation_number(),
            events=events,
            users=len(heads),
            items=items,
            actions=actions,
            position=self.position(),
            bytes_on_disk=memory,
            bytes_per_event=memory / max(events, 1),
            first_time_ms=min((head.first_time_ms for head in heads), default=None),
            last_time_ms=max((head.last_time_ms for head in heads), default=None),
        )

    def verify(self) -> VerifyReport:
        """Compares what was there when it began; finds false differences while events are being removed."""
        with said_to_a_person(self.url):
            until = self.position()
            return verify_server(self._client, self._key, self._records(-1, until), until)

    def close(self) -> None:
        self._is_closed = True
        self._client.close()
        self._writes.close()

    def _load(self, contents: Contents) -> None:
        if self._meta("next_position") or next(self.upserts(), None):
            raise LogError(f"{self.url} is not empty; restore under another prefix: ?prefix=...")
        meta = self._key("meta")
        with said_to_a_person(self.url):
            self._client.hset(meta, "restoring", 1)
            for kind, ids in (("item", contents.items), ("action", contents.actions)):
                codes = {value: code for code, value in enumerate(ids) if value}
                if codes:
                    self._client.hset(self._key(f"{kind}s"), mapping=codes)
                    self._client.hset(self._key(f"{kind}_ids"), mapping={code: value for value, code in codes.items()})
                self._client.hset(meta, f"next_{kind}", len(ids))
        for batch in contents.batches():
            for piece in batch.pieces(IMPORT_ROWS):
                checked = check_events(piece)
                assert checked.appended_ms is not None
                self._append(checked, checked.appended_ms, piece.log_position)
        for payload in contents.upserts():
            self.append_upsert(payload)
        with said_to_a_person(self.url):
            self._client.hset(meta, mapping={"next_position": contents.manifest.next_position, "restoring": 0})

    def _generation_number(self) -> int:
        return self._meta("generation")

    def _meta(self, name: str) -> int:
        self._check_open()
        with said_to_a_person(self.url):
            return int(self._client.hget(self._key("meta"), name) or 0)

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise LogError(f"{self.url} was opened with read_only=True")

    def _check_open(self) -> None:
        if self._is_closed:
            raise LogError(f"the event log {self.url} is closed")


def _script_arguments(events: CheckedEvents, appended_ms: Int64, positions: Int64 | None) -> list[Any]:
    """What the append script takes."""
    users, items, actions = (
        [column.distinct[i] for i in column.of_row.tolist()] for column in (events.user, events.item, events.action)
    )
    nothing: Sequence[None] = [None] * len(events)
    event_ids, request_ids = events.event_id or nothing, events.request_id or nothing
    extras, places = events.extra or nothing, events.position.tolist()
    wanted = [-1] * len(events) if positions is None else positions.tolist()
    arguments: list[Any] = []
    for row, (time_ms, appended) in enumerate(zip(events.time_ms.tolist(), appended_ms.tolist())):
        user, item, action = users[row], items[row], actions[row]
        record = Record(
            user.decode(),
            item.decode(),
            action.decode(),
            time_ms,
            appended,
            event_ids[row],
            request_ids[row],
            places[row],
            extras[row],
        )
        arguments += (user, item, action, time_ms, appended, record.packed(), wanted[row])
    return arguments
