"""The folder of an LMDB log: generations, and the pointer file that names the current one.

    LOG                       JSON: format, version, generation; replaced by an atomic rename
    lock                      held (flock) by whoever creates, compacts or restores
    generation-000001/        data.mdb, lock.mdb (LMDB), superseded (one byte; 1: look at LOG again)

Removing events writes a new generation, marks the old one superseded, renames the pointer, unlinks the old one.
The mark only makes readers look at the pointer, so a mark whose rename never came costs time and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from depthrank.errors import LogError

FORMAT = "depthrank-events"
VERSION = 1
POINTER = "LOG"
SUPERSEDED = "superseded"


class Pointer(msgspec.Struct, frozen=True):
    """The content of ``LOG``."""

    format: str
    version: int
    generation: int


def read_pointer(folder: Path) -> Pointer | None:
    """The pointer; None where the folder is absent or empty. Raises ``LogError`` for anything that is not our log."""
    try:
        raw = (folder / POINTER).read_bytes()
    except FileNotFoundError:
        if folder.is_dir() and any(p.name != "lock" and not p.name.startswith("generation-") for p in folder.iterdir()):
            raise LogError(f"{folder} is not an event log (it has no {POINTER} file); name an empty folder") from None
        return None
    except NotADirectoryError:
        raise LogError(f"{folder} is a file; an event log is a folder") from None
    except OSError as error:
        raise LogError(f"cannot read {folder / POINTER}: {error}") from error
    try:
        pointer = msgspec.json.decode(raw, type=Pointer)
    except msgspec.DecodeError as error:
        raise LogError(f"{folder / POINTER} is damaged: {error}; restore the log from a backup") from error
    if pointer.format != FORMAT:
        raise LogError(f"{folder} is not an event log: its {POINTER} file names format {pointer.format!r}")
    if pointer.version != VERSION:
        raise LogError(
            f"{folder} is an event log of version {pointer.version}; this program reads {VERSION}: update depthrank"
        )
    return pointer


def generation_folder(folder: Path, generation: int) -> Path:
    return folder / f"generation-{generation:06d}"


def new_generation_folder(folder: Path, generation: int) -> Path:
    """An empty folder for a generation; what an interrupted attempt left there goes."""
    path = generation_folder(folder, generation)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    (path / SUPERSEDED).write_bytes(b"\0")
    return path


def switch(folder: Path, generation: int) -> None:
    """Make a generation, complete and synced, the current one."""
    sync_folder(generation_folder(folder, generation))
    unfinished = folder / f"{POINTER}.new"
    with unfinished.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(Pointer(FORMAT, VERSION, generation))) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / POINTER)
    sync_folder(folder)


def mark_superseded(folder: Path, generation: int, mark: bool) -> None:
    """In place, as the readers of all processes have this inode mapped."""
    with (generation_folder(folder, generation) / SUPERSEDED).open("r+b") as file:
        file.write(b"\1" if mark else b"\0")


def remove_other_generations(folder: Path, current: int) -> None:
    """Unlink what a switch, or an attempt that was cut short, left. Only under the folder's lock."""
    for path in folder.glob("generation-*"):
        if path != generation_folder(folder, current):
            shutil.rmtree(path, ignore_errors=True)
    mark_superseded(folder, current, mark=False)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def folder_lock(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Held by one thread of one process at a time, freed when its holder dies. Yields whether it is held."""
    with (folder / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
