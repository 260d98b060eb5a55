"""Intervals by bootstrap over users.

Rows of one user are not independent, so users are drawn, not rows. A metric that is a function of sums over users
(means, NE, GAUC, kept gain) needs only per-user sums: replicate b draws a count for each user and takes the weighted
sum, one matrix product for all metrics. The draw depends on (seed, number of users, b) alone, so two models on the same
users are always compared on the same draws: a paired difference is just another function of the sums.
Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from depthrank.metrics.classification import auc_per_user, row_logloss
from depthrank.metrics.requests import Floats, Ints

Sums = npt.NDArray[np.float64]  # [B, S]: B replicates (or 1), S summed quantities
Statistic = Callable[[Sums], npt.NDArray[np.float64]]
_CHUNK_DRAWS = 4_000_000  # users x replicates held at once


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval at confidence ``level``; NaN bounds where no replicate has a value."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    def to_plain(self) -> dict[str, float]:
        """For JSON."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high, "level": self.level}


def _draws(num_users: int, replicates: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Chunks [B', U] of how often each user is drawn, in order of the replicates."""
    rows = max(1, min(replicates, _CHUNK_DRAWS // max(num_users, 1)))
    for start in range(0, replicates, rows):
        chunk = [
            np.bincount(np.random.default_rng((seed, b)).integers(0, num_users, num_users), minlength=num_users)
            for b in range(start, min(start + rows, replicates))
        ]
        yield np.stack(chunk)


def _interval(estimate: float, values: npt.NDArray[np.float64], level: float) -> Interval:
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(estimate, float("nan"), float("nan"), level)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level)


def sums_by_user(user: Ints, *columns: npt.NDArray[np.generic]) -> Sums:
    """Per-user sums, float64 [U, S], of row columns [N]; a row where any column is NaN counts in none."""
    values = np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1)
    keep = ~np.isnan(values).any(axis=1)
    num_users = int(user.max()) + 1 if len(user) else 0
    totals = [np.bincount(user[keep], weights=values[keep, s], minlength=num_users) for s in range(values.shape[1])]
    return np.stack(totals, axis=1).astype(np.float64)


def bootstrap_users(
    sums_us: Sums, statistic: Statistic, *, replicates: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of ``statistic``, a function from sums [B, S] to values [B], over users with sums ``sums_us`` [U, S]."""
    if not len(sums_us):
        return Interval(float("nan"), float("nan"), float("nan"), level)
    estimate = float(statistic(sums_us.sum(axis=0, keepdims=True))[0])
    values = [statistic(drawn @ sums_us) for drawn in _draws(len(sums_us), replicates, seed)]
    return _interval(estimate, np.concatenate(values), level)


def mean_interval(values: Floats, user: Ints, *, replicates: int = 1000, seed: int = 0) -> Interval:
    """Interval of the mean of row values [N] (NaN rows left out), such as NDCG per request."""
    sums_us = sums_by_user(user, values, np.ones(len(values)))
    return bootstrap_users(sums_us, _mean, replicates=replicates, seed=seed)


def mean_difference(a: Floats, b: Floats, user: Ints, *, replicates: int = 1000, seed: int = 0) -> Interval:
    """Interval of mean(a) - mean(b) over the same rows, paired by user."""
    return mean_interval(np.asarray(a, np.float64) - b, user, replicates=replicates, seed=seed)


def gauc_interval(label: Floats, score: Floats, user: Ints, *, replicates: int = 1000, seed: int = 0) -> Interval:
    """Interval of GAUC (AUC per user, weighted by the user's impressions, users with one class left out)."""
    per_user = auc_per_user(label, score, user)
    row_of_user = np.arange(len(per_user.auc))
    weighted = per_user.auc * per_user.num_impressions
    return bootstrap_users(
        sums_by_user(row_of_user, weighted, per_user.num_impressions), _mean, replicates=replicates, seed=seed
    )


def ne_interval(label: Floats, probability: Floats, user: Ints, *, replicates: int = 1000, seed: int = 0) -> Interval:
    """Interval of the normalized entropy."""
    sums_us = sums_by_user(user, row_logloss(label, probability), label > 0, np.ones(len(label)))
    return bootstrap_users(sums_us, _normalized_entropy, replicates=replicates, seed=seed)


def auc_interval(label: Floats, score: Floats, user: Ints, *, replicates: int = 200, seed: int = 0) -> Interval:
    """Interval of AUC. AUC is no function of per-user sums: each replicate re-weights the rows sorted once, O(N)."""
    weighted = _WeightedAuc(label, score)
    return _row_interval(user, weighted, replicates, seed)


def auc_difference(
    label: Floats, a: Floats, b: Floats, user: Ints, *, replicates: int = 200, seed: int = 0
) -> Interval:
    """Interval of AUC(a) - AUC(b) on the same rows, paired by user. ``a`` and ``b``: scores [N], or [S, N] of S runs,
    whose AUCs are averaged."""
    runs_a, runs_b = ([_WeightedAuc(label, run) for run in np.atleast_2d(scores)] for scores in (a, b))

    def difference(weight: npt.NDArray[np.float64]) -> float:
        return float(np.mean([run(weight) for run in runs_a]) - np.mean([run(weight) for run in runs_b]))

    return _row_interval(user, difference, replicates, seed)


class _WeightedAuc:
    """AUC of rows with integer weights, after sorting the rows by score once."""

    def __init__(self, label: Floats, score: Floats) -> None:
        self._order = np.argsort(score, kind="stable")
        ordered = score[self._order]
        self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
        self._positive = label[self._order] > 0

    def __call__(self, weight: npt.NDArray[np.float64]) -> float:
        if not len(self._starts):
            return float("nan")
        ordered = weight[self._order]
        positive = np.add.reduceat(ordered * self._positive, self._starts)
        negative = np.add.reduceat(ordered, self._starts) - positive
        below = np.cumsum(negative) - negative
        pairs = positive.sum() * negative.sum()
        return float((positive * (below + 0.5 * negative)).sum() / pairs) if pairs else float("nan")


def _row_interval(
    user: Ints, statistic: Callable[[npt.NDArray[np.float64]], float], replicates: int, seed: int
) -> Interval:
    estimate = statistic(np.ones(len(user)))
    if not len(user):
        return Interval(estimate, float("nan"), float("nan"))
    num_users = int(user.max()) + 1
    values = [
        statistic(drawn[user].astype(np.float64)) for chunk in _draws(num_users, replicates, seed) for drawn in chunk
    ]
    return _interval(estimate, np.array(values), 0.95)


def _mean(sums_bs: Sums) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums_bs[:, 1] > 0, sums_bs[:, 0] / sums_bs[:, 1], np.nan)


def _normalized_entropy(sums_bs: Sums) -> npt.NDArray[np.float64]:
    loss, positives, count = sums_bs[:, 0], sums_bs[:, 1], sums_bs[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = positives / count
        entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
        return np.where((positives > 0) & (positives < count), loss / count / entropy, np.nan)
