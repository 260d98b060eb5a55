"""uvicorn's HTTP protocol with an end to its patience: heads that dribble or never end, and too many connections.

Bodies that dribble are ``bodies.read_body``'s. An idle connection that has had an answer is uvicorn's keep-alive; this
covers the one that has sent nothing yet, or part of a head, or goes on sending a body that nobody reads any more.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from depthrank.server.access.settings import AccessSettings

_HEAD = "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n{more}\r\n"
TOO_SLOW = _HEAD.format(status="408 Request Timeout", more="").encode()
TOO_LARGE = _HEAD.format(status="431 Request Header Fields Too Large", more="").encode()
TOO_MANY = _HEAD.format(status="503 Service Unavailable", more="Retry-After: 1\r\n").encode()


def patient_protocol(access: AccessSettings) -> type[asyncio.Protocol]:
    """The protocol class for ``uvicorn.Config(http=...)`` under these settings."""

    class _Patient(PatientProtocol):
        settings = access

    return _Patient


class PatientProtocol(HttpToolsProtocol):
    """One connection."""

    settings: AccessSettings

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._end(TOO_MANY)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and self._is_between_requests():
            self._await_head()
        super().data_received(data)
        if self._head_timer is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self.settings.max_header_bytes:
                self._end(TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.settings.header_timeout_s, self._end, TOO_SLOW)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end(self, answer: bytes) -> None:
        """Say why, where the client waits for something, and close."""
        self._head_came()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
