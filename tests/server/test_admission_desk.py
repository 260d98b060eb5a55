"""Decisions of the desk under simulated load: minutes and hours on a made-up clock."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_load import FITTED, UNFITTED, Outcome, Simulation, after, share

from depthrank.schema.request import Priority
from depthrank.server.admission.claim import PRIORITIES
from depthrank.server.admission.cohorts import HOUR_MS, cohort_of, shares_to_shed
from depthrank.server.admission.guard import ConcurrencyGuard
from depthrank.server.admission.pricing import Pricing
from depthrank.server.admission.settings import AdmissionSettings, Gates

CAPACITY = 1_000 / 50.8  # requests a second at full depth
NO_ANSWER_UNSCORED = AdmissionSettings(gates=Gates(input_order="off"))


def mixed(rng: random.Random) -> Priority:
    return rng.choices(PRIORITIES, (0.2, 0.5, 0.3))[0]


def served(outcome: Outcome) -> bool:
    return outcome.what == "served"


def in_time(outcome: Outcome) -> bool:
    return outcome.in_time


def depth_of(outcomes: list[Outcome]) -> float:
    return sum(outcome.depth for outcome in outcomes) / len(outcomes)


def steady(times: float, seconds: float = 30, **options: Any) -> tuple[Simulation, list[Outcome]]:
    simulation = Simulation(**options)
    outcomes = after(simulation.run(lambda _: CAPACITY * times, seconds), seconds / 3)
    assert not simulation.misfits
    return simulation, outcomes


@pytest.mark.parametrize("economy", [FITTED, UNFITTED], ids=["fitted policy", "budgets only"])
@pytest.mark.parametrize("times", [0.5, 1, 2, 4, 10])
def test_up_to_ten_times_the_capacity_all_are_served_in_time_and_only_depth_falls(times: float, economy: Any) -> None:
    _, outcomes = steady(times, economy=economy)
    assert share(outcomes, in_time) > 0.995
    assert depth_of(outcomes) > 0.6 * min(1.0, 1 / times)
    assert depth_of(outcomes) <= min(1.0, 1.02 / times)


def test_beyond_what_the_router_can_serve_as_many_as_fit_are_served_in_time() -> None:
    _, outcomes = steady(60, 15)
    fits = 1 / (60 * 1.8 / 50.8)
    assert share(outcomes, in_time) > 0.8 * fits
    assert share(outcomes, served) <= share(outcomes, in_time) + 0.002, "whoever is let in is in time"
    assert share(outcomes, lambda o: o.what == "late") == 0


def test_without_answers_in_input_order_the_rest_is_refused_and_told_when_to_come_back() -> None:
    simulation, outcomes = steady(60, 6, settings=NO_ANSWER_UNSCORED)
    assert share(outcomes, lambda o: o.what == "refused") > 0.3
    assert not any(what == "degraded" for (gate, what, _) in simulation.desk.counts.acted if gate == "input_order")


def test_low_priority_goes_first_and_high_last() -> None:
    _, outcomes = steady(40, 15, priority=mixed)
    shares = {p: share([o for o in outcomes if o.priority == p], served) for p in PRIORITIES}
    assert shares["high"] > 0.99 and shares["high"] >= shares["normal"] >= shares["low"]
    assert shares["low"] < 0.3, "the control: somebody did go without"


def test_in_a_lasting_overload_the_same_users_go_without_and_in_the_next_hour_others() -> None:
    _, outcomes = steady(40, 15)
    by_user: dict[str, list[bool]] = {}
    for outcome in outcomes:
        by_user.setdefault(outcome.user, []).append(served(outcome))
    spoilt = [sum(seen) / len(seen) for seen in by_user.values() if len(seen) >= 8]
    assert sum(0.2 < one < 0.8 for one in spoilt) < 0.25 * len(spoilt), "most users are served or not, not half"
    first, second = ({u for u in by_user if cohort_of(u, hour * HOUR_MS) < 0.2} for hour in (0, 1))
    assert len(first & second) < 0.5 * len(first)


def test_a_surge_is_ridden_out_and_forgotten() -> None:
    """A minute at four times the capacity amid an hour at a third of it."""

    def rate(at_s: float) -> float:
        return CAPACITY * (4 if 1_800 <= at_s < 1_860 else 0.33)

    outcomes = Simulation().run(rate, 3_600)
    surge = [o for o in outcomes if 1_800 <= o.at_s < 1_860]
    assert share(outcomes, in_time) > 0.999 and share(surge, in_time) > 0.99
    calm = after(outcomes, 1_875)
    assert depth_of(calm) > 0.9, "no wind-up: soon after the surge depth is what it was"
    assert calm[-1].price == pytest.approx(1e-4)


@pytest.mark.parametrize("speed", [0.4, 0.7])
def test_an_engine_that_shares_its_core_is_given_less(speed: float) -> None:
    simulation, outcomes = steady(4, speed=speed)
    assert share(outcomes, in_time) > 0.95
    assert simulation.desk.lanes[0].speed == pytest.approx(speed, abs=0.02)


def test_costs_that_vary_and_are_misjudged_cost_depth_not_deadlines() -> None:
    _, outcomes = steady(3, 60, error=lambda rng: rng.lognormvariate(0.2, 0.3))
    assert share(outcomes, in_time) > 0.97


def test_where_the_router_itself_takes_three_times_as_long_as_believed_less_is_let_in() -> None:
    _, outcomes = steady(30, 20, error=lambda _: 3.0)
    assert share([o for o in outcomes if served(o)], in_time) > 0.85
    open_door = AdmissionSettings(gates=Gates(deadline="off", concurrency="off", cohorts="off"))
    _, control = steady(30, 3, error=lambda _: 3.0, settings=open_door)
    assert share(control, in_time) < share(outcomes, in_time)


def test_several_engines_carry_several_times_as_much() -> None:
    simulation, outcomes = steady(20, 20, lanes=2)
    assert share(outcomes, in_time) > 0.995
    work = [sum(o.depth for o in outcomes)]
    assert work[0] > 0 and all(lane.speed > 0.5 for lane in simulation.desk.lanes)


def test_full_mode_is_narrowed_only_where_full_depth_does_not_fit() -> None:
    _, calm = steady(0.2, mode="full")
    assert share(calm, lambda o: o.depth > 0.99) > 0.75
    simulation, busy = steady(4, mode="full")
    assert share(busy, in_time) > 0.97 and depth_of(busy) < 0.4
    assert any(gate == "full" and what == "degraded" for (gate, what, _) in simulation.desk.counts.acted)


def test_with_its_gate_off_full_mode_is_full_or_nothing() -> None:
    kept = AdmissionSettings(gates=Gates(full="off", input_order="off", share="off"))
    _, outcomes = steady(3, mode="full", settings=kept)
    assert all(o.depth > 0.99 for o in outcomes if served(o))
    assert share(outcomes, lambda o: o.what == "refused") > 0.4


def test_a_dry_run_says_what_it_would_have_done_and_does_nothing() -> None:
    dry = AdmissionSettings(gates=Gates(deadline="dry-run", concurrency="dry-run", cohorts="dry-run", share="dry-run"))
    simulation = Simulation(settings=dry)
    outcomes = simulation.run(lambda _: CAPACITY * 30, 4)
    acted = simulation.desk.counts.acted
    assert {what for (gate, what, _) in acted if gate == "deadline"} == {"would_have_refused"}
    assert {what for (gate, what, _) in acted if gate == "share"} == {"would_have_degraded"}
    assert not any(o.what in ("refused", "input_order") for o in outcomes)
    off = Simulation(settings=AdmissionSettings(gates=Gates(*[], **dict.fromkeys(Gates.__struct_fields__, "off"))))
    off.run(lambda _: CAPACITY * 30, 1)
    assert not off.desk.counts.acted


@settings(max_examples=20)
@given(
    times=st.floats(0.2, 60),
    lanes=st.integers(1, 3),
    deadline_ms=st.floats(5, 400),
    speed=st.floats(0.2, 1.0),
    seed=st.integers(0, 1_000),
)
def test_whatever_the_load_nobody_is_let_in_who_cannot_make_it_and_no_high_one_is_refused_before_a_low_one(
    times: float, lanes: int, deadline_ms: float, speed: float, seed: int
) -> None:
    """``Simulation`` checks both at every arrival."""
    simulation = Simulation(lanes=lanes, deadline_ms=deadline_ms, speed=speed, seed=seed, priority=mixed)
    outcomes = simulation.run(lambda _: CAPACITY * times, 1.5)
    assert not simulation.misfits
    assert all(lane.waiting == [] and lane.running == [] for lane in simulation.desk.lanes)
    assert simulation.desk.running == simulation.desk.waiting == 0
    assert len(outcomes) >= 0


@settings(max_examples=50)
@given(a=st.floats(0, 5), b=st.floats(0, 5))
def test_the_price_is_monotone_in_the_load(a: float, b: float) -> None:
    low, high = sorted((a, b))
    prices = []
    for load in (low, high):
        pricing = Pricing(0.85, 0.25)
        pricing.know("m", FITTED, 1_000)
        for step in range(1, 40):
            pricing.admitted(load * 250)
            pricing.tick(step * 0.25, 1_000)
        prices.append(pricing.of("m"))
    assert prices[0] is not None and prices[1] is not None and prices[0] <= prices[1]


def test_a_long_overload_does_not_wind_the_price_up() -> None:
    pricing = Pricing(0.85, 0.25)
    pricing.know("m", FITTED, 1_000)
    at_s = 0.0
    for load, minutes in ((50.0, 600), (0.2, 1)):
        for _ in range(int(minutes * 60 / 0.25)):
            at_s += 0.25
            pricing.admitted(load * 250)
            pricing.tick(at_s, 1_000)
        if load > 1:
            assert pricing.of("m") == pytest.approx(FITTED.prices[-1][0])
    assert pricing.dearness("m") == 1.0


def test_a_clock_that_jumps_moves_no_price() -> None:
    pricing = Pricing(0.85, 0.25)
    pricing.know("m", FITTED, 1_000)
    for now_s in (100.0, 50.0, 50.0, 40.0):
        pricing.admitted(1e6)
        pricing.tick(now_s, 1_000)
    assert pricing.dearness("m") == 1.0


@given(st.lists(st.floats(0, 1e4), min_size=3, max_size=3), st.floats(0, 2e4))
def test_what_is_shed_is_what_does_not_fit_from_below(work: list[float], room: float) -> None:
    shares = shares_to_shed(dict(zip(PRIORITIES, work, strict=True)), room)
    kept = sum(w * (1 - shares[p]) for p, w in zip(PRIORITIES, work, strict=True))
    assert kept == pytest.approx(min(sum(work), room), rel=1e-9, abs=1e-6)
    for upper, lower, amount in zip(PRIORITIES, PRIORITIES[1:], work[1:], strict=False):
        assert shares[upper] == 0 or amount == 0 or shares[lower] == pytest.approx(1.0)


def test_the_guard_closes_at_late_answers_once_a_burst_and_opens_again() -> None:
    guard = ConcurrencyGuard(10_000, 10, 10_000)
    guard.observed(late=True, backlog_ms=5, now_s=0.0)
    assert guard.limit_ms == 10_000, "nobody waited before it"
    for _ in range(50):
        guard.observed(late=True, backlog_ms=200, now_s=1.0)
    assert guard.limit_ms == pytest.approx(170) and not guard.allows(180)
    for step in range(100):
        guard.observed(late=True, backlog_ms=200, now_s=2.0 + step)
    assert guard.limit_ms == 10
    for _ in range(100):
        guard.observed(late=False, backlog_ms=guard.limit_ms, now_s=200.0)
    assert guard.limit_ms == pytest.approx(20), "slowly, while as much waits"
    for _ in range(500):
        guard.observed(late=False, backlog_ms=0, now_s=200.0)
    assert guard.limit_ms == 10_000
