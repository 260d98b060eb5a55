"""A plan: how many candidates each level scores. Pure: the same inputs give the same plan.

Modes ``full`` and ``router`` are fixed. ``adaptive`` without a fitted ladder scores everything at every level,
narrowed only by ``budget``: a fraction of the full-depth cost; levels beyond the router share what the router leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from depthrank.schema.request import Mode


@dataclass(frozen=True)
class Plan:
    """Candidates by level, never growing; a level with 0 is not run. ``reasons``: why it is not full depth."""

    widths: tuple[int, ...]
    reasons: tuple[str, ...] = ()


def choose_plan(
    mode: Mode, num_candidates: int, *, cost_per_candidate: Sequence[float], budget: float | None = None
) -> Plan:
    """The plan for one request. ``cost_per_candidate``: relative cost of each level, router first."""
    num_levels = len(cost_per_candidate)
    if mode == "router":
        return Plan((num_candidates, *[0] * (num_levels - 1)))
    if budget is None or mode == "full":
        return Plan((num_candidates,) * num_levels)
    full = num_candidates * sum(cost_per_candidate)
    left = budget * full - num_candidates * cost_per_candidate[0]
    deeper = sum(cost_per_candidate[1:])
    width = num_candidates if deeper <= 0 else min(num_candidates, max(0, int(left / deeper)))
    reasons = () if width == num_candidates else (f"budget {budget:g}: {width} of {num_candidates} go deeper",)
    return Plan((num_candidates, *[width] * (num_levels - 1)), reasons)
