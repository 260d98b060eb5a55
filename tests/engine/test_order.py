"""The first candidates are those of a full sort, however few are wanted and however many tie."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from depthrank.engine.order import top_candidates

rows = st.tuples(st.integers(-1, 3), st.sampled_from([0.0, -0.0, 0.25, 0.5, 1e300, float("nan")]) | st.floats(0, 1))


@given(st.lists(rows, max_size=80), st.integers(0, 90))
def test_the_first_are_those_of_a_full_sort(given_rows: list[tuple[int, float]], top: int) -> None:
    level = np.array([r[0] for r in given_rows], np.int8)
    value = np.array([0.0 if r[0] < 0 else r[1] for r in given_rows], np.float64)
    ids = [str(i * 7919 % 97) for i in range(len(given_rows))]

    def place(i: int) -> tuple[int, bool, float, str]:
        missing = bool(np.isnan(value[i]))
        return -int(level[i]), missing, 0.0 if missing else -value[i], ids[i] if level[i] >= 0 else ""

    expected = sorted(range(len(given_rows)), key=place)[:top]
    if not np.isnan(value).any():
        assert top_candidates(level, value, top, ids.__getitem__) == expected
    else:
        got = top_candidates(level, value, top, ids.__getitem__)
        assert sorted(level[got].tolist()) == sorted(level[expected].tolist())
