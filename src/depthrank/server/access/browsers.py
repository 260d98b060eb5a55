"""Keeps websites out of a server without tokens: a page that somebody has open may send to localhost too.

Another site's script cannot read our answers, but a plain POST of it is sent; its ``Origin`` tells. A name that a site
points at 127.0.0.1 (DNS rebinding) would make it the same origin; the ``Host`` tells.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers

from depthrank.server.access.exposure import is_loopback

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def host_refused(headers: Headers, allowed: tuple[str, ...]) -> str | None:
    """Why the ``Host`` is not answered to, or None. ``allowed`` empty: any."""
    host = headers.get("host")
    if not allowed or "*" in allowed or host is None:
        return None
    name = _name_of(host)
    if name in allowed or ("127.0.0.1" in allowed and is_loopback(name)):
        return None
    return f"this server does not answer to the name {name[:80]!r}; its operator lists names in access.allowed_hosts"


def origin_refused(method: str, headers: Headers) -> str | None:
    """Why a browser's write is refused, or None: it was sent by another site."""
    origin = headers.get("origin")
    if origin is None or method in SAFE:
        return None
    if urlsplit(origin).netloc == headers.get("host"):
        return None
    return "a page of another origin sent this; without tokens only this server's own page may write"


def _name_of(host: str) -> str:
    """The name in ``name:port`` or ``[v6]:port``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
