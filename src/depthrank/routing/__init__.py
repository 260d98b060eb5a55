"""Which level scores how many candidates: pure decisions in numpy."""

from __future__ import annotations

from depthrank.routing.choose import Decision, DecisionInputs
from depthrank.routing.cost_model import CostModel
from depthrank.routing.cost_rates import USER, CostRates, Line
from depthrank.routing.depth_value import DepthValue
from depthrank.routing.ladder import PlanLadder, Rung
from depthrank.routing.plan import LevelCost, Plan, fixed_plan, plan_within_budget
from depthrank.routing.policy import AdaptivePolicy
from depthrank.routing.price import PriceController
from depthrank.routing.signals import ScenarioEffects, Signals
from depthrank.routing.survivors import Survivors, keep_best

__all__ = [
    "USER",
    "AdaptivePolicy",
    "CostModel",
    "CostRates",
    "Decision",
    "DecisionInputs",
    "DepthValue",
    "LevelCost",
    "Line",
    "Plan",
    "PlanLadder",
    "PriceController",
    "Rung",
    "ScenarioEffects",
    "Signals",
    "Survivors",
    "fixed_plan",
    "keep_best",
    "plan_within_budget",
]
