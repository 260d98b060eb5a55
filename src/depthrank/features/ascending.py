"""Stable order of numbers, several times faster than a sort that compares them.

A request's numbers are put into 65,536 even steps between the lowest and the highest, and ordered by step: two
counting passes. Numbers that share a step keep the order they came in; where that is wrong somewhere, what is nearly
sorted is sorted once more, which costs little. Where most numbers share few steps (an outlier far away), that is an
ordinary sort.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEPS = 65_535.0


def ascending(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The indices int64 [N] that sort finite ``values``, equal ones in their order: as a stable ``argsort``."""
    if not len(values):
        return np.zeros(0, np.int64)
    low = values.min()
    span = float(values.max() - low)
    if not 1e-300 < span < 1e300:  # all equal, or beyond what can be stretched
        return values.argsort(kind="stable")
    step = ((values - low) * (_STEPS / span)).astype(np.uint16)
    order: NDArray[np.int64] = step.argsort(kind="stable")  # of 16 bits: by counting
    sorted_by_step = values.take(order)
    if (sorted_by_step[1:] < sorted_by_step[:-1]).any():
        order = order.take(sorted_by_step.argsort(kind="stable"))
    return order
