"""Where numbers lie between knots, by a table: exactly what a search finds."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from depthrank.features.knot_places import FEW, Places

RNG = np.random.default_rng(0)
SHAPES = {
    "prices": RNG.lognormal(3, 1, 4_000),
    "cents, zero among them": np.append(RNG.gamma(2, 0.5, 4_000).round(3), 0.0),
    "far from zero": RNG.normal(1e9, 1e-3, 4_000),
    "both signs": RNG.normal(0, 1, 4_000),
    "few": RNG.integers(0, 5, 4_000).astype(float),
    "one outlier": np.append(RNG.random(4_000), 1e15),
}


def as_searched(knots: NDArray[np.float64], numbers: NDArray[np.float64]) -> None:
    x_N = np.concatenate([np.tile(numbers, FEW + 1), knots, np.nextafter(knots, np.inf), np.nextafter(knots, -np.inf)])
    x_N = np.minimum(np.maximum(x_N, knots[0]), knots[-1])
    assert np.array_equal(Places(knots).of(x_N), knots.searchsorted(x_N, side="right") - 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_places_are_those_of_a_search(shape: str) -> None:
    numbers = np.sort(SHAPES[shape])
    as_searched(np.unique(numbers[:: len(numbers) // 999]), numbers[:50])


@given(st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=40), st.lists(st.floats(-1e15, 1e15), max_size=5))
def test_places_of_any_knots_are_those_of_a_search(knots: list[float], numbers: list[float]) -> None:
    as_searched(np.unique(np.array(knots)), np.array(numbers))


@pytest.mark.parametrize("shape", ["prices", "cents, zero among them", "both signs"])
def test_usual_numbers_need_no_search(shape: str) -> None:
    knots = np.unique(np.sort(SHAPES[shape])[::4])
    assert len(Places(knots)._before) > 0, "a table"
    alone = Places(np.unique(SHAPES["one outlier"]))
    assert not len(alone._before), "what no table tells apart is searched"


def test_places_travel_to_other_processes() -> None:
    knots = np.unique(SHAPES["prices"])[::5]
    x_N = np.linspace(knots[0], knots[-1], 100)
    assert np.array_equal(pickle.loads(pickle.dumps(Places(knots))).of(x_N), Places(knots).of(x_N))
