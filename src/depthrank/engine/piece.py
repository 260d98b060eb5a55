"""A piece of a deeper level's work: what one request asks to be computed next, alone or in one pass with others'.

A request that runs stops at each piece and goes on with what came of it (``PlanRun.steps``); who computes pieces knows
neither plans nor scores.

Legend: N candidates, D width, K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from depthrank.engine.pace import Pace
from depthrank.model import CandidateLayout, CandidateState, ElasticRanker, RequestState
from depthrank.precision.product_mode import products_of


@dataclass(frozen=True, eq=False)
class Refined:
    """Logits [N, K] and states of a piece. ``own_ms``: its share of the thread time, where others shared the pass;
    ``batch``: the pass, for decision records."""

    logits_NK: Tensor
    after: CandidateState
    own_ms: float | None = None
    batch: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Piece:
    """``level`` over the candidates of ``begun``, one request's, whose logits so far are ``before_NK`` [N, K]."""

    model: ElasticRanker
    level: int
    seen: RequestState
    begun: CandidateState
    before_NK: Tensor
    history: int
    pace: Pace

    @property
    def candidates(self) -> int:
        """Candidates N."""
        return self.before_NK.shape[0]

    def alone(self) -> Refined:
        """This piece by itself."""
        request_N = torch.zeros(self.candidates, dtype=torch.int64)
        layout = CandidateLayout(request_N, 1)
        with products_of(self.candidates, self.model.config.level_width(self.level)):
            return Refined(*self.model.refine(self.level, self.seen, self.begun, request_N, self.before_NK, layout))
