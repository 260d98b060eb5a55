"""Runs a plan for one request: level by level, chunk by chunk; no chunk starts after the deadline.

Every level leaves a complete order: a candidate that a deeper level did not reach keeps the scores of the level that
scored it last, and one that no level scored keeps its place in the input, behind all others. The best survivors go
first, so what a deadline cuts off is the least promising.

Legend: N candidates, K tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from depthrank.engine.timings import Timings
from depthrank.engine.valuation import Valuation
from depthrank.model import CandidateInputs, CandidateLayout, CandidateState, ElasticRanker, ItemSide, RequestState
from depthrank.routing import Plan, keep_best

CHUNK_CANDIDATES = 4_096
CHUNK_WITH_DEADLINE = 512
ROUTER_CHUNK_WITH_DEADLINE = 8_192
UNSCORED = -1


@dataclass
class Scores:
    """The order so far: probabilities [N, K], value [N], and the level that scored each candidate last [N] (-1: none).

    ``scored``: how many candidates each level scored; ``reasons``: why this is less than was asked for.
    """

    probability_NK: NDArray[np.float32]
    value_N: NDArray[np.float64]
    level_N: NDArray[np.int8]
    scored: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @classmethod
    def unscored(cls, num_candidates: int, num_tasks: int) -> Scores:
        """Nothing scored yet: input order."""
        return cls(
            np.zeros((num_candidates, num_tasks), np.float32),
            np.zeros(num_candidates, np.float64),
            np.full(num_candidates, UNSCORED, np.int8),
        )


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

    def run(self, plan: Plan, scores: Scores) -> None:
        """Score by ``plan`` into ``scores``."""
        with self.timings.stage("level0"):
            logits_NK = self._route(scores)
        survivors = np.arange(logits_NK.shape[0], dtype=np.int64)
        if not self._finished(0, scores, plan.widths[0], survivors.size):
            return
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
            if not self._finished(level, scores, survivors.size, done):
                break

    def _finished(self, level: int, scores: Scores, asked: int, done: int) -> bool:
        """Account for a level; False where the deadline cut it off."""
        scores.scored.append(done)
        if done < asked:
            rest = "the others are in input order" if level == 0 else "the others keep the level before"
            scores.reasons.append(f"deadline: level {level} scored {done} of {asked} candidates, {rest}")
        return done == asked

    def _route(self, scores: Scores) -> torch.Tensor:
        """Level 0 over all candidates in input order: the logits [N', K] of those done in time."""
        n, done, bad = scores.value_N.size, 0, 0
        chunk = min(n, ROUTER_CHUNK_WITH_DEADLINE) if self.has_deadline else n
        logits: list[torch.Tensor] = []
        while done < n and not self.out_of_time():
            rows = np.arange(done, min(done + chunk, n))
            part = self.candidates if rows.size == n else self.candidates.select(torch.from_numpy(rows))
            logits.append(self.model.route(self.seen, self.items, part))
            bad += self._publish(0, scores, rows, logits[-1])
            done += rows.size
        if bad:
            scores.reasons.append(f"level 0 gave no number for {bad} candidates: they are in input order")
        return torch.cat(logits) if logits else torch.zeros(0, scores.probability_NK.shape[1])

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
        logits, states, done, bad = [], [], 0, 0
        while done < survivors.size and not self.out_of_time():
            rows = survivors[done : done + chunk]
            part = self.candidates.select(torch.from_numpy(rows))
            here = slice(done, done + rows.size)
            begun = self.model.start(self.items, part) if state is None else state.select(torch.arange(done, here.stop))
            request_N = part.request_of_candidate_N
            refined, after = self.model.refine(
                level, self.seen, begun, request_N, logits_NK[here], CandidateLayout(request_N, 1)
            )
            bad += self._publish(level, scores, rows, refined)
            logits.append(refined)
            states.append(after)
            done = here.stop
        if bad:
            scores.reasons.append(f"level {level} gave no number for {bad} candidates: they keep the level before")
        if not logits:
            return 0, logits_NK[:0], None
        joined = CandidateState(torch.cat([s.tokens_NTD for s in states]), torch.cat([s.x_ND for s in states]))
        return done, torch.cat(logits), joined

    def _publish(self, level: int, scores: Scores, rows: NDArray[np.int64], logits_NK: torch.Tensor) -> int:
        """A chunk's scores replace the shallower ones, but for those that are no number; returns how many are not."""
        probability_NK = self.model.probabilities(level, logits_NK).numpy()
        good_N = np.isfinite(probability_NK).all(axis=1)
        if not good_N.all():
            rows, probability_NK = rows[good_N], probability_NK[good_N]
        scores.probability_NK[rows] = probability_NK
        scores.value_N[rows] = self.valuation.of(probability_NK, rows)
        scores.level_N[rows] = level
        return int((~good_N).sum())
