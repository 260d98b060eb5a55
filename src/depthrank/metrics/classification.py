"""Metrics of predicted probabilities: AUC, GAUC, log loss, normalized entropy.

Labels are 0 or 1; rows without a label (NaN) are the caller's to drop. A metric without meaning (one class only, no
rows) is NaN, never 0 or 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from depthrank.metrics.requests import Floats, Ints

GAUC_LABEL = "GAUC: AUC per user, weighted by the user's impressions, users with one class left out"
"""What stands beside every printed GAUC."""

_EPSILON = 1e-7  # float32 probabilities saturate at 1 - 6e-8


def _check(label: Floats, score: Floats) -> None:
    assert label.shape == score.shape and label.ndim == 1, (label.shape, score.shape)
    assert not np.isnan(label).any(), "drop rows without a label first"
    assert not np.isnan(score).any(), "a score is NaN"


def auc(label: Floats, score: Floats) -> float:
    """Probability that a positive scores above a negative, ties counting one half; NaN with one class only."""
    group = np.zeros(len(label), dtype=np.int64)
    return auc_per_user(label, score, group).auc_of(0)


@dataclass(frozen=True)
class UserAuc:
    """AUC of each user, float64 [U] (NaN: one class only), and impressions of each user, int64 [U]."""

    auc: npt.NDArray[np.float64]
    num_impressions: npt.NDArray[np.int64]

    def auc_of(self, user: int) -> float:
        """The AUC of one user row; NaN where it has no row."""
        return float(self.auc[user]) if user < len(self.auc) else float("nan")


def auc_per_user(label: Floats, score: Floats, user: Ints) -> UserAuc:
    """AUC within each user; ``user`` [N] are rows 0..U-1. By the rank sum of Mann and Whitney, ties at mid-rank."""
    _check(label, score)
    num_users = int(user.max()) + 1 if len(user) else 0
    order = np.lexsort((score, user))
    user_n, score_n, positive_n = user[order], score[order], label[order] > 0
    count = np.bincount(user_n, minlength=num_users)
    first = np.cumsum(count) - count
    starts = np.flatnonzero(np.r_[True, (user_n[1:] != user_n[:-1]) | (score_n[1:] != score_n[:-1])][: len(user_n)])
    lengths = np.diff(np.r_[starts, len(user_n)])
    mid_rank = np.repeat(starts + (lengths + 1) / 2.0, lengths) - first[user_n]
    positives = np.bincount(user_n, weights=positive_n, minlength=num_users)
    rank_sum = np.bincount(user_n, weights=mid_rank * positive_n, minlength=num_users)
    pairs = positives * (count - positives)
    wins = rank_sum - positives * (positives + 1) / 2.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return UserAuc(np.where(pairs > 0, wins / pairs, np.nan), count.astype(np.int64))


def gauc(label: Floats, score: Floats, user: Ints) -> float:
    """AUC per user, weighted by the user's impressions, users with one class left out; NaN where none is left."""
    per_user = auc_per_user(label, score, user)
    known = ~np.isnan(per_user.auc)
    if not known.any():
        return float("nan")
    return float(np.average(per_user.auc[known], weights=per_user.num_impressions[known]))


def row_logloss(label: Floats, probability: Floats) -> npt.NDArray[np.float64]:
    """Log loss of each row in nats, float64 [N]; probabilities are kept 1e-7 away from 0 and 1."""
    _check(label, probability)
    p = np.clip(probability.astype(np.float64), _EPSILON, 1 - _EPSILON)
    return np.asarray(-np.where(label > 0, np.log(p), np.log1p(-p)), dtype=np.float64)


def logloss(label: Floats, probability: Floats, weight: Floats | None = None) -> float:
    """Mean log loss in nats, rows counted by ``weight`` (sampled negatives: by importance); NaN without rows."""
    return float(np.average(row_logloss(label, probability), weights=weight)) if len(label) else float("nan")


def normalized_entropy(label: Floats, probability: Floats, weight: Floats | None = None) -> float:
    """Log loss over the entropy of the base rate: a constant base rate has 1, lower is better; NaN with one class.

    Rows count by ``weight`` where one is given, in the loss and in the base rate. Source: He et al., Practical Lessons
    from Predicting Clicks on Ads at Facebook, ADKDD 2014.
    """
    if not len(label):
        return float("nan")
    weight = np.ones(len(label)) if weight is None else weight
    loss_sum = float(row_logloss(label, probability) @ weight)
    return ne_of_sums(loss_sum, float(weight @ (label > 0)), float(weight.sum()))


def ne_of_sums(loss_sum: float, positives: float, count: float) -> float:
    """Normalized entropy from the sum of log losses, the number of positives and of rows."""
    rate = positives / count
    if not 0.0 < rate < 1.0:
        return float("nan")
    return (loss_sum / count) / float(-rate * np.log(rate) - (1 - rate) * np.log(1 - rate))
