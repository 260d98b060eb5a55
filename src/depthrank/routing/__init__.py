"""Which level scores how many candidates: pure decisions in numpy."""

from __future__ import annotations

from depthrank.routing.plan import LevelCost, Plan, fixed_plan, plan_within_budget
from depthrank.routing.survivors import keep_best

__all__ = ["LevelCost", "Plan", "fixed_plan", "keep_best", "plan_within_budget"]
