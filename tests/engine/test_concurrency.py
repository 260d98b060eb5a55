"""Threads that rank, append and upsert at once: no error, and every answer is one of a state that existed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from asking import IDS, ask, one_event, shown

PAST_MS = 1_790_000_000_000


def in_threads(*works: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_answers_as_of_the_past_are_the_same_whatever_is_appended_meanwhile(make_ranker):
    ranker = make_ranker()
    expected = {user: shown(ranker.rank(ask(user, time_ms=PAST_MS))) for user in ("u1", "u2", "nobody")}

    def rank() -> None:
        for n in range(12):
            user = ("u1", "u2", "nobody")[n % 3]
            assert shown(ranker.rank(ask(user, time_ms=PAST_MS))) == expected[user]

    def append() -> None:
        for n in range(25):
            ranker.append(one_event("u1", f"i{n}", "click", ranker.clock_ms[0] - 25 + n))
            ranker.append(one_event(f"brand new {n}", f"item {n}", "click", ranker.clock_ms[0]))

    in_threads(rank, rank, append)
    assert [e["item"] for e in ranker.history("u1", 25)] == [f"i{n}" for n in range(24, -1, -1)]


def test_every_answer_during_upserts_is_that_of_a_state_before_or_after_one(make_ranker):
    """Item 3 goes back and forth between two genres, and new items arrive behind it."""
    ranker = make_ranker()
    wanted = ask(candidates=IDS[:6], time_ms=PAST_MS, mode="router")
    states = []
    for genre in ("noir", "western"):
        ranker.upsert_items({"item": ["i3"], "genre": [genre], "title": [f"{genre} story"]})
        states.append(dict(value_by_item(ranker.rank(wanted))))
    assert abs(states[0]["i3"] - states[1]["i3"]) > 1e-4
    seen = []

    def rank() -> None:
        for _ in range(25):
            seen.append(value_by_item(ranker.rank(wanted)))
            ranker.rank(ask(candidates="all", mode="router", top=5))

    def upsert() -> None:
        for n in range(30):
            genre = ("noir", "western")[n % 2]
            ranker.upsert_items({"item": ["i3", f"new{n}"], "genre": [genre, "noir"], "title": [f"{genre} story", "x"]})
            ranker.append(one_event("u2", f"new{n}", "click", ranker.clock_ms[0]))

    in_threads(rank, rank, upsert)
    for values in seen:
        assert any(values == pytest.approx(state, rel=1e-5) for state in states)
    assert ranker.items.size == ranker.generation.store.size == 111


def value_by_item(answer) -> dict[str, float]:
    return {item.item: item.value for item in answer.items}


def test_two_threads_with_cached_users_answer_as_one_thread_would(make_ranker):
    """Histories grow and items change meanwhile; each answer as of a time is what a ranker without a cache gives."""
    ranker, plain = make_ranker(), make_ranker(user_state_bytes=0)
    users, answers = ("u1", "u2", "u3"), []

    def rank(seed: int) -> None:
        for n in range(20):
            user = users[(seed + n) % 3]
            at = ranker._now()
            answer = ranker.rank(ask(user, mode=("full", "router")[n % 2], time_ms=at, explain=False))
            answers.append((user, at, ("full", "router")[n % 2], shown(answer)))

    def append() -> None:
        for n in range(20):
            ranker.clock_ms[0] += 1
            ranker.append(one_event(users[n % 3], f"i{n}", "click", ranker.clock_ms[0]))
            ranker.upsert_items({"item": [f"unrelated {n}"], "genre": ["noir"], "title": ["x"]})

    in_threads(lambda: rank(0), lambda: rank(1), append)
    counts = ranker.states.counts()
    assert counts["hits"] + counts["extends"] > 0, "the cache was used"
    for user, at, mode, found in answers:
        expected = shown(plain.rank(ask(user, mode=mode, time_ms=at)))
        assert [f[:2] for f in found] == [e[:2] for e in expected]
        assert [f[2] for f in found] == pytest.approx([e[2] for e in expected], rel=1e-4)
