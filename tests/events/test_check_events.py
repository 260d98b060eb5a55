"""Times of live events, and how many mistakes are told at once."""

from __future__ import annotations

import numpy as np
import pytest

from depthrank.errors import RequestError
from depthrank.events import EventBatch, check_times
from depthrank.events.check_events import MAX_TIME_MS, check_events

NOW_MS = 1_700_000_000_000


def test_a_live_event_may_be_a_minute_ahead_and_no_more():
    check_times(np.array([NOW_MS - 10**9, NOW_MS, NOW_MS + 60_000]), NOW_MS)
    with pytest.raises(RequestError, match=r"\$\.time_ms\[1\]: found 1700000060001 \(60 s in the future\).*clock"):
        check_times(np.array([NOW_MS, NOW_MS + 60_001]), NOW_MS)


def test_microseconds_are_recognised():
    with pytest.raises(RequestError, match="looks like microseconds: divide by 1,000"):
        check_times(np.array([NOW_MS * 1000]), NOW_MS)


def test_the_last_time_of_the_year_9999_is_a_time_and_the_next_is_not():
    right = EventBatch(["u"], ["i"], ["a"], np.array([MAX_TIME_MS]))
    assert len(check_events(right)) == 1
    with pytest.raises(RequestError, match=r"\$\.time_ms\[0\]"):
        check_events(EventBatch(["u"], ["i"], ["a"], np.array([MAX_TIME_MS + 1])))


def test_every_wrong_field_is_told_at_once():
    with pytest.raises(RequestError) as caught:
        check_events(EventBatch(["", "u"], ["i", 3], ["a", "a"], np.array([1, -1])))  # type: ignore[list-item]
    assert [problem.path for problem in caught.value.problems] == ["$.user[0]", "$.item[1]", "$.time_ms[1]"]


def test_a_million_wrong_rows_are_told_by_the_first_ones():
    with pytest.raises(RequestError) as caught:
        check_events(EventBatch([""] * 1000, ["i"] * 1000, ["a"] * 1000, np.arange(1000)))
    assert len(caught.value.problems) == 20


def test_ids_are_factorised_in_order_of_appearance():
    checked = check_events(EventBatch(["b", "a", "b"], ["i", "i", "j"], ["x"] * 3, np.arange(3)))
    assert checked.user.distinct == [b"b", b"a"] and checked.user.of_row.tolist() == [0, 1, 0]
