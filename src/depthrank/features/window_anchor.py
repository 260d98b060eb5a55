"""Where a history's window starts: at an anchor, so that it stays put while events arrive and then moves in one step.

A window that slides with every event makes every cached or shared encoding of it stale at once. Here a token is an
anchor when a hash of its time says so (one in about L/4), and the window starts at the first anchor among the older
half of the last L tokens; where there is none, at the L-th last. The choice depends on the tokens alone: training and
serving agree, and as-of histories of nearby times are prefixes of one another. What is given up: a window holds between
L/2 and L tokens, about 3/4 L on average.

Shape letters: n histories, T tokens (flat, oldest first within a history), L history length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ANCHORS_PER_WINDOW = 4


def window_lengths(
    history_T: NDArray[np.int64], time_ms_T: NDArray[np.int64], num_tokens_n: NDArray[np.int64], max_length: int
) -> NDArray[np.int64]:
    """Tokens each window keeps, int64 [n]; all of them where they fit.

    ``history_T``: which history a token belongs to, ascending. ``num_tokens_n``: tokens of each history.
    """
    length_n = np.minimum(num_tokens_n, max_length)
    long_n = num_tokens_n > max_length
    if not long_n.any():
        return length_n
    from_end_T = np.cumsum(num_tokens_n)[history_T] - np.arange(len(history_T))  # 1 for the newest token
    eligible_T = (from_end_T <= max_length) & (from_end_T > max_length // 2) & long_n[history_T]
    anchor = np.flatnonzero(eligible_T & is_anchor(time_ms_T, max_length))
    first = anchor[np.r_[True, history_T[anchor][1:] != history_T[anchor][:-1]]] if len(anchor) else anchor
    length_n[history_T[first]] = from_end_T[first]
    return length_n


def is_anchor(time_ms_T: NDArray[np.int64], max_length: int) -> NDArray[np.bool_]:
    """Whether each time hashes to an anchor (SplitMix64's finalizer: neighbouring times have unrelated hashes)."""
    every = max(1, max_length // ANCHORS_PER_WINDOW)
    z = time_ms_T.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.asarray(z % np.uint64(every) == 0, dtype=np.bool_)
