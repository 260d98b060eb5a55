"""Survivors: which candidates go on to the next level. O(N), stable, best first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def keep_best(value_N: NDArray[np.float64], width: int) -> NDArray[np.int64]:
    """Indices of the ``width`` highest values, highest first; ties go to the earlier one. O(N + width log width)."""
    n = value_N.shape[0]
    width = min(width, n)
    if width <= 0:
        return np.zeros(0, dtype=np.int64)
    if width < n:
        threshold = np.partition(value_N, n - width)[n - width]
        above = np.flatnonzero(value_N > threshold)
        ties = np.flatnonzero(value_N == threshold)[: width - above.size]
        kept = np.concatenate((above, ties))
    else:
        kept = np.arange(n)
    order = np.lexsort((kept, -value_N[kept]))
    return kept[order].astype(np.int64)
