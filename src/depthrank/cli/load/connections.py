"""HTTP/1.1 connections of a load: kept alive, one request each at a time, opened as they are needed.

httpx takes half a millisecond for a request, which would make the client the bottleneck of a fast server; here one
request is a write, a few parser callbacks and a call of ``done``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import cast

import httptools

from depthrank.cli.load.target import Target

Done = Callable[[int, bytes, str | None], None]
"""Told once a request: HTTP status and body, or 0, nothing and what went wrong."""
SWEEP_S = 0.1


class Connection(asyncio.Protocol):
    """One connection; busy while ``done`` is set."""

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self.done: Done | None = None
        self.sent_s = 0.0
        self.closing = False

    def send(self, payload: bytes, done: Done) -> None:
        """Send a request; ``done`` is told its answer or its failure."""
        assert self._transport is not None and self.done is None
        self.done, self.sent_s = done, perf_counter()
        self._transport.write(payload)

    def fail(self, why: str) -> None:
        """Give the connection up; its request, if any, failed."""
        self.closing = True
        if self._transport is not None:
            self._transport.abort()
        done, self.done = self.done, None
        self._pool.lost(self)
        if done is not None:
            done(0, b"", why)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.fail("not HTTP")

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.closing:
            self.fail("closed before an answer")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status, body = self._parser.get_status_code(), b"".join(self._body)
        self._body.clear()
        done, self.done = self.done, None
        if status < 200:  # an interim answer
            self.done = done
            return
        if self._parser.should_keep_alive():
            self._pool.free(self)
        else:
            self.closing = True
            assert self._transport is not None
            self._transport.close()
            self._pool.lost(self)
        if done is not None:
            done(status, body, None)


class Connections:
    """At most ``most`` connections; a request that finds none free waits for one, and its latency goes on counting."""

    def __init__(self, target: Target, most: int, timeout_s: float) -> None:
        self._target, self._most, self._timeout_s = target, most, timeout_s
        self._loop = asyncio.get_running_loop()
        self._context = target.context
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[bytes, Done, float]] = deque()
        self.waited = 0
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def request(self, payload: bytes, done: Done) -> None:
        """Send when a connection is free, which usually is now."""
        if self._idle:
            self._idle.pop().send(payload, done)
            return
        self._waiting.append((payload, done, perf_counter()))
        if len(self._open) + len(self._opening) < self._most:
            self._open_one()
        else:
            self.waited += 1

    async def get(self, path: str) -> tuple[int, bytes]:
        """A GET on the side; raises ConnectionError."""
        return await self.ask(self._target.get(path))

    async def ask(self, payload: bytes) -> tuple[int, bytes]:
        """Status and body of one request; raises ConnectionError."""
        answer: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()

        def done(status: int, body: bytes, why: str | None) -> None:
            if not answer.done():
                if why is None:
                    answer.set_result((status, body))
                else:
                    answer.set_exception(ConnectionError(f"{self._target.address}: {why}"))

        self.request(payload, done)
        return await answer

    def free(self, connection: Connection) -> None:
        """A connection has its answer."""
        if self._waiting:
            payload, done, _ = self._waiting.popleft()
            self._loop.call_soon(connection.send, payload, done)
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting and len(self._open) + len(self._opening) < self._most:
            self._open_one()

    async def close(self) -> None:
        """Close everything."""
        self._sweeper.cancel()
        for task in self._opening:
            task.cancel()
        for connection in list(self._open):
            connection.fail("the load has ended")
        await asyncio.sleep(0)

    def _open_one(self) -> None:
        task = self._loop.create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self), self._target.host, self._target.port, ssl=self._context
                )
        except (OSError, TimeoutError) as error:
            if self._waiting:
                _, done, _ = self._waiting.popleft()
                done(0, b"", "no connection: " + (type(error).__name__))
            return
        self._open.add(connection)
        self.free(connection)

    def _sweep(self) -> None:
        """Give up requests beyond the timeout, sent or not."""
        now = perf_counter()
        for connection in list(self._open):
            if connection.done is not None and now - connection.sent_s > self._timeout_s:
                connection.fail("no answer in time")
        while self._waiting and now - self._waiting[0][2] > self._timeout_s:
            _, done, _ = self._waiting.popleft()
            done(0, b"", "no connection in time")
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
