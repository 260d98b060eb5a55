"""``Client``: a depthrank server from ordinary code."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from depthrank.client import calls
from depthrank.client.attempts import Pause, Reply, Send, attempts
from depthrank.client.calls import Call
from depthrank.client.errors import CallDeadlineError, CallError
from depthrank.client.methods import MAX_BYTES, client_options, failure, http_request, too_large
from depthrank.client.retry import RetryPolicy
from depthrank.schema import Answer, Request
from depthrank.schema.wire_answers import Appended, Erased, HistoryView, Models, Upsert

T = TypeVar("T")


class Client:
    """Calls one server; safe for several threads. Close it, or use ``with``.

    ``timeout_s``: for a call with all its attempts, where a request has no deadline of its own. ``options`` go to
    ``httpx.Client`` (``verify``, ``limits``, ``transport``, ...). Every method raises CallError, and CallDeadlineError
    where time ran out.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        **options: Any,
    ) -> None:
        self._http = httpx.Client(**client_options(url, token, options))
        self._timeout_s, self._retry = timeout_s, retry or RetryPolicy()
        self._clock_s, self._sleep, self._uniform = clock_s, sleep, uniform

    def rank(self, request: Request, *, request_id: str | None = None) -> Answer:
        """Rank a request's candidates; its ``deadline_ms`` holds for all attempts together."""
        return self._run(calls.rank(request, request_id))

    def append(
        self, user: Any, item: Any, action: Any, *, time_ms: Any = None, event_id: Any = None, **fields: Any
    ) -> Appended:
        """Append an event, or columns of them where ``item`` is a list; returns when they are durable and readable.

        ``fields``: ``request_id``, ``position``, and whatever else shall be kept. An ``event_id`` is made where none is
        given, so that trying again appends nothing twice.
        """
        named = {"user": user, "item": item, "action": action, "time_ms": time_ms, "event_id": event_id}
        return self._run(calls.append(named | fields))

    def upsert(self, **columns: Any) -> Upsert:
        """Insert or change items: ``item`` and columns of the catalogue, each a list, or each a value of one item."""
        return self._run(calls.upsert(columns))

    def history(self, user: str | int, limit: int = 100, actions: Sequence[str] = ()) -> HistoryView:
        """A user's last events, newest first."""
        return self._run(calls.history(user, limit, actions))

    def erase(self, user: str | int) -> Erased:
        """Remove a user; returns when nothing is left in the log's files."""
        return self._run(calls.erase(user))

    def models(self) -> Models:
        """The loaded versions."""
        return self._run(calls.models())

    def change_models(self, action: str, **fields: Any) -> Models:
        """``load``, ``label``, ``unload``, ``promote`` or ``rollback``, with ``path``, ``model``, ``label``..."""
        return self._run(calls.change_models({"action": action, **fields}))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        going = attempts(call, self._timeout_s, self._retry, self._clock_s, self._uniform)
        told: Reply | CallError | None = None
        while True:
            try:
                step = going.send(told)
            except StopIteration as done:
                answer: T = done.value
                return answer
            if isinstance(step, Pause):
                told = None
                self._sleep(step.seconds)
            else:
                told = self._sent(call, step)

    def _sent(self, call: Call[Any], send: Send) -> Reply | CallError:
        request = http_request(self._http, call, send, self._clock_s)
        try:
            response = self._http.send(request, stream=True)
            try:
                body = bytearray()
                for part in response.iter_bytes():
                    body += part
                    if self._clock_s() >= send.until_s:
                        return CallDeadlineError("the answer did not arrive in time", kind="timeout")
                    if len(body) > MAX_BYTES:
                        return too_large()
            finally:
                response.close()
        except httpx.TransportError as error:
            return failure(error)
        return Reply(response.status_code, response.headers, bytes(body))
