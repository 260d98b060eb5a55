"""A real uvicorn on a real socket, in a thread.

A client has its answer before the server has counted it. So a test that asks by ``live.client``, or reads of the server
in this process (metrics, the service, the ranker), waits for the rest of every conversation whose answer has left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from ranker_double import RankerDouble
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from depthrank.events import now_ms
from depthrank.server import ServedRanker, ServerSettings, create_app
from depthrank.server.serve import DrainingServer, address_of, bind, uvicorn_config
from depthrank.server.service import Service
from depthrank.server.workers.engines import Engines


class AnsweredAndOver:
    """ASGI middleware around everything: how many answers have left whose conversations still do something."""

    def __init__(self, app: Starlette) -> None:
        self.app, self.state = app, app.state
        self._unfinished = 0
        self._changed = threading.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def counted(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.body" and not message.get("more_body") and not answered:
                answered = True
                self._count(1)
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            if answered:
                self._count(-1)

    def _count(self, more: int) -> None:
        with self._changed:
            self._unfinished += more
            self._changed.notify_all()

    def wait(self) -> None:
        """Until every answer that has left is also counted, recorded and offered to the shadow."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._unfinished == 0, 30)


class PatientClient(httpx.Client):
    """Returns a response when nothing is left to do for it."""

    def __init__(self, over: AnsweredAndOver, address: str) -> None:
        super().__init__(base_url=address, timeout=30)
        self._over = over

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        response = super().send(request, **options)
        self._over.wait()
        return response


class Live:
    """A running server: its address, its service, its client."""

    def __init__(self, ranker: Any, server: DrainingServer, address: str, over: AnsweredAndOver) -> None:
        self._ranker, self._over = ranker, over
        self.server = server
        self.address = address
        self.port = int(address.rpartition(":")[2])
        self.client = PatientClient(over, address)

    @property
    def ranker(self) -> Any:
        self._over.wait()
        return self._ranker

    @property
    def service(self) -> Service:
        self._over.wait()
        return self.server.service

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 where it was never touched."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def live_server(
    ranker: ServedRanker | None = None,
    settings: ServerSettings | None = None,
    clock: Callable[[], int] = now_ms,
    engines: Engines | None = None,
) -> Iterator[Live]:
    ranker = ranker or RankerDouble()
    listener = bind("127.0.0.1", 0)
    app = create_app(ranker, settings, clock, engines=engines)
    over = AnsweredAndOver(app)
    config = uvicorn_config(over, settings or ServerSettings())
    started = threading.Event()
    server = DrainingServer(config, app.state.service, lambda _address: started.set())
    address = address_of(listener)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert started.wait(30)
        live = Live(ranker, server, address, over)
        with live.client:
            yield live
    finally:
        if isinstance(ranker, RankerDouble):
            ranker.gate.set()
            ranker.warm_gate.set()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
