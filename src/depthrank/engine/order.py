"""The order of an answer: deepest level reached, then value, then item id; input order where nothing scored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def top_candidates(
    level_N: NDArray[np.int8], value_N: NDArray[np.float64], top: int, item_id: Callable[[int], str]
) -> list[int]:
    """Indices of the first ``top`` candidates; ids are only looked up where levels and values tie at the edge."""
    n = level_N.shape[0]
    top = min(top, n)
    if top == 0:
        return []
    order_N = np.lexsort((-value_N, -level_N.astype(np.int16)))
    last = order_N[top - 1]
    edge = top
    while edge < n and _ties(level_N, value_N, last, order_N[edge]):
        edge += 1
    chosen = [int(i) for i in order_N[:edge]]

    def key(i: int) -> tuple[int, float, str]:
        return (-int(level_N[i]), -float(value_N[i]), item_id(i) if level_N[i] >= 0 else "")

    return sorted(chosen, key=key)[:top]


def _ties(level_N: NDArray[np.int8], value_N: NDArray[np.float64], a: int, b: int) -> bool:
    return bool(level_N[a] == level_N[b] and value_N[a] == value_N[b])
