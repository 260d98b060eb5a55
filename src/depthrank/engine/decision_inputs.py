"""What the adaptive policy decides from, of a request whose candidates level 0 has scored."""

from __future__ import annotations

import numpy as np

from depthrank.engine.job import Job
from depthrank.engine.pace import Pace
from depthrank.engine.run_plan import Scores
from depthrank.routing import AdaptivePolicy, DecisionInputs


def inputs_of(
    policy: AdaptivePolicy, job: Job, scores: Scores, pace: Pace, price: float | None = None
) -> DecisionInputs:
    """Signals, costs and limits as they are now; ``price`` None: the policy's own."""
    request, model = job.request, job.generation.artifact.model
    assert job.seen is not None, "level 0 has scored"
    signals = policy.signals(
        np.where(scores.level_N < 0, np.nan, scores.value_N),
        request.top,
        history_length=job.history_length,
        time_ms=job.time_ms,
        context=request.context,
    )
    return DecisionInputs(
        signals=signals,
        num_candidates=len(job.candidates),
        history_length=job.history_length,
        top=request.top,
        budget=request.budget,
        time_left_ms=pace.left_ms() if pace.has_deadline else None,
        price=price,
        warm=job.seen.view.state.depth >= model.config.encoder_layers,
        rates=job.generation.costs.rates,
    )
