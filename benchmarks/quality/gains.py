"""NDCG@10 of the value: of several tasks, or of grades told as tasks, whose weights are what reaching them is worth.

Gain of a candidate: the sum of the weights of its positive labels (a missing label is none). Legend: N rows, R
requests, K tasks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from rows import Rows

TOP = 10
Floats = npt.NDArray[np.float64]


def grade_of(rows: Rows) -> Floats:
    """How many of the tasks are positive, [N]: where each task is a grade that is reached, the grade."""
    return np.nan_to_num(rows.label.astype(np.float64)).sum(axis=1)


def gains_of(rows: Rows, weight_K: Floats) -> Floats:
    """[N]."""
    return np.nan_to_num(rows.label.astype(np.float64)) @ weight_K


def ndcg_of_gains(rows: Rows, gain_N: Floats, score_N: Floats) -> Floats:
    """NDCG@10 of each request, [R]; NaN where nothing is gained. Equal scores stand in the order of the rows."""
    starts = np.flatnonzero(np.r_[True, np.diff(rows.request) != 0])
    request_N = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(rows)]))

    def dcg(by_N: Floats) -> Floats:
        order = np.lexsort((-by_N, request_N))
        place_N = np.arange(len(rows)) - starts[request_N]
        discounted = np.where(place_N < TOP, gain_N[order] / np.log2(place_N + 2), 0.0)
        return np.add.reduceat(discounted, starts)

    ideal_R = dcg(gain_N)
    return np.where(ideal_R > 0, dcg(score_N) / np.where(ideal_R > 0, ideal_R, 1.0), np.nan)
