"""Both clients against a real server over the double, and against sockets that misbehave."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import depthrank as dr
from depthrank.client import CallDeadlineError, CallError, RetryPolicy
from depthrank.errors import DepthrankError

sys.path.append(str(Path(__file__).parents[1] / "server"))
from live_server import Live, live_server

from depthrank.server import ServerSettings
from depthrank.server.access.settings import AccessSettings, Grant
from depthrank.server.access.tokens import hash_of


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    grant = Grant(name="all", scopes=("admin",), sha256=hash_of("secret"))
    with live_server(settings=ServerSettings(access=AccessSettings(tokens=(grant,)))) as running:
        yield running


@pytest.fixture
def client(live: Live) -> Iterator[dr.Client]:
    with dr.Client(live.address, token="secret") as made:
        yield made


def test_every_call_has_its_typed_answer(client: dr.Client) -> None:
    answer = client.rank(dr.Request(user="c1", candidates=["1", "2", "3"], top=2), request_id="of-a-test")
    assert isinstance(answer, dr.Answer)
    assert len(answer.items) == 2 and answer.request_id == "of-a-test"
    assert client.append("c1", "7", "click", request_id="of-a-test", position=0).appended == 1
    assert client.append("c1", ["8", "9"], "like", event_id=["x", "y"]).appended == 2
    assert client.append("c1", ["8", "9"], "like", event_id=["x", "y"]).duplicates == 2
    assert [e.item for e in client.history("c1", actions=["like"]).events] == ["9", "8"]
    assert client.upsert(item=["1", "new/item"], title=["a", "b"]).inserted == 1
    assert client.erase("c1").events == 3
    assert client.history("c1").events == []
    assert client.models().models[0].name == "double"


def test_numpy_columns_travel_as_columns(live: Live, client: dr.Client) -> None:
    columns: Any = {"item": np.array([3, 1]), "bid": np.array([0.5, 1.0], np.float32), "tag": np.array(["a", "b"])}
    assert len(client.rank(dr.Request(user=1, candidates=columns)).items) == 2
    sent = live.ranker.ranked[-1].candidates
    assert isinstance(sent["item"], np.ndarray) and isinstance(sent["bid"], np.ndarray)
    assert sent["tag"] == ["a", "b"]


def test_a_refusal_carries_what_the_server_says(client: dr.Client) -> None:
    with pytest.raises(CallError, match=r"\$\.budget: found 7.0") as caught:
        client.rank(dr.Request(user="u", candidates=["1"], budget=7.0, deadline_ms=5_000, top=0))
    assert (caught.value.status, caught.value.kind) == (422, "wrong_fields")
    assert {p.path for p in caught.value.problems} == {"$.budget", "$.top"}
    assert caught.value.request_id


def test_async_is_the_same(live: Live) -> None:
    async def go() -> list[Any]:
        async with dr.AsyncClient(live.address, token="secret") as client:
            request = dr.Request(user="a", candidates=["1", "2"])
            answers = await asyncio.gather(*(client.rank(request) for _ in range(8)))
            await client.append("a", "1", "click")
            history = await client.history("a")
            with pytest.raises(CallError, match="wrong fields"):
                await client.rank(dr.Request(user="", candidates=[]))
            return [len(answers), len({a.request_id for a in answers}), history.events[0].item]

    assert asyncio.run(go()) == [8, 8, "1"]


def test_a_wrong_token_and_a_wrong_address_say_so(live: Live) -> None:
    with dr.Client(live.address, token="wrong") as stranger, pytest.raises(CallError) as caught:
        stranger.models()
    assert caught.value.status == 401 and "wrong" not in str(caught.value)
    for url in ("ftp://x", "http://", "::"):
        with pytest.raises(DepthrankError, match="no address"):
            dr.Client(url)


def test_a_refused_connection_is_tried_again_and_then_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    pauses: list[float] = []
    client = dr.Client(f"127.0.0.1:{port}", sleep=pauses.append, retry=RetryPolicy(attempts=3))
    with client, pytest.raises(CallError, match="cannot be reached"):
        client.models()
    assert len(pauses) == 2


@contextmanager
def misbehaving(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A listener whose connections are each handled by ``serve``; ends them all at the end."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def accept() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    serve(connection, over)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join(20)
            assert not thread.is_alive()


def silent(_connection: socket.socket, over: threading.Event) -> None:
    over.wait(20)


def dribbling(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not over.wait(0.01):
        try:
            connection.sendall(b"x")
        except OSError:
            return


@pytest.mark.parametrize("serve", [silent, dribbling])
@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_server_that_never_ends_costs_no_more_than_the_deadline(serve: Any, form: str) -> None:
    request = dr.Request(user="u", candidates=["1"], deadline_ms=150)

    async def ask_async(url: str) -> None:
        async with dr.AsyncClient(url) as client:
            await client.rank(request)

    with misbehaving(serve) as url:
        started = time.monotonic()
        with pytest.raises(CallDeadlineError):
            if form == "sync":
                with dr.Client(url) as client:
                    client.rank(request)
            else:
                asyncio.run(ask_async(url))
        assert time.monotonic() - started < 5  # and not the 10 s that a call without a deadline has
