"""plotly.js as the installed plotly package ships it, compressed once; 4.8 MB become 1.4."""

from __future__ import annotations

import gzip
import threading
from functools import cache
from importlib.metadata import version

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

_LEVEL = 6
_ONE_DAY_S = 86_400
_making = threading.Lock()


async def plotly_js(http: HttpRequest) -> Response:
    """The charting library. It changes only with the installed version, so that a browser keeps it."""
    headers = {
        "Content-Type": "text/javascript; charset=utf-8",
        "Cache-Control": f"public, max-age={_ONE_DAY_S}",
        "ETag": f'"plotly-{version("plotly")}"',
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if http.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    packed = await run_in_threadpool(_compressed)
    if "gzip" in http.headers.get("accept-encoding", ""):
        return Response(packed, headers={**headers, "Content-Encoding": "gzip"})
    return Response(await run_in_threadpool(gzip.decompress, packed), headers=headers)


def _compressed() -> bytes:
    with _making:  # two browsers at once wait for one compression
        return _compress()


@cache
def _compress() -> bytes:
    from plotly.offline import get_plotlyjs  # takes a while, and only a page needs it

    return gzip.compress(get_plotlyjs().encode(), _LEVEL, mtime=0)
