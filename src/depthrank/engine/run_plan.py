"""Takes one request through its levels, chunk by chunk; no chunk starts after the deadline.

Every level leaves a complete order: a candidate that a deeper level did not reach keeps the scores of the level that
scored it last, and one that no level scored keeps its place in the input, behind all others. The best survivors go
first, so what a deadline cuts off is the least promising. How deep the request goes is asked once level 0 has scored.

Legend: N candidates, K tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthrank.engine.call_size import filled
from depthrank.engine.candidate_items import CandidateItems
from depthrank.engine.costs import CostMeter, StageCost
from depthrank.engine.depth import Depth
from depthrank.engine.pace import Pace
from depthrank.engine.piece import Piece, Refined
from depthrank.engine.timings import Timings
from depthrank.engine.valuation import Valuation
from depthrank.model import CandidateState, ElasticRanker, RequestState
from depthrank.precision.product_mode import products_of
from depthrank.routing.cost_rates import MOST_IN_CALL

ROUTER_CHUNK_WITH_DEADLINE = 8_192
UNSCORED = -1
Steps = Generator[Piece, "Refined | None", "Depth | None"]
"""Asks for pieces of deeper levels and is sent what came of each, None where time was up; returns the depth chosen."""


@dataclass
class Scores:
    """The order so far: probabilities [N, K], value [N], and the level that scored each candidate last [N] (-1: none).

    ``scored``: how many candidates each level scored; ``reasons``: why this is less than was asked for; ``stopped``:
    why no level went on.
    """

    probability_NK: NDArray[np.float32]
    value_N: NDArray[np.float64]
    level_N: NDArray[np.int8]
    scored: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    stopped: str = "every level of the plan has scored"

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
    """One request's inputs to its levels. ``choose`` says how deep it goes, given the scores of level 0."""

    model: ElasticRanker
    seen: RequestState
    items: CandidateItems
    valuation: Valuation
    timings: Timings
    pace: Pace
    costs: CostMeter
    history_length: int
    choose: Callable[[Scores], Depth]
    spent: list[StageCost] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)

    def steps(self, scores: Scores) -> Steps:
        """Score into ``scores``; returns the depth chosen, None where time was up before."""
        n = scores.value_N.size
        with self.timings.stage("level0"):
            logits_NK = self._route(scores)
        if not self._finished(0, scores, n, logits_NK.shape[0]):
            return None
        with self.timings.stage("plan"):
            depth = self.choose(scores)
        survivors, state, before = np.arange(n, dtype=np.int64), None, 0
        for level in range(1, len(depth.widths)):
            if not depth.widths[level]:
                continue
            with self.timings.stage("survivors"):
                factor_N = self.valuation.factor_N[survivors]
                kept = depth.keep(before, level, scores.value_N[survivors], factor_N)
            if not kept.size:
                scores.stopped = f"after level {before} nothing was left to decide"
                break
            with self.timings.stage(f"level{level}"):
                survivors, index = survivors[kept], torch.from_numpy(kept)
                state = None if state is None else state.select(index)
                logits_NK = logits_NK.index_select(0, index)
                done, logits_NK, state = yield from self._level(level, scores, survivors, logits_NK, state)
            before = level
            if not self._finished(level, scores, survivors.size, done):
                break
        return depth

    def _finished(self, level: int, scores: Scores, asked: int, done: int) -> bool:
        """Account for a level; False where the deadline cut it off."""
        scores.scored += [0] * (level - len(scores.scored)) + [done]
        if done < asked:
            rest = "the others are in input order" if level == 0 else "the others keep the level before"
            scores.stopped = f"the deadline passed in level {level}"
            scores.reasons.append(f"deadline: level {level} scored {done} of {asked} candidates, {rest}")
        return done == asked

    def _route(self, scores: Scores) -> Tensor:
        """Level 0 over all candidates in input order: the logits [N', K] of those done in time."""
        n, done, bad = scores.value_N.size, 0, 0
        chunk = min(n, ROUTER_CHUNK_WITH_DEADLINE) if self.pace.has_deadline else n
        logits: list[Tensor] = []
        while done < n and self.pace.may_start():
            rows = np.arange(done, min(done + chunk, n))
            with self.pace.chunk("level0", rows.size):
                with products_of(rows.size, self.model.config.width):
                    logits.append(self.model.route(self.seen, *self.items.for_router(filled(rows)))[: rows.size])
                bad += self._publish(0, scores, rows, logits[-1])
            done += rows.size
        if bad:
            scores.reasons.append(f"level 0 gave no number for {bad} candidates: they are in input order")
        self._account(0, done, warm=True)
        return torch.cat(logits) if logits else torch.zeros(0, scores.probability_NK.shape[1])

    def _level(
        self,
        level: int,
        scores: Scores,
        survivors: NDArray[np.int64],
        logits_NK: Tensor,
        state: CandidateState | None,
    ) -> Generator[Piece, Refined | None, tuple[int, Tensor, CandidateState | None]]:
        """One level over its survivors in chunks: how many were done, their logits and states."""
        warm = self._deepen(level)
        logits: list[Tensor] = []
        states: list[CandidateState] = []
        done, bad, deepest = 0, 0, self.model.config.num_levels - 1
        while done < survivors.size and self.pace.may_start():
            rows = survivors[done : done + self._chunk(level)]
            here = torch.from_numpy(filled(np.arange(done, done + rows.size)))
            with self.pace.chunk(f"level{level}", rows.size) as own:
                if state is None:
                    with products_of(rows.size, self.model.config.width):
                        begun = self.items.start(filled(rows))
                else:
                    begun = state.select(here)
                asked_s = self.pace.thread_s()
                refined = yield Piece(
                    self.model, level, self.seen, begun, logits_NK[here], self.history_length, self.pace
                )
                if refined is None:
                    own.left_out = True
                    break
                if refined.own_ms is not None:
                    own.others_ms = (self.pace.thread_s() - asked_s) * 1e3 - refined.own_ms
                bad += self._publish(level, scores, rows, refined.logits_NK[: rows.size])
            if refined.batch is not None:
                self.batches.append(refined.batch)
            logits.append(refined.logits_NK[: rows.size])
            if level < deepest:
                states.append(refined.after.select(torch.arange(rows.size)))
            done += rows.size
        if bad:
            scores.reasons.append(f"level {level} gave no number for {bad} candidates: they keep the level before")
        self._account(level, done, warm=warm)
        if not logits:
            return 0, logits_NK[:0], None
        return done, torch.cat(logits), CandidateState.joined(states) if states else None

    def _deepen(self, level: int) -> bool:
        """The user's layers that the level reads, one a chunk; returns whether they were all there."""
        state, wanted = self.seen.view.state, self.model.encoder_depth(level)
        warm = state.depth >= wanted
        while state.depth < wanted and self.pace.may_start():
            rows, width = state.num_positions, self.model.config.width
            with self.pace.chunk(f"level{level}", 0), products_of(rows, width):
                self.model.encoder.deepen_(state, state.depth + 1)
        return warm

    def _chunk(self, level: int) -> int:
        """Candidates of the next chunk."""
        if not self.pace.has_deadline:
            return MOST_IN_CALL
        fitting = self.costs.rates.call(level, self.history_length, self.pace.left_ms())
        return self.pace.chunk_candidates(f"level{level}", fitting)

    def _account(self, level: int, done: int, *, warm: bool) -> None:
        if not done:
            return
        history, deadline = self.history_length, self.pace.has_deadline
        predicted = self.costs.rates.level_ms(level, done, history, warm=warm, deadline=deadline)
        own = [chunk for chunk in self.pace.chunks if chunk.stage == f"level{level}"]
        actual, once = sum(c.thread_ms for c in own), sum(c.thread_ms for c in own if not c.candidates)
        calls = sum(c.candidates > 0 for c in own)
        deepens = level > 0 and self.model.encoder_depth(level) > self.model.config.router_layers
        self.spent.append(StageCost(level, done, history, warm, predicted, actual, calls, once, deepens))

    def _publish(self, level: int, scores: Scores, rows: NDArray[np.int64], logits_NK: Tensor) -> int:
        """A chunk's scores replace the shallower ones, but for those that are no number; returns how many are not."""
        probability_NK = self.model.probabilities(level, logits_NK).numpy()
        num_bad, is_number_NK = 0, np.isfinite(probability_NK)
        if not is_number_NK.all():
            good_N = is_number_NK.all(axis=1)
            num_bad = int((~good_N).sum())
            rows, probability_NK = rows[good_N], probability_NK[good_N]
        scores.probability_NK[rows] = probability_NK
        scores.value_N[rows] = self.valuation.of(probability_NK, rows)
        scores.level_N[rows] = level
        return num_bad
