"""A number beside the same number of the other candidates of its request: rank and difference to the median."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.features.ascending import ascending

Floats = NDArray[np.float64]


def rank_within(
    values_N: Floats, missing_N: NDArray[np.bool_], request_of_candidate: NDArray[np.int64], num_requests: int
) -> tuple[Floats, Floats]:
    """(rank -1..1 with ties at their middle, difference to the median), float64 [N]; both 0 where missing.

    A request with one known value ranks it 0. Costs one sort of all candidates; no loop over requests.
    """
    rank, difference = np.zeros(len(values_N)), np.zeros(len(values_N))
    known = np.flatnonzero(~missing_N) if missing_N.any() else None
    values, request = values_N, request_of_candidate
    if known is not None:
        values, request = values.take(known), request.take(known)
    if not len(values):
        return rank, difference
    order = ascending(values)
    count, start = np.array([len(order)]), np.zeros(1, np.int64)
    if num_requests > 1:
        order = order.take(request.take(order).argsort(kind="stable"))
        count = np.bincount(request, minlength=num_requests)
        start = np.cumsum(count) - count
    x = values.take(order)
    begins = _begins(x)
    if num_requests > 1:
        begins |= _begins(request.take(order))
    first = np.flatnonzero(begins)  # the places of each run of equal values are first .. stop - 1
    stop = np.append(first[1:], len(x))
    run_of = request.take(order.take(first)) if num_requests > 1 else 0
    twice_middle = first + stop - 1 - 2 * start[run_of]
    run_rank = twice_middle / np.maximum(count[run_of] - 1, 1) - (count[run_of] > 1)
    rank_of = np.empty(len(x))
    rank_of[order] = np.repeat(run_rank, stop - first)
    upper = np.minimum(start + count // 2, len(x) - 1)
    lower = np.minimum(start + np.maximum(count - 1, 0) // 2, len(x) - 1)
    median = 0.5 * (x[lower] + x[upper])
    from_median = values - (median.take(request) if num_requests > 1 else median[0])
    if known is None:
        return rank_of, from_median
    rank[known], difference[known] = rank_of, from_median
    return rank, difference


def _begins(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a sorted array starts a run of equal values."""
    begins = np.ones(len(values), np.bool_)
    begins[1:] = values[1:] != values[:-1]
    return begins
