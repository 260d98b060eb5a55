"""Reads of a log that is reached over a network, with a limit to how long a request waits for one.

A read that outlives its time goes on in its thread, and while it does the others are refused at once: the log does not
answer, and asking again would only take more threads. When it comes back, or its connection gives up, reads go on; so
one slow log costs a few requests their patience, and the rest nothing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from depthrank.errors import LogError

PATIENCE_S = 0.25
SHARE_OF_DEADLINE = 0.5
THREADS = 8

Result = TypeVar("Result")


class PatientReads:
    """``patience_s``: how long a request without a deadline waits; one with a deadline waits half of what it has."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._overdue = 0

    @property
    def overdue(self) -> int:
        """Reads that nobody waits for any more, and that have not come back."""
        return self._overdue

    def read(self, call: Callable[[], Result], left_s: float) -> Result:
        """What ``call`` returns. Raises LogError where it takes too long, and what it raises itself."""
        if self._overdue:
            raise LogError("it does not answer: an earlier read of it is still waiting")
        future: Future[Result] = Future()
        self._begin(future, call)
        wait_s = min(self._patience_s, SHARE_OF_DEADLINE * left_s)
        try:
            return future.result(wait_s)
        except TimeoutError:
            if future.done():
                return future.result()
            with self._lock:
                self._overdue += 1
            future.add_done_callback(self._came_back)
            raise LogError(f"it did not answer within {wait_s * 1e3:.0f} ms") from None

    def _begin(self, future: Future[Result], call: Callable[[], Result]) -> None:
        with self._lock:
            if self._threads < THREADS:
                self._threads += 1
                threading.Thread(target=self._work, name="depthrank-history", daemon=True).start()
        self._calls.put((future, call))

    def _came_back(self, _future: Future[Any]) -> None:
        with self._lock:
            self._overdue -= 1

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                future.set_exception(error)
            else:
                future.set_result(result)
            del future, call
