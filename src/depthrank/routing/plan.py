"""A plan: how many candidates each level scores. Pure: the same inputs give the same plan.

Modes ``full`` and ``router`` are fixed. ``adaptive`` without a fitted ladder scores everything at every level,
narrowed only by ``budget``: a fraction of the full-depth cost; levels beyond the router share what the router leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from depthrank.schema.request import Mode


@dataclass(frozen=True)
class LevelCost:
    """Cost of a level, in any one unit: once a request, and for each candidate it scores."""

    request: float
    candidate: float


@dataclass(frozen=True)
class Plan:
    """Candidates by level, never growing; a level with 0 is not run. ``reasons``: why it is not full depth."""

    widths: tuple[int, ...]
    reasons: tuple[str, ...] = ()


def fixed_plan(mode: Mode, num_candidates: int, num_levels: int) -> Plan:
    """Everything at every level, or at the router alone."""
    deeper = 0 if mode == "router" else num_candidates
    return Plan((num_candidates, *[deeper] * (num_levels - 1)))


def plan_within_budget(budget: float, num_candidates: int, costs: Sequence[LevelCost]) -> Plan:
    """The widest plan that costs at most ``budget`` times full depth; the router scores all, whatever the budget.

    ``costs``: of each level, router first.
    """
    width = _affordable_width(num_candidates, costs, budget)
    reasons = () if width == num_candidates else (f"budget {budget:g}: {width} of {num_candidates} go deeper",)
    return Plan((num_candidates, *[width] * (len(costs) - 1)), reasons)


def _affordable_width(n: int, costs: Sequence[LevelCost], budget: float) -> int:
    """The widest equal width of the deeper levels within ``budget``; 0 where not even their request side fits."""
    full = sum(cost.request + n * cost.candidate for cost in costs)
    router, deeper = costs[0], costs[1:]
    left = budget * full - router.request - n * router.candidate - sum(cost.request for cost in deeper)
    per_candidate = sum(cost.candidate for cost in deeper)
    if budget >= 1 or per_candidate <= 0:
        return n
    return min(n, max(0, int(left / per_candidate)))
