"""Request bodies, read as a stream and counted: no more than the limit is held, for no longer than allowed."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from depthrank.schema.wire import check_body_size
from depthrank.server.settings import ServerSettings


async def read_body(http: HttpRequest, settings: ServerSettings) -> bytes:
    """The whole body. Raises TooLargeError, HTTPException (408 too slow, 415 encoded), ClientDisconnect."""
    encoding = http.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HTTPException(415, f"the body is encoded ({encoding[:40]}); send it as plain JSON")
    declared = http.headers.get("content-length", "")
    if declared.isdigit():
        check_body_size(int(declared[:20]), settings.limits)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in http.stream():
                check_body_size(len(body) + len(chunk), settings.limits)
                body += chunk
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {settings.body_timeout_s:g} s") from None
    return bytes(body)
