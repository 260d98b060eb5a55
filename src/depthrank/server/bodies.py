"""Bodies of requests, read as a stream and counted; and a rank request in whatever form it comes.

No more than the limit is held of a body, for no longer than allowed.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.schema import Answer, Limits, Request
from depthrank.schema.wire import (
    check_body_size,
    decode_arrow,
    decode_msgpack,
    decode_request,
    encode_answer,
    encode_answer_msgpack,
    read_request,
)
from depthrank.server.access.client import client_of
from depthrank.server.access.quotas import Quotas
from depthrank.server.service import Service
from depthrank.server.settings import ServerSettings

MSGPACK = "application/msgpack"
ARROW = "application/vnd.apache.arrow.stream"
MSGPACK_NAMES = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})


async def read_body(http: HttpRequest, settings: ServerSettings) -> bytes:
    """The whole body. Raises TooLargeError, HTTPException (408 too slow, 415 encoded), ClientDisconnect."""
    encoding = http.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HTTPException(415, f"the body is encoded ({encoding[:40]}); send it as it is")
    declared = http.headers.get("content-length", "")
    if declared.isdigit():
        check_body_size(int(declared[:20]), settings.limits)
    chunks, size = list[bytes](), 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in http.stream():
                size += len(chunk)
                check_body_size(size, settings.limits)
                if chunk:
                    chunks.append(chunk)
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {settings.body_timeout_s:g} s") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_rank_request(http: HttpRequest) -> tuple[Request, float]:
    """The checked request in a JSON, MessagePack or Arrow body, and the milliseconds that decoding took.

    Its candidates are charged to the client. Raises what ``read_body`` and the decoders raise, and QuotaError.
    """
    service: Service = http.app.state.service
    body = await read_body(http, service.settings)
    started = perf_counter()
    request = await service.decode(decode_rank_request, body, media_type_of(http), service.settings.limits, service)
    decode_ms = (perf_counter() - started) * 1000
    charge_candidates(http, request)
    return request, decode_ms


def decode_rank_request(body: bytes, media_type: str, limits: Limits, service: Service) -> Request:
    """A body by its media type; whatever is no binary one is read as JSON, as curl sends it."""
    if media_type in MSGPACK_NAMES:
        return read_request(decode_msgpack(body, limits), limits, wall_clock=service.wall_clock)
    if media_type == ARROW:
        return read_request(decode_arrow(body, limits), limits, wall_clock=service.wall_clock)
    return decode_request(body, limits, wall_clock=service.wall_clock)


def charge_candidates(http: HttpRequest, request: Request) -> None:
    """Count a request's candidates against its client's quota. Raises QuotaError."""
    service, quotas = http.app.state.service, http.app.state.quotas
    assert isinstance(quotas, Quotas)
    quotas.charge_candidates(client_of(http).name, num_candidates(request, service))


def num_candidates(request: Request, service: Service) -> int:
    """How many candidates a checked request asks to be ranked."""
    given = request.candidates
    if isinstance(given, str):
        return service.ranker.generation.items.size - 1
    return len(given["item"] if isinstance(given, dict) else given)


def rank_response(http: HttpRequest, answer: Answer) -> Response:
    """The answer as JSON, or as MessagePack where ``Accept`` names it."""
    accepted = {part.partition(";")[0].strip().lower() for part in http.headers.get("accept", "").split(",")}
    if accepted & MSGPACK_NAMES:
        return Response(encode_answer_msgpack(answer), media_type=MSGPACK)
    return Response(encode_answer(answer), media_type="application/json")


def media_type_of(http: HttpRequest) -> str:
    """The media type of a body, without parameters."""
    return http.headers.get("content-type", "").partition(";")[0].strip().lower()
