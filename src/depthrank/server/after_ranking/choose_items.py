"""Which of the ranked items are shown, and in which order: pure functions of indices, best first.

Diversity is maximal marginal relevance: each place goes to argmax (1 - s) * value - s * likeness to what stands above.
Source: Carbonell and Goldstein, SIGIR 1998. Values are taken relative to the largest, so s means the same everywhere.

Legend: N ranked items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Keys = Sequence[frozenset[Hashable]]


def passing(order: Sequence[int], keys: Keys, wanted: frozenset[Hashable]) -> list[int]:
    """Items with one of the wanted values, in their order."""
    return [i for i in order if keys[i] & wanted]


def capped(order: Sequence[int], keys: Keys, most: int) -> list[int]:
    """The order without items that would be the ``most`` + 1st with one of their values; a missing value has no cap."""
    seen: Counter[Hashable] = Counter()
    kept = []
    for i in order:
        if all(seen[key] < most for key in keys[i]):
            kept.append(i)
            seen.update(keys[i])
    return kept


def diversified(
    order: Sequence[int], value_N: NDArray[np.float64], alike_NN: NDArray[np.float64], strength: float, top: int
) -> list[int]:
    """The first ``top`` places by marginal relevance; ties go to whom the ranking had first."""
    left = list(order)
    largest = max((float(value_N[i]) for i in left), default=0.0)
    relevance = {i: float(value_N[i]) / largest if largest > 0 else 0.0 for i in left}
    nearest = dict.fromkeys(left, 0.0)
    chosen: list[int] = []
    while left and len(chosen) < top:
        best = max(left, key=lambda i: (1 - strength) * relevance[i] - strength * nearest[i])
        left.remove(best)
        chosen.append(best)
        for i in left:
            nearest[i] = max(nearest[i], float(alike_NN[i, best]))
    return chosen
