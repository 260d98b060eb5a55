"""SIGHUP: what a running server takes over from its settings and files without a restart.

Tokens, quotas and TLS files are read again; connections and requests under way go on. Whatever is wrong leaves all of
it as it was, and the log says why. Other settings that have changed are named in the log: they need a restart.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable

import msgspec
from starlette.applications import Starlette

from depthrank.errors import DepthrankError
from depthrank.server.access.exposure import for_listener
from depthrank.server.access.quotas import Quotas
from depthrank.server.access.tls import tls_options
from depthrank.server.access.tokens import Tokens
from depthrank.server.service import Service
from depthrank.server.settings import ServerSettings, changed

logger = logging.getLogger("depthrank.server")
TAKEN_OVER = ("access.tokens", "access.quotas.")
Read = Callable[[], ServerSettings]


class Reload:
    """``read``: the settings as they are now; None: those of the start, whose files are read again all the same."""

    def __init__(self, app: Starlette, listener: socket.socket, read: Read | None = None) -> None:
        self._service: Service = app.state.service
        self._tokens: Tokens = app.state.tokens
        self._quotas: Quotas = app.state.quotas
        self._listener, self._read = listener, read
        self.tls: ssl.SSLContext | None = None

    def listen(self) -> None:
        """Act on SIGHUP from now on; a server that runs in a thread, or on a system without it, gets none."""
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.now)

    def now(self) -> None:
        """Read all of it again; raises nothing."""
        try:
            told = self._take_over()
        except DepthrankError as error:
            logger.error("SIGHUP: everything stays as it was: %s", error)
        else:
            logger.info("SIGHUP: read again: %s", ", ".join(told))

    def _take_over(self) -> list[str]:
        running = self._service.settings
        new = running if self._read is None else self._read()
        access = for_listener(new.access, self._listener)
        files = tls_options(running.access)
        self._tokens.renew(access.tokens)  # the last that may be refused
        self._quotas.renew(access.quotas)
        if self.tls is not None and files:
            self.tls.load_cert_chain(files["ssl_certfile"], files["ssl_keyfile"])
        kept = msgspec.structs.replace(running.access, tokens=access.tokens, quotas=access.quotas)
        self._service.settings = msgspec.structs.replace(running, access=kept)
        new = msgspec.structs.replace(new, access=access)
        if others := [name for name in changed(new, running) if not name.startswith(TAKEN_OVER)]:
            logger.warning("SIGHUP: a restart is needed for %s", ", ".join(others))
        return ["tokens", "quotas", *(["TLS files"] if self.tls is not None else [])]
