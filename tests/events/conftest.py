"""Fresh logs for the tests of the event log, on every backend."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from depthrank.events import EventLog, open_log

_numbers = itertools.count()


@dataclass
class RedisServer:
    """Debian's redis-server on a free loopback port, with files in a folder of its own."""

    folder: Path
    settings: tuple[str, ...] = ("--appendonly", "yes", "--appendfsync", "always")
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.process = subprocess.Popen([*command, *self.settings], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                with redis.Redis(port=self.port, socket_timeout=5) as client:
                    client.ping()  # refused while the server still loads its files
                return self
            except redis.exceptions.RedisError:
                assert time.monotonic() < end and self.process.poll() is None, "redis-server does not start"
                time.sleep(0.02)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait()

    def url(self, prefix: str = "depthrank") -> str:
        return f"redis://127.0.0.1:{self.port}/0?prefix={prefix}"


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start servers that end with the test."""
    need_redis()
    started: list[RedisServer] = []

    def start(*settings: str) -> RedisServer:
        folder = tmp_path / f"redis-{len(started)}"
        folder.mkdir()
        server = RedisServer(folder, settings) if settings else RedisServer(folder)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    need_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


def need_redis() -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt install redis-server)")


@dataclass
class Place:
    """Where a test puts its logs; ``clock_ms[0]`` is the time they stamp."""

    backend: str
    new_url: Callable[[], str]
    clock_ms: list[int] = field(default_factory=lambda: [1_000_000])
    opened: list[EventLog] = field(default_factory=list)

    def open(self, url: str | None = None, **options: Any) -> EventLog:
        log = open_log(url or self.new_url(), clock=lambda: self.clock_ms[0], **options)
        self.opened.append(log)
        return log


def lmdb_urls(request: pytest.FixtureRequest) -> Callable[[], str]:
    folder = request.getfixturevalue("tmp_path")
    return lambda: f"lmdb:{folder}/log-{next(_numbers)}"


def redis_urls(request: pytest.FixtureRequest) -> Callable[[], str]:
    server = request.getfixturevalue("shared_redis")
    return lambda: str(server.url(f"test-{next(_numbers)}"))


BACKENDS = {"lmdb": lmdb_urls, "redis": redis_urls}  # a new backend adds its line here


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    place = Place(request.param, BACKENDS[request.param](request))
    yield place
    for log in place.opened:
        log.close()
