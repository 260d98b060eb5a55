"""The event log: what every backend offers. ``depthrank.events.open_log`` picks the backend by URL."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from depthrank.errors import LogError
from depthrank.events.backup import Contents, read_backup, write_backup
from depthrank.events.batch import EventBatch, Int64
from depthrank.events.history import History, HistoryBatch

BACKUP_ATTEMPTS = 5


def now_ms() -> int:
    """Milliseconds since 1970 by the system clock."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class AppendResult:
    """positions: int64 [n], the log position of each event, -1 where its event_id was known already."""

    positions: Int64
    appended: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class EraseResult:
    """What an erasure removed; all zero where the log did not know the user."""

    events: int
    items: int  # ids that only this user's events held, removed from the dictionary
    generation: int
    backups: int = 0  # known backups that held the user and were rewritten
    pending: tuple[str, ...] = ()  # known backups that could not be, each with why


class UserVersion(NamedTuple):
    """What a cached user state is validated by.

    Equal versions: nothing changed. Same epoch, larger position: events were added after all earlier ones in time.
    Another epoch: anything may have changed (a late event, an erasure, retention). ``(0, -1)``: no events.
    """

    epoch: int
    position: int


NO_VERSION = UserVersion(0, -1)


@dataclass(frozen=True, slots=True)
class LogStats:
    backend: str
    url: str
    durable: bool
    generation: int
    events: int
    users: int
    items: int
    actions: int
    position: int
    bytes_on_disk: int
    bytes_per_event: float
    first_time_ms: int | None
    last_time_ms: int | None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What ``verify`` read, and every disagreement it found (empty: the log is whole)."""

    events: int
    users: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


class _EventsRemoved(Exception):
    """Events were removed while a backup read them."""


class EventLog(ABC):
    """(user, item, action, time, ...) in the order of arrival, and each user's history as of a time.

    Safe for use by several threads. Codes of items and actions belong to this log and never change; ids of removed
    items leave the empty string in the dictionary.
    """

    url: str
    durable: bool
    read_only: bool
    may_hang: bool = False  # reached over a network: a read may take as long as a server is stopped

    @staticmethod
    def open(
        url: str,
        *,
        durable: bool = True,
        read_only: bool = False,
        max_bytes: int | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> EventLog:
        """See ``depthrank.events.open_log``."""
        from depthrank.events.open import open_log  # the backends import this file

        return open_log(url, durable=durable, read_only=read_only, max_bytes=max_bytes, clock=clock)

    @abstractmethod
    def append(self, events: EventBatch) -> AppendResult:
        """Append all the events or none; returns when they are durable and readable by every process.

        An event whose ``event_id`` is known, from an earlier call or an earlier row, is skipped.
        Raises ``RequestError`` (a wrong field), ``StorageFullError`` (no room; nothing appended), ``LogError``.
        """

    @abstractmethod
    def import_events(self, events: EventBatch) -> AppendResult:
        """Append events of the past: ``appended_ms`` is ``time_ms`` unless given. Errors as ``append``."""

    @abstractmethod
    def append_upsert(self, payload: bytes) -> int:
        """Keep an opaque catalogue upsert; returns its number (0, 1, ...) when it is durable and readable.

        Erasure and retention, which are about users' events, leave upserts alone. Errors as ``append``.
        """

    @abstractmethod
    def upserts(self, after: int = -1) -> Iterator[tuple[int, bytes]]:
        """(number, payload) of the upserts with a number above ``after``, in the order they were appended."""

    @abstractmethod
    def history(self, user: str, as_of_ms: int, limit: int, actions: Sequence[str] | None = None) -> History:
        """The last ``limit`` events of the listed actions (None: all) visible as of a time; unknown user: empty."""

    @abstractmethod
    def histories(
        self, users: Sequence[str], as_of_ms: Int64, limit: int, actions: Sequence[str] | None = None
    ) -> HistoryBatch:
        """``history`` of n (user, time) pairs; a user named many times is read once."""

    @abstractmethod
    def scan(
        self,
        after: int = -1,
        until: int | None = None,
        actions: Sequence[str] | None = None,
        batch_size: int = 65_536,
    ) -> Iterator[EventBatch]:
        """Events with ``after < log_position <= until`` (None: to the end), in log order, with all their fields.

        Each batch is a snapshot of its own; what is removed meanwhile is missing from later batches.
        """

    def storage_folder(self) -> Path | None:
        """The folder whose disk the log fills; None where it lies on another machine."""
        return None

    def some_users(self, limit: int) -> list[str]:
        """The first ``limit`` users that the log names, in the order of their first events."""
        users: dict[str, None] = {}
        for batch in self.scan():
            users.update(dict.fromkeys(batch.user))
            if len(users) >= limit:
                break
        return list(users)[:limit]

    @abstractmethod
    def user_version(self, user: str) -> UserVersion:
        """Cheap; changes whenever the user's history may have changed."""

    @abstractmethod
    def position(self) -> int:
        """The log position of the last event; -1: none yet. Never decreases."""

    @abstractmethod
    def item_dictionary(self) -> list[str]:
        """Item ids by code. Only ever grows; an erased id leaves ''. The caller owns the list."""

    @abstractmethod
    def action_dictionary(self) -> list[str]:
        """Actions by code; as ``item_dictionary``."""

    @abstractmethod
    def item_ids(self, codes: Sequence[int] | Int64) -> list[str]:
        """The ids of a few codes ('' for an erased one)."""

    @abstractmethod
    def item_code(self, item: str) -> int | None:
        """The code of an item that some event names, or None."""

    @abstractmethod
    def action_code(self, action: str) -> int | None:
        """The code of an action that some event names, or None."""

    @abstractmethod
    def erase(self, user: str) -> EraseResult:
        """Remove a user: events, ids only they used, their bytes in the log's files and in its known backups.

        Returns when it is done; ``pending`` names what is not. Raises LogError where the log itself cannot be written.
        """

    @abstractmethod
    def retain(self, before_ms: int) -> int:
        """Remove events with ``time_ms < before_ms``, from the files too; returns how many."""

    @abstractmethod
    def stats(self) -> LogStats: ...

    @abstractmethod
    def verify(self) -> VerifyReport:
        """Read everything and compare the indexes with each other. Takes time; blocks nobody."""

    def backup(self, target: str | Path) -> int:
        """Write a consistent copy, as of now, into a new folder while appends go on; returns the number of events.

        An erasure that finishes meanwhile makes it start again, so that no backup completed later holds the erased.
        """
        for _ in range(BACKUP_ATTEMPTS):
            generation, until = self._generation_number(), self.position()
            items, actions = self.item_dictionary(), self.action_dictionary()
            with suppress(_EventsRemoved):
                events = self._one_generation(generation, until)
                written = write_backup(Path(target), items, actions, until + 1, events, self.upserts())
                self._remember_backup(Path(target))
                return written
        raise LogError(f"cannot back up {self.url}: {BACKUP_ATTEMPTS} erasures came in between; try again later")

    def known_backups(self) -> list[Path]:
        """Where backups of this log were written, as far as the backend notes it; ``erase`` erases from them too."""
        return []

    def _remember_backup(self, target: Path) -> None:  # noqa: B027 - a backend without a place for it notes nothing
        """Note a backup, where there is a place for it."""

    def _one_generation(self, generation: int, until: int) -> Iterator[EventBatch]:
        yield from self.scan(until=until)
        if self._generation_number() != generation:
            raise _EventsRemoved

    @staticmethod
    def restore(source: str | Path, url: str, *, durable: bool = True) -> EventLog:
        """Open the log at ``url``, which must hold nothing, filled from a backup of any backend, and verified.

        Raises ``LogError`` for a damaged backup or a log that holds events. A restore that breaks off leaves a log
        that refuses to open.
        """
        contents = read_backup(Path(source))
        log = EventLog.open(url, durable=durable)
        try:
            log._load(contents)
            report = log.verify()
            if not report.ok or report.events != contents.manifest.events:
                raise LogError(f"{url} differs from the backup {source}: {report.events} events, {report.problems}")
        except BaseException:
            log.close()
            raise
        return log

    @abstractmethod
    def _generation_number(self) -> int:
        """Moves on when events are removed."""

    @abstractmethod
    def _load(self, contents: Contents) -> None:
        """Fill this empty log from a backup: same positions, same codes."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
