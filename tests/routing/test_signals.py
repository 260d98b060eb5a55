"""Signals: finite for anything, the same for any order of candidates, and fast enough to be asked for every request."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import ArtifactError
from depthrank.routing import ScenarioEffects, Signals
from depthrank.routing.signals import NAMES, RANKS, signals_of

anything = st.sampled_from([0.0, 1e-320, 1e-9, 0.2, 0.2, 0.9, 7.0, 1e300, np.inf, -np.inf, np.nan, -1.0])


@given(st.lists(anything, max_size=50), st.integers(1, 20), st.integers(-5, 10**6), st.integers(-(10**15), 10**15))
def test_signals_are_finite_whatever_the_values_and_survive_json(values, top, history, time_ms):
    found = signals_of(np.array(values), top, history_length=history, time_ms=time_ms)
    assert len(found.general) == len(NAMES) and len(found.fall) == len(RANKS)
    assert np.isfinite([*found.general, *found.fall, found.request_value]).all()
    assert list(found.fall) == sorted(found.fall)
    assert Signals.from_plain(json.loads(json.dumps(found.to_plain()))) == found


def test_signals_do_not_depend_on_the_order_or_the_unit_of_values_but_for_the_level():
    values = np.random.default_rng(0).lognormal(-3, 1, 300)
    same, scaled = (signals_of(v, 10, history_length=5, time_ms=0) for v in (values[::-1], values * 1_000))
    found = signals_of(values, 10, history_length=5, time_ms=0)
    assert same == found
    differing = [n for n, a, b in zip(NAMES, found.general, scaled.general, strict=True) if abs(a - b) > 1e-9]
    assert differing == ["log_top_value"] and scaled.fall == pytest.approx(found.fall)


def test_gaps_fall_and_hours_are_what_they_say():
    found = signals_of(np.array([8.0, 4.0, 2.0, 1.0]), 2, history_length=0, time_ms=(24 * 3 + 5) * 3_600_000)
    by_name = dict(zip(NAMES, found.general, strict=True))
    assert by_name["gap_1_to_2"] == pytest.approx(np.log(2)) and by_name["gap_top_to_2top"] == pytest.approx(np.log(4))
    assert (by_name["hour"], by_name["weekday"]) == (5.0, 6.0), "1970-01-04 was a Sunday"
    assert found.fall_at(np.array([1.0, 2.0, 4.0, 10_000.0])) == pytest.approx(np.log([1, 2, 8, 8]))
    assert found.request_value == pytest.approx(8 + 4 / np.log2(3))


def test_scenarios_add_up_and_unknown_values_have_no_effect():
    effects = ScenarioEffects({"device": {"ios": 0.5}, "page": {"1": -0.2}})
    assert effects.of({"device": "ios", "page": 1}) == pytest.approx(0.3)
    assert effects.of({"device": ["x"], "other": None}) == effects.of({}) == 0.0
    assert ScenarioEffects.from_plain(effects.to_plain()) == effects
    with pytest.raises(ArtifactError):
        ScenarioEffects.from_plain({"device": {"ios": float("nan")}})
