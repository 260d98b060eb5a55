"""``AsyncClient``: as ``Client``, for asyncio."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from depthrank.client import calls
from depthrank.client.attempts import Pause, Reply, Send, attempts
from depthrank.client.calls import Call
from depthrank.client.errors import CallError
from depthrank.client.methods import MAX_BYTES, client_options, failure, http_request, too_large
from depthrank.client.retry import RetryPolicy
from depthrank.schema import Answer, Request
from depthrank.schema.wire_answers import Appended, Erased, HistoryView, Models, Upsert

T = TypeVar("T")


class AsyncClient:
    """Calls one server from one event loop. Arguments, methods and errors are those of ``Client``."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        **options: Any,
    ) -> None:
        self._http = httpx.AsyncClient(**client_options(url, token, options))
        self._timeout_s, self._retry = timeout_s, retry or RetryPolicy()
        self._clock_s, self._sleep, self._uniform = clock_s, sleep, uniform

    async def rank(self, request: Request, *, request_id: str | None = None) -> Answer:
        """As ``Client.rank``."""
        return await self._run(calls.rank(request, request_id))

    async def append(
        self, user: Any, item: Any, action: Any, *, time_ms: Any = None, event_id: Any = None, **fields: Any
    ) -> Appended:
        """As ``Client.append``."""
        named = {"user": user, "item": item, "action": action, "time_ms": time_ms, "event_id": event_id}
        return await self._run(calls.append(named | fields))

    async def upsert(self, **columns: Any) -> Upsert:
        """As ``Client.upsert``."""
        return await self._run(calls.upsert(columns))

    async def history(self, user: str | int, limit: int = 100, actions: Sequence[str] = ()) -> HistoryView:
        """As ``Client.history``."""
        return await self._run(calls.history(user, limit, actions))

    async def erase(self, user: str | int) -> Erased:
        """As ``Client.erase``."""
        return await self._run(calls.erase(user))

    async def models(self) -> Models:
        """As ``Client.models``."""
        return await self._run(calls.models())

    async def change_models(self, action: str, **fields: Any) -> Models:
        """As ``Client.change_models``."""
        return await self._run(calls.change_models({"action": action, **fields}))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[T]) -> T:
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
                await self._sleep(step.seconds)
            else:
                told = await self._sent(call, step)

    async def _sent(self, call: Call[Any], send: Send) -> Reply | CallError:
        request = http_request(self._http, call, send, self._clock_s)
        try:
            async with asyncio.timeout(max(send.until_s - self._clock_s(), 0.0)):
                response = await self._http.send(request, stream=True)
                try:
                    body = bytearray()
                    async for part in response.aiter_bytes():
                        body += part
                        if len(body) > MAX_BYTES:
                            return too_large()
                finally:
                    await response.aclose()
        except (httpx.TransportError, TimeoutError) as error:
            return failure(error)
        return Reply(response.status_code, response.headers, bytes(body))
