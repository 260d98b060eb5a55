"""Attempts under a clock of the test's own: what is tried again, when, and that time is never overdrawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.client import CallDeadlineError, CallError, RetryPolicy
from depthrank.client.attempts import Pause, Reply, Send, attempts
from depthrank.client.calls import Call, append, change_models, history, models, rank
from depthrank.schema import Request

OK = Reply(200, {}, b'{"models": []}')


def refused(status: int, retry_after: str | None = None) -> Reply:
    body = {"error": {"type": "overloaded", "message": "no room", "problems": [], "request_id": "r"}}
    return Reply(status, {} if retry_after is None else {"retry-after": retry_after}, msgspec.json.encode(body))


@dataclass
class World:
    """Replies in order (the last for ever), each after ``took_s``; counts what was sent and waited."""

    replies: list[Reply | CallError]
    took_s: float = 0.0
    now_s: float = 1_000.0
    sent: list[Send] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def run(
        self,
        call: Call[Any],
        time_s: float = 10.0,
        uniform: Callable[[float, float], float] = lambda low, high: high,
        policy: RetryPolicy | None = None,
    ) -> Any:
        going = attempts(call, time_s, policy or RetryPolicy(), lambda: self.now_s, uniform)
        told: Reply | CallError | None = None
        while True:
            try:
                step = going.send(told)
            except StopIteration as done:
                return done.value
            if isinstance(step, Pause):
                self.pauses.append(step.seconds)
                self.now_s += step.seconds
                told = None
            else:
                self.sent.append(step)
                self.now_s += min(self.took_s, step.until_s - self.now_s)
                told = self.replies[min(len(self.sent), len(self.replies)) - 1]


def test_what_is_refused_for_now_is_tried_again_after_growing_pauses() -> None:
    world = World([refused(503), refused(429), refused(502), OK])
    assert world.run(models()).models == []
    assert world.pauses == [0.05, 0.1, 0.2]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500, 504, 507])
def test_what_would_fail_again_is_not_tried_again(status: int) -> None:
    world = World([refused(status), OK])
    with pytest.raises(CallError) as caught:
        world.run(models())
    assert (caught.value.status, caught.value.kind, caught.value.request_id) == (status, "overloaded", "r")
    assert len(world.sent) == 1


def test_retry_after_is_waited_for_and_stretched_a_little() -> None:
    world = World([refused(503, "2"), OK])
    world.run(models(), uniform=lambda low, high: low)
    assert world.pauses == [2.0]
    world = World([refused(503, "2"), OK])
    world.run(models())
    assert world.pauses == [2.5]


def test_a_pause_that_would_end_after_the_time_is_not_begun() -> None:
    world = World([refused(503, "60"), OK])
    with pytest.raises(CallDeadlineError, match="no time left") as caught:
        world.run(models(), time_s=5.0)
    assert caught.value.status == 503 and world.pauses == []
    assert isinstance(caught.value.__cause__, CallError)


def test_attempts_are_counted() -> None:
    world = World([refused(503)])
    with pytest.raises(CallError, match="no room"):
        world.run(models(), policy=RetryPolicy(attempts=3))
    assert len(world.sent) == 3


def test_a_lost_connection_is_tried_again_only_where_twice_is_as_once() -> None:
    lost = CallError("gone")
    assert World([lost, OK]).run(models()).models == []
    with pytest.raises(CallError, match="gone"):
        World([lost, OK]).run(change_models({"action": "promote"}))
    assert World([refused(503), OK]).run(change_models({"action": "promote"})).models == []  # it was not done


@given(
    st.lists(st.sampled_from([503, 429, 502, None]), min_size=1, max_size=8),
    st.sampled_from([None, "0", "1", "3"]),
    st.floats(0.0, 3.0),
    st.floats(0.001, 8.0),
    st.integers(0, 2**32),
)
def test_no_call_outlives_its_time(
    failures: list[int | None], retry_after: str | None, took_s: float, time_s: float, seed: int
) -> None:
    replies: list[Reply | CallError] = [
        CallError("gone") if status is None else refused(status, retry_after) for status in failures
    ]
    world = World([*replies, OK], took_s=took_s)
    try:
        world.run(models(), time_s, random.Random(seed).uniform, RetryPolicy(attempts=20))
    except CallError as error:
        assert error.status != 200
    assert world.now_s <= 1_000.0 + time_s + 1e-9


def test_a_deadline_shrinks_with_every_attempt_and_the_request_keeps_its_id() -> None:
    request = Request(user="u", candidates=["1"], deadline_ms=1_000)
    world = World([refused(503), refused(503)], took_s=0.3)
    call = rank(request)
    with pytest.raises(CallDeadlineError):
        world.run(call, time_s=99.0)
    told = [msgspec.msgpack.decode(s.content)["deadline_ms"] for s in world.sent if s.content]
    assert told == pytest.approx([1_000, 650, 250])
    assert all(s.until_s == 1_001.0 for s in world.sent)
    assert request.deadline_ms == 1_000


def test_events_without_an_id_get_one_that_stays_over_the_attempts() -> None:
    call = append({"user": "u", "item": "1", "action": "click", "time_ms": None})
    assert call.body is not None
    assert call.body(1.0) == call.body(0.5)
    one = msgspec.json.decode(call.body(1.0))
    assert len(one["event_id"]) == 32 and "time_ms" not in one
    many = msgspec.json.decode(append({"user": "u", "item": ["1", "2"], "action": "c"}).body(1.0))  # type: ignore[misc]
    assert len(set(many["event_id"])) == 2
    own = msgspec.json.decode(append({"user": "u", "item": "1", "action": "c", "event_id": "e"}).body(1.0))  # type: ignore[misc]
    assert own["event_id"] == "e"


def test_ids_in_paths_are_encoded() -> None:
    assert history("a/b c?", 5, ["click", "like"]).path == "/v1/users/a%2Fb%20c%3F/history"
    assert history(7, 5, ["click", "like"]).params == {"limit": "5", "actions": "click,like"}


def test_an_answer_that_is_none_of_ours_is_an_error() -> None:
    with pytest.raises(CallError, match="not understood"):
        World([Reply(200, {}, b"<html>")]).run(models())
    with pytest.raises(CallError) as caught:
        World([Reply(418, {}, b"<html>")]).run(models())
    assert caught.value.kind == "http_418"
    dated = World([Reply(503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""), OK])
    dated.run(models())
    assert dated.pauses == [0.05]
