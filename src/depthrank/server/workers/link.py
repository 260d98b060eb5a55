"""The front's end of one engine process: its start, its connection, its calls, its end.

Everything here runs on the front's event loop; nothing blocks it. What is written waits in the connection's buffer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

from depthrank.errors import DepthrankError
from depthrank.server.workers.faults import error_of
from depthrank.server.workers.messages import Done, Failed, Frames, Loaded, Ranked, Report, ToEngine, ToFront, encode

logger = logging.getLogger("depthrank.server")
END_TIMEOUT_S = 10.0
MODULE = "depthrank.server.workers.engine_process"


class EngineEnded(DepthrankError):
    """The engine process ended before it answered."""


def environment(threads: int) -> dict[str, str]:
    """What OpenMP and malloc read before anything runs: ``threads`` that do not spin, and freed memory that is kept
    (``cli.threads`` has the measurements)."""
    mebibyte = 1 << 20
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * mebibyte),
        "MALLOC_TRIM_THRESHOLD_": str(1024 * mebibyte),
        "MALLOC_TOP_PAD_": str(64 * mebibyte),
    }


def start_process(threads: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A new engine process and the front's end of the connection to it."""
    ours, theirs = socket.socketpair()
    how = "signal" if threading.current_thread() is threading.main_thread() else "look"
    command = [sys.executable, "-m", MODULE, str(theirs.fileno()), str(os.getpid()), str(threads), how]
    with theirs:
        process = subprocess.Popen(
            command, env=environment(threads), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
    return process, ours


class EngineLink(asyncio.Protocol):
    """One engine process as the front sees it.

    ``on_message`` gets what is not the answer to a call (``Ranked``, ``Report``); ``on_bytes`` is called at every
    sign of life; ``on_ended`` once, when the connection has ended.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        on_message: Callable[[Ranked | Report], object],
        on_ended: Callable[[], object],
        on_bytes: Callable[[], object] = lambda: None,
    ) -> None:
        self.process = process
        self._on_message, self._on_ended, self._on_bytes = on_message, on_ended, on_bytes
        self._frames = Frames(ToFront)
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._transport: asyncio.WriteTransport | None = None
        self.ended = False
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._on_bytes()
        for message in self._frames.feed(data):
            call = None if isinstance(message, Report) else self._calls.pop(message.call, None)
            if call is None:
                assert isinstance(message, (Ranked, Report)), "nobody asked for this"
                self._on_message(message)
                continue
            if call.done():
                continue  # who asked has left
            if isinstance(message, Failed):
                call.set_exception(error_of(message.fault))
            else:
                assert isinstance(message, (Done, Loaded, Ranked))
                call.set_result(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.done():
                call.set_exception(EngineEnded(f"engine process {self.process.pid} has ended"))
                call.exception()  # whoever waits still sees it; nobody may be waiting
        self.closed.set()
        self._on_ended()

    def send(self, message: ToEngine) -> None:
        """Hand a message to the engine; one that has ended gets nothing."""
        if self._transport is not None and not self.ended:
            self._transport.write(encode(message))

    def call(self, message: Any) -> asyncio.Future[Any]:
        """Send a message with a ``call`` number and return the future of its answer; raises what the engine raised, or
        EngineEnded."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.ended:
            future.set_exception(EngineEnded(f"engine process {self.process.pid} has ended"))
            return future
        self._calls[message.call] = future
        self.send(message)
        return future

    def kill(self) -> None:
        """End it at once; ``on_ended`` follows."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the connection, which ends an idle engine."""
        if self._transport is not None:
            self._transport.close()


async def reaped(process: subprocess.Popen[bytes], timeout_s: float = END_TIMEOUT_S) -> int:
    """The exit code of a process that is ending; killed where it takes too long."""
    waited = 0.0
    while process.poll() is None:
        if waited >= timeout_s:
            process.kill()
        await asyncio.sleep(0.01)
        waited += 0.01
    return process.returncode
