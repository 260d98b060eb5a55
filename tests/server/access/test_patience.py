"""Slow and numerous connections: each ends by itself, and nobody else notices."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
from live_server import Live, live_server
from ranker_double import RankerDouble

from depthrank.server import ServerSettings
from depthrank.server.access.settings import AccessSettings

RANK = {"user": "u", "candidates": ["1"]}


def settings(**access: object) -> ServerSettings:
    return ServerSettings(access=AccessSettings(**access))  # type: ignore[arg-type]


def connected(live: Live, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", live.port), timeout=20)
    connection.sendall(sent)
    return connection


def test_a_connection_that_sends_nothing_or_half_a_head_is_ended() -> None:
    with live_server(settings=settings(header_timeout_s=0.1)) as live:
        for sent in (b"", b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nX-Slow: "):
            with connected(live, sent) as slow:
                assert slow.recv(65_536).startswith(b"HTTP/1.1 408")
                assert slow.recv(1) == b""
        assert live.client.post("/v1/rank", json=RANK).status_code == 200


def test_a_second_head_on_a_kept_connection_that_dribbles_is_ended_too() -> None:
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with live_server(settings=settings(header_timeout_s=0.1)) as live, connected(live, head) as slow:
        assert slow.recv(65_536).startswith(b"HTTP/1.1 200")
        slow.sendall(head[:10])
        assert slow.recv(65_536).startswith(b"HTTP/1.1 408")


def test_a_body_that_nobody_reads_cannot_hold_its_connection() -> None:
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    with live_server(settings=settings(header_timeout_s=0.1)) as live, connected(live, head) as slow:
        assert slow.recv(65_536).startswith(b"HTTP/1.1 200")
        slow.sendall(b"x")
        assert slow.recv(65_536).startswith(b"HTTP/1.1 408")


def test_a_request_that_takes_longer_than_a_head_may_is_answered() -> None:
    ranker = RankerDouble()
    ranker.gate.clear()
    with live_server(ranker, settings(header_timeout_s=0.1)) as live, ThreadPoolExecutor(1) as client:
        waiting = client.submit(live.client.post, "/v1/rank", json=RANK)
        assert ranker.entered.acquire(timeout=20)
        with connected(live) as slow:  # opened after that request, and its time is over before the request's answer
            assert slow.recv(65_536).startswith(b"HTTP/1.1 408")
        ranker.gate.set()
        assert waiting.result().status_code == 200


def test_a_head_without_end_is_refused_before_it_fills_the_memory() -> None:
    with live_server(settings=settings(max_header_bytes=2_000)) as live:
        small = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Pad: %s\r\n\r\n"
        with connected(live, small % (b"x" * 1_000)) as good:
            assert good.recv(65_536).startswith(b"HTTP/1.1 200")
        with connected(live, small[:-4] % (b"x" * 5_000)) as endless:
            assert endless.recv(65_536).startswith(b"HTTP/1.1 431")
        large = {"user": "u", "candidates": ["1" * 100] * 100}
        assert live.client.post("/v1/rank", json=large).status_code == 200  # a body is no head


def test_connections_beyond_the_most_are_told_so_and_the_others_go_on() -> None:
    with live_server(settings=settings(max_connections=4)) as live, ExitStack() as held:
        assert live.client.get("/health/live").status_code == 200  # one, kept
        for _ in range(3):
            held.enter_context(connected(live))
        assert live.client.get("/health/live").status_code == 200
        with httpx.Client(base_url=live.address) as one_more:
            assert one_more.get("/health/live").status_code == 503
        held.close()
        with httpx.Client(base_url=live.address, transport=httpx.HTTPTransport(retries=3)) as again:
            assert any(again.get("/health/live").status_code == 200 for _ in range(50))
