"""Which backend a log URL names."""

from __future__ import annotations

from collections.abc import Callable

from depthrank.errors import LogError
from depthrank.events.log import EventLog, now_ms

REDIS_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")


def open_log(
    url: str,
    *,
    durable: bool = True,
    read_only: bool = False,
    max_bytes: int | None = None,
    clock: Callable[[], int] = now_ms,
) -> EventLog:
    """Open, or create where it does not exist, the log at ``lmdb:path``, a bare path, or ``redis://host:port/db``.

    durable: acknowledge after an fsync; False may lose the last appends in a power cut, and never corrupts.
    max_bytes: the log refuses to grow beyond this (LMDB: the data file; Redis is limited by its own maxmemory).
    clock: milliseconds now, for the stamp ``appended_ms``.
    Raises ``LogError`` where there is no log (read_only), something else, or a log of a newer version.
    """
    scheme, separator, rest = url.partition(":")
    if separator and scheme in REDIS_SCHEMES:
        if max_bytes is not None:
            raise LogError(f"max_bytes is not for {scheme}: logs; set maxmemory in the server's configuration")
        from depthrank.events.on_redis import RedisEventLog  # redis-py is an optional dependency

        return RedisEventLog(url, durable=durable, read_only=read_only, clock=clock)
    if separator and scheme != "lmdb" and "/" not in scheme and len(scheme) > 1:
        known = ", ".join(f"{s}:" for s in ("lmdb", *REDIS_SCHEMES))
        raise LogError(f"{url!r}: no log backend is called {scheme!r}; known: {known}, or a bare path")
    path = rest.removeprefix("//") if scheme == "lmdb" and separator else url
    if not path:
        raise LogError(f"{url!r} names no folder; write lmdb:path/to/log")
    from depthrank.events.on_lmdb import LmdbEventLog  # as slow to load as redis-py, and a fleet may need only that

    return LmdbEventLog(path, durable=durable, read_only=read_only, max_bytes=max_bytes, clock=clock)
