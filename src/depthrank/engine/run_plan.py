"""Runs a plan for one request: level by level, chunk by chunk, stopping at the deadline.

Every level leaves a complete order: a candidate that a deeper level did not reach keeps the scores of the level that
scored it last. The best survivors go first, so what a deadline cuts off is the least promising.

Legend: N candidates, K tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from depthrank.engine.timings import Timings
from depthrank.model import CandidateInputs, CandidateLayout, CandidateState, ElasticRanker, ItemSide, RequestState
from depthrank.routing import Plan, keep_best

CHUNK_CANDIDATES = 4_096
CHUNK_WITH_DEADLINE = 512


@dataclass
class Scores:
    """The order so far: probabilities [N, K], value [N], and the level that scored each candidate last [N]."""

    probability_NK: NDArray[np.float32]
    value_N: NDArray[np.float32]
    level_N: NDArray[np.int8]
    scored: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Valuation:
    """Value from probabilities: task weights [K], times a factor per candidate [N]."""

    weight_K: NDArray[np.float32]
    factor_N: NDArray[np.float32]

    def of(self, probability_NK: NDArray[np.float32], index: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Values of the candidates of ``index``."""
        value_N: NDArray[np.float32] = (probability_NK @ self.weight_K) * self.factor_N[index]
        return value_N


@dataclass
class PlanRun:
    """One request's inputs to its levels; ``out_of_time`` is asked before every chunk."""

    model: ElasticRanker
    seen: RequestState
    items: ItemSide
    candidates: CandidateInputs
    valuation: Valuation
    timings: Timings
    out_of_time: Callable[[], bool] = lambda: False
    has_deadline: bool = False

    def run(self, plan: Plan) -> Scores:
        """Score by ``plan``; level 0 always runs."""
        with self.timings.stage("level0"):
            logits_NK = self.model.route(self.seen, self.items, self.candidates)
            probability_NK = self.model.probabilities(0, logits_NK).numpy()
            n = probability_NK.shape[0]
            value_N = self.valuation.of(probability_NK, slice(None))
            scores = Scores(probability_NK, value_N, np.zeros(n, np.int8), [n], list(plan.reasons))
            _mark_not_finite(scores, np.arange(n), logits_NK, 0)
        survivors = np.arange(n, dtype=np.int64)
        state: CandidateState | None = None
        for level, width in enumerate(plan.widths[1:], start=1):
            if width == 0:
                break
            with self.timings.stage(f"level{level}"):
                kept = keep_best(scores.value_N[survivors], width)
                survivors = survivors[kept]
                index = torch.from_numpy(kept)
                state = None if state is None else state.select(index)
                done, logits_NK, state = self._level(level, scores, survivors, logits_NK[index], state)
            scores.scored.append(done)
            if done < survivors.size:
                scores.reasons.append(f"deadline: level {level} scored {done} of {survivors.size} candidates")
                break
        return scores

    def _level(
        self,
        level: int,
        scores: Scores,
        survivors: NDArray[np.int64],
        logits_NK: torch.Tensor,
        state: CandidateState | None,
    ) -> tuple[int, torch.Tensor, CandidateState | None]:
        """One level over its survivors in chunks: how many were done, their logits and states."""
        chunk = CHUNK_WITH_DEADLINE if self.has_deadline else CHUNK_CANDIDATES
        logits, states, done = [], [], 0
        while done < survivors.size and not self.out_of_time():
            rows = survivors[done : done + chunk]
            part = self.candidates.select(torch.from_numpy(rows))
            here = slice(done, done + rows.size)
            begun = self.model.start(self.items, part) if state is None else state.select(torch.arange(done, here.stop))
            request_N = part.request_of_candidate_N
            refined, after = self.model.refine(
                level, self.seen, begun, request_N, logits_NK[here], CandidateLayout(request_N, 1)
            )
            self._publish(level, scores, rows, refined)
            logits.append(refined)
            states.append(after)
            done = here.stop
        if not logits:
            return 0, logits_NK[:0], None
        joined = CandidateState(torch.cat([s.tokens_NTD for s in states]), torch.cat([s.x_ND for s in states]))
        return done, torch.cat(logits), joined

    def _publish(self, level: int, scores: Scores, rows: NDArray[np.int64], logits_NK: torch.Tensor) -> None:
        """A chunk's scores replace the shallower ones; a candidate with a score that is no number keeps them."""
        probability_NK = self.model.probabilities(level, logits_NK).numpy()
        good_N = np.isfinite(probability_NK).all(axis=1)
        if not good_N.all():
            scores.reasons.append(f"level {level} gave no number for {int((~good_N).sum())} candidates")
            rows, probability_NK = rows[good_N], probability_NK[good_N]
        scores.probability_NK[rows] = probability_NK
        scores.value_N[rows] = self.valuation.of(probability_NK, rows)
        scores.level_N[rows] = level


def _mark_not_finite(scores: Scores, rows: NDArray[np.int64], logits_NK: torch.Tensor, level: int) -> None:
    """Candidates that even level 0 cannot score are ranked last, by input order, and marked as such (level -1)."""
    bad_N = ~np.isfinite(scores.probability_NK).all(axis=1)
    if bad_N.any():
        scores.reasons.append(f"level {level} gave no number for {int(bad_N.sum())} candidates: in input order")
        scores.probability_NK[bad_N] = 0.0
        scores.value_N[bad_N] = 0.0
        scores.level_N[bad_N] = -1
