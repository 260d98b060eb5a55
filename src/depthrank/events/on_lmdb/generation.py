"""One generation of an LMDB log, opened: the environment, its tables, and who may use it when.

LMDB allows a file to be opened once a process, so logs of one process share a generation. Its map may be resized only
while no transaction is open: readers pass a gate (two list operations, atomic under the interpreter's lock), writers a
lock; a resize holds the lock and waits until the gate is empty.

An environment whose commit record could not be written (a full disk between the data and the record) refuses everything
from then on, reads included (MDB_PANIC); what was committed before is whole. Such a generation is ``broken``: whoever
needs it next opens its files anew.
"""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb

from depthrank.errors import LogError, StorageFullError
from depthrank.events.on_lmdb.folder import SUPERSEDED

TABLES = (
    "meta",
    "users",
    "user_ids",
    "items",
    "item_ids",
    "actions",
    "action_ids",
    "chunks",
    "log",
    "event_ids",
    "upserts",
)
INITIAL_MAP_BYTES = 1 << 30  # address space, not disk
LARGEST_MAP_STEP = 64 << 30
MAX_READERS = 1024


Table = Any  # lmdb names the type only in its stubs


def get_stored(transaction: lmdb.Transaction[bytes], key: bytes, table: Table) -> bytes:
    """The value of a key that the log itself refers to."""
    value = transaction.get(key, db=table)
    assert value is not None, f"the log refers to {key!r}, which is not stored"
    return value


class GenerationClosed(Exception):
    """This generation was closed meanwhile; take the current one."""


class Generation:
    """An open environment. ``meta`` and the other tables are attributes, for ``db=``."""

    meta: Table
    users: Table
    user_ids: Table
    items: Table
    item_ids: Table
    actions: Table
    action_ids: Table
    chunks: Table
    log: Table
    event_ids: Table
    upserts: Table

    def __init__(self, path: Path, number: int, *, writable: bool, map_bytes: int = INITIAL_MAP_BYTES) -> None:
        self.path, self.number, self.writable = path, number, writable
        self.write_lock = threading.RLock()
        self._readers: list[None] = []
        self._gate_open = threading.Event()
        self._gate_open.set()
        self._closed = False
        self.broken = False
        self.env = _open_environment(path, writable, map_bytes)
        try:
            _check_length(self.env, path)
            for name in TABLES:
                setattr(self, name, self.env.open_db(name.encode(), create=writable))
            with (path / SUPERSEDED).open("rb") as file:
                self._superseded = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
        except lmdb.Error as error:
            self.env.close()
            raise LogError(f"cannot open the event log {path}: {error}") from error
        except BaseException:
            self.env.close()
            raise
        if writable:
            self.env.reader_check()  # frees the snapshots that killed readers held

    @property
    def superseded(self) -> bool:
        """Whether a newer generation serves; costs no system call."""
        return self._superseded[0] != 0

    def reading(self) -> Reading:
        """A short read transaction, as a context. Never held while the caller's code runs."""
        return Reading(self)

    def enter(self) -> lmdb.Transaction[bytes]:
        """Pass the gate and begin reading; ``leave`` must follow."""
        while True:
            self._readers.append(None)
            if self._gate_open.is_set() and not self._closed:
                try:
                    return self.env.begin()
                except lmdb.MapResizedError:
                    self._readers.pop()
                    self.resize(0)  # another process grew the file; 0: as it says
                    continue
                except lmdb.PanicError:
                    self._readers.pop()
                    self.broken = True
                    raise GenerationClosed from None
                except lmdb.Error as error:
                    self._readers.pop()
                    raise LogError(f"cannot read the event log {self.path}: {error}") from error
            self._readers.pop()
            if self._closed:
                raise GenerationClosed
            self._gate_open.wait()

    def leave(self, transaction: lmdb.Transaction[bytes]) -> None:
        transaction.abort()
        self._readers.pop()

    def check_open(self) -> None:
        """For writers, who hold ``write_lock``. Raises ``GenerationClosed``."""
        if self._closed:
            raise GenerationClosed

    def resize(self, map_bytes: int) -> None:
        """Change the size of the map, when nobody of this process uses it."""
        with self.write_lock:
            self._shut_gate()
            try:
                if not self._closed:
                    self.env.set_mapsize(map_bytes)
            finally:
                self._gate_open.set()

    def grow(self, max_bytes: int | None) -> None:
        """Make the map larger. Raises ``StorageFullError`` where ``max_bytes`` is reached."""
        self.env.reader_check()
        size = int(self.env.info()["map_size"])
        larger = size + min(size, LARGEST_MAP_STEP)
        if max_bytes is not None:
            larger = min(larger, whole_pages(max_bytes))
            if larger <= size:
                raise StorageFullError(
                    f"the event log {self.path.parent} is at its limit of {max_bytes:,} bytes; nothing was appended. "
                    "Raise the limit, or remove old events (depthrank log retain)"
                )
        self.resize(larger)

    def file_bytes(self) -> int:
        """What the data file takes on the disk (0 once the generation is removed)."""
        try:
            return os.stat(self.path / "data.mdb").st_blocks * 512
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Wait for the readers and close; later readers get ``GenerationClosed``."""
        with self.write_lock:
            if self._closed:
                return
            self._shut_gate()
            self._closed = True
            self._gate_open.set()  # the waiting ones find it closed
            self.env.close()
            self._superseded.close()

    def _shut_gate(self) -> None:
        self._gate_open.clear()
        waiting = threading.Event()
        while self._readers:
            waiting.wait(0.0002)


class Reading:
    """``with generation.reading() as transaction``; a class, as a generator costs three times as much."""

    __slots__ = ("_generation", "_transaction")

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __enter__(self) -> lmdb.Transaction[bytes]:
        self._transaction = self._generation.enter()
        return self._transaction

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._generation.leave(self._transaction)


def whole_pages(size: int) -> int:
    """The size LMDB's map may have within ``size`` bytes."""
    return max(size // mmap.PAGESIZE, 16) * mmap.PAGESIZE


def _open_environment(path: Path, writable: bool, map_bytes: int) -> lmdb.Environment:
    """Data is synced before the commit record of every transaction, the commit record when the log asks for it.

    That is LMDB's MDB_NOMETASYNC, the weakest setting that survives a power cut unharmed; ``sync`` makes it durable.
    """
    try:
        return lmdb.open(
            str(path),
            map_size=max(map_bytes, _file_bytes(path)),
            create=writable,
            readonly=not writable,
            metasync=False,
            max_dbs=len(TABLES),
            max_readers=MAX_READERS,
            max_spare_txns=8,
            readahead=False,
        )
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
        raise LogError(f"{path / 'data.mdb'} is damaged ({error}); restore the log from a backup") from error
    except lmdb.Error as error:
        raise LogError(f"cannot open the event log {path}: {error}") from error


def _file_bytes(path: Path) -> int:
    data = path / "data.mdb"
    return whole_pages(data.stat().st_size) if data.exists() else 0


def _check_length(env: lmdb.Environment, path: Path) -> None:
    """A file shorter than its last page would end the process by a signal when that page is read."""
    used = (int(env.info()["last_pgno"]) + 1) * int(env.stat()["psize"])
    size = os.stat(path / "data.mdb").st_size
    if size and size < used:
        raise LogError(f"{path / 'data.mdb'} is cut off: {size:,} of {used:,} bytes; restore the log from a backup")
