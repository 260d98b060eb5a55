"""Query parameters and ids in paths, checked like the fields of a body."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from depthrank.schema import Limits
from depthrank.schema.wire_fields import FieldChecks


def check_query_names(http: HttpRequest, known: Sequence[str], limits: Limits) -> None:
    """Raises RequestError where a parameter is unknown."""
    checks = FieldChecks(limits)
    checks.names(http.query_params.keys(), known, "?")
    checks.raise_problems("the query has wrong parameters:")


def integer_parameter(http: HttpRequest, name: str, default: int, low: int, high: int, limits: Limits) -> int:
    """The parameter as an integer; raises RequestError."""
    text = http.query_params.get(name)
    if text is None:
        return default
    checks = FieldChecks(limits)
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else text
    value = checks.integer(number, f"?.{name}", low, high)
    checks.raise_problems("the query has wrong parameters:")
    return value


def user_in_path(http: HttpRequest, segments_after: int = 0) -> str:
    """The ``{user}`` of ``/v1/users/{user}[/history]``, from the raw path: an id may hold an encoded slash.

    Raises HTTPException (404) where the path has another number of segments.
    """
    raw = http.scope.get("raw_path") or http.scope["path"].encode()
    segments = raw.split(b"?")[0].split(b"/")  # "", "v1", "users", the user, ...
    if len(segments) != 4 + segments_after or not segments[3]:
        raise HTTPException(404)
    return unquote(segments[3].decode("ascii", "replace"))
