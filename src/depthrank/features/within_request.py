"""A number beside the same number of the other candidates of its request: rank and difference to the median."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def rank_within(
    values_N: Floats, missing_N: NDArray[np.bool_], request_of_candidate: NDArray[np.int64], num_requests: int
) -> tuple[Floats, Floats]:
    """(rank -1..1 with ties at their middle, difference to the median), float64 [N]; both 0 where missing.

    A request with one known value ranks it 0. Costs one sort of all candidates; no loop over requests.
    """
    known = np.flatnonzero(~missing_N)
    rank, difference = np.zeros(len(values_N)), np.zeros(len(values_N))
    if not len(known):
        return rank, difference
    if num_requests == 1:
        order = known[np.argsort(values_N[known], kind="stable")]
        begins = _begins(values_N[order])
        count, start = np.array([len(order)]), np.zeros(1, np.int64)
    else:
        order = known[np.lexsort((values_N[known], request_of_candidate[known]))]
        request = request_of_candidate[order]
        begins = _begins(values_N[order]) | _begins(request)
        count = np.bincount(request, minlength=num_requests)
        start = np.cumsum(count) - count
    x = values_N[order]
    first = np.flatnonzero(begins)  # the places of each run of equal values are first .. stop - 1
    stop = np.append(first[1:], len(x))
    run_of = request_of_candidate[order[first]] if num_requests > 1 else 0
    twice_middle = first + stop - 1 - 2 * start[run_of]
    run_rank = twice_middle / np.maximum(count[run_of] - 1, 1) - (count[run_of] > 1)
    rank[order] = np.repeat(run_rank, stop - first)
    upper = np.minimum(start + count // 2, len(x) - 1)
    lower = np.minimum(start + np.maximum(count - 1, 0) // 2, len(x) - 1)
    median = 0.5 * (x[lower] + x[upper])
    difference[order] = x - (median[request_of_candidate[order]] if num_requests > 1 else median[0])
    return rank, difference


def _begins(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a sorted array starts a run of equal values."""
    begins = np.ones(len(values), np.bool_)
    begins[1:] = values[1:] != values[:-1]
    return begins
