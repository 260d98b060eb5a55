"""Serves one artifact until it is told to stop: in one process, or by engine processes behind a front."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette

from depthrank.errors import DepthrankError
from depthrank.events import EventLog, open_log
from depthrank.server.access.exposure import for_listener
from depthrank.server.access.patient_protocol import patient_protocol
from depthrank.server.access.tls import tls_options
from depthrank.server.app import create_app
from depthrank.server.models import Models
from depthrank.server.ranker_port import ServedRanker
from depthrank.server.reload import Read, Reload
from depthrank.server.service import Phase, Service
from depthrank.server.settings import ServerSettings
from depthrank.server.workers.engines import Engines

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
    read_settings: Read | None = None,
) -> None:
    """Serve ``artifact`` until SIGTERM or SIGINT, then finish what is under way and return.

    ``on_started`` is called with the address as soon as connections are accepted; ``port`` 0 picks a free one.
    ``workers``: engine processes; 0 ranks in this one. ``user_state_bytes``: memory for encoded histories in each of
    them (None: the engine's default, 0: none). ``read_settings`` gives the settings as of now, at SIGHUP (``reload``).
    Raises ServerError (address taken or not ours), ExposureError (the network would reach it and nothing guards it),
    TlsError, TokensError, ArtifactError, LogError.
    """
    settings = settings or ServerSettings()
    watched = settings.models.deltas
    if watched is not None and not Path(watched).is_dir():
        raise ServerError(f"there is no folder {watched} to watch for deltas: make it, or name another (--deltas)")
    listener = bind(host, port)  # before the model is loaded: a taken port should not cost a minute
    with listener:
        for_listener(settings.access, listener)
        tls_options(settings.access)
        with open_served_log(artifact, log) as opened:  # shared by every version that is loaded later
            if workers:
                _serve_by_processes(
                    artifact, opened, workers, listener, settings, on_started, user_state_bytes, read_settings
                )
            else:
                _serve_in_process(artifact, opened, listener, settings, on_started, user_state_bytes, read_settings)


def _serve_in_process(
    artifact: str,
    log: EventLog,
    listener: socket.socket,
    settings: ServerSettings,
    on_started: Callable[[str], object] | None,
    user_state_bytes: int | None,
    read_settings: Read | None,
) -> None:
    from depthrank.engine import Ranker  # loads torch, which takes longer than to find that a port is taken
    from depthrank.engine.succession import take_over

    cache: dict[str, Any] = {} if user_state_bytes is None else {"user_state_bytes": user_state_bytes}
    cache["hot_row_bytes"] = settings.models.hot_rows or 0

    def load(path: str | Path) -> ServedRanker:
        return Ranker.load(path, log=log, limits=settings.limits, copy=True, **cache)

    def prepare(new: ServedRanker, old: ServedRanker, run: Callable[[Callable[[], None]], object]) -> None:
        if isinstance(new, Ranker) and isinstance(old, Ranker):
            take_over(new, old, settings.models.warm_users, run)

    models = Models(load(artifact), load, settings.models, path=artifact, owns_first=True, take_over=prepare)
    try:
        run(models, listener, settings, on_started, storage=log.storage_folder(), read_settings=read_settings)
    finally:
        models.close()


def _serve_by_processes(
    artifact: str,
    log: EventLog,
    workers: int,
    listener: socket.socket,
    settings: ServerSettings,
    on_started: Callable[[str], object] | None,
    user_state_bytes: int | None,
    read_settings: Read | None,
) -> None:
    from depthrank.server.workers.fleet import Fleet

    fleet = Fleet(workers, log, settings.limits, settings.workers, user_state_bytes, settings.models.hot_rows or 0)
    try:
        models = Models(fleet.load(artifact), fleet.load, settings.models, path=artifact, owns_first=True)
        run(models, listener, settings, on_started, fleet, log.storage_folder(), read_settings)
        models.close()
    finally:
        fleet.close()


def open_served_log(artifact: str, log: str | None) -> EventLog:
    """The log at ``log``, or the artifact's own. Raises ArtifactError, before a log is made for what is no artifact."""
    from depthrank.artifact import default_log_url, read_manifest  # loads torch: a taken port is told before

    read_manifest(Path(artifact))
    return open_log(log or default_log_url(artifact))


def run(
    ranker: ServedRanker,
    listener: socket.socket,
    settings: ServerSettings,
    on_started: Callable[[str], object] | None = None,
    engines: Engines | None = None,
    storage: Path | None = None,
    read_settings: Read | None = None,
) -> None:
    """Serve a loaded ranker on a bound socket until SIGTERM or SIGINT; raises as ``serve``."""
    settings = msgspec.structs.replace(settings, access=for_listener(settings.access, listener))
    app = create_app(ranker, settings, engines=engines, storage=storage)
    reload = Reload(app, listener, read_settings)
    DrainingServer(uvicorn_config(app, settings), app.state.service, on_started, reload).run(sockets=[listener])


def uvicorn_config(app: Starlette, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn runs under these settings."""
    return uvicorn.Config(
        app,
        http=patient_protocol(settings.access),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        **tls_options(settings.access),
    )


class DrainingServer(uvicorn.Server):
    """uvicorn that turns unready at the first signal, drains, and then returns instead of raising the signal again."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        on_started: Callable[[str], object] | None = None,
        reload: Reload | None = None,
    ) -> None:
        super().__init__(config)
        self.service = service
        self.on_started = on_started
        self.reload = reload

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.reload is not None:
            self.reload.tls = self.config.ssl
            self.reload.listen()
        if self.on_started is not None and sockets:
            scheme = "https" if self.config.is_ssl else "http"
            self.on_started(address_of(sockets[0], scheme))

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


def address_of(listener: socket.socket, scheme: str = "http") -> str:
    """The address as people open it."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
