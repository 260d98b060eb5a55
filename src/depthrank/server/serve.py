"""One process that serves one artifact until it is told to stop."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from depthrank.errors import DepthrankError
from depthrank.server.app import create_app
from depthrank.server.ranker_port import ServedRanker
from depthrank.server.service import Phase, Service
from depthrank.server.settings import ServerSettings

logger = logging.getLogger("depthrank.server")
BACKLOG = 2_048


class ServerError(DepthrankError):
    """The server cannot start; one line says why."""


def serve(
    artifact: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    log: str | None = None,
    workers: int = 0,
    settings: ServerSettings | None = None,
    on_started: Callable[[str], object] | None = None,
    user_state_bytes: int | None = None,
) -> None:
    """Serve ``artifact`` until SIGTERM or SIGINT, then finish what is under way and return.

    ``on_started`` is called with the address as soon as connections are accepted; ``port`` 0 picks a free one.
    ``user_state_bytes``: memory for encoded histories (None: the engine's default, 0: none).
    Raises ServerError (address taken or not ours), ArtifactError, LogError.
    """
    if workers != 0:
        raise ServerError(f"--workers {workers}: this version serves in one process; use --workers 0")
    settings = settings or ServerSettings()
    listener = bind(host, port)  # before the model is loaded: a taken port should not cost a minute
    with listener:
        from depthrank.engine import Ranker  # loads torch, which takes longer than to find that a port is taken

        cache = {} if user_state_bytes is None else {"user_state_bytes": user_state_bytes}
        ranker = Ranker.load(artifact, log=log, limits=settings.limits, **cache)
        try:
            run(ranker, listener, settings, on_started)
        finally:
            ranker.close()


def run(
    ranker: ServedRanker,
    listener: socket.socket,
    settings: ServerSettings,
    on_started: Callable[[str], object] | None = None,
) -> None:
    """Serve a loaded ranker on a bound socket until SIGTERM or SIGINT."""
    app = create_app(ranker, settings)
    DrainingServer(uvicorn_config(app, settings), app.state.service, on_started).run(sockets=[listener])


def uvicorn_config(app: Starlette, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn runs under these settings."""
    return uvicorn.Config(
        app,
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )


class DrainingServer(uvicorn.Server):
    """uvicorn that turns unready at the first signal, drains, and then returns instead of raising the signal again."""

    def __init__(
        self, config: uvicorn.Config, service: Service, on_started: Callable[[str], object] | None = None
    ) -> None:
        super().__init__(config)
        self.service = service
        self.on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.on_started is not None and sockets:
            self.on_started(address_of(sockets[0]))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends at once. (uvicorn's own would end the process by the signal.)"""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.service.phase = Phase.DRAINING


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises ServerError with one readable line."""
    if not 0 <= port <= 65_535:
        raise ServerError(f"cannot listen on {host}:{port}: a port is a number from 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        raise ServerError(f"cannot listen on {host}:{port}: {_why(error, port)}") from None


def _why(error: Exception, port: int) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"the port is taken; stop what listens there, or choose another with --port {port + 1}"
    if number == errno.EACCES:
        return "not allowed; ports below 1024 need rights"
    if number == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "this machine has no such address; use --host 127.0.0.1"
    return str(error)


def address_of(listener: socket.socket) -> str:
    """The address as people open it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
