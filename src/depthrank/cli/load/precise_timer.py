"""A timer of an event loop that is late by microseconds: epoll and libuv round their own up to a millisecond.

Linux has timers that are files (timerfd_create(2)); a loop that watches one wakes when it is due. Elsewhere the loop's
own timers serve, and the send lag in the report shows it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
from collections.abc import Callable

_CLOCK_MONOTONIC, _TFD_NONBLOCK = 1, os.O_NONBLOCK if hasattr(os, "O_NONBLOCK") else 0
_LEAST_NS = 1_000  # zero would disarm the timer


class PreciseTimer:
    """Calls ``due`` once for each ``arm``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[], None]) -> None:
        self._loop, self._due = loop, due
        self._file = _timerfd_create()
        self._handle: asyncio.TimerHandle | None = None
        if self._file is not None:
            loop.add_reader(self._file, self._expired)

    def arm(self, delay_s: float) -> None:
        """Call ``due`` in ``delay_s``; at once where that is past."""
        if self._file is None:
            self._handle = self._loop.call_later(max(0.0, delay_s), self._due)
            return
        delay_ns = max(_LEAST_NS, int(delay_s * 1e9))
        _timerfd_settime(self._file, delay_ns)

    def close(self) -> None:
        """Never call again."""
        if self._file is not None:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = None
        if self._handle is not None:
            self._handle.cancel()

    def _expired(self) -> None:
        assert self._file is not None
        try:
            os.read(self._file, 8)
        except BlockingIOError:  # armed again meanwhile
            return
        self._due()


def _timerfd_create() -> int | None:
    """A timer file; None where the system has none."""
    if not sys.platform.startswith("linux"):
        return None
    file = int(ctypes.CDLL(None, use_errno=True).timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK))
    return file if file >= 0 else None


def _timerfd_settime(file: int, delay_ns: int) -> None:
    seconds, nanoseconds = divmod(delay_ns, 1_000_000_000)
    once = struct.pack("llll", 0, 0, seconds, nanoseconds)  # struct itimerspec: no repetition, then the delay
    if ctypes.CDLL(None, use_errno=True).timerfd_settime(file, 0, once, None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd_settime failed")
