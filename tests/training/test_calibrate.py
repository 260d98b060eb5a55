"""Platt scaling against scikit-learn, and where there is nothing to fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from depthrank.training.calibrate import LEAST_SCALE, fit_platt


def drawn(seed: int, scale: float, offset: float, n: int = 3000):
    rng = np.random.default_rng(seed)
    score = rng.normal(-1, 2, n)
    label = (rng.random(n) < 1 / (1 + np.exp(-(scale * score + offset)))).astype(float)
    return score, label, rng.uniform(0.1, 4, n)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.3, -2.0), (2.5, 1.0)])
def test_the_fit_is_that_of_logistic_regression_without_penalty(scale, offset):
    score, label, weight = drawn(1, scale, offset)
    found = fit_platt(score, label, weight)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(score[:, None], label, sample_weight=weight)
    assert found == pytest.approx((reference.coef_[0, 0], reference.intercept_[0]), rel=1e-3)


def test_labels_of_one_class_or_none_leave_scores_as_they_are():
    score = np.arange(5.0)
    for label in (np.zeros(5), np.ones(5), np.full(5, np.nan)):
        assert fit_platt(score, label, np.ones(5)) == (1.0, 0.0)
    assert fit_platt(score, np.array([0, 0, 0, 0, 1.0]), np.array([1, 1, 1, 1, 0.0])) == (1.0, 0.0)


def test_missing_labels_and_scores_are_left_out():
    score, label, weight = drawn(2, 1.5, 0.5, 500)
    spoilt = np.r_[score, 3.0, np.nan, np.inf], np.r_[label, np.nan, 1, 0], np.r_[weight, 1, 1, 1]
    assert fit_platt(*spoilt) == fit_platt(score, label, weight)


@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(-5, 5), st.integers(2, 40))
def test_the_scale_stays_positive_and_finite_so_the_order_within_a_level_stays(seed, scale, offset, n):
    """Even where labels are separable, or run against the scores."""
    found = fit_platt(*drawn(seed, scale, offset, n))
    assert np.isfinite(found).all() and found[0] > 0


def test_scores_that_tell_nothing_keep_their_order_and_the_mean_is_right() -> None:
    rng = np.random.default_rng(0)
    score, label = rng.normal(-5, 1, 4_000), (rng.random(4_000) < 0.01).astype(np.float64)
    against = np.sort(score)[::-1]  # the best scores where no positive is
    scale, offset = fit_platt(against, np.sort(label), np.ones(len(label)))
    assert scale == LEAST_SCALE
    probability = (1 / (1 + np.exp(-(scale * against + offset)))).astype(np.float32)
    assert probability.mean() == pytest.approx(label.mean(), rel=1e-3)
    assert len(np.unique(probability)) > 3_000
