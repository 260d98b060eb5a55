"""What stages cost in the engine as it serves: held-out requests at several plans, each with a cold user state and then
with a warm one. The engine's own cost model learns from them, and its coefficients are those of the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from depthrank.catalogue import Catalogue
from depthrank.engine import Ranker
from depthrank.engine.depth import Depth, FixedDepth
from depthrank.evaluate.engine_timings import request_of
from depthrank.routing import CostRates, Plan
from depthrank.training.replay_requests import OneRequest

SHARES = (1.0, 0.25, 1 / 16, 0.0)  # of the candidates, that deeper levels score
PASSES = 2


class PlannedRanker(Ranker):
    """Runs ``plan`` where it is set, whatever a request asks for."""

    plan: Plan | None = None

    def _choose(self, job: Any, scores: Any, pace: Any, price: float | None = None) -> Depth:
        return super()._choose(job, scores, pace, price) if self.plan is None else FixedDepth(self.plan)


def engine_costs(ranker: PlannedRanker, requests: Sequence[OneRequest], items: Catalogue) -> CostRates:
    """The coefficients after these requests; the first pass of each prepares what features read, and is not counted."""
    costs, levels = ranker.generation.costs, ranker.artifact.model.config.num_levels
    for one in requests:
        request, n = request_of(one.batch, items, "full"), one.num_candidates
        with costs.paused():
            ranker.rank(request)
        for share in SHARES * PASSES:
            width = max(1, round(share * n)) if share else 0
            ranker.plan = Plan((n, *[width] * (levels - 1)))
            ranker.states.forget(str(request.user))
            for _ in ("cold", "warm"):
                ranker.rank(request)
        ranker.plan = None
    return costs.rates
