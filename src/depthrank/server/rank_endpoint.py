"""POST /v1/rank."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.errors import FieldProblem, RequestError
from depthrank.schema import Answer, Request
from depthrank.schema.request import Priority
from depthrank.server.admission.claim import PRIORITIES
from depthrank.server.bodies import rank_response, read_rank_request
from depthrank.server.error_answers import request_id_of
from depthrank.server.service import Service

Result = TypeVar("Result")


async def rank(http: HttpRequest) -> Response:
    """Rank candidates for a user; the impressions are logged after the answer has left."""
    request, decode_ms = await read_rank_request(http)
    answer = await ranked(http, request)
    answer.timings_ms["decode"] = round(decode_ms, 3)
    response = rank_response(http, answer)
    response.background = recording(http, request, answer)
    return response


async def ranked(http: HttpRequest, request: Request) -> Answer:
    """The answer to a checked request. Raises OverloadError, DeadlineError, RequestError, ClientDisconnect."""
    service: Service = http.app.state.service
    _take_priority(http, request)
    ranking = service.rank(request, request_id_of(http), _client_name(http), http.state.arrived_s)
    return await unless_client_leaves(http, ranking)


def _take_priority(http: HttpRequest, request: Request) -> None:
    """``X-Priority`` wins over the field: a gateway may set it. Raises RequestError for one that is none."""
    given = http.headers.get("x-priority")
    if given is None:
        return
    if given.lower() not in PRIORITIES:
        expected = "one of " + ", ".join(PRIORITIES)
        raise RequestError("the request has a wrong header:", [FieldProblem("X-Priority", repr(given[:40]), expected)])
    request.priority = cast(Priority, given.lower())


def _client_name(http: HttpRequest) -> str | None:
    """Whose request it is, where somebody asked."""
    client = getattr(http.state, "client", None)
    return None if client is None else str(client.name)


def recording(http: HttpRequest, request: Request, answer: Answer) -> BackgroundTask:
    """What is done with an answer after it has left."""
    return BackgroundTask(_record, http.app.state.service, request, answer)


async def _record(service: Service, request: Request, answer: Answer) -> None:
    service.after_answer(request, answer)


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
