"""A real uvicorn on a real socket, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from ranker_double import RankerDouble

from depthrank.events import now_ms
from depthrank.server import ServedRanker, ServerSettings, create_app
from depthrank.server.serve import DrainingServer, address_of, bind, uvicorn_config
from depthrank.server.service import Service
from depthrank.server.workers.engines import Engines


class Live:
    """A running server: its address, its service, its client."""

    def __init__(self, ranker: Any, server: DrainingServer, address: str) -> None:
        self.ranker = ranker
        self.server = server
        self.address = address
        self.port = int(address.rpartition(":")[2])
        self.client = httpx.Client(base_url=address, timeout=30)

    @property
    def service(self) -> Service:
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
    config = uvicorn_config(app, settings or ServerSettings())
    started = threading.Event()
    server = DrainingServer(config, app.state.service, lambda _address: started.set())
    address = address_of(listener)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert started.wait(30)
        live = Live(ranker, server, address)
        with live.client:
            yield live
    finally:
        if isinstance(ranker, RankerDouble):
            ranker.gate.set()
            ranker.warm_gate.set()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
