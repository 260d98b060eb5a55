"""What a failed write to LMDB means, said to a person."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import lmdb

from depthrank.errors import LogError, StorageFullError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ALMOST_FULL_BYTES = 1 << 20


def storage_error(error: lmdb.Error | OSError, folder: Path) -> LogError:
    """The error to raise instead. A short write (LMDB reports EIO) where there is hardly room is a full disk."""
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
    if code in _NO_ROOM or (code == errno.EIO and _room_bytes(folder) < _ALMOST_FULL_BYTES):
        return StorageFullError(
            f"no room left for the event log {folder} ({os.strerror(code)}); nothing was written. "
            "It stays readable, and writes again once there is room"
        )
    return LogError(f"cannot write the event log {folder}: {error}")


def _room_bytes(folder: Path) -> int:
    """What the disk, and the process's limit to the size of a file, leave."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return free
    largest = max((path.stat().st_size for path in folder.rglob("data.mdb")), default=0)
    return min(free, max(0, limit - largest))
