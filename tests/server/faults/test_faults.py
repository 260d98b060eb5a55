"""Faults with real processes and real sockets; each row of the table in docs/operations.md (Faults) is checked here or
in the test that it names: what the user sees, what the operator sees, and that it passes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import live_server
from nursery import Nursery, Server, wait_for
from ranker_double import RankerDouble

from depthrank.events import open_log

KILLS = int(os.environ.get("DEPTHRANK_KILLS", "3"))
UNREAD = "the event log cannot be read: ranked without history"
TROUBLE = "the event log cannot be read: requests are ranked without history"


def event(user: str, number: int) -> dict[str, Any]:
    return {"user": user, "item": f"i{number % 80}", "action": "click", "event_id": f"{user}-{number}"}


# ---------------------------------------------------------------------- kill -9


def write_until_killed(server: Server, user: str, acknowledged: list[str]) -> None:
    """Append events one by one, remembering those that were acknowledged."""
    number = len(acknowledged)
    with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
        while True:
            try:
                answer = client.post("/v1/events", json=event(user, number))
            except httpx.TransportError:
                return
            assert answer.status_code == 200
            acknowledged.append(f"{user}-{number}")
            number += 1


def test_kill_9_under_writes_loses_nothing_that_was_acknowledged(nursery: Nursery, place: Path) -> None:
    log = f"lmdb:{place / 'events'}"
    acknowledged: dict[str, list[str]] = {f"writer{n}": [] for n in range(4)}
    for kill in range(KILLS):
        with nursery.running(place / "artifact", log) as server:
            writers = [
                threading.Thread(target=write_until_killed, args=(server, user, done))
                for user, done in acknowledged.items()
            ]
            for writer in writers:
                writer.start()
            enough = sum(map(len, acknowledged.values())) + 40
            wait_for(lambda n=enough: sum(map(len, acknowledged.values())) > n)
            server.rank(user="writer0")
            server.kill()
            for writer in writers:
                writer.join(60)
        with open_log(log, read_only=True) as opened:
            stored = {i for batch in opened.scan() for i in (batch.event_id or ()) if i is not None}
            assert opened.verify().ok
        lost = {i for done in acknowledged.values() for i in done} - stored
        assert not lost, f"after kill {kill + 1}"
    with nursery.running(place / "artifact", log) as server:
        user, done = next(iter(acknowledged.items()))
        again = server.post("/v1/events", **event(user, 0)).json()
        assert (again["appended"], again["duplicates"]) == (0, 1), "a retry after the crash is no second event"
        shown = server.client.get(f"/v1/users/{user}/history?limit=10000&actions=click").json()["events"]
        assert len(shown) in (len(done), len(done) + 1), "what was not acknowledged may be stored, once"
        refused = server.post("/v1/models", action="load", path="artifact")
        assert refused.status_code == 403, "depthrank serve manages no models unless it is told to"


# ---------------------------------------------------------------------- the disk


def test_a_full_disk_refuses_events_loses_impressions_visibly_and_ranks_on(nursery: Nursery, place: Path) -> None:
    size = max(path.stat().st_size for path in (place / "events").rglob("data.mdb"))
    with nursery.running(place / "artifact", f"lmdb:{place / 'events'}") as server:
        server.limit_files(size + 16_384)
        statuses = []
        for number in range(200):
            columns = {"item": [f"new{number}-{i}" for i in range(50)], "user": "filler", "action": "click"}
            statuses.append(server.post("/v1/events", **columns).status_code)
            if statuses[-1] != 200:
                break
        assert statuses[-1] == 507
        stored = server.client.get("/v1/users/filler/history?limit=10000").json()["events"]
        assert len(stored) == 50 * statuses.count(200), "all of a batch or nothing"
        answer = server.rank(user="filler")
        assert answer["items"] and answer["degraded"]["is"] is False
        wait_for(lambda: server.health()["trouble"] == ["served impressions are being lost: storage_full"])
        assert server.metric('depthrank_served_answers_lost_total{reason="storage_full"}') >= 1
        server.limit_files(None)
        assert server.post("/v1/events", **event("later", 1)).status_code == 200, "room again: it writes again"
        server.rank()
        wait_for(lambda: server.health()["trouble"] == [])


def test_a_log_that_may_not_be_written_is_one_readable_line_and_no_server(nursery: Nursery, place: Path) -> None:
    for path in [place / "events", *(place / "events").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    server = nursery.start(place / "artifact", f"lmdb:{place / 'events'}", obeys_permissions=True)
    assert server.error is not None and "\n" not in server.error
    assert "events" in server.error and "ermission denied" in server.error


# ---------------------------------------------------------------------- Redis


class Redis:
    """A redis-server on a port of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        settings = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
            *settings,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(20)


