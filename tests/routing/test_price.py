"""The price: bisection meets a target cost, and the controller follows load without oscillating."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.routing import PriceController
from depthrank.routing.price import bisect_price, choices_at, mean_cost_at, price_range


def options(requests: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gains that grow with cost, less and less, and differ by request."""
    rng = np.random.default_rng(seed)
    cost_RJ = np.tile([1.0, 2, 4, 8, 16, 32], (requests, 1))
    worth_R = rng.lognormal(0, 1.5, requests)[:, None]
    return worth_R * (1 - np.exp(-(cost_RJ - 1) / 6)), cost_RJ


@given(st.floats(1.1, 31.0))
def test_bisection_finds_the_lowest_price_within_the_target(target):
    gain_RJ, cost_RJ = options()
    price = bisect_price(target, gain_RJ, cost_RJ)
    assert mean_cost_at(price, gain_RJ, cost_RJ) <= target
    assert price == 0 or mean_cost_at(price * 0.99, gain_RJ, cost_RJ) >= mean_cost_at(price, gain_RJ, cost_RJ)
    assert mean_cost_at(price, gain_RJ, cost_RJ) > 0.9 * target or target < 1.3


def test_without_pressure_the_price_is_nothing_and_an_impossible_target_gives_the_first_rungs():
    gain_RJ, cost_RJ = options()
    assert bisect_price(32.0, gain_RJ, cost_RJ) == 0.0
    assert (choices_at(bisect_price(0.5, gain_RJ, cost_RJ), gain_RJ, cost_RJ) == 0).all()


def test_a_mean_cost_never_rises_with_the_price():
    gain_RJ, cost_RJ = options()
    low, high = price_range(gain_RJ, cost_RJ)
    means = [mean_cost_at(p, gain_RJ, cost_RJ) for p in np.geomspace(low, high, 40)]
    assert means == sorted(means, reverse=True) and means[0] > 31 and means[-1] == 1.0


def simulate(loads: list[float], *, step: float = 0.5, seed: int = 0) -> tuple[list[float], list[float]]:
    """Requests a second by interval -> load over capacity and price by interval; 250 ms intervals, 1,000 ms/s."""
    gain_RJ, cost_RJ = options(seed=seed)
    low, high = price_range(gain_RJ, cost_RJ)
    controller = PriceController(low, low, high, 1_000.0, step=step)
    rng = np.random.default_rng(seed)
    used, prices = [], []
    for rate in loads:
        arrived = rng.poisson(rate * 0.25)
        rows = rng.integers(0, len(gain_RJ), arrived)
        choice = choices_at(controller.price, gain_RJ[rows], cost_RJ[rows])
        admitted = float(np.take_along_axis(cost_RJ[rows], choice[:, None], 1).sum())
        used.append(admitted / 250.0)
        prices.append(controller.update(admitted, 0.25))
    return used, prices


@pytest.mark.parametrize("rate", [60, 120, 300])
def test_after_a_step_in_load_the_cost_comes_to_its_target_and_stays(rate):
    used, prices = simulate([20.0] * 40 + [float(rate)] * 120)
    settled, late = used[80:], np.log(prices[100:])
    assert np.mean(settled) == pytest.approx(0.85, abs=0.08)
    assert late.std() < 0.35, "the price stays where it is"
    steps = np.diff(np.log(prices[100:]))
    assert np.corrcoef(steps[:-1], steps[1:])[0, 1] > -0.75, "it does not swing to and fro"
    reached = next(i for i, u in enumerate(used[40:]) if u < 1.0)
    assert reached <= 20, "within five seconds"


def test_a_controller_that_steps_too_far_does_swing():
    _, prices = simulate([20.0] * 40 + [120.0] * 120, step=6.0)
    assert np.log(prices[100:]).std() > 0.35


def test_when_load_falls_the_price_comes_down_at_once():
    used, prices = simulate([300.0] * 80 + [5.0] * 60)
    assert prices[79] > 10 * prices[-1]
    assert np.mean(used[-20:]) == pytest.approx(5 * 32 / 1000, rel=0.5), "full depth again"


def test_a_clock_that_stands_still_or_jumps_back_changes_nothing():
    controller = PriceController(1.0, 0.1, 10.0, 1_000.0)
    for seconds in (0.0, -5.0, math.nan, math.inf):
        assert controller.update(1e9, seconds) == 1.0
    assert controller.update(math.nan, 1.0) == 1.0
    assert controller.update(1e9, 1.0) > 1.0


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (1.0, math.inf)])
def test_bounds_that_are_none_are_refused(bounds):
    with pytest.raises(ValueError, match="expected 0 < low <= high"):
        PriceController(1.0, *bounds, 1_000.0)


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(-1, 100)), max_size=40))
def test_the_price_stays_within_its_bounds(updates):
    controller = PriceController(1.0, 0.01, 100.0, 1_000.0)
    for admitted, seconds in updates:
        assert 0.01 <= controller.update(admitted, seconds) <= 100.0
