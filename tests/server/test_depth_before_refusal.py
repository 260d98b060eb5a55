"""Depth gives way before anybody is refused, for all who wait alike; and requests start together where that pays."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_load import Outcome, Simulation, after, share

from depthrank.routing import CostRates, Line
from depthrank.routing.economy import Economy
from depthrank.schema.request import Spent
from depthrank.server.admission.claim import Claim, Forecast
from depthrank.server.admission.forecasts import Forecasts
from depthrank.server.admission.lane_queue import PLANNED, LaneQueue
from depthrank.server.admission.settings import AdmissionSettings
from depthrank.server.admission.together import companions

RATES = CostRates(*[(Line(3.0, 0.0, 0.0), Line(1.0, 0.001, 0.0), Line(4.0, 0.128, 0.0))] * 2)
"""The router takes 5.3 ms with what comes beside it, full depth 137 ms, at 1,000 candidates."""
PRICES = tuple((10.0 ** (k / 4), max(0.03, (1 - (k + 8) / 17) ** 1.5)) for k in range(-8, 9))
POLICY = Economy(RATES, 2, default_price=1e-2, prices=PRICES)
BUDGETS = Economy(RATES, 2)
CAPACITY = 1_000 / 137


def unsteady(rng: random.Random) -> float:
    return rng.lognormvariate(0.05, 0.3)


def loaded(times: float, economy: Economy, **options: Any) -> tuple[Simulation, list[Outcome]]:
    options = {"deadline_ms": 400.0, "speed": 0.85, "error": unsteady, **options}
    simulation = Simulation(economy=economy, **options)
    return simulation, after(simulation.run(lambda _: CAPACITY * times, 20), 7)


@pytest.mark.parametrize("economy", [POLICY, BUDGETS], ids=["fitted policy", "budgets only"])
@pytest.mark.parametrize("times", [2, 7, 10])
def test_with_costs_that_vary_all_are_served_in_time_and_the_room_is_used(times: float, economy: Economy) -> None:
    _, outcomes = loaded(times, economy)
    assert share(outcomes, lambda o: o.in_time) > 0.995
    mean = sum(outcome.depth for outcome in outcomes) / len(outcomes)
    assert mean > 0.7 * 0.75 * 0.85 / times, "answers without depth do not make depth look dear"


@pytest.mark.parametrize("gate", ["deadline", "concurrency"])
def test_a_gate_refuses_only_where_whoever_starts_next_gets_no_depth(gate: str) -> None:
    error = unsteady if gate == "deadline" else lambda rng: 2.5
    simulation = Simulation(economy=POLICY, deadline_ms=400.0, error=error)
    desk, depths_ms = simulation.desk, list[float]()
    refuse = desk._refused

    def noting(claim: Claim, by: Any, *rest: Any) -> Any:
        lane = desk.lanes[0]
        if by == gate and lane.waiting:
            first, limit_s = lane.waiting[0], desk.guard.limit_ms / 1e3
            wanted_ms = desk.terms._wanted_now_ms
            part = lane.depth_share(first, lane.free_s(rest[-1]), wanted_ms, limit_s)
            depths_ms.append(part * max(0.0, wanted_ms(first) - first.floor_ms))
        return refuse(claim, by, *rest)

    desk._refused = noting  # type: ignore[method-assign]
    simulation.run(lambda _: CAPACITY * 60, 3)
    assert depths_ms, "the control: it did refuse"
    assert max(depths_ms) == 0.0


@pytest.mark.parametrize(("dear", "mode"), [(1.0, "adaptive"), (4.0, "adaptive"), (9_500.0, "router")])
def test_the_policy_is_asked_where_depth_costs_more_than_asking(dear: float, mode: str) -> None:
    desk = Simulation(economy=POLICY, deadline_ms=400.0).desk
    assert POLICY.default_price is not None
    one = claim(0, 10.0)
    one.price = dear * POLICY.default_price
    assert desk.terms.of(one, desk.lanes[0], 0.0).mode == mode
    assert (desk.terms.wanted_ms(one, "adaptive") < 1.1 * one.forecast.router_ms) == (mode == "router")


def claim(number: int, latest_s: float, version: str = "m", mode: Any = "adaptive", wanted_ms: float = 20.0) -> Claim:
    made = Claim(
        user=f"u{number}",
        version=version,
        priority="normal",
        mode=mode,
        num_candidates=1_000,
        arrived_s=0.0,
        deadline_s=latest_s + 0.003,
        latest_s=latest_s,
        has_deadline=True,
        forecast=Forecast(5.0, 137.0),
        floor_ms=5.0,
        wanted_ms=wanted_ms,
        cohort=0.5,
    )
    made.number = number
    return made


def lane_of(*waiting: Claim) -> LaneQueue:
    lane = LaneQueue(0, speed=1.0)
    for one in waiting:
        lane.put(one)
    return lane


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(5, 200)), min_size=1, max_size=8))
def test_shared_depth_fits_into_the_planned_part_of_everybodys_time(some: list[tuple[float, float]]) -> None:
    claims = sorted((claim(k, at, wanted_ms=ms) for k, (at, ms) in enumerate(some)), key=lambda one: one.order)
    first, lane = claims[0], lane_of(*claims[1:])
    part = lane.depth_share(first, 0.0, lambda one: one.wanted_ms)
    assert 0 <= part <= 1
    end_s, floors_s = 0.0, 0.0
    for one in claims:
        floors_s += one.floor_ms / 1e3
        end_s += (one.floor_ms + part * (one.wanted_ms - one.floor_ms)) / 1e3
        if part > 0 and floors_s <= one.latest_s and one.wanted_ms > one.floor_ms:
            assert end_s <= PLANNED * one.latest_s + 1e-9
    assert lane.depth_share(first, 0.0, lambda one: one.wanted_ms, most_s=0.0) in (0.0, 1.0)


def wanted(one: Claim) -> float:
    return one.wanted_ms


def together(*claims: Claim, most: int = 4, economy: Economy = POLICY) -> int:
    return len(companions(lane_of(*claims[1:]), claims[0], 0.0, most, economy, wanted).claims)


def test_narrow_requests_start_together_and_wide_ones_alone() -> None:
    narrow = [claim(k, 0.4, wanted_ms=5 + 6) for k in range(6)]
    assert together(*narrow) == 4
    assert together(*narrow, most=1) == 1, "off by a setting"
    assert together(*(claim(k, 0.4, wanted_ms=130) for k in range(6))) == 1
    assert together(*(claim(k, 0.4, wanted_ms=5) for k in range(6))) == 1, "without depth there is nothing to share"


def test_only_requests_of_one_version_that_may_be_narrowed_start_together() -> None:
    first = claim(0, 0.4, wanted_ms=11)
    assert together(first, claim(1, 0.4, wanted_ms=11), claim(2, 0.4, "other", wanted_ms=11)) == 2
    assert together(first, claim(1, 0.4, mode="full", wanted_ms=11)) == 1


def test_one_whose_deadline_the_others_would_cost_starts_alone_and_so_do_others_before_it() -> None:
    first, second = claim(0, 0.4, wanted_ms=11), claim(1, 0.4, wanted_ms=11)
    assert together(first, second, claim(2, 0.4, wanted_ms=11)) == 3
    assert together(claim(0, 0.012, wanted_ms=11), second) == 1, "the first would be late"
    assert together(first, second, claim(9, 0.401, "other"), economy=POLICY) == 2
    relaxed, squeezed = ([claim(k, 0.402, "other") for k in range(number)] for number in (60, 72))
    assert together(first, second, *relaxed) == 2
    assert together(first, second, *squeezed) == 1, "those behind could not be served any more"


def test_in_a_simulation_requests_start_together_under_load_and_alone_without() -> None:
    simulation, outcomes = loaded(8, POLICY)
    assert max(simulation.starts) > 1 and share(outcomes, lambda o: o.in_time) > 0.995
    off, _ = loaded(8, POLICY, settings=AdmissionSettings(requests_together=1))
    assert set(off.starts) == {1}


@given(st.floats(0.0, 1.0))
def test_the_price_of_a_cost_is_the_inverse_of_the_cost_at_a_price(cost: float) -> None:
    costs = [known for _, known in PRICES]
    within = min(max(cost, min(costs)), max(costs))
    assert POLICY.cost_at(POLICY.price_at(cost)) == pytest.approx(within, abs=1e-6)


def test_depth_that_costs_twice_what_replay_said_is_planned_for_so() -> None:
    forecasts = Forecasts()
    forecasts.tell("m", POLICY)
    price = PRICES[8][0]
    before = forecasts.wanted_ms("m", Forecast(5.0, 137.0), price)
    for number in range(200):
        one = claim(number, 1.0)
        one.price, one.lane = price, 0
        took_ms = 5.0 + 2 * (before - 5.0)
        forecasts.learn(one, Spent(took_ms, before, 0, True), took_ms)
    after_all = forecasts.wanted_ms("m", Forecast(5.0, 137.0), price)
    assert after_all - 5.0 == pytest.approx(2 * (before - 5.0), rel=0.02)
    assert forecasts.price_at("m", Forecast(5.0, 137.0), after_all) == pytest.approx(price, rel=0.05)
    assert forecasts.price_at("m", Forecast(5.0, 137.0), 5.0) == PRICES[-1][0], "no depth: the highest price"