@pytest.fixture
def over_redis(nursery: Nursery, place: Path) -> Iterator[tuple[Server, Redis]]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    redis = Redis(place)
    redis.start()
    try:
        with nursery.running(place / "artifact", redis.url + "?timeout_s=1") as server:
            yield server, redis
    finally:
        redis.signal(signal.SIGCONT)
        redis.signal(signal.SIGKILL)


def test_redis_killed_and_restarted_degrades_answers_and_loses_nothing(over_redis: tuple[Server, Redis]) -> None:
    server, redis = over_redis
    assert server.post("/v1/events", **event("u1", 1)).status_code == 200
    assert server.rank()["degraded"]["reasons"] == []
    redis.signal(signal.SIGKILL)
    answer = server.rank()
    assert answer["items"] and answer["degraded"]["reasons"] == [UNREAD]
    refused = server.post("/v1/events", **event("u1", 2))
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "log_unavailable")
    assert refused.headers["Retry-After"] and str(redis.port) not in refused.text, "no internals for a client"
    assert TROUBLE in server.health()["trouble"]
    assert server.metric("depthrank_log_unreadable") == 1 and server.metric("depthrank_histories_unread_total") >= 1
    redis.start()
    assert server.rank()["degraded"]["reasons"] == []
    assert server.post("/v1/events", **event("u1", 2)).json()["appended"] == 1
    assert server.post("/v1/events", **event("u1", 1)).json()["duplicates"] == 1, "acknowledged before, still there"
    wait_for(lambda: server.health()["trouble"] == [])


def test_a_log_that_hangs_costs_patience_once_and_no_request_its_answer(over_redis: tuple[Server, Redis]) -> None:
    server, redis = over_redis
    server.post("/v1/events", **event("u1", 1))
    redis.signal(signal.SIGSTOP)
    answers = [server.rank(user=f"u{n}", deadline_ms=10_000) for n in range(12)]
    assert all(answer["degraded"]["reasons"][0] == UNREAD for answer in answers)
    waited = [answer["timings_ms"]["history"] for answer in answers]
    assert sum(ms > 100 for ms in waited) <= 2, "the others did not wait"
    assert server.health()["status"] == "ready" and TROUBLE in server.health()["trouble"]
    refused = [server.post("/v1/events", **event("u1", n)) for n in (2, 2, 2)]
    assert {(r.status_code, r.json()["error"]["type"]) for r in refused} == {(503, "log_unavailable")}
    assert all(int(r.headers["Retry-After"]) > 0 for r in refused)
    redis.signal(signal.SIGCONT)
    wait_for(lambda: server.rank()["degraded"]["reasons"] == [])
    wait_for(lambda: server.post("/v1/events", **event("u1", 2)).status_code == 200)
    wait_for(lambda: bool(server.rank()) and server.health()["trouble"] == [])  # impressions are logged again


# ---------------------------------------------------------------------- the clock


def test_a_clock_that_jumps_hides_no_acknowledged_event_and_refuses_no_request() -> None:
    """The rankings of the double hold what the user clicked before the request's time."""
    clock_ms, ranker = [1_800_000_000_000], RankerDouble()

    def value() -> float:
        answer = live.client.post("/v1/rank", json={"user": "u", "candidates": ["1"]})
        assert answer.status_code == 200
        return float(answer.json()["items"][0]["value"])

    click = {"user": "u", "item": "1", "action": "click"}
    with live_server(ranker, clock=lambda: clock_ms[0]) as live:
        base = value()
        assert live.client.post("/v1/events", json=click).status_code == 200
        assert value() == base + 1
        clock_ms[0] -= 3_600_000
        assert value() == base + 1, "an hour back: what was acknowledged stays visible"
        assert live.client.post("/v1/events", json=click).status_code == 200
        assert value() == base + 2
        future = live.client.post("/v1/events", json=click | {"time_ms": clock_ms[0] + 120_000})
        assert future.status_code == 422 and future.json()["error"]["problems"][0]["path"] == "$.time_ms"
        clock_ms[0] += 86_400_000
        assert value() == base + 2, "a day ahead"
        assert live.client.get("/health/ready").status_code == 200
