"""Writes that somebody waits for: a server that hangs costs a few of them their patience, and the others nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from depthrank.errors import LogError
from depthrank.events.on_redis.server import Client, connect, said_to_a_person, shown, write_timeout_s


class Writes:
    """``client``: connections that wait ``timeout_s`` for an answer (``?timeout_s=`` in the URL).

    Once a write got no answer, the next ones are refused at once for as long again; then one of them asks, and the
    others go on when it is answered. Nothing is written twice: what got no answer is the client's to repeat.
    """

    def __init__(self, url: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = write_timeout_s(url)
        self.client = connect(url, self.timeout_s)
        self._url, self._clock_s = shown(url), clock_s
        self._lock = threading.Lock()
        self._refused_until_s: float | None = None  # None: the server answers

    @contextmanager
    def asking(self) -> Iterator[Client]:
        """The client for one write. Raises LogError, StorageFullError."""
        self._refuse()
        with said_to_a_person(self._url):
            try:
                yield self.client
            except redis.exceptions.TimeoutError:
                self._hangs()
                raise
            except redis.exceptions.ConnectionError:  # gone, which is told at once; or refused while it restarts
                self._refused_until_s = None
                raise
        self._refused_until_s = None

    def _refuse(self) -> None:
        with self._lock:
            if self._refused_until_s is None:
                return
            now_s = self._clock_s()
            if now_s < self._refused_until_s:
                raise LogError(
                    f"the event log at {self._url} does not answer: a write waited {self.timeout_s:g} s in vain. This "
                    "one was not sent; append it again later"
                )
            self._refused_until_s = now_s + 2 * self.timeout_s  # this one asks, the others do not until it knows

    def _hangs(self) -> None:
        with self._lock:
            self._refused_until_s = self._clock_s() + self.timeout_s

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
