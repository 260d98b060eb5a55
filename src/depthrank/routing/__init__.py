"""Which level scores how many candidates: pure decisions in numpy."""

from __future__ import annotations

from depthrank.routing.plan import Plan, choose_plan
from depthrank.routing.survivors import keep_best

__all__ = ["Plan", "choose_plan", "keep_best"]
