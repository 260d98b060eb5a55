"""How much two features say the same: values they have in common, weighted by how often they are looked up.

Features whose values are mostly the same (a user's favourite author and an item's author) could share rows; one whose
values all stand in another tells little that is new. ``inspect`` lists such pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

FEWEST_VALUES = 20
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Overlap:
    """``share`` of the lookups of ``feature`` are of values that ``other`` knows too."""

    feature: str
    other: str
    share: float
    values: int


def overlaps(counts: Mapping[str, Mapping[str, int]]) -> list[Overlap]:
    """Pairs in which more than half of a feature's lookups are of common values, the largest share first.

    counts: occurrences by value of every feature; those of fewer than 20 values are left out.
    """
    large = {name: values for name, values in counts.items() if len(values) >= FEWEST_VALUES}
    found = []
    for name, other in permutations(large, 2):
        common = large[name].keys() & large[other].keys()
        total = sum(large[name].values())
        share = sum(large[name][value] for value in common) / total if total else 0.0
        if share > LEAST_SHARE:
            found.append(Overlap(name, other, share, len(common)))
    return sorted(found, key=lambda o: (-o.share, o.feature, o.other))
