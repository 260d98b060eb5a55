"""Where a history's window starts: at an anchor, so that it stays put while events arrive and then moves in one step.

A window that slides with every event makes every cached or shared encoding of it stale at once. Here each token has a
number, a hash of its time, and the window starts at the token with the smallest number among the older half of the last
L (a minimizer: Schleimer et al., SIGMOD 2003). While events arrive it stays the smallest until it leaves or a smaller
one enters, about L/4 events. The choice depends on the tokens alone: training and serving agree, and as-of histories of
nearby times are prefixes of one another. What is given up: a window holds between L/2 and L tokens, 3/4 L on average.

Shape letters: n histories, T tokens (flat, oldest first within a history), L history length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def window_lengths(
    history_T: NDArray[np.int64], time_ms_T: NDArray[np.int64], num_tokens_n: NDArray[np.int64], max_length: int
) -> NDArray[np.int64]:
    """Tokens each window keeps, int64 [n]; all of them where they fit.

    ``history_T``: which history a token belongs to, ascending. ``num_tokens_n``: tokens of each history.
    """
    length_n = np.minimum(num_tokens_n, max_length)
    long = np.flatnonzero(num_tokens_n > max_length)
    if len(long) and max_length:
        stop = np.cumsum(num_tokens_n)[long]
        length_n[long] = stop - window_starts(hash_of_time(time_ms_T), stop, max_length)
    return length_n


def window_starts(hash_T: NDArray[np.uint64], stop: NDArray[np.int64], max_length: int) -> NDArray[np.int64]:
    """Where windows start, int64 [n], of histories of more than ``max_length`` > 0 tokens, the last before ``stop``."""
    oldest = stop - max_length
    older_half = np.arange(max_length - max_length // 2)
    start: NDArray[np.int64] = oldest + hash_T[oldest[:, None] + older_half].argmin(axis=1)
    return start


def hash_of_time(time_ms_T: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number a token (SplitMix64's finalizer: neighbouring times have unrelated numbers)."""
    z = time_ms_T.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
