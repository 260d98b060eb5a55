"""Metrics of an order against labels, one value a request.

``rank`` [N] is the 0-based rank of each candidate within its request (``rank_in_request``), ``relevant`` [N] whether it
is a positive. Requests without a positive have no value (NaN) and are left out of means.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from depthrank.metrics.requests import Ints, request_of_candidate

Bools = npt.NDArray[np.bool_]
PerRequest = npt.NDArray[np.float64]


def _sum_by_request(weights: npt.NDArray[np.generic], offsets: Ints) -> PerRequest:
    total = np.bincount(request_of_candidate(offsets), weights=weights, minlength=len(offsets) - 1)
    return np.asarray(total, dtype=np.float64)


def ndcg_at_k(relevant: Bools, rank: Ints, offsets: Ints, k: int = 10) -> PerRequest:
    """NDCG@k with binary gains, float64 [R]: DCG over that of the best possible order."""
    gain = np.where(relevant & (rank < k), 1.0 / np.log2(rank + 2.0), 0.0)
    dcg = _sum_by_request(gain, offsets)
    ideal_by_count = np.r_[0.0, np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))]
    num_relevant = _sum_by_request(relevant, offsets).astype(np.int64)
    ideal = ideal_by_count[np.minimum(num_relevant, k)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(num_relevant > 0, dcg / ideal, np.nan)


def hit_rate_at_k(relevant: Bools, rank: Ints, offsets: Ints, k: int = 10) -> PerRequest:
    """1 where a positive is among the top ``k``, else 0, float64 [R]."""
    hits = _sum_by_request(relevant & (rank < k), offsets) > 0
    return np.where(_sum_by_request(relevant, offsets) > 0, hits.astype(np.float64), np.nan)


def reciprocal_rank(relevant: Bools, rank: Ints, offsets: Ints) -> PerRequest:
    """1 / rank (counted from 1) of the first positive, float64 [R]."""
    best = np.full(len(offsets) - 1, np.inf)
    np.minimum.at(best, request_of_candidate(offsets)[relevant], rank[relevant].astype(np.float64))
    return np.where(np.isfinite(best), 1.0 / (best + 1.0), np.nan)


def mrr(relevant: Bools, rank: Ints, offsets: Ints) -> float:
    """Mean reciprocal rank over the requests with a positive."""
    return mean_over_requests(reciprocal_rank(relevant, rank, offsets))


def recall_at_k(rank: Ints, deepest_rank: Ints, offsets: Ints, k: int, top: int = 10) -> PerRequest:
    """The share of the deepest level's top ``top`` that this level keeps among its own top ``k``, float64 [R].

    NaN for a request without candidates. 1 for the deepest level itself when k >= top.
    """
    wanted = deepest_rank < top
    kept = _sum_by_request(wanted & (rank < k), offsets)
    total = _sum_by_request(wanted, offsets)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, kept / total, np.nan)


def mean_over_requests(values: PerRequest) -> float:
    """Mean of the values that exist; NaN where none does."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
