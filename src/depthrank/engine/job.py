"""One request on its way through the levels: its inputs encoded once, the user side begun once, levels run by a plan.

Legend: N candidates, K tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from depthrank.engine.candidates import CandidateRows
from depthrank.engine.generation import Generation
from depthrank.engine.order import top_candidates
from depthrank.engine.run_plan import PlanRun, Scores
from depthrank.engine.timings import Timings
from depthrank.engine.valuation import Valuation
from depthrank.features import Encoded, EncodedHistory
from depthrank.model import CandidateInputs, ItemSide, RequestState, candidate_inputs, request_inputs
from depthrank.routing import Plan
from depthrank.schema import RankedItem, Request


class Job:
    """A checked request with its candidates and history; ``run`` scores it, ``ranked`` and ``explain`` read the result.

    Raises RequestError for context and candidate values that features cannot use.
    """

    def __init__(
        self,
        generation: Generation,
        request: Request,
        candidates: CandidateRows,
        factor_N: np.ndarray,
        history: EncodedHistory,
        time_ms: int,
        timings: Timings,
    ) -> None:
        self.generation, self.request, self.candidates = generation, request, candidates
        self.history, self.timings = history, timings
        self.valuation = Valuation(generation.weight_K, factor_N)
        self.seen: RequestState | None = None
        users, user = generation.users, [str(request.user)]
        self.user_row = np.zeros(1, np.int64) if users is None else users.row_of(user)
        with timings.stage("features"):
            self.encoded_request = self._encode_request(user, time_ms)
            self.inputs = self._encode_candidates(user, time_ms)
            self.items: ItemSide = generation.store.gather(candidates.rows)

    def _encode_request(self, user: list[str], time_ms: int) -> Encoded:
        generation = self.generation
        context = {name: [value] for name, value in self.request.context.items()}
        at = np.array([time_ms], dtype=np.int64)
        return generation.artifact.encoder.encode_requests(
            user, self.user_row, context, at, generation.users, generation.counters
        )

    def _encode_candidates(self, user: list[str], time_ms: int) -> CandidateInputs:
        """Candidates index the item rows that are gathered for this request, in their own order."""
        generation, candidates, n = self.generation, self.candidates, len(self.candidates)
        request_N, at = np.zeros(n, dtype=np.int64), np.array([time_ms], dtype=np.int64)
        encoded = generation.artifact.encoder.encode_candidates(
            candidates.rows, request_N, user, at, candidates.columns, generation.counters, generation.items
        )
        return candidate_inputs(encoded, np.arange(n), request_N)

    def begin(self, request: Encoded, history: EncodedHistory) -> RequestState:
        """The user side of one request, or of several that differ in their histories."""
        rows = history.rows
        items = self.generation.store.gather(rows.ravel().astype(np.int64))
        place = np.arange(rows.size).reshape(rows.shape)
        return self.generation.artifact.model.begin(request_inputs(request, history, place), items)

    def run(self, plan: Plan, monotonic_s: Callable[[], float], started_s: float) -> Scores:
        """Level 0 for all, then deeper levels by the plan; nothing starts after the deadline, which began to count at
        ``started_s``."""
        deadline_ms = self.request.deadline_ms
        deadline_s = math.inf if deadline_ms is None else started_s + deadline_ms / 1e3

        def out_of_time() -> bool:
            return deadline_ms is not None and monotonic_s() >= deadline_s

        model = self.generation.artifact.model
        scores = Scores.unscored(len(self.candidates), len(model.config.tasks))
        scores.reasons.extend(plan.reasons)
        if out_of_time():
            scores.scored.append(0)
            scores.reasons.append("deadline: it passed before anything was scored, candidates are in input order")
            return scores
        with self.timings.stage("user"):
            self.seen = self.begin(self.encoded_request, self.history)
        run = PlanRun(
            model,
            self.seen,
            self.items,
            self.inputs,
            self.valuation,
            self.timings,
            out_of_time,
            deadline_ms is not None,
        )
        run.run(plan, scores)
        return scores

    def best(self, scores: Scores) -> list[int]:
        """The first ``top`` candidates in order."""
        return top_candidates(scores.level_N, scores.value_N, self.request.top, self.candidates.id_of)

    def ranked(self, scores: Scores, best: list[int]) -> list[RankedItem]:
        """These candidates as the answer shows them."""
        tasks = self.generation.artifact.model.config.tasks
        return [
            RankedItem(
                item=self.candidates.id_of(i),
                value=float(scores.value_N[i]),
                scores=dict(zip(tasks, scores.probability_NK[i].tolist(), strict=True)),
                level=int(scores.level_N[i]),
            )
            for i in best
        ]
