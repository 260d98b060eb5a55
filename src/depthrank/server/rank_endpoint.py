"""POST /v1/rank."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from time import perf_counter
from typing import TypeVar, cast

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
WATCHED_AFTER_S = 0.02


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
    return BackgroundTask(_record, http.app.state.service, request, answer, http.state.arrived_s)


async def _record(service: Service, request: Request, answer: Answer, arrived_s: float) -> None:
    await asyncio.sleep(0)  # what was written leaves at the end of the event loop's turn
    service.after_answer(request, answer, perf_counter() - arrived_s)


async def unless_client_leaves(http: HttpRequest, work: Future[Result]) -> Result:
    """The result of ``work``. A client that leaves first withdraws it: raises ClientDisconnect. Whether it is still
    there is asked from ``WATCHED_AFTER_S`` on: most answers have come by then, and to watch costs as much as to route.
    """
    result, loop = asyncio.wrap_future(work), asyncio.get_running_loop()
    watches: list[asyncio.Task[None]] = []

    def watch() -> None:
        gone = loop.create_task(_disconnect(http))
        gone.add_done_callback(lambda _: result.cancel())
        watches.append(gone)

    timer = loop.call_later(WATCHED_AFTER_S, watch)
    try:
        return await result
    except asyncio.CancelledError:
        if any(gone.done() for gone in watches):
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        for gone in watches:
            gone.cancel()


async def _disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
