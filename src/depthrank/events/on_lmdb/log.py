"""The event log on LMDB: durable, read by any number of processes, written by one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import numpy as np

from depthrank.errors import LogError
from depthrank.events.backup import Contents
from depthrank.events.batch import EventBatch, Int64
from depthrank.events.check_events import CheckedEvents, check_events, check_id, check_read, check_upsert
from depthrank.events.history import NO_HISTORY, History, HistoryBatch
from depthrank.events.known_backups import erase_from_backups, known_backups, remember_backup
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
from depthrank.events.on_lmdb import read_history, scan_log
from depthrank.events.on_lmdb.compact import Removal, write_without
from depthrank.events.on_lmdb.create import create, tidy
from depthrank.events.on_lmdb.folder import (
    folder_lock,
    generation_folder,
    mark_superseded,
    new_generation_folder,
    read_pointer,
    remove_other_generations,
    switch,
)
from depthrank.events.on_lmdb.generation import INITIAL_MAP_BYTES, Generation, GenerationClosed, whole_pages
from depthrank.events.on_lmdb.group_commit import Append, GroupCommit
from depthrank.events.on_lmdb.insert import Insertion, read_meta, write_meta
from depthrank.events.on_lmdb.records import CODE_KEY, CODE_VALUE, HEAD, Head, Meta, id_key
from depthrank.events.on_lmdb.shared_generations import acquire, release
from depthrank.events.on_lmdb.storage_errors import storage_error
from depthrank.events.on_lmdb.verify import verify_generation

Answer = TypeVar("Answer")


class LmdbEventLog(EventLog):
    """A log in a folder; ``map_bytes`` is the address space it starts with (it grows by itself)."""

    def __init__(
        self,
        path: str | Path,
        *,
        durable: bool = True,
        read_only: bool = False,
        max_bytes: int | None = None,
        clock: Callable[[], int] = now_ms,
        map_bytes: int = INITIAL_MAP_BYTES,
    ) -> None:
        self.folder = Path(path).expanduser().absolute()
        self.url = f"lmdb:{self.folder}"
        self.durable, self.read_only = durable, read_only
        self._max_bytes, self._clock = max_bytes, clock
        self._map_bytes = map_bytes if max_bytes is None else min(map_bytes, whole_pages(max_bytes))
        if not read_only:
            create(self.folder)
            tidy(self.folder)
        self._switching = threading.Lock()
        self._generation: Generation | None = self._acquire()
        self._appends = GroupCommit(self._commit)
        try:
            self._check_restored()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------ append

    def append(self, events: EventBatch) -> AppendResult:
        checked = check_events(events)
        return self._append(checked, checked.appended_ms)

    def import_events(self, events: EventBatch) -> AppendResult:
        checked = check_events(events)
        return self._append(checked, checked.time_ms if checked.appended_ms is None else checked.appended_ms)

    def _append(self, events: CheckedEvents, appended_ms: Int64 | None) -> AppendResult:
        self._check_writable()
        if len(events) == 0:
            return AppendResult(np.empty(0, np.int64), 0, 0)
        return self._appends.append(Append(events, appended_ms))

    def _commit(self, group: list[Append]) -> None:
        def insert_group(insertion: Insertion) -> list[AppendResult]:
            now = self._clock()
            return [
                insertion.insert(a.events, np.full(len(a.events), now) if a.appended_ms is None else a.appended_ms)
                for a in group
            ]

        for one, result in zip(group, self._write(insert_group)):
            one.result = result

    def _write(self, work: Callable[[Insertion], Answer]) -> Answer:
        """Do ``work`` in one transaction of the current generation; returns when it is committed (and durable)."""
        while True:
            generation = self._current()
            try:
                with generation.write_lock:
                    answer = self._write_into(generation, work)
                    if self.durable:
                        generation.env.sync(True)  # the commit record; the data it names was synced before it
                    return answer
            except GenerationClosed:
                continue
            except lmdb.MapFullError:
                generation.grow(self._max_bytes)
            except lmdb.MapResizedError:
                generation.resize(0)
            except lmdb.PanicError:
                generation.broken = True
            except lmdb.Error as error:
                raise storage_error(error, self.folder) from error

    def _write_into(self, generation: Generation, work: Callable[[Insertion], Answer]) -> Answer:
        generation.check_open()
        with generation.env.begin(write=True) as transaction:
            if generation.superseded and not self._is_current(generation):
                raise GenerationClosed
            insertion = Insertion(transaction, generation, read_meta(transaction, generation))
            answer = work(insertion)
            write_meta(transaction, generation, insertion.meta)
        return answer

    def append_upsert(self, payload: bytes) -> int:
        check_upsert(payload)
        self._check_writable()
        return self._write(lambda insertion: insertion.insert_upsert(payload))

    # ------------------------------------------------------------------ read

    def history(self, user: str, as_of_ms: int, limit: int, actions: Sequence[str] | None = None) -> History:
        encoded = check_id("user", user)
        if limit <= 0:
            check_read(as_of_ms, limit)
            return NO_HISTORY
        key = id_key(encoded)
        while True:
            generation = self._current()
            try:
                with generation.reading() as transaction:
                    return read_history.read_history(transaction, generation, key, as_of_ms, limit, actions)
            except GenerationClosed:
                continue

    def histories(
        self, users: Sequence[str], as_of_ms: Int64, limit: int, actions: Sequence[str] | None = None
    ) -> HistoryBatch:
        check_read(as_of_ms, limit)
        as_of_ms = np.asarray(as_of_ms, np.int64)
        assert len(users) == len(as_of_ms), "one time a user"
        number: dict[str, int] = {}
        user_of_request = np.fromiter((number.setdefault(u, len(number)) for u in users), np.int64, len(users))
        keys = [id_key(check_id("users", user)) for user in number]
        return self._read(
            lambda transaction, generation: read_history.read_histories(
                transaction, generation, keys, user_of_request, as_of_ms, limit, actions
            )
        )

    def scan(
        self,
        after: int = -1,
        until: int | None = None,
        actions: Sequence[str] | None = None,
        batch_size: int = 65_536,
    ) -> Iterator[EventBatch]:
        wanted = None if actions is None else set(actions)
        while True:  # a transaction a batch: a slow consumer must not pin old pages
            batch, after, more = self._read(
                lambda transaction, generation, after=after: scan_log.scan_batch(  # type: ignore[misc]
                    transaction, generation, after, until, wanted, batch_size
                )
            )
            if len(batch):
                yield batch
            if not more:
                return

    def storage_folder(self) -> Path | None:
        return self.folder

    def upserts(self, after: int = -1) -> Iterator[tuple[int, bytes]]:
        while found := self._read(
            lambda transaction, generation, after=after: scan_log.upserts_after(transaction, generation, after)  # type: ignore[misc]
        ):
            yield from found
            after = found[-1][0]

    def user_version(self, user: str) -> UserVersion:
        key = id_key(check_id("user", user))
        packed = self._read(lambda transaction, generation: transaction.get(key, db=generation.users))
        if packed is None:
            return NO_VERSION
        head = Head(*HEAD.unpack(packed))
        return UserVersion(head.epoch, head.position)

    def position(self) -> int:
        return self._meta().next_position - 1

    def item_dictionary(self) -> list[str]:
        return self._read(lambda transaction, generation: scan_log.dictionary(transaction, generation.item_ids))

    def action_dictionary(self) -> list[str]:
        return self._read(lambda transaction, generation: scan_log.dictionary(transaction, generation.action_ids))

    def item_ids(self, codes: Sequence[int] | Int64) -> list[str]:
        keys = [CODE_KEY.pack(code) for code in codes]
        return self._read(
            lambda transaction, generation: [transaction.get(key, b"", db=generation.item_ids).decode() for key in keys]
        )

    def item_code(self, item: str) -> int | None:
        return self._code(item, "items")

    def action_code(self, action: str) -> int | None:
        return self._code(action, "actions")

    def _code(self, value: str, table: str) -> int | None:
        key = id_key(check_id("id", value))
        packed = self._read(lambda transaction, generation: transaction.get(key, db=getattr(generation, table)))
        return None if packed is None else int(CODE_VALUE.unpack(packed)[0])

    # ------------------------------------------------------------------ remove

    def erase(self, user: str) -> EraseResult:
        key = id_key(check_id("user", user))
        removed = self._remove(Removal(user_key=key))
        backups, pending = erase_from_backups(self.known_backups(), user)
        return EraseResult(removed.events, removed.items, self._generation_number(), backups, pending)

    def known_backups(self) -> list[Path]:
        return known_backups(self.folder)

    def _remember_backup(self, target: Path) -> None:
        remember_backup(self.folder, target)

    def retain(self, before_ms: int) -> int:
        return self._remove(Removal(before_ms=before_ms)).events

    def _remove(self, removal: Removal) -> Removal:
        """Copy everything else into a new generation and switch to it; appends wait meanwhile, reads do not."""
        self._check_writable()
        with folder_lock(self.folder):
            generation = self._current()
            number = generation.number + 1
            try:
                with generation.write_lock, generation.env.begin(write=True) as transaction:
                    removed = write_without(
                        transaction, generation, removal, lambda: new_generation_folder(self.folder, number)
                    )
                    if removed.events:
                        mark_superseded(self.folder, generation.number, mark=True)
                        switch(self.folder, number)
                    transaction.abort()
            except (lmdb.Error, OSError) as error:
                generation.broken = generation.broken or isinstance(error, lmdb.PanicError)
                raise storage_error(error, self.folder) from error
            finally:
                if generation_folder(self.folder, number).exists():
                    remove_other_generations(self.folder, self._current_number())
            self._current()
        return removed

    # ------------------------------------------------------------------ operate

    def stats(self) -> LogStats:
        generation, meta = self._current(), self._meta()
        disk = generation.file_bytes()
        return LogStats(
            backend="lmdb",
            url=self.url,
            durable=self.durable,
            generation=generation.number,
            events=meta.events,
            users=meta.users,
            items=meta.items,
            actions=meta.actions,
            position=meta.next_position - 1,
            bytes_on_disk=disk,
            bytes_per_event=disk / max(meta.events, 1),
            first_time_ms=meta.first_time_ms,
            last_time_ms=meta.last_time_ms,
        )

    def verify(self) -> VerifyReport:
        return self._read(verify_generation)

    def close(self) -> None:
        with self._switching:
            generation, self._generation = self._generation, None
        if generation is not None:
            release(generation)

    def _load(self, contents: Contents) -> None:
        self._check_writable()
        if self._meta() != Meta():
            raise LogError(f"{self.url} is not empty; restore into a new folder")
        self._write(lambda insertion: scan_log.load_dictionaries(insertion, contents.items, contents.actions))
        for batch in contents.batches():
            checked, positions = check_events(batch), batch.log_position
            assert checked.appended_ms is not None and positions is not None
            self._write(lambda insertion, c=checked, p=positions: insertion.insert(c, c.appended_ms, p))  # type: ignore[misc]
        for payload in contents.upserts():
            self._write(lambda insertion, p=payload: insertion.insert_upsert(p))  # type: ignore[misc]
        self._write(lambda insertion: scan_log.finish_load(insertion, contents.manifest.next_position))

    # ------------------------------------------------------------------ generations

    def _read(self, work: Callable[[Any, Generation], Answer]) -> Answer:
        while True:
            generation = self._current()
            try:
                with generation.reading() as transaction:
                    return work(transaction, generation)
            except GenerationClosed:
                continue
            except lmdb.Error as error:
                raise LogError(f"cannot read the event log {self.folder}: {error}") from error

    def _current(self) -> Generation:
        generation = self._generation
        if generation is None:
            raise LogError(f"the event log {self.url} is closed")
        return self._take_newer(generation) if generation.broken or generation.superseded else generation

    def _take_newer(self, known: Generation) -> Generation:
        with self._switching:
            if self._generation is None or self._generation is not known:
                return self._generation or known
            newer = self._acquire()
            self._generation = newer
        release(known)  # where it is still the current one, this gives back what was just acquired
        return newer

    def _acquire(self) -> Generation:
        return acquire(self.folder, writable=not self.read_only, map_bytes=self._map_bytes)

    def _is_current(self, generation: Generation) -> bool:
        return self._current_number() == generation.number

    def _current_number(self) -> int:
        pointer = read_pointer(self.folder)
        assert pointer is not None, "an open log has a pointer"
        return pointer.generation

    def _generation_number(self) -> int:
        return self._current().number

    def _meta(self) -> Meta:
        return self._read(read_meta)

    def _check_writable(self) -> None:
        if self.read_only:
            raise LogError(f"{self.url} was opened with read_only=True")

    def _check_restored(self) -> None:
        if self._meta().restoring:
            raise LogError(f"a restore into {self.url} broke off; remove the folder and restore again")
