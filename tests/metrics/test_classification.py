"""AUC, GAUC, log loss and NE against scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from depthrank.metrics import GAUC_LABEL, auc, auc_per_user, gauc, logloss, normalized_entropy

rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 6).map(lambda s: s / 6), st.integers(0, 3)), min_size=1, max_size=60
)


def columns(drawn: list[tuple[int, float, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    label, score, user = zip(*drawn, strict=True)
    return np.array(label, float), np.array(score), np.array(user)


@settings(deadline=None)
@given(rows)
def test_auc_equals_scikit_learn_with_ties(drawn: list[tuple[int, float, int]]) -> None:
    label, score, _ = columns(drawn)
    if len(set(label)) < 2:
        assert np.isnan(auc(label, score))
    else:
        assert auc(label, score) == pytest.approx(roc_auc_score(label, score))


@settings(deadline=None)
@given(rows)
def test_gauc_is_auc_per_user_weighted_by_impressions_without_one_class_users(
    drawn: list[tuple[int, float, int]],
) -> None:
    label, score, user = columns(drawn)
    total, weight = 0.0, 0
    for u in set(user):
        mine = user == u
        if len(set(label[mine])) == 2:
            total += mine.sum() * roc_auc_score(label[mine], score[mine])
            weight += mine.sum()
    expected = total / weight if weight else np.nan
    assert gauc(label, score, user) == pytest.approx(expected, nan_ok=True)


@settings(deadline=None)
@given(rows)
def test_logloss_equals_scikit_learn(drawn: list[tuple[int, float, int]]) -> None:
    label, score, _ = columns(drawn)
    p = 0.05 + 0.9 * score
    assert logloss(label, p) == pytest.approx(log_loss(label, p, labels=[0, 1]))


def test_normalized_entropy_of_the_base_rate_is_one_and_a_better_prediction_is_lower() -> None:
    label = np.array([1, 0, 0, 0, 1, 0.0])
    base = np.full(6, label.mean())
    assert normalized_entropy(label, base) == pytest.approx(1.0)
    assert normalized_entropy(label, np.where(label > 0, 0.6, 0.2)) < 1.0
    assert np.isnan(normalized_entropy(np.ones(4), np.full(4, 0.5)))


def test_certain_and_wrong_predictions_cost_a_finite_loss() -> None:
    assert np.isfinite(logloss(np.array([1.0, 0.0]), np.array([0.0, 1.0])))


def test_empty_input_is_nan_not_an_error() -> None:
    empty = np.zeros(0)
    assert np.isnan(auc(empty, empty))
    assert np.isnan(gauc(empty, empty, np.zeros(0, int)))
    assert np.isnan(logloss(empty, empty)) and np.isnan(normalized_entropy(empty, empty))


def test_a_nan_label_or_score_is_refused() -> None:
    with pytest.raises(AssertionError, match="without a label"):
        auc(np.array([1.0, np.nan]), np.array([0.1, 0.2]))
    with pytest.raises(AssertionError, match="score is NaN"):
        auc(np.array([1.0, 0.0]), np.array([0.1, np.nan]))


def test_a_user_row_without_impressions_has_no_auc() -> None:
    per_user = auc_per_user(np.array([1.0, 0.0]), np.array([0.9, 0.1]), np.array([2, 2]))
    assert np.isnan(per_user.auc[:2]).all() and per_user.auc[2] == 1.0
    assert per_user.num_impressions.tolist() == [0, 0, 2]


def test_the_printed_name_of_gauc_says_what_it_is() -> None:
    assert "weighted by the user's impressions" in GAUC_LABEL and "one class left out" in GAUC_LABEL


def test_a_row_of_weight_three_counts_as_three_rows_in_log_loss_and_entropy() -> None:
    label, p, weight = np.array([1.0, 0.0, 0.0]), np.array([0.7, 0.4, 0.1]), np.array([1.0, 3.0, 2.0])
    repeated = np.repeat(np.arange(3), weight.astype(int))
    for metric in (logloss, normalized_entropy):
        assert metric(label, p, weight) == pytest.approx(metric(label[repeated], p[repeated]))
        assert metric(label, p, weight) != pytest.approx(metric(label, p))  # control
