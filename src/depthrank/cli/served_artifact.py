"""A server in a process of its own, for the demo and for ``bench DIR``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx

from depthrank.errors import DepthrankError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0


class StartError(DepthrankError):
    """The server process ended or did not become ready."""


@contextmanager
def served_artifact(
    artifact: Path, log: str | None, port: int, *, workers: int = 0, cores: set[int] | None = None
) -> Iterator[ServerProcess]:
    """Start ``depthrank serve``, wait until it is ready, and stop it at the end, also at SIGTERM.

    ``cores``: those that the server may use; None: any.
    """
    command = [sys.executable, "-m", "depthrank.cli", "serve", str(artifact), "--port", str(port)]
    command += [] if log is None else ["--log", log]
    command += ["--workers", str(workers)] if workers else []
    with (
        tempfile.TemporaryFile() as said,
        _exit_at_sigterm(),
    ):  # a file: a pipe that nobody reads would block the server
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        if cores is not None:
            os.sched_setaffinity(process.pid, cores)  # before it has threads, which inherit it
        server = ServerProcess(process, f"http://127.0.0.1:{port}", said)
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.stop()


@contextmanager
def _exit_at_sigterm() -> Iterator[None]:
    """SIGTERM ends the process by SystemExit, so that the server is stopped on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def free_port(preferred: int | None = None) -> int:
    """``preferred`` where it can be had, else one the system picks."""
    for port in (preferred, 0):
        with suppress(OSError):
            if port is not None:
                with socket.create_server(("127.0.0.1", port)) as probe:
                    return int(probe.getsockname()[1])
    raise StartError("no free port on 127.0.0.1")


class ServerProcess:
    """A running server and its address."""

    def __init__(self, process: subprocess.Popen[bytes], address: str, said: IO[bytes]) -> None:
        self.process = process
        self.address = address
        self._said = said

    def wait_until_ready(self) -> None:
        """Return when /health/ready answers 200; raises StartError with what the server said."""
        give_up = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                raise StartError(f"the server ended with code {self.process.returncode}: {self._last_words()}")
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.address}/health/ready", timeout=5).status_code == 200:
                    return
            time.sleep(0.1)
        raise StartError(f"the server was not ready within {START_TIMEOUT_S:.0f} s")

    def wait(self) -> None:
        """Until the server ends by itself."""
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, which drains; SIGKILL where that takes too long."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _last_words(self) -> str:
        self._said.seek(0)
        return self._said.read()[-2_000:].decode(errors="replace").strip() or "(it said nothing)"
