"""Random arrivals and requests for property tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from feature_world import ACTIONS, HOUR_MS, ITEMS, START_MS, USERS, Requests
from hypothesis import strategies as st

SPAN = 10 * HOUR_MS
# Few distinct times, on and around bucket edges, so that ties, late arrivals and edges are common.
moments = st.one_of(
    st.integers(0, 10).map(lambda h: START_MS + h * HOUR_MS),
    st.integers(0, 20).map(lambda h: START_MS + h * HOUR_MS // 2 - 1),
    st.integers(0, SPAN).map(lambda ms: START_MS + ms),
)
delays = st.one_of(st.just(0), st.integers(0, 3 * HOUR_MS))


@st.composite
def arrivals(draw: st.DrawFn, max_size: int = 30) -> list[tuple[str, str, str, int, int]]:
    """(user, item, action, time, appended) of events, late ones among them."""
    one = st.tuples(
        st.sampled_from((*USERS, "stranger")),
        st.sampled_from((*ITEMS, "unlisted")),
        st.sampled_from(ACTIONS),
        moments,
        delays,
    )
    drawn = draw(st.lists(one, max_size=max_size))
    return [(user, item, action, time_ms, time_ms + delay) for user, item, action, time_ms, delay in drawn]


numbers = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([1e300, 10**400, True]),
)
words = st.one_of(st.none(), st.sampled_from(["ios", "web", "red fox", "", "new", "7"]), st.integers(0, 9))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "device": words,
    "interests": st.one_of(st.none(), st.lists(st.sampled_from(["x", "y", 5, None]), max_size=4)),
    "search": words,
    "distance": numbers,
    "spot": st.one_of(st.none(), st.tuples(numbers, numbers).map(list)),
    "since": st.sampled_from([None, "2023-01-01", "2023-10-11T12:13:14+02:00", 1_690_000_000_000]),
}


@st.composite
def requests(draw: st.DrawFn, min_requests: int = 1, max_requests: int = 6) -> Requests:
    """Requests with 0 to 6 candidates each, duplicates and unknown users and items among them."""
    num = draw(st.integers(min_requests, max_requests))
    users = draw(st.lists(st.sampled_from((*USERS, "stranger", "nobody")), min_size=num, max_size=num))
    times = draw(st.lists(moments, min_size=num, max_size=num))
    counts = draw(st.lists(st.integers(0, 6), min_size=num, max_size=num))
    n = sum(counts)

    def many(values: st.SearchStrategy[Any], size: int) -> list[Any]:
        return draw(st.lists(values, min_size=size, max_size=size))

    return Requests(
        users,
        np.array(times, np.int64),
        {name: many(values, num) for name, values in VALUES.items()},
        many(st.sampled_from((*ITEMS, "unlisted", "never")), n),
        np.repeat(np.arange(num), counts),
        {"offer": many(numbers, n), "bid": many(numbers, n), "badge": many(words, n)},
        np.array(many(st.integers(-1, 20), n), np.int32),
    )
