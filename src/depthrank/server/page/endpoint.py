"""GET /: the page. GET /page/...: its style and scripts. Nothing comes from elsewhere and nothing is inline."""

from __future__ import annotations

from hashlib import blake2b
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from depthrank.server.page.plotly_js import plotly_js

TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
NAMES = ("page.css", "page.js", "base.js", "chart.js", "live.js", "try.js")
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HERE = files("depthrank.server.page")


def _file(name: str) -> tuple[bytes, dict[str, str]]:
    """A file and its headers; its name stays while its content changes, so a browser asks whether it has changed."""
    content = _HERE.joinpath(name).read_bytes()
    headers = {
        "Content-Type": TYPES[name.rpartition(".")[2]],
        "Cache-Control": "no-cache",
        "ETag": f'"{blake2b(content, digest_size=12).hexdigest()}"',
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return content, headers | ({"Content-Security-Policy": POLICY} if name.endswith(".html") else {})


_FILES = {name: _file(name) for name in ("page.html", *NAMES)}


async def page(http: HttpRequest) -> Response:
    """The page."""
    return _answer(http, "page.html")


async def page_file(http: HttpRequest) -> Response:
    """A file of the page."""
    name = http.path_params["name"]
    if name not in NAMES:
        raise HTTPException(404)
    return _answer(http, name)


def _answer(http: HttpRequest, name: str) -> Response:
    content, headers = _FILES[name]
    if http.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


PAGE_ROUTES = (
    Route("/", page, methods=["GET"]),
    Route("/page/plotly.min.js", plotly_js, methods=["GET"]),
    Route("/page/{name}", page_file, methods=["GET"]),
)
