"""Figures of the last seconds: rates, percentiles and depth, by a clock that the test turns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.server.status.rolling import NUM_BINS, Bucket, Rolling, bin_of, edge_ms


class Clock:
    def __init__(self, now_s: float = 1_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def answer(rolling: Rolling, took_ms: float = 1.0, scored: tuple[int, ...] = (9, 3), good: bool = True) -> None:
    rolling.answered(took_ms, list(scored), good=good, degraded=not good, thread_ms=0.5)


@given(st.lists(st.floats(0.06, 50_000), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_right_within_the_width_of_a_bin(latencies_ms: list[float], share: float) -> None:
    bucket = Bucket()
    for ms in latencies_ms:
        bucket.bins[bin_of(ms)] += 1
    found = bucket.percentile_ms(share)
    assert found is not None
    exact = float(np.percentile(latencies_ms, 100 * share, method="inverted_cdf"))
    assert exact / 1.1 <= found <= exact * 1.1


@given(st.floats(0, 1e7))
def test_every_latency_has_a_bin_and_lies_in_it(ms: float) -> None:
    index = bin_of(ms)
    assert 0 <= index < NUM_BINS
    if 0 < index < NUM_BINS - 1:
        assert edge_ms(index) * (1 - 1e-9) <= ms <= edge_ms(index + 1) * (1 + 1e-9)


def test_a_window_holds_whole_seconds_and_forgets_older_ones() -> None:
    clock = Clock()
    rolling = Rolling(5, clock)
    for second in range(8):
        clock.now_s = 1_000.0 + second
        for _ in range(second + 1):
            answer(rolling)
    assert [bucket.answered for bucket in rolling.each(5)] == [3, 4, 5, 6, 7], "the second that runs is left out"
    assert rolling.window(2).answered == 6 + 7
    clock.now_s += 100
    assert rolling.window(5).answered == 0


def test_depth_is_counted_by_the_deepest_level_that_scored() -> None:
    clock = Clock()
    rolling = Rolling(5, clock)
    answer(rolling, scored=(100, 20, 0))
    answer(rolling, scored=(100, 0, 0))
    answer(rolling, scored=(100, 30, 5))
    answer(rolling, scored=())
    clock.now_s += 1
    window = rolling.window(1)
    assert window.deepest == [1, 1, 1]
    assert window.scored == [300, 50, 5]
    assert window.answered == 4


def test_refusals_and_answers_that_are_not_good_are_counted() -> None:
    clock = Clock()
    rolling = Rolling(5, clock)
    answer(rolling, good=False)
    answer(rolling)
    rolling.refused()
    clock.now_s += 1
    window = rolling.window(1)
    assert (window.answered, window.good, window.degraded, window.refused) == (2, 1, 1, 1)
    assert window.thread_ms == pytest.approx(1.0)


def test_a_second_without_an_answer_has_no_percentile() -> None:
    assert Bucket().percentile_ms(0.99) is None
