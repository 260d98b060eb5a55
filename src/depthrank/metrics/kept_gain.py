"""What a plan keeps of the gain that full depth has over the router.

kept gain = (V_plan - V_router) / (V_full - V_router), with V the full-depth value of the returned top n, discounted by
position as in DCG and summed over requests. A difference of two close sums: quote it only where full depth beats the
router in NDCG@10 against labels with an interval above zero (``mean_difference`` of the two NDCGs).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from depthrank.metrics.bootstrap import Interval, bootstrap_users, sums_by_user
from depthrank.metrics.ranking import PerRequest
from depthrank.metrics.requests import Floats, Ints, request_of_candidate


def discounted_value(full_value: Floats, rank: Ints, offsets: Ints, n: int = 10) -> PerRequest:
    """Per request the full-depth values of the ``n`` candidates ranked first, discounted by position, float64 [R].

    ``full_value`` [N] is the value at full depth, ``rank`` [N] the order that the plan returned.
    """
    gain = np.where(rank < n, full_value.astype(np.float64) / np.log2(rank + 2.0), 0.0)
    total = np.bincount(request_of_candidate(offsets), weights=gain, minlength=len(offsets) - 1)
    return np.asarray(total, dtype=np.float64)


def _ratio(sums_bs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums_bs[:, 1] != 0, sums_bs[:, 0] / sums_bs[:, 1], np.nan)


def kept_gain(
    plan: PerRequest, router: PerRequest, full: PerRequest, user: Ints, *, replicates: int = 1000, seed: int = 0
) -> Interval:
    """Kept gain of a plan from discounted values per request, with its interval by bootstrap over users.

    NaN where full depth has no more value than the router.
    """
    sums_us = sums_by_user(user, plan - router, full - router)
    return bootstrap_users(sums_us, _ratio, replicates=replicates, seed=seed)


def kept_gain_difference(
    plan: PerRequest,
    rival: PerRequest,
    router: PerRequest,
    full: PerRequest,
    user: Ints,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Interval:
    """Kept gain of a plan minus that of a rival on the same requests, paired by user."""
    sums_us = sums_by_user(user, plan - rival, full - router)
    return bootstrap_users(sums_us, _ratio, replicates=replicates, seed=seed)


def kept_value(plan: PerRequest, full: PerRequest, user: Ints, *, replicates: int = 1000, seed: int = 0) -> Interval:
    """V_plan / V_full with its interval by bootstrap over users."""
    return bootstrap_users(sums_by_user(user, plan, full), _ratio, replicates=replicates, seed=seed)


def overlap_at_k(rank: Ints, other_rank: Ints, offsets: Ints, k: int = 10) -> PerRequest:
    """The share of the top ``k`` that two orders have in common, float64 [R]; NaN for an empty request."""
    request = request_of_candidate(offsets)
    size = np.minimum(np.diff(offsets), k)
    both = np.bincount(request, weights=(rank < k) & (other_rank < k), minlength=len(size))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, both / size, np.nan)
