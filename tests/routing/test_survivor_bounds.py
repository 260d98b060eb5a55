"""Survivors by bounds: nobody who could reach the top is dropped, the settled stop a request, no value is unsafe."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.errors import ArtifactError
from depthrank.routing.survivors import CONFIDENCES, LevelSpread, fit_spread, log_odds, survivors


def spread_of(low: float, high: float) -> LevelSpread:
    rows = len(CONFIDENCES)
    return LevelSpread(np.zeros(0), np.full((rows, 1), low), np.full((rows, 1), high))


def value_of(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 15), st.floats(0.01, 2.0))
def test_bounds_that_hold_never_lose_a_member_of_the_deeper_top(seed, top, width):
    rng = np.random.default_rng(seed)
    odds = rng.normal(-3, 1.5, 200)
    deeper = odds + rng.uniform(-width, width, 200)
    found = survivors(value_of(odds), top, 200, spread_of(-width, width), 0.9)
    wanted = np.argsort(-deeper)[:top]
    if found.kept.size:
        assert set(wanted.tolist()) <= set(found.kept.tolist())
        assert found.kept.size + found.num_dropped == 200
        assert (np.diff(value_of(odds)[found.kept]) <= 0).all(), "best first"
    else:
        assert np.argsort(-odds)[:top].tolist() == wanted.tolist(), "settled: the order of this level is the deeper one"


def test_a_wide_spread_drops_nobody_and_a_narrow_one_nearly_all():
    odds = np.linspace(2, -4, 100)
    assert survivors(value_of(odds), 10, 100, spread_of(-9, 9), 0.9).kept.size == 100
    narrow = survivors(value_of(odds), 10, 100, spread_of(-0.05, 0.05), 0.9)
    assert 10 <= narrow.kept.size <= 13 and "out of reach of the top 10" in narrow.reason


def test_when_order_and_members_are_certain_nothing_goes_deeper():
    found = survivors(value_of(np.array([3.0, 1.0, -1.0, -3.0])), 2, 4, spread_of(-0.1, 0.1), 0.9)
    assert not found.kept.size and found.num_settled == 2 and "settled" in found.reason


def test_settled_members_whose_order_is_open_go_on_with_everybody_who_could_pass_them():
    found = survivors(value_of(np.array([3.0, 2.95, -1.0, -3.0])), 2, 4, spread_of(-0.1, 0.1), 0.9)
    assert found.kept.tolist() == [0, 1] and found.num_settled == 2


def test_the_cap_comes_first_and_a_cap_below_the_top_settles_nothing():
    odds = np.array([9.0, 6.0, 3.0, 0.0])
    assert survivors(value_of(odds), 3, 2, spread_of(-0.1, 0.1), 0.9).kept.tolist() == [0, 1]
    assert survivors(value_of(odds), 3, 2, None, None).kept.tolist() == [0, 1]
    assert not survivors(value_of(odds), 3, 0, spread_of(-1, 1), 0.9).kept.size


def test_a_bid_can_lift_a_candidate_over_a_better_probability_and_bounds_know_it():
    probability, bid = np.array([0.5, 0.4, 0.01]), np.array([1.0, 1.0, 60.0])
    found = survivors(probability * bid, 1, 3, spread_of(-0.3, 0.3), 0.9, factor_N=bid)
    assert found.kept.tolist()[0] == 2 or not found.kept.size
    both = survivors(probability * bid, 1, 3, spread_of(-0.8, 0.8), 0.9, factor_N=bid)
    assert set(both.kept.tolist()) >= {0, 2}
    zero = survivors(probability * 0.0, 2, 3, spread_of(-1, 1), 0.9, factor_N=np.zeros(3))
    assert zero.kept.size in (0, 2, 3), "free candidates are no error"


@given(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e-300, 0.3, 1.0, 5.0]), max_size=30), st.integers(1, 9))
def test_values_that_are_no_numbers_never_go_before_those_that_are(values, cap):
    value_N = np.array(values, dtype=np.float64)
    found = survivors(value_N, 3, cap, spread_of(-1, 1), 0.95)
    finite = int(np.isfinite(value_N).sum())
    assert len(set(found.kept.tolist())) == found.kept.size <= min(cap, value_N.size)
    assert np.isfinite(value_N[found.kept][:finite]).all()


def test_spreads_are_learned_by_bucket_and_ascend_with_confidence():
    rng = np.random.default_rng(0)
    odds = rng.uniform(-6, 0, 8_000)
    spread = fit_spread(odds, rng.standard_normal(8_000) * np.where(odds > -3, 0.1, 1.0))
    low, high = spread.bounds(np.array([-5.5, -0.5]), 0.95)
    reach = (high - low).tolist()
    assert reach[0] == pytest.approx(3.29, rel=0.15) and reach[1] == pytest.approx(0.329, rel=0.15)
    assert (np.diff(spread.high_QB, axis=0) >= 0).all() and (np.diff(spread.low_QB, axis=0) <= 0).all()
    between = spread.bounds(np.array([-5.5]), 0.93)[1]
    assert spread.bounds(np.array([-5.5]), 0.9)[1] < between < spread.bounds(np.array([-5.5]), 0.95)[1]


def test_log_odds_of_anything_are_finite():
    odds = log_odds(np.array([0.0, 0.5, 1.0, 7.0, np.nan, np.inf, -1.0]), 1.0)
    assert np.isfinite(odds).all() and odds[1] == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [1.0, 0.0]},
        {"low": [[0.0]]},
        {"high": [[float("nan")]] * len(CONFIDENCES)},
        {"low": [[5.0]] * len(CONFIDENCES)},
        {"edges": list(range(100))},
    ],
)
def test_hostile_spreads_are_refused(change):
    plain = spread_of(-1, 1).to_plain()
    LevelSpread.from_plain(plain)
    with pytest.raises(ArtifactError):
        LevelSpread.from_plain(plain | change)
