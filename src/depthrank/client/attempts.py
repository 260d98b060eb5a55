"""The attempts of one call, without any network: says what to do next, and is told how it went.

One generator serves both clients: it yields ``Send`` and ``Pause``, and gets the reply, or the failure, of a ``Send``.
Nothing is begun that could not end within the call's time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from depthrank.client.calls import Call
from depthrank.client.errors import CallDeadlineError, CallError, error_of
from depthrank.client.retry import RetryPolicy

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send this, and have the whole reply at ``until_s`` of the clock."""

    content: bytes | None
    until_s: float


@dataclass(frozen=True)
class Pause:
    """Wait so long."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """An answer, whole; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Attempts = Generator[Send | Pause, Reply | CallError | None, T]


def attempts(
    call: Call[T],
    default_time_s: float,
    policy: RetryPolicy,
    clock_s: Callable[[], float],
    uniform: Callable[[float, float], float],
) -> Attempts[T]:
    """Returns the decoded answer. Raises CallError, CallDeadlineError."""
    time_s = default_time_s if call.time_s is None else call.time_s
    until_s, failed = clock_s() + time_s, 0
    error: CallError | None = None
    while True:
        left_s = until_s - clock_s()
        if left_s <= 0:
            raise CallDeadlineError(f"no answer within {time_s * 1000:g} ms", kind="deadline") from error
        reply = yield Send(None if call.body is None else call.body(left_s), until_s)
        if isinstance(reply, Reply) and reply.status == 200:
            return _decoded(call, reply)
        assert reply is not None, "a Send is answered"
        error = reply if isinstance(reply, CallError) else error_of(reply.status, reply.headers, reply.body)
        failed += 1
        pause_s = policy.pause_s(failed, error, call.repeatable, uniform)
        if pause_s is None:
            raise error
        if clock_s() + pause_s >= until_s:
            if isinstance(error, CallDeadlineError):
                raise error
            raise CallDeadlineError(
                f"no time left to try again within {time_s * 1000:g} ms: {error}",
                status=error.status,
                kind=error.kind,
                problems=error.problems,
                request_id=error.request_id,
                retry_after_s=error.retry_after_s,
            ) from error
        yield Pause(pause_s)


def _decoded(call: Call[T], reply: Reply) -> T:
    try:
        return call.decode(reply.body)
    except msgspec.DecodeError as problem:
        raise CallError(f"the answer of {call.path} was not understood: {problem}", status=200, kind="answer") from None
