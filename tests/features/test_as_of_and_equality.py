"""The promises between training and serving, over random arrivals: as of a time, and bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from feature_world import HOUR_MS, START_MS, Requests, World, assert_same_bits, event_batch
from hypothesis import HealthCheck, given, settings
from strategies_of_events import arrivals, requests

from depthrank.events import EventBatch, EventLog
from depthrank.features import Counters

MakeLog = Callable[[list[tuple[str, str, str, int, int]]], EventLog]
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def world() -> World:
    return World.make()


@pytest.fixture
def make_log(tmp_path: Path) -> Iterator[MakeLog]:
    """Opens a log with the events in this order of arrival."""
    numbers, opened = itertools.count(), []

    def make(events: list[tuple[str, str, str, int, int]]) -> EventLog:
        while opened:
            opened.pop().close()
        log = EventLog.open(f"lmdb:{tmp_path / str(next(numbers))}", durable=False)
        opened.append(log)
        log.import_events(event_batch(events))
        return log

    yield make
    for log in opened:
        log.close()


def encoded(world: World, log: EventLog, asked: Requests) -> list[object]:
    counters = world.counters(log)
    return [
        world.requests(asked, counters),
        world.candidates(asked, counters),
        world.history(asked, log, world.codes(log)),
    ]


@few
@given(events=arrivals(), asked=requests(max_requests=1))
def test_no_event_outside_as_of_t_changes_what_is_encoded(
    world: World, make_log: MakeLog, events: list[tuple[str, str, str, int, int]], asked: Requests
) -> None:
    t = int(asked.time_ms[0])
    visible = [e for e in events if e[3] < t and e[4] <= t]
    everything = encoded(world, make_log(events), asked)
    for all_events, only_visible in zip(everything, encoded(world, make_log(visible), asked)):
        assert_same_bits(all_events, only_visible)


def test_an_event_that_was_visible_does_change_what_is_encoded(world: World, make_log: MakeLog) -> None:
    t = START_MS + 5 * HOUR_MS
    asked = Requests(["u1"], np.array([t]), {}, ["a"], np.zeros(1, np.int64), {})
    visible = ("u1", "a", "click", t - 2 * HOUR_MS, t - 2 * HOUR_MS)
    late = (*visible[:4], t + 1)
    with_it, without, with_late = (encoded(world, make_log(e), asked) for e in ([visible], [], [late]))
    for seen, unseen, too_late in zip(with_it, without, with_late):
        with pytest.raises(AssertionError):
            assert_same_bits(seen, unseen)
        assert_same_bits(unseen, too_late)


@few
@given(events=arrivals(), asked=requests(min_requests=2, max_requests=8))
def test_a_training_batch_equals_its_requests_served_one_by_one_bit_for_bit(
    world: World, make_log: MakeLog, events: list[tuple[str, str, str, int, int]], asked: Requests
) -> None:
    log = make_log(events)
    counters, codes = world.counters(log), world.codes(log)
    batch = world.requests(asked, counters), world.candidates(asked, counters), world.history(asked, log, codes)
    fresh = world.counters(log)  # serving has its own process, hence its own snapshots
    for r in range(len(asked.users)):
        one = asked.one(r)
        assert_same_bits(world.requests(one, fresh), batch[0], slice(r, r + 1))
        assert_same_bits(world.candidates(one, fresh), batch[1], asked.request_of_candidate == r)
        assert_same_bits(world.history(one, log, codes), batch[2], slice(r, r + 1))


@few
@given(events=arrivals(), asked=requests(max_requests=8))
def test_counters_fed_live_equal_counters_rebuilt_from_the_log(
    world: World, tmp_path: Path, make_log: MakeLog, events: list[tuple[str, str, str, int, int]], asked: Requests
) -> None:
    events = sorted(events, key=lambda e: e[4])  # arrival is the clock of a live log
    log = make_log(events)
    live = Counters(world.spec, world.items, world.users)
    for batch in log.scan():
        for i in range(len(batch)):
            live.append(batch[i : i + 1])
            world.candidates(asked, live)  # snapshots taken in between must not outlive what changes them
            live.append(batch[i : i + 1])  # told twice, counted once
    rebuilt = world.counters(log)
    assert live.log_position == rebuilt.log_position
    for counters in (live, Counters.load(saved_halfway(world, log, tmp_path), world.spec, world.items, world.users)):
        counters.catch_up(log)
        assert_same_bits(world.candidates(asked, counters), world.candidates(asked, rebuilt))
        assert_same_bits(world.requests(asked, counters), world.requests(asked, rebuilt))


def saved_halfway(world: World, log: EventLog, folder: Path) -> Path:
    """Counters of the first half of a log, saved."""
    half = Counters.rebuild(world.spec, log, world.items, world.users, until=log.position() // 2)
    half.save(folder / "counters")
    return folder / "counters"


def test_a_served_request_is_the_same_after_more_events_arrived(world: World, make_log: MakeLog) -> None:
    t = START_MS + 5 * HOUR_MS
    log = make_log([("u1", "a", "click", START_MS, START_MS), ("u2", "b", "like", START_MS + 1, START_MS + 1)])
    asked = Requests(["u1"], np.array([t]), {"device": ["ios"]}, ["a", "b"], np.zeros(2, np.int64), {"bid": [1, None]})
    before = encoded(world, log, asked)
    late = event_batch([("u1", "b", "click", START_MS + 5, t + 5), ("u1", "a", "like", t, t)])
    log.import_events(late)
    for then, now in zip(before, encoded(world, log, asked)):
        assert_same_bits(then, now)


def test_two_actions_on_one_item_at_one_time_are_one_token_with_two_bits(world: World, make_log: MakeLog) -> None:
    t = START_MS
    log = make_log([("u1", "a", "click", t, t), ("u1", "a", "like", t, t), ("u1", "b", "like", t, t)])
    asked = Requests(["u1"], np.array([t + 9_000]), {}, [], np.zeros(0, np.int64), {})
    history = world.history(asked, log, world.codes(log))
    assert history.length.tolist() == [2]
    assert history.rows[0].tolist() == [1, 2, 0, 0, 0]
    assert history.actions[0].tolist() == [0b11, 0b10, 0, 0, 0]
    assert history.ages[0].tolist() == [4, 4, 0, 0, 0]


def test_appending_without_an_arrival_time_is_a_programmers_mistake(world: World) -> None:
    with pytest.raises(AssertionError, match="appended_ms"):
        Counters(world.spec, world.items, world.users).append(EventBatch(["u"], ["a"], ["click"], np.array([1])))
