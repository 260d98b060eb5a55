"""The generations open in this process, each once, counted by their users."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from depthrank.errors import LogError
from depthrank.events.on_lmdb.folder import generation_folder, read_pointer
from depthrank.events.on_lmdb.generation import INITIAL_MAP_BYTES, Generation

_Inode = tuple[int, int]
_open: dict[_Inode, tuple[Generation, int]] = {}
_lock = threading.Lock()


def acquire(folder: Path, *, writable: bool, map_bytes: int = INITIAL_MAP_BYTES) -> Generation:
    """The current generation of the log in ``folder``; ``release`` must follow. Raises ``LogError``."""
    while True:
        pointer = read_pointer(folder)
        if pointer is None:
            raise LogError(f"there is no event log in {folder}")
        path = generation_folder(folder, pointer.generation)
        with _lock:
            try:
                return _take(path, pointer.generation, writable, map_bytes)
            except (LogError, OSError) as error:
                if read_pointer(folder) == pointer:  # else: it was replaced while being opened
                    if isinstance(error, LogError):
                        raise
                    raise LogError(f"cannot open the event log {folder}: {error}") from error


def release(generation: Generation) -> None:
    """Give a generation back; its last user closes it."""
    with _lock:
        for inode, (shared, uses) in _open.items():
            if shared is generation:
                if uses > 1:
                    _open[inode] = (shared, uses - 1)
                    return
                del _open[inode]
                break
        generation.close()


def _take(path: Path, number: int, writable: bool, map_bytes: int) -> Generation:
    inode = _inode(path)
    if inode in _open and _open[inode][0].broken:
        _open.pop(inode)[0].close()  # LMDB opens a file once a process; its other users find it closed, and come here
    if inode in _open and (_open[inode][0].writable or not writable):
        generation, uses = _open[inode]
        _open[inode] = (generation, uses + 1)
        return generation
    if inode in _open:
        raise LogError(f"{path} is open for reading only in this process; close that log first, or open it writable")
    can_write = os.access(path, os.W_OK) and os.access(path / "data.mdb", os.W_OK)
    if writable and not can_write:
        raise LogError(f"{path} is not writable by this user; open the log with read_only=True")
    generation = Generation(path, number, writable=can_write, map_bytes=map_bytes)
    _open[_inode(path)] = (generation, 1)
    return generation


def _inode(path: Path) -> _Inode:
    status = os.stat(path / "data.mdb")
    return status.st_dev, status.st_ino
