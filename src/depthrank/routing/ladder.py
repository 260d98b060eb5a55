"""The plan ladder: the Pareto-optimal plans of a model, cheapest first, found by replay of held-out requests.

A rung says how many candidates each level beyond the router scores: as a count at the usual number of candidates, which
grows with the candidates of a request as a power of them (0: the same count always; 1: the same fraction).

Legend: R requests, J rungs, D levels beyond the router.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import ArtifactError
from depthrank.routing.plain import fields_of, finite_number, finite_numbers, whole_number

ALL = 1 << 40
"""A width beyond any number of candidates."""
MOST_RUNGS = 64
MOST_LEVELS = 64

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rung:
    """A plan: widths of the levels beyond the router, never growing, and what it did in replay.

    ``cost``: fraction of full depth's, user state warm. ``kept_gain``: in replay, by itself on every request.
    """

    widths: tuple[int, ...]
    cost: float
    kept_gain: float

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"widths": list(self.widths), "cost": self.cost, "kept_gain": self.kept_gain}


@dataclass(frozen=True)
class PlanLadder:
    """Rungs, cheapest first: the first is the router alone, the last full depth. ``usual``: candidates of a request."""

    rungs: tuple[Rung, ...]
    usual: int
    power: float

    @property
    def num_levels(self) -> int:
        """Levels, the router included."""
        return 1 + len(self.rungs[0].widths)

    @cached_property
    def _widths_JD(self) -> Floats:
        return np.array([rung.widths for rung in self.rungs], dtype=np.float64)

    def caps(self, num_candidates: int, top: int) -> Floats:
        """Candidates at each level beyond the router by rung, float64 [J, D].

        At most those there are; a level that runs at all scores the top n at least.
        """
        return scaled_widths(self._widths_JD, num_candidates, top, self.usual, self.power)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"rungs": [rung.to_plain() for rung in self.rungs], "usual": self.usual, "power": self.power}

    @classmethod
    def from_plain(cls, plain: object) -> PlanLadder:
        """Inverse of ``to_plain``; raises ArtifactError for anything that is no ladder."""
        f = fields_of(plain, ("rungs", "usual", "power"), "ladder")
        listed = f["rungs"]
        if not isinstance(listed, list) or not 2 <= len(listed) <= MOST_RUNGS:
            raise ArtifactError(f"the adaptive part is damaged: a ladder has 2 to {MOST_RUNGS} rungs")
        rungs = tuple(_rung(value) for value in listed)
        depth = len(rungs[0].widths)
        if any(len(rung.widths) != depth for rung in rungs):
            raise ArtifactError("the adaptive part is damaged: rungs of a ladder differ in levels")
        if rungs[0].widths != (0,) * depth or rungs[-1].widths != (ALL,) * depth:
            raise ArtifactError(
                "the adaptive part is damaged: a ladder goes from the router alone to full depth, "
                f"not from {rungs[0].widths} to {rungs[-1].widths}"
            )
        usual = whole_number(f["usual"], "usual number of candidates", 1, ALL)
        return cls(rungs, usual, finite_number(f["power"], "power of the widths", 0.0, 1.0))


def _rung(value: object) -> Rung:
    f = fields_of(value, ("widths", "cost", "kept_gain"), "rung")
    listed = f["widths"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_LEVELS:
        raise ArtifactError("the adaptive part is damaged: a rung has a width for each level beyond the router")
    widths = tuple(whole_number(w, "width of a rung", 0, ALL) for w in listed)
    if any(a < b for a, b in pairwise(widths)):
        raise ArtifactError(f"the adaptive part is damaged: widths of a rung grow with depth: {widths}")
    cost, kept = finite_numbers([f["cost"], f["kept_gain"]], "figures of a rung").tolist()
    return Rung(widths, cost, kept)


def scaled_widths(widths_JD: Floats, num_candidates: int, top: int, usual: int, power: float) -> Floats:
    """Widths for a request's own number of candidates; whole numbers as float64 [J, D]."""
    scale = (num_candidates / usual) ** power if num_candidates else 0.0
    grown = np.where(widths_JD >= ALL, np.inf, np.rint(widths_JD * scale))
    floor = np.where(widths_JD > 0, float(min(top, num_candidates)), 0.0)
    return np.asarray(np.minimum(np.maximum(grown, floor), num_candidates), dtype=np.float64)


def plan_grid(usual: int, num_deeper: int, top: int, *, ratio: float = 1.5) -> list[tuple[int, ...]]:
    """Every plan worth a replay: geometric widths from the top n to all, nested, for every number of levels.

    Deeper levels keep a geometric part of the level above. The router alone comes first, full depth last.
    """
    counts = geometric(max(top, 1), usual, ratio)
    router, full = (0,) * num_deeper, (ALL,) * num_deeper
    plans = {router}
    for depth in range(1, num_deeper + 1):
        plans |= {widths + (0,) * (num_deeper - depth) for widths in _nested(counts, depth)}
    return [*sorted(plans - {full}), full]


def geometric(first: int, last: int, ratio: float) -> list[int]:
    """Whole numbers from ``first`` to below ``last``, each about ``ratio`` times the one before, then ALL."""
    counts, at = [], float(first)
    while at < last:
        counts.append(round(at))
        at = max(at * ratio, at + 1)
    return [*counts, ALL]


def _nested(counts: Sequence[int], depth: int) -> list[tuple[int, ...]]:
    if depth == 1:
        return [(c,) for c in counts]
    coarse = counts if len(counts) <= 6 else [*counts[:-1:2], counts[-1]]
    return [(w, *rest) for w in counts for rest in _nested(coarse, depth - 1) if rest[0] <= w]


def pareto(costs: Floats, gains: Floats, *, least_gain: float = 0.002) -> list[int]:
    """Indices on the Pareto front, cheapest first: each keeps more than all cheaper ones, by ``least_gain``."""
    front: list[int] = []
    best = -np.inf
    for i in np.lexsort((-gains, costs)).tolist():
        if gains[i] > best + (least_gain if front else 0.0):
            front.append(i)
            best = gains[i]
    return front


def thinned(front: list[int], costs: Floats, gains: Floats, most: int) -> list[int]:
    """At most ``most`` of a front, both ends kept. One by one that plan leaves whose place a mixture of its neighbours
    fills best: the one that keeps least more than they do at its cost. Plans are many where gain is steep."""
    kept = list(front)
    while len(kept) > max(most, 2):
        cost, gain = costs[kept], gains[kept]
        share = (cost[1:-1] - cost[:-2]) / np.maximum(cost[2:] - cost[:-2], 1e-300)
        above = gain[1:-1] - (gain[:-2] + share * (gain[2:] - gain[:-2]))
        del kept[1 + int(above.argmin())]
    return kept
