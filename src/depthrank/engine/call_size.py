"""Calls of a level in few sizes: products of a shape that was not seen before cost a compilation.

oneDNN compiles a kernel for every shape of a product and keeps about a thousand. Where candidates come in any number,
each new number is a new shape of every product of a level: 0.7 ms instead of 0.1 a product, several times what a small
level takes. So a call is filled up to one of few sizes with repetitions of its last candidate, whose results are left
out; candidates of a call do not touch one another.

Legend: N candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS = ((64, 8), (256, 32))  # (up to so many candidates, multiples of)
LARGEST_STEP = 64


def call_size(candidates: int) -> int:
    """The size that a call of so many candidates is filled up to; 0 stays 0."""
    step = next((step for most, step in STEPS if candidates <= most), LARGEST_STEP)
    return -(-candidates // step) * step


def filled(index_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices filled up to a call's size with the last one."""
    more = call_size(index_N.size) - index_N.size
    return np.concatenate((index_N, np.repeat(index_N[-1:], more))) if more else index_N
