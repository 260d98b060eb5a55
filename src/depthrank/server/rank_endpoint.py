"""POST /v1/rank."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from time import perf_counter
from typing import Any, TypeVar

from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.schema import Answer, Request
from depthrank.schema.wire import decode_request, encode_answer
from depthrank.server.bodies import read_body
from depthrank.server.error_answers import request_id_of
from depthrank.server.service import Service

Result = TypeVar("Result")


async def rank(http: HttpRequest) -> Response:
    """Rank candidates for a user; the impressions are logged after the answer has left."""
    service: Service = http.app.state.service
    body = await read_body(http, service.settings)
    started = perf_counter()
    request = await service.decode(_decode, body, service)
    decode_ms = (perf_counter() - started) * 1000
    answer = await unless_client_leaves(http, service.rank(request, request_id_of(http)))
    answer.timings_ms["decode"] = round(decode_ms, 3)
    return Response(
        encode_answer(answer),
        media_type="application/json",
        background=BackgroundTask(_record, service, request, answer),
    )


def _decode(body: bytes, service: Service) -> Request:
    return decode_request(body, service.settings.limits, wall_clock=service.wall_clock)


async def _record(service: Service, request: Request, answer: Answer) -> None:
    if service.settings.log_served and answer.items:
        service.served.put(request, answer)


async def unless_client_leaves(http: HttpRequest, work: Future[Result]) -> Result:
    """The result of ``work``. A client that leaves first withdraws it: raises ClientDisconnect."""
    result = asyncio.wrap_future(work)
    gone = asyncio.ensure_future(_disconnect(http))
    either: set[asyncio.Future[Any]] = {result, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            result.cancel()
            raise ClientDisconnect
        return result.result()
    finally:
        gone.cancel()


async def _disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
