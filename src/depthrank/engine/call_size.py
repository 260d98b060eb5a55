"""Calls of a level, and histories, in few sizes: products of a shape that was not seen before cost a compilation.

oneDNN compiles a kernel for every shape of a product and keeps about a thousand, 0.3 MB each. Where candidates come in
any number, each new number is a new shape of every product of a level: 0.7 ms instead of 0.1 a product, several times
what a small level takes. So a call is filled up to one of few sizes with repetitions of its last candidate, whose
results are left out; candidates of a call do not touch one another. Histories come in any length as well, and each
event makes one longer: they are filled up with tokens that stand behind all others, where nothing sees them.

Legend: N candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS = ((64, 8), (256, 32))  # (up to so many candidates, multiples of)
HISTORY_STEPS = ((64, 8), (256, 16), (1_024, 32))  # finer: an event more should not cost many tokens more
LARGEST_STEP = 64


def history_size(tokens: int, longest: int) -> int:
    """The tokens that a history of so many is filled up to, where it may have ``longest``; 0 stays 0."""
    return min(_up_to_step(tokens, HISTORY_STEPS), longest)


def call_size(candidates: int) -> int:
    """The size that a call of so many candidates is filled up to; 0 stays 0."""
    return _up_to_step(candidates, STEPS)


def filled(index_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices filled up to a call's size with the last one."""
    more = call_size(index_N.size) - index_N.size
    return np.concatenate((index_N, np.repeat(index_N[-1:], more))) if more else index_N


def _up_to_step(count: int, steps: tuple[tuple[int, int], ...]) -> int:
    step = next((step for most, step in steps if count <= most), LARGEST_STEP)
    return -(-count // step) * step
