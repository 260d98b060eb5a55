"""HTTP of a call, as both clients send it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import httpx

from depthrank.client.attempts import Send
from depthrank.client.calls import Call
from depthrank.client.errors import CallDeadlineError, CallError
from depthrank.errors import DepthrankError

MAX_BYTES = 256 * 1024 * 1024
"""An answer beyond this is refused: it is none of ours."""


class Remaining(Mapping[str, float]):
    """Timeouts for httpx that are what is left at the moment they are asked for, not what was left at the start."""

    def __init__(self, until_s: float, clock_s: Callable[[], float]) -> None:
        self._until_s, self._clock_s = until_s, clock_s

    def __getitem__(self, _phase: str) -> float:
        return max(self._until_s - self._clock_s(), 1e-3)

    def __iter__(self) -> Iterator[str]:
        return iter(("connect", "read", "write", "pool"))

    def __len__(self) -> int:
        return 4


def client_options(url: str, token: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the httpx client. Raises DepthrankError for what is no address."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DepthrankError(f"{url!r} is no address of a server, such as http://localhost:8080")
    headers = {"User-Agent": f"depthrank-client/{version('depthrank')}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return {"base_url": parts.geturl(), "headers": headers, "follow_redirects": False, **options}


def http_request(
    client: httpx.Client | httpx.AsyncClient, call: Call[Any], send: Send, clock_s: Callable[[], float]
) -> httpx.Request:
    """One attempt."""
    headers = {"X-Request-Id": call.request_id, "Accept": call.media_type}
    if send.content is not None:
        headers["Content-Type"] = call.media_type
    return client.build_request(
        call.method,
        call.path,
        params=dict(call.params) or None,
        content=send.content,
        headers=headers,
        extensions={"timeout": Remaining(send.until_s, clock_s)},
    )


def failure(error: httpx.TransportError | TimeoutError) -> CallError:
    """An attempt without an answer."""
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return CallDeadlineError("the server did not answer in time", kind="timeout")
    return CallError(f"the server cannot be reached: {error or type(error).__name__}")


def too_large() -> CallError:
    """An answer that does not end."""
    return CallError(f"the answer is larger than {MAX_BYTES:,} bytes", status=200, kind="answer")
