"""Reliability bins."""

from __future__ import annotations

import numpy as np
import pytest

from depthrank.metrics import expected_calibration_error, reliability


def test_bins_average_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(1_000)
    label = (rng.random(1_000) < p).astype(float)
    bins = reliability(label, p, 10)
    assert len(bins.count) == 10 and bins.count.sum() == 1_000
    assert np.average(bins.observed, weights=bins.count) == pytest.approx(label.mean())
    assert np.average(bins.predicted, weights=bins.count) == pytest.approx(p.mean())


def test_the_error_is_small_for_true_probabilities_and_large_for_doubled_ones() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(20_000) * 0.5
    label = (rng.random(20_000) < p).astype(float)
    assert expected_calibration_error(label, p) < 0.02
    assert expected_calibration_error(label, 2 * p) > 0.2


def test_equal_probabilities_share_one_bin() -> None:
    bins = reliability(np.array([1.0, 0, 0, 0]), np.full(4, 0.25), 20)
    assert bins.count.tolist() == [4] and bins.expected_error == 0.0


def test_no_rows_have_no_error() -> None:
    assert np.isnan(reliability(np.zeros(0), np.zeros(0)).expected_error)
