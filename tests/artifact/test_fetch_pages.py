"""Pages are there before they are asked for, as many as fit."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path

import pytest

import depthrank.artifact.fetch_pages as pages
from depthrank.artifact.fetch_pages import room_bytes, touch_ahead

MB = 1 << 20
RECLAIMED = 1 << 18  # a kernel that is short of memory, or watches for idle pages, may take some back at once


def resident_bytes(path: Path) -> int:
    """Bytes of a file in the page cache, as mincore tells."""
    size = path.stat().st_size
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as view,
    ):
        found = (ctypes.c_ubyte * ((size + mmap.PAGESIZE - 1) // mmap.PAGESIZE))()
        start = (ctypes.c_char * size).from_buffer(view)
        assert ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(size), found) == 0
        del start
        return sum(page & 1 for page in found) * mmap.PAGESIZE


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file of 8 MB that is not in memory."""
    path = tmp_path / "rows"
    path.write_bytes(bytes(8 * MB))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert resident_bytes(path) < MB
    return path


def test_all_pages_are_there_afterwards(cold):
    assert touch_ahead([cold]) == 8 * MB
    assert resident_bytes(cold) >= 8 * MB - RECLAIMED


def test_only_as_much_is_touched_as_fits(cold, tmp_path):
    (tmp_path / "empty").touch()
    assert touch_ahead([tmp_path / "empty", cold, cold], limit_bytes=2 * MB) == 2 * MB
    assert resident_bytes(cold) >= 2 * MB - RECLAIMED


def test_an_older_kernel_reads(cold, monkeypatch):
    class Older(mmap.mmap):
        def madvise(self, *args: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(pages.mmap, "mmap", Older)
    touch_ahead([cold])
    monkeypatch.undo()
    assert resident_bytes(cold) >= 8 * MB - RECLAIMED


def test_there_is_room_and_no_more_than_the_machine_has():
    assert 0 < room_bytes() <= os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
