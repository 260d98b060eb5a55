"""Kept gain, kept value and overlap."""

from __future__ import annotations

import numpy as np
import pytest

from depthrank.metrics import discounted_value, kept_gain, kept_value, overlap_at_k, rank_in_request
from depthrank.metrics.kept_gain import kept_gain_difference

OFFSETS = np.array([0, 5, 10])
FULL = np.array([5, 4, 3, 2, 1, 1, 2, 3, 4, 5], float)
USER = np.array([0, 1])


def values(order_by: np.ndarray, n: int = 3) -> np.ndarray:
    return discounted_value(FULL, rank_in_request(order_by, OFFSETS), OFFSETS, n)


def test_discounted_value_equals_its_formula() -> None:
    assert values(FULL)[0] == pytest.approx(5 / np.log2(2) + 4 / np.log2(3) + 3 / np.log2(4))


def test_kept_gain_is_one_at_full_depth_and_zero_at_the_router() -> None:
    router, full = values(-FULL), values(FULL)
    assert kept_gain(full, router, full, USER).estimate == 1.0
    assert kept_gain(router, router, full, USER).estimate == 0.0
    half = kept_gain((full + router) / 2, router, full, USER)
    assert half.estimate == pytest.approx(0.5) and half.low == pytest.approx(0.5)


def test_kept_gain_has_no_value_where_depth_gains_nothing() -> None:
    full = values(FULL)
    assert np.isnan(kept_gain(full, full, full, USER).estimate)


def test_kept_value_is_a_share_of_full_depth() -> None:
    full, router = values(FULL), values(-FULL)
    assert kept_value(full, full, USER).estimate == 1.0
    assert kept_value(router, full, USER).estimate == pytest.approx(router.sum() / full.sum())


def test_overlap_counts_common_candidates_and_allows_short_requests() -> None:
    rank, other = rank_in_request(FULL, OFFSETS), rank_in_request(-FULL, OFFSETS)
    assert overlap_at_k(rank, rank, OFFSETS, 10).tolist() == [1.0, 1.0]
    assert overlap_at_k(rank, other, OFFSETS, 2).tolist() == [0.0, 0.0]
    assert overlap_at_k(rank, other, OFFSETS, 3)[0] == pytest.approx(1 / 3)


def test_the_difference_of_two_plans_is_paired_and_of_one_with_itself_nothing():
    rng = np.random.default_rng(0)
    user = np.arange(300) // 3
    router, gain = rng.random(300), rng.lognormal(0, 1, 300)
    full, better, worse = router + gain, router + 0.9 * gain, router + 0.7 * gain
    found = kept_gain_difference(better, worse, router, full, user, replicates=200)
    assert found.estimate == pytest.approx(0.2) and found.low == pytest.approx(0.2), "paired: nothing is left to chance"
    same = kept_gain_difference(worse, worse, router, full, user, replicates=50)
    assert (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)
