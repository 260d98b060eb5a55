"""Writing to a disk that may be full or fail: bytes that are all there or an error, syncs, and what an error means."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from depthrank.errors import ArtifactError, StorageFullError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ALMOST_FULL_BYTES = 1 << 20


def write_array(path: Path, values: NDArray[np.float32]) -> None:
    """One ``.npy`` file, C order. (``numpy.save`` hides the error number of a short write.)"""
    rows = np.ascontiguousarray(values)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows))
        file.write(rows.data.cast("B") if rows.size else b"")


def sync(path: Path) -> None:
    """fsync of a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """fsync of everything below and of the folder itself."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def saving_error(error: OSError | SafetensorError, root: Path) -> StorageFullError | ArtifactError:
    """The error to raise instead. Libraries hide the number, or report a short write: then the free space decides."""
    hidden = re.search(r"os error (\d+)", str(error))
    code = int(hidden[1]) if hidden else getattr(error, "errno", None)
    short_write = code in (None, errno.EIO) and ("written" in str(error) or _free_bytes(root) < _ALMOST_FULL_BYTES)
    if code in _NO_ROOM or short_write:
        return StorageFullError(
            f"the disk is full while saving {root}: nothing was replaced; free space and save again"
        )
    return ArtifactError(f"cannot save {root}: {error}")


def _free_bytes(root: Path) -> int:
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize
