"""Intervals: right for known cases, paired, repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from depthrank.metrics import (
    auc,
    auc_difference,
    auc_interval,
    bootstrap_users,
    gauc,
    gauc_interval,
    mean_difference,
    mean_interval,
    ne_interval,
    normalized_entropy,
    sums_by_user,
)
from depthrank.metrics.bootstrap import _WeightedAuc


def sample(seed: int = 0, num_users: int = 200, per_user: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(num_users), per_user)
    p = rng.random(len(user))
    return (rng.random(len(user)) < p).astype(float), p, user


def test_estimates_equal_the_plain_metrics() -> None:
    label, p, user = sample()
    assert auc_interval(label, p, user, replicates=5).estimate == pytest.approx(auc(label, p))
    assert gauc_interval(label, p, user, replicates=5).estimate == pytest.approx(gauc(label, p, user))
    assert ne_interval(label, p, user, replicates=5).estimate == pytest.approx(normalized_entropy(label, p))


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error_over_users() -> None:
    rng = np.random.default_rng(3)
    by_user = rng.normal(size=400)
    interval = mean_interval(np.repeat(by_user, 5), np.repeat(np.arange(400), 5))
    expected = 2 * 1.96 * by_user.std() / np.sqrt(400)  # five equal rows a user add no information
    assert interval.high - interval.low == pytest.approx(expected, rel=0.15)
    assert interval.low < by_user.mean() < interval.high


def test_a_paired_difference_is_narrower_than_the_two_intervals() -> None:
    label, p, user = sample()
    worse = 0.7 * p + 0.3 * np.random.default_rng(5).random(len(p))
    difference = auc_difference(label, p, worse, user)
    single = auc_interval(label, p, user)
    assert 0 < difference.low < difference.estimate < difference.high
    assert difference.high - difference.low < single.high - single.low


def test_runs_of_several_seeds_are_compared_by_the_mean_of_their_aucs() -> None:
    label, p, user = sample()
    worse = 0.7 * p + 0.3 * np.random.default_rng(5).random(len(p))
    ours = np.stack((p, 0.9 * p + 0.1 * np.random.default_rng(6).random(len(p))))
    pooled = auc_difference(label, ours, worse, user, replicates=50)
    alone = [auc_difference(label, run, worse, user, replicates=50) for run in ours]
    assert pooled.estimate == pytest.approx(np.mean([run.estimate for run in alone]))
    assert pooled.low < pooled.estimate < pooled.high
    assert alone[0].estimate != alone[1].estimate  # control


def test_equal_models_differ_by_exactly_zero() -> None:
    label, p, user = sample()
    assert auc_difference(label, p, p, user, replicates=20).high == 0.0
    same = mean_difference(p, p, user)
    assert (same.low, same.estimate, same.high) == (0.0, 0.0, 0.0)


def test_the_same_seed_repeats_and_another_seed_does_not() -> None:
    _, p, user = sample()
    assert mean_interval(p, user, seed=1) == mean_interval(p, user, seed=1)
    assert mean_interval(p, user, seed=1) != mean_interval(p, user, seed=2)


def test_draws_do_not_depend_on_how_they_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    _, p, user = sample()
    whole = mean_interval(p, user, replicates=50)
    monkeypatch.setattr("depthrank.metrics.bootstrap._CHUNK_DRAWS", 700)
    chunked = mean_interval(p, user, replicates=50)
    assert (chunked.low, chunked.high) == pytest.approx((whole.low, whole.high))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=30))
def test_weighted_auc_equals_scikit_learn(drawn: list[tuple[int, int, int]]) -> None:
    label, score, weight = (np.array(c, float) for c in zip(*drawn, strict=True))
    value = _WeightedAuc(label, score)(weight)
    if len(set(label[weight > 0])) < 2:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(roc_auc_score(label, score, sample_weight=weight))


def test_rows_without_a_value_count_in_no_sum() -> None:
    sums = sums_by_user(np.array([0, 0, 1]), np.array([1.0, np.nan, 2.0]), np.ones(3))
    assert sums.tolist() == [[1.0, 1.0], [2.0, 1.0]]


def test_no_users_have_no_interval() -> None:
    assert np.isnan(bootstrap_users(np.zeros((0, 2)), lambda s: s[:, 0]).estimate)
    assert np.isnan(auc_interval(np.zeros(0), np.zeros(0), np.zeros(0, int)).low)
