"""GET /: one self-contained page to see a ranking, click, and see it move."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_PAGE = files("depthrank.server").joinpath("page.html").read_bytes()


async def page(_http: HttpRequest) -> Response:
    """The page."""
    return Response(_PAGE, headers=_HEADERS)
