"""Requests that wait for labels: found by their id and their user, closed once a window, and small."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from depthrank.server.decisions.shown_requests import ShownRequest, ShownRequests

WINDOWS_MS = {"click": 10, "like": 10, "buy": 40}
TASKS = tuple(WINDOWS_MS)
USERS, ITEMS = ("u", "v", "w"), ("a", "b", "ab", "é", "aé")
adds = st.tuples(st.sampled_from(USERS), st.sets(st.sampled_from(ITEMS), min_size=1), st.integers(0, 8))
steps = st.lists(st.one_of(adds, st.sampled_from(USERS)), max_size=25)


def of(user: str, time_ms: int, *items: str) -> ShownRequest:
    return ShownRequest(user, "m", time_ms, TASKS, {item: {"click": 0.5, "buy": 0.25} for item in items})


@given(steps)
def test_what_waits_is_found_as_by_a_plain_list_until_it_is_forgotten_or_closed(given_steps: list[object]) -> None:
    shown, plain, now = ShownRequests(WINDOWS_MS), dict[str, tuple[str, set[str], int]](), 0
    closed: dict[str, list[int]] = {task: [] for task in TASKS}
    expected: dict[str, list[int]] = {task: [] for task in TASKS}
    due: dict[str, dict[str, int]] = {task: {} for task in TASKS}
    for number, step in enumerate(given_steps):
        if isinstance(step, str):
            shown.forget(step)
            plain = {key: one for key, one in plain.items() if one[0] != step}
            due = {task: {key: at for key, at in own.items() if key in plain} for task, own in due.items()}
            continue
        user, items, later = step  # type: ignore[misc]
        now += later
        for one, tasks in shown.closed(now):
            for task in tasks:
                closed[task].append(one.time_ms)
        for task, own in due.items():
            gone = {key: at for key, at in own.items() if at + WINDOWS_MS[task] < now}
            expected[task] += gone.values()
            due[task] = {key: at for key, at in own.items() if key not in gone}
        plain = {key: one for key, one in plain.items() if any(key in own for own in due.values())}
        shown.add(str(number), of(user, now, *sorted(items)))
        plain[str(number)] = (user, items, now)
        for own in due.values():
            own[str(number)] = now
        assert shown.num_items == sum(len(own) for _, own, _ in plain.values())
        for user in USERS:
            for item in ITEMS:
                newest = next((at for u, own, at in reversed(plain.values()) if u == user and item in own), None)
                found = shown.newest(user, item)
                assert (None if found is None else found[0].time_ms) == newest
        for key in map(str, range(number + 1)):
            assert (key in shown) == (key in plain)
            for item in ITEMS:
                assert (shown.find(key, item) is not None) == (key in plain and item in plain[key][1])
    assert closed == expected


def test_a_label_belongs_to_its_item_and_task_and_a_task_without_a_probability_counts_nothing() -> None:
    one = of("u", 0, "a", "ab")
    row = one.row_of("ab")
    assert row is not None and one.row_of("b") is None
    one.came(row, "click")
    assert sorted(one.labelled("click")) == [(0.5, False), (0.5, True)]
    assert sorted(one.labelled("buy")) == [(0.25, False), (0.25, False)]
    assert list(one.labelled("like")) == []


def test_ten_items_wait_in_less_than_two_kilobytes() -> None:
    tracemalloc.start()
    try:
        shown = ShownRequests(WINDOWS_MS)
        for number in range(500):
            items = [f"item {number} {row}" for row in range(10)]
            shown.add(f"{number:032x}", of(f"user {number % 50}", number, *items))
        assert tracemalloc.get_traced_memory()[0] < 500 * 2_000
    finally:
        tracemalloc.stop()
    assert shown.num_items == 5_000
