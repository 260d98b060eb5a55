"""Servers in processes of their own, for faults that only real ones have."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

SCRIPT = Path(__file__).with_name("server_nursery.py")


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for another process to get somewhere."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to it"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Server:
    """One server process. ``error``: why it did not start."""

    def __init__(self, pid: int, address: str | None, error: str | None) -> None:
        self.pid, self.error = pid, error
        self.client = httpx.Client(base_url=address or "http://127.0.0.1:9", timeout=60)

    def post(self, path: str, /, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def rank(self, user: str = "u1", **fields: Any) -> Any:
        answer = self.post("/v1/rank", user=user, candidates="all", top=3, **fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def health(self) -> Any:
        return self.client.get("/health/ready").json()

    def metric(self, line: str) -> float:
        """The value of the metric whose line begins so; 0 where there is none."""
        found = [text for text in self.client.get("/metrics").text.splitlines() if text.startswith(line + " ")]
        return float(found[0].split()[-1]) if found else 0.0

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.client.get("/health/ready").status_code == 200)

    def limit_files(self, size: int | None) -> None:
        """No file may grow beyond ``size`` bytes; None: lifted."""
        soft = resource.RLIM_INFINITY if size is None else size
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        wait_for(lambda: not is_alive(self.pid))


class Nursery:
    """Starts servers; ``stop`` leaves none behind."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._servers: list[Server] = []
        assert json.loads(self._line())["ready"]

    def start(self, artifact: Path, log: str, **options: Any) -> Server:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"artifact": str(artifact), "log": log, **options}) + "\n")
        self.process.stdin.flush()
        told = json.loads(self._line())
        server = Server(told["pid"], told.get("address"), told.get("error"))
        self._servers.append(server)
        return server

    @contextmanager
    def running(self, artifact: Path, log: str, **options: Any) -> Iterator[Server]:
        """A server that is ready."""
        server = self.start(artifact, log, **options)
        try:
            assert server.error is None, server.error
            server.wait_until_ready()
            yield server
        finally:
            server.kill()

    def stop(self) -> None:
        for server in self._servers:
            server.kill()
            server.client.close()
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(120)
        self.process.stdout.close()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()
