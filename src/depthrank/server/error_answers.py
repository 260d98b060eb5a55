"""Errors as a client sees them: one shape, one status each, and no internals.

``{"error": {"type", "message", "problems": [{"path", "found", "expected", "hint"}], "request_id"}}``; below ``/v2``, as
the Open Inference Protocol wants it, ``{"error": "all of it in words"}``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from depthrank.errors import (
    CapacityError,
    CatalogueError,
    FieldProblem,
    LogError,
    RequestError,
    StorageFullError,
)
from depthrank.errors.types import ProblemsError
from depthrank.schema.wire import MalformedBodyError, TooLargeError
from depthrank.server.access.quotas import QuotaError
from depthrank.server.service import DeadlineError

logger = logging.getLogger("depthrank.server")

TYPE_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 408: "body_too_slow", 415: "unsupported_encoding"}
INTERNAL = "the server failed to answer this request; its operator finds the reason under the request id"
LOG_DOWN = "the event log cannot be used now; nothing was acknowledged"
STORAGE_FULL = "there is no room left to store this; nothing was acknowledged"


class Problem(msgspec.Struct):
    """One wrong field: where, what was found, what was expected, what to do."""

    path: str
    found: str
    expected: str
    hint: str | None = None


class ErrorBody(msgspec.Struct):
    """What went wrong; ``request_id`` is what the server's log has it under."""

    type: str
    message: str
    problems: list[Problem]
    request_id: str


class ErrorAnswer(msgspec.Struct):
    """The body of every error."""

    error: ErrorBody


def request_id_of(http: HttpRequest) -> str:
    """The id that this HTTP request came with or was given."""
    return str(http.state.request_id)


def error_answer(
    request_id: str,
    status: int,
    kind: str,
    message: str,
    problems: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as HTTP."""
    told = [Problem(p.path, p.found, p.expected, p.hint) for p in problems]
    in_words = "; ".join([message, *map(str, problems)])
    return _ErrorResponse(ErrorAnswer(ErrorBody(kind, message, told, request_id)), in_words, status, headers)


class _ErrorResponse(Response):
    """Takes the shape of the protocol that the path belongs to."""

    def __init__(
        self, error: ErrorAnswer, in_words: str, status: int, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(msgspec.json.encode(error), status, headers, media_type="application/json")
        self._in_words, self._given = in_words, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].removeprefix(scope.get("root_path", "")).startswith("/v2"):
            body = msgspec.json.encode({"error": self._in_words})
            await Response(body, self.status_code, self._given, "application/json")(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def quota_answer(request_id: str, error: QuotaError) -> Response:
    """A client that has used up its quota."""
    headers = {"Retry-After": str(error.retry_after_s)}
    return error_answer(request_id, 429, "quota_exceeded", str(error), headers=headers)


def _quota(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, QuotaError)
    return quota_answer(request_id_of(http), error)


def _malformed(http: HttpRequest, error: Exception) -> Response:
    return error_answer(request_id_of(http), 400, "malformed_body", str(error))


def _with_problems(status: int, kind: str) -> Callable[[HttpRequest, Exception], Response]:
    def answer(http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, ProblemsError)
        return error_answer(request_id_of(http), status, kind, error.title, error.problems)

    return answer


def _catalogue(http: HttpRequest, error: Exception) -> Response:
    return error_answer(request_id_of(http), 422, "wrong_fields", str(error))


def _late(http: HttpRequest, error: Exception) -> Response:
    return error_answer(request_id_of(http), 504, "deadline_exceeded", str(error))


def _overloaded(http: HttpRequest, error: Exception) -> Response:
    headers = {"Retry-After": str(getattr(error, "retry_after_s", 1))}
    return error_answer(request_id_of(http), 503, "overloaded", str(error), headers=headers)


def _log_down(http: HttpRequest, error: Exception) -> Response:
    logger.error("request %s: %s", request_id_of(http), error)
    return error_answer(request_id_of(http), 503, "log_unavailable", LOG_DOWN, headers={"Retry-After": "5"})


def _storage_full(http: HttpRequest, error: Exception) -> Response:
    logger.error("request %s: %s", request_id_of(http), error)
    return error_answer(request_id_of(http), 507, "storage_full", STORAGE_FULL)


def _http(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = TYPE_OF_STATUS.get(error.status_code, "refused")
    message = error.detail
    if error.status_code == 404 and message == "Not Found":
        message = f"there is nothing at {http.url.path[:200]}; /openapi.json lists every endpoint"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{http.method} is not for {http.url.path[:200]}; it takes {allowed}"
    return error_answer(request_id_of(http), error.status_code, kind, message, headers=error.headers)


HANDLERS: dict[Any, Callable[[HttpRequest, Exception], Response]] = {
    MalformedBodyError: _malformed,
    TooLargeError: _with_problems(413, "too_large"),
    RequestError: _with_problems(422, "wrong_fields"),
    CatalogueError: _catalogue,
    CapacityError: _overloaded,
    StorageFullError: _storage_full,
    LogError: _log_down,
    DeadlineError: _late,
    QuotaError: _quota,
    HTTPException: _http,
}
