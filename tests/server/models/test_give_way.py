"""A thread that loads stands still while requests are under way."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest

from depthrank.server.models.give_way import LET_GO_S, LOOK_S, MOST_CROWDED_S, MOST_S, GiveWay


class Clock:
    """Every look at it takes a tenth of a millisecond; ``slept``: how long each sleep was."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        self.now_s += 1e-4
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept.append(seconds)


def some_calls(number: int = 200) -> int:
    return sum(len(str(n)) for n in range(number))


def in_a_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def run(busy: Callable[[], bool], work: Callable[[], object] = some_calls, crowded: bool = False) -> Clock:
    clock = Clock()
    in_a_thread(lambda: GiveWay(busy, 0, lambda: crowded, clock_s=clock, sleep=clock.sleep).run(work))
    return clock


def test_it_lets_go_of_the_lock_again_and_again_though_nobody_is_there() -> None:
    clock = run(lambda: False)
    assert len(clock.slept) > 10 and set(clock.slept) == {LET_GO_S}


def test_it_stands_still_for_as_long_as_a_request_is_under_way() -> None:
    looks = iter([True] * 4)
    clock = run(lambda: next(looks, False))
    assert clock.slept[:6] == [LET_GO_S, *[LOOK_S] * 4, LET_GO_S], "then it goes on"


def test_a_server_that_is_never_idle_loads_all_the_same() -> None:
    done: list[int] = []
    clock = run(lambda: True, lambda: done.append(some_calls(20)))
    assert done and clock.slept.count(LOOK_S) >= 0.8 * MOST_S / (LOOK_S + 1e-4)


def test_where_requests_wait_for_others_it_stands_still_for_longer() -> None:
    alone, crowded = (run(lambda: True, lambda: some_calls(20), crowded=c).slept.count(LOOK_S) for c in (False, True))
    assert crowded > 0.8 * MOST_CROWDED_S / MOST_S * alone > 0


def test_the_result_and_the_error_are_the_calls_own_and_nothing_is_left_behind() -> None:
    seen: list[object] = []

    def work() -> None:
        way = GiveWay(lambda: False, 0)
        seen.append(way.run(some_calls))
        with pytest.raises(ZeroDivisionError):
            way.run(lambda: 1 // 0)
        seen.append(sys.getprofile())

    in_a_thread(work)
    assert seen == [some_calls(), None]
