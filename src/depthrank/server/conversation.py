"""The outermost layer of a HTTP conversation: its request id, its time and status, the last catch of a failure."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from depthrank.server.error_answers import INTERNAL, error_answer
from depthrank.server.metrics import ServerMetrics
from depthrank.server.telemetry.json_logs import REQUEST_ID
from depthrank.server.telemetry.spans import Tracing

logger = logging.getLogger("depthrank.server")
access_logger = logging.getLogger("depthrank.access")
GOOD_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})


class Conversation:
    """ASGI middleware: an ``X-Request-Id`` is taken over or made, returned, and stands in every log line and error."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServerMetrics,
        path_of: Mapping[Any, str],
        access_log: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        self.app = app
        self.access_log, self.tracing = access_log, tracing
        self.metrics = metrics
        self.path_of = path_of  # endpoint -> its path with names for ids, so that metrics have few labels

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = perf_counter(), 0
        request_id = _request_id(scope)
        scope.setdefault("state", {}).update(request_id=request_id, arrived_s=started)
        REQUEST_ID.set(request_id)
        if self.tracing is not None:
            self.tracing.began(request_id, scope["method"], Headers(scope=scope))

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            self.metrics.vanished.inc()
        except Exception:  # the client gets a 500 without internals, the log gets everything
            logger.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"][:200])
            self.metrics.errors.inc()
            if not status:
                await error_answer(request_id, 500, "internal", INTERNAL)(scope, receive, send_with_id)
        finally:
            self._over(scope, request_id, status or 499, perf_counter() - started)

    def _over(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        """The conversation is over; 499: the client left first."""
        endpoint = self.path_of.get(scope.get("endpoint"), "other")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(endpoint, method, str(status)).inc()
        self.metrics.request_seconds.labels(endpoint).observe(seconds)
        if self.tracing is not None:
            self.tracing.ended(request_id, endpoint, status)
        if self.access_log:
            client = getattr(scope["state"].get("client"), "name", None)
            fields = {"endpoint": endpoint, "method": method, "status": status, "ms": round(1e3 * seconds, 3)}
            access_logger.info("%s %s %d", method, endpoint, status, extra={**fields, "client": client})


def _request_id(scope: Scope) -> str:
    """The client's id where it is a harmless one, else a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if GOOD_ID.fullmatch(given) else uuid.uuid4().hex
