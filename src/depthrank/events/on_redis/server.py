"""The server: the connection, its errors said to a person, its durability, and its files after a removal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from depthrank.errors import LogError, StorageFullError

try:
    import redis
except ImportError as error:
    raise LogError("a Redis log needs the redis package: pip install 'depthrank[redis]'") from error

from redis.backoff import NoBackoff
from redis.retry import Retry

DEFAULT_PREFIX = "depthrank"
CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 30.0  # of what nobody waits for at a screen, and what may take long: scans, imports, removals
WRITE_TIMEOUT_S = 5.0
REWRITE_TIMEOUT_S = 3600.0
POLL_S = 0.02


Client = Any  # redis.Redis, whose stubs do not know that answers here are always bytes


def prefix_of(url: str) -> str:
    """The key prefix that ``?prefix=`` names."""
    return dict(parse_qsl(urlsplit(url).query)).get("prefix", DEFAULT_PREFIX)


def connect(url: str, timeout_s: float = ANSWER_TIMEOUT_S) -> Client:
    """A client that waits ``timeout_s`` for an answer.

    Nothing is sent twice: an append whose answer was lost may have been done. The pool itself replaces connections that
    a restart of the server closed.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    for own in ("prefix", "timeout_s"):
        query.pop(own, None)
    scheme = parts.scheme.replace("valkey", "redis")
    plain = urlunsplit((scheme, parts.netloc, parts.path, urlencode(query), ""))
    try:
        return redis.Redis.from_url(
            plain,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise LogError(f"{shown(url)} is not an address of Redis: {error}; write redis://host:6379/0") from error


def write_timeout_s(url: str) -> float:
    """How long a write waits for its answer: ``?timeout_s=``. Raises LogError."""
    given = dict(parse_qsl(urlsplit(url).query)).get("timeout_s")
    try:
        seconds = WRITE_TIMEOUT_S if given is None else float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= ANSWER_TIMEOUT_S:
        raise LogError(f"timeout_s is {given!r}: expected seconds above 0 and at most {ANSWER_TIMEOUT_S:g}")
    return seconds


def shown(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path, "", ""))


@contextmanager
def said_to_a_person(url: str) -> Iterator[None]:
    """Turn the client's errors into ours."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError as error:
        raise StorageFullError(f"{shown(url)} is at its maxmemory; nothing was appended: {error}") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
        raise LogError(
            f"cannot reach the event log at {shown(url)}: {error}. Is the server running? What was not acknowledged "
            "may or may not be stored: append it again with the same event_id"
        ) from error
    except redis.exceptions.ResponseError as error:
        if str(error).startswith("MISCONF") or "No space left" in str(error):
            raise StorageFullError(f"{shown(url)} cannot write its files; nothing was appended: {error}") from error
        raise LogError(f"{shown(url)} refused: {error}") from error


def check_durable(client: Client, url: str) -> None:
    """Raise ``LogError`` where the server acknowledges before it has synced, or may drop what it acknowledged."""
    try:
        settings = {**client.config_get("*append*"), **client.config_get("maxmemory*")}
    except redis.exceptions.ResponseError as error:
        raise LogError(
            f"{shown(url)} does not tell its settings ({error}), so durability cannot be checked; "
            "allow CONFIG GET, or open the log with durable=False"
        ) from error
    wanted = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
    if settings.get("maxmemory", "0") != "0":
        wanted["maxmemory-policy"] = "noeviction"
    wrong = {name: value for name, value in wanted.items() if settings.get(name) != value}
    if wrong:
        found = ", ".join(f"{name} {settings.get(name)}" for name in wrong)
        fix = "; ".join(f"CONFIG SET {name} {value}" for name, value in wrong.items())
        raise LogError(
            f"{shown(url)} may lose acknowledged events: it has {found}. "
            f"Run {fix} (and CONFIG REWRITE), or open the log with durable=False"
        )


def rewrite_files(client: Client) -> None:
    """Write the server's files anew, so that nothing removed is left in them; returns when that is done.

    A rewrite that runs already may have begun before the removal: it is waited for, and another one follows.
    """
    if client.config_get("appendonly").get("appendonly") == "yes":
        _wait_idle(client)
        _start(client, client.bgrewriteaof)
        _wait_idle(client)
        _expect_ok(client, "aof_last_bgrewrite_status")
    _wait_idle(client)
    _start(client, client.bgsave)
    _wait_idle(client)
    _expect_ok(client, "rdb_last_bgsave_status")


def _start(client: Client, begin: Callable[[], Any]) -> None:
    while True:
        try:
            begin()
            return
        except redis.exceptions.ResponseError as error:
            if "in progress" not in str(error):
                raise
            _wait_idle(client)


def _wait_idle(client: Client) -> None:
    busy = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
    end = time.monotonic() + REWRITE_TIMEOUT_S
    while any(client.info("persistence").get(name) for name in busy):
        if time.monotonic() > end:
            raise LogError("the server did not finish writing its files within an hour; the removed bytes are in them")
        time.sleep(POLL_S)


def _expect_ok(client: Client, status: str) -> None:
    found = client.info("persistence").get(status)
    if found != "ok":
        raise LogError(
            f"events were removed from memory, but the server could not write its files anew ({status}: {found}), so "
            "the old bytes are still in them; make room and run the removal again"
        )
