"""Threads behind a bounded queue: what does not fit is refused at once, so waiting never grows without limit.

This is where admission by predicted cost and by deadline will stand; now it counts requests.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from depthrank.errors import CapacityError

Result = TypeVar("Result")


class OverloadError(CapacityError):
    """No room now; ``retry_after_s`` is when to ask again (HTTP 503 + Retry-After)."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class BoundedPool:
    """``threads`` calls run at once, ``queue`` more wait, the next raises OverloadError."""

    def __init__(self, name: str, threads: int, queue: int) -> None:
        assert threads >= 1 and queue >= 0
        self.name = name
        self.threads = threads
        self.capacity = threads + queue
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"depthrank-{name}")
        self._lock = threading.Lock()
        self._admitted = 0
        self._mean_s = 0.0

    @property
    def admitted(self) -> int:
        """Calls that run or wait."""
        return self._admitted

    def submit(self, call: Callable[..., Result], *args: object) -> Future[Result]:
        """Queue ``call(*args)``; a future that is cancelled before its turn never runs."""
        with self._lock:
            if self._admitted >= self.capacity:
                raise OverloadError(
                    f"the {self.name} queue is full: {self._admitted} calls are under way", self._retry_after_s()
                )
            self._admitted += 1
        try:
            future = self._executor.submit(self._timed, call, *args)
        except RuntimeError:
            self._release(None)
            raise OverloadError("the server is shutting down") from None
        future.add_done_callback(self._release)
        return future

    async def run(self, call: Callable[..., Result], *args: object) -> Result:
        """The result of ``call(*args)``; cancelling the caller withdraws a call that still waits."""
        return await asyncio.wrap_future(self.submit(call, *args))

    def close(self) -> None:
        """Finish what was admitted, admit nothing more."""
        self._executor.shutdown(wait=True)

    def _timed(self, call: Callable[..., Result], *args: object) -> Result:
        started = perf_counter()
        try:
            return call(*args)
        finally:
            seconds = perf_counter() - started
            self._mean_s += 0.1 * (seconds - self._mean_s)

    def _release(self, _future: object) -> None:
        with self._lock:
            self._admitted -= 1

    def _retry_after_s(self) -> int:
        """When half of the queue will have been worked off, in whole seconds."""
        return max(1, min(60, math.ceil(self._mean_s * self._admitted / self.threads / 2)))
