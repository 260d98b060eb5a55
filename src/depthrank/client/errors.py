"""What a call may end in, other than its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from depthrank.errors import DepthrankError, FieldProblem


class CallError(DepthrankError):
    """The server refused, or could not be reached.

    ``status``: of HTTP, None where there was no answer. ``kind``: the error's ``type``, such as ``overloaded``.
    ``problems``: wrong fields. ``request_id``: what the server's log has it under.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        kind: str = "unreachable",
        problems: tuple[FieldProblem, ...] = (),
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.status, self.kind, self.problems = status, kind, problems
        self.request_id, self.retry_after_s = request_id, retry_after_s
        super().__init__("\n  - ".join([message, *map(str, problems)]))


class CallDeadlineError(CallError):
    """The time of the call was over before there was an answer; the cause is the last failure, where there was one."""


class _Problem(msgspec.Struct):
    path: str
    found: str
    expected: str
    hint: str | None = None


class _Body(msgspec.Struct):
    type: str
    message: str
    problems: list[_Problem] = []
    request_id: str | None = None


class _Error(msgspec.Struct):
    error: _Body


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> CallError:
    """The error that an answer tells; also of a proxy in between, whose body is not ours."""
    fields: dict[str, Any] = {"status": status, "retry_after_s": _seconds(headers.get("retry-after"))}
    try:
        told = msgspec.json.decode(body, type=_Error).error
    except msgspec.DecodeError:
        return CallError(f"the server answered {status}", kind=f"http_{status}", **fields)
    problems = tuple(FieldProblem(p.path, p.found, p.expected, p.hint) for p in told.problems)
    return CallError(told.message, kind=told.type, problems=problems, request_id=told.request_id, **fields)


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; a date, as proxies may send it, counts as not given."""
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 9 else None
