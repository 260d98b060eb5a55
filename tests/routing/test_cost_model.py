"""Costs are learned from timings, follow the machine, and survive outliers, idle dimensions and JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import ArtifactError
from depthrank.routing import USER, CostModel, CostRates, Line
from planted_requests import RATES


def observe_many(model: CostModel, line: Line, times: int, seed: int = 0, noise: float = 0.05) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(times):
        n, h = int(rng.integers(10, 1_000)), int(rng.integers(0, 100))
        model.observe(1, n, h, line.ms(n, h) * math.exp(noise * rng.standard_normal()), warm=True)


def test_predictions_come_within_a_tenth_of_a_line_that_is_observed_with_noise():
    model, line = CostModel.from_flops([(1e6, 1e3), (1e6, 1e5)], 100), Line(2.0, 0.011, 0.03)
    observe_many(model, line, 300)
    for n, h in ((16, 0), (200, 50), (950, 90)):
        assert model.predict_ms(1, n, h, warm=True) == pytest.approx(line.ms(n, h), rel=0.1)
    assert model.error_quantile(1, 0.9, warm=True) < 0.2
    assert math.isnan(model.error_quantile(1, 0.9)), "cold was never observed"


def test_a_machine_that_becomes_twice_as_slow_is_followed():
    model = CostModel(RATES)
    observe_many(model, Line(2.0, 0.01, 0.0), 200)
    observe_many(model, Line(4.0, 0.02, 0.0), 600, seed=1)
    assert model.predict_ms(1, 1_000, 50, warm=True) == pytest.approx(24.0, rel=0.15)


def test_one_preempted_thread_moves_a_prediction_by_little():
    model = CostModel(RATES)
    observe_many(model, Line(2.0, 0.01, 0.0), 200)
    before = model.predict_ms(1, 500, 50, warm=True)
    model.observe(1, 500, 50, 5_000.0, warm=True)
    assert model.predict_ms(1, 500, 50, warm=True) == pytest.approx(before, rel=0.1)


def test_a_first_user_without_history_says_nothing_of_what_an_event_takes():
    model = CostModel.from_flops([(5e8, 1e3), (1e6, 1e5)], 100)
    before = model.predict_ms(USER, 100, 50)
    model.observe(USER, 100, 0, 0.002)
    assert model.predict_ms(USER, 100, 50) == pytest.approx(before, rel=0.05)
    for _ in range(20):
        model.observe(USER, 100, 50, 4.0)
    assert model.predict_ms(USER, 100, 50) == pytest.approx(4.0, rel=0.1)


def test_where_nothing_varies_for_long_forgetting_does_not_wind_up():
    model = CostModel(RATES)
    for _ in range(5_000):
        model.observe(1, 100, 10, 3.0)
    model.observe(1, 100, 10, 3.3)
    assert model.predict_ms(1, 100, 10) == pytest.approx(3.0, rel=0.05)
    assert 0.0 <= model.predict_ms(1, 200, 10) < 10.0


@given(st.lists(st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e-9, 1.0, 1e6]), max_size=30))
def test_whatever_a_clock_says_predictions_stay_finite_and_not_negative(times):
    model = CostModel(RATES)
    for ms in times:
        model.observe(0, 100, 10, ms)
    assert 0.0 <= model.predict_ms(0, 100, 10) < math.inf
    assert model.num_observed(0) == sum(1 for ms in times if 0 < ms < math.inf)


def test_plans_at_once_cost_what_each_costs_alone_and_a_level_that_is_not_run_costs_nothing():
    caps = np.array([[300, 0], [300, 20], [300, 300]], dtype=np.float64)
    for warm in (False, True):
        assert RATES.plans_ms(caps, 40, warm=warm) == pytest.approx([RATES.plan_ms(c, 40, warm=warm) for c in caps])
    assert RATES.plan_ms((300, 0), 40) == pytest.approx(RATES.level_ms(USER, 0, 40) + RATES.level_ms(0, 300, 40))


@pytest.mark.parametrize("deadline", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_a_level_in_several_calls_pays_its_fixed_part_as_often_and_encoder_layers_once(warm, deadline):
    rates = CostRates(
        (Line(1.0, 0.0, 0.01), Line(0.1, 0.001, 0.0), Line(9.0, 0.01, 0.02)),
        (Line(0.5, 0.0, 0.0), Line(0.1, 0.001, 0.0), Line(2.0, 0.01, 0.0)),
    )
    caps = np.array([[5_000, 5_000], [5_000, 700], [5_000, 0]], dtype=np.float64)
    each = [rates.plan_ms(c, 50, warm=warm, deadline=deadline) for c in caps]
    assert rates.plans_ms(caps, 50, warm=warm, deadline=deadline) == pytest.approx(each)
    calls = 17 if deadline else 5  # of 300 candidates, so that it takes 5 ms, or of 1,024
    first = 2.0 if warm else 9.0 + 0.02 * 50
    assert each[0] - each[2] == pytest.approx(first + (calls - 1) * 2.0 + 5_000 * 0.01)


def test_a_call_under_a_deadline_is_half_work_at_least_fits_what_is_left_and_never_shrinks_to_nothing():
    slow = CostRates((Line(1, 0, 0),) * 3, (Line(1, 0, 0), Line(1, 0, 0), Line(8.0, 0.1, 0.0)))
    assert slow.call(1, 0) == 80
    assert slow.call(1, 0, left_ms=13.0) == 50
    assert slow.call(1, 0, left_ms=1.0) == 32


def test_a_neighbour_on_the_machine_is_seen_within_tens_of_requests_by_parts_that_did_not_run_too():
    model = CostModel(RATES)
    for _ in range(300):
        model.observe(1, 200, 20, 4.0, warm=True)
        model.observe(0, 500, 20, 1.0, warm=True)
    other = model.predict_ms(0, 500, 20, warm=True)
    for _ in range(40):
        predicted = model.predict_ms(1, 200, 20, warm=True)
        model.observe(1, 200, 20, 8.0, warm=True)
        model.follow(predicted, 8.0)
    assert model.predict_ms(1, 200, 20, warm=True) == pytest.approx(8.0, rel=0.1)
    assert model.predict_ms(0, 500, 20, warm=True) == pytest.approx(2 * other, rel=0.25)
    again = CostModel.from_plain(json.loads(json.dumps(model.to_plain())))
    assert again.predict_ms(0, 500, 20, warm=True) == pytest.approx(model.predict_ms(0, 500, 20, warm=True))


def test_what_was_measured_elsewhere_gives_way_to_some_dozens_of_measurements_here():
    elsewhere = CostModel(RATES)
    observe_many(elsewhere, Line(2.0, 0.01, 0.0), 400)
    firm, loose = CostModel.from_plain(elsewhere.to_plain()), elsewhere.reopened()
    assert loose.rates() == firm.rates()
    for model in (firm, loose):
        observe_many(model, Line(6.0, 0.01, 0.0), 60, seed=1)
    assert loose.predict_ms(1, 100, 50, warm=True) == pytest.approx(7.0, rel=0.1)
    assert abs(firm.predict_ms(1, 100, 50, warm=True) - 7.0) > abs(loose.predict_ms(1, 100, 50, warm=True) - 7.0)


def test_a_temperature_that_was_never_observed_borrows_from_the_other():
    model = CostModel(RATES)
    observe_many(model, Line(9.0, 0.5, 0.0), 50)
    assert model.rates().level_ms(1, 100, 0) == model.rates().level_ms(1, 100, 0, warm=True)
    assert model.rates().level_ms(USER, 1, 0) != model.rates().level_ms(USER, 1, 0, warm=True), "but not a user state"


def test_costs_survive_json_and_learn_on_as_before():
    model = CostModel(RATES)
    observe_many(model, Line(2.0, 0.01, 0.0), 40)
    again = CostModel.from_plain(json.loads(json.dumps(model.to_plain())))
    for each in (model, again):
        each.observe(1, 77, 7, 4.0, warm=True)
    assert again.rates() == model.rates()
    assert CostRates.from_plain(json.loads(json.dumps(RATES.to_plain()))) == RATES


@pytest.mark.parametrize(
    "change",
    [
        {"weight": [1.0, math.inf, 0.0]},
        {"weight": [1.0]},
        {"covariance": "none"},
        {"level": 10_000_000},
        {"observed": -1},
        {"level": True},
    ],
)
def test_hostile_costs_are_refused(change):
    plain = CostModel(RATES).to_plain()
    CostModel.from_plain(plain)
    plain["parts"][0] |= change
    with pytest.raises(ArtifactError):
        CostModel.from_plain(plain)
