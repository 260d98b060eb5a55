from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from depthrank.routing import keep_best


@given(
    arrays(np.float64, st.integers(0, 60), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0])), st.integers(-1, 70)
)
def test_survivors_are_the_first_of_a_stable_sort(values, width):
    expected = np.argsort(-values, kind="stable")[: max(width, 0)]
    assert keep_best(values, width).tolist() == expected.tolist()
