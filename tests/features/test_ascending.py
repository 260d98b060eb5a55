"""Order by counting: that of a stable sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.features.ascending import ascending

RNG = np.random.default_rng(0)


@given(st.lists(st.floats(-1e15, 1e15), max_size=60))
def test_the_order_is_that_of_a_stable_sort(numbers: list[float]) -> None:
    values = np.array(numbers, np.float64)
    assert np.array_equal(ascending(values), values.argsort(kind="stable"))


@pytest.mark.parametrize(
    "values",
    [
        RNG.uniform(-1, 1, 5_000),
        RNG.integers(0, 3, 5_000).astype(np.float64),
        np.append(RNG.random(5_000), 1e15),
        np.full(5_000, 0.25),
        RNG.normal(0.5, 1e-13, 5_000),
    ],
    ids=["spread", "equal ones", "an outlier", "all equal", "close together"],
)
def test_many_numbers_are_ordered_as_by_a_stable_sort(values: np.ndarray) -> None:
    assert np.array_equal(ascending(values), values.argsort(kind="stable"))


def test_equal_steps_alone_would_not_do() -> None:
    values = np.append(RNG.random(5_000), 1e15)  # all but one share a step
    step = ((values - values.min()) * (65_535 / (values.max() - values.min()))).astype(np.uint16)
    assert not np.array_equal(step.argsort(kind="stable"), values.argsort(kind="stable"))
