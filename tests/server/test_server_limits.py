"""Full queues, late requests, slow and vanishing clients, endless bodies."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from live_server import Live, live_server
from ranker_double import RankerDouble
from starlette.requests import Request as HttpRequest

from depthrank.schema import Limits
from depthrank.schema.wire import TooLargeError
from depthrank.server import ServerSettings
from depthrank.server.admission.settings import AdmissionSettings, Gates
from depthrank.server.bodies import read_body

GOOD = {"user": "u", "candidates": ["1"]}
REFUSING = AdmissionSettings(gates=Gates(input_order="off"))


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread to get somewhere."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def held() -> Iterator[RankerDouble]:
    """A ranker whose first request is held until the gate opens."""
    ranker = RankerDouble()
    ranker.gate.clear()
    yield ranker
    ranker.gate.set()


def test_a_full_queue_is_a_503_that_says_when_to_ask_again(held: RankerDouble) -> None:
    with live_server(held, ServerSettings(rank_queue=1, admission=REFUSING)) as live, ThreadPoolExecutor(2) as clients:
        waiting = [clients.submit(live.client.post, "/v1/rank", json=GOOD) for _ in range(2)]
        until(lambda: live.service.dispatcher.admitted == 2)
        refused = live.client.post("/v1/rank", json=GOOD)
        assert refused.status_code == 503
        assert refused.json()["error"]["type"] == "overloaded"
        assert int(refused.headers["Retry-After"]) >= 1
        assert live.metric("depthrank_refused_total", queue="rank") == 1
        held.gate.set()
        assert [w.result().status_code for w in waiting] == [200, 200]
        assert live.client.post("/v1/rank", json=GOOD).status_code == 200  # room again


def test_while_a_request_is_ranked_everything_else_answers(held: RankerDouble) -> None:
    with live_server(held) as live, ThreadPoolExecutor(1) as client:
        waiting = client.submit(live.client.post, "/v1/rank", json=GOOD)
        assert held.entered.acquire(timeout=20)
        assert live.client.get("/health/live").status_code == 200
        assert live.client.post("/v1/events", json={"user": "u", "item": "1", "action": "click"}).status_code == 200
        assert live.client.get("/v1/users/u/history").json()["events"]
        assert not waiting.done()
        held.gate.set()
        assert waiting.result().status_code == 200


def test_a_deadline_that_passes_in_the_queue_is_a_504_and_costs_no_scoring(held: RankerDouble) -> None:
    with live_server(held) as live, ThreadPoolExecutor(1) as clients:
        first = clients.submit(live.client.post, "/v1/rank", json=GOOD)
        assert held.entered.acquire(timeout=20)
        for deadline_ms in (0.001, 300):  # over before it is queued, and while it waits
            late = live.client.post("/v1/rank", json=GOOD | {"user": "late", "deadline_ms": deadline_ms})
            assert late.status_code == 504 and late.json()["error"]["type"] == "deadline_exceeded"
        assert not first.done() and live.metric("depthrank_late_total") == 2
        held.gate.set()
        assert first.result().status_code == 200
    assert [r.user for r in held.ranked] == ["u"]


def raw(live: Live, head: str, body: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", live.port), timeout=20)
    connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    return connection


def test_a_client_that_vanishes_while_waiting_is_never_ranked(held: RankerDouble) -> None:
    with live_server(held) as live, ThreadPoolExecutor(1) as client:
        first = client.submit(live.client.post, "/v1/rank", json=GOOD)
        assert held.entered.acquire(timeout=20)
        body = b'{"user": "gone", "candidates": ["1"]}'
        leaving = raw(live, f"POST /v1/rank HTTP/1.1\nHost: x\nContent-Length: {len(body)}", body)
        until(lambda: live.service.dispatcher.admitted == 2)
        leaving.close()
        until(lambda: live.metric("depthrank_vanished_clients_total") == 1)
        held.gate.set()
        assert first.result().status_code == 200
        assert live.client.post("/v1/rank", json=GOOD | {"user": "next"}).status_code == 200
    assert [r.user for r in held.ranked] == ["u", "next"]
    assert [r.user for r, _ in held.recorded] == ["u", "next"]


def test_a_body_that_dribbles_is_a_408() -> None:
    with live_server(settings=ServerSettings(body_timeout_s=0.1)) as live:
        with raw(live, "POST /v1/rank HTTP/1.1\nHost: x\nContent-Length: 1000", b'{"user":') as slow:
            assert slow.recv(65_536).startswith(b"HTTP/1.1 408")
        assert live.client.post("/v1/rank", json=GOOD).status_code == 200


def test_a_client_that_vanishes_within_its_body_harms_nobody() -> None:
    with live_server() as live:
        raw(live, "POST /v1/rank HTTP/1.1\nHost: x\nContent-Length: 1000", b'{"user":').close()
        until(lambda: live.metric("depthrank_vanished_clients_total") == 1)
        assert live.client.post("/v1/rank", json=GOOD).status_code == 200


def test_bodies_above_the_limit_are_a_413_however_they_are_sent() -> None:
    with live_server(settings=ServerSettings(limits=Limits(max_body_bytes=100_000))) as live:
        exact = b'{"user": "u", "candidates": ["1"]}'.ljust(100_000)
        assert live.client.post("/v1/rank", content=exact).status_code == 200
        for content in (exact + b" ", b"x" * 20_000_000, iter([b"x" * 50_000] * 100)):
            response = live.client.post("/v1/rank", content=content)
            assert response.status_code == 413
            assert "100,000 bytes" in response.json()["error"]["problems"][0]["expected"]


def test_a_declared_length_above_the_limit_is_refused_before_a_byte_is_sent() -> None:
    with live_server() as live, raw(live, "POST /v1/rank HTTP/1.1\nHost: x\nContent-Length: 99999999999") as client:
        assert client.recv(65_536).startswith(b"HTTP/1.1 413")


def test_an_endless_body_is_read_only_up_to_the_limit() -> None:
    chunks_taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal chunks_taken
        chunks_taken += 1
        return {"type": "http.request", "body": b"x" * 1_000, "more_body": True}

    settings = ServerSettings(limits=Limits(max_body_bytes=10_000))
    with pytest.raises(TooLargeError):
        asyncio.run(read_body(HttpRequest({"type": "http", "headers": []}, receive), settings))
    assert chunks_taken == 11


def test_many_clients_at_once_are_all_answered(live: Live) -> None:
    with ThreadPoolExecutor(16) as clients, httpx.Client(base_url=live.address, timeout=30) as client:
        answers = list(clients.map(lambda i: client.post("/v1/rank", json=GOOD | {"user": i}).status_code, range(64)))
    assert answers == [200] * 64


def test_log_calls_beyond_their_queue_are_refused_too() -> None:
    ranker = RankerDouble()
    release = threading.Event()
    ranker.append_fault = lambda: release.wait(20) and None
    settings = ServerSettings(log_threads=1, log_queue=0)
    event = {"user": "u", "item": "1", "action": "click"}
    with live_server(ranker, settings) as live, ThreadPoolExecutor(1) as client:
        first = client.submit(live.client.post, "/v1/events", json=event)
        until(lambda: live.service.log_pool.admitted == 1)
        assert live.client.post("/v1/events", json=event).status_code == 503
        release.set()
        assert first.result().json()["appended"] == 1
    assert len(ranker.events) == 1
