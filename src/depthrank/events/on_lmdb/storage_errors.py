"""What a failed write to LMDB means, said to a person."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import lmdb

from depthrank.errors import LogError, StorageFullError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ALMOST_FULL_BYTES = 1 << 20


def storage_error(error: lmdb.Error | OSError, folder: Path) -> LogError:
    """The error to raise instead. A short write, which LMDB reports as EIO, on a full disk is a full disk."""
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
    if code in _NO_ROOM or (code == errno.EIO and _free_bytes(folder) < _ALMOST_FULL_BYTES):
        return StorageFullError(
            f"no room left for the event log {folder} ({os.strerror(code)}); nothing was written. "
            "It stays readable, and writes again once there is room"
        )
    return LogError(f"cannot write the event log {folder}: {error}")


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
