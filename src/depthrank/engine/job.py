"""One request on its way through the levels: its inputs encoded once, the user side begun once, then level by level.

Legend: N candidates, K tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import msgspec
import numpy as np

from depthrank.engine.candidate_items import CandidateItems
from depthrank.engine.candidates import CandidateRows
from depthrank.engine.costs import USER, StageCost
from depthrank.engine.depth import Depth
from depthrank.engine.generation import Generation
from depthrank.engine.item_store import ItemSnapshot
from depthrank.engine.order import top_candidates
from depthrank.engine.pace import USER_STAGE, Pace
from depthrank.engine.piece import Piece, Refined
from depthrank.engine.run_plan import PlanRun, Scores
from depthrank.engine.timings import Timings
from depthrank.engine.user_side import UserSide, encode_user
from depthrank.engine.valuation import Valuation
from depthrank.features import Encoded, EncodedHistory
from depthrank.model import CandidateInputs, ItemSide, RequestState, UserState, candidate_inputs, request_inputs
from depthrank.precision.product_mode import products_of
from depthrank.schema import RankedItem, Request
from depthrank.schema.request import Spent

Choose = Callable[["Job", Scores, Pace], Depth]


class Job:
    """A checked request with its candidates and history; ``steps`` score it, ``ranked`` and ``explain`` read the
    result.

    ``ticket``: of the user-state cache, taken before the history was read. Raises RequestError for context and
    candidate values that features cannot use.
    """

    def __init__(
        self,
        generation: Generation,
        snapshot: ItemSnapshot,
        request: Request,
        candidates: CandidateRows,
        factor_N: np.ndarray,
        history: EncodedHistory,
        time_ms: int,
        timings: Timings,
        ticket: int,
    ) -> None:
        self.generation, self.request, self.candidates = generation, request, candidates
        self.snapshot, self.history, self.time_ms, self.timings = snapshot, history, time_ms, timings
        self.history_length = int(history.length[0])
        self.valuation = Valuation(generation.weight_K, factor_N)
        self.seen: RequestState | None = None
        self.user: UserSide | None = None
        self.depth: Depth | None = None
        self.spent: list[StageCost] = []
        self.batches: list[dict[str, Any]] = []
        self._ticket = ticket
        users, user = generation.users, [str(request.user)]
        self.user_row = np.zeros(1, np.int64) if users is None else users.row_of(user)
        with timings.stage("features"):
            self.encoded_request = self._encode_request(user, time_ms)
            self.inputs = self._encode_candidates(user, time_ms)
        self._items = CandidateItems(generation.artifact.model, snapshot, candidates.rows, self.inputs)

    @property
    def items(self) -> ItemSide:
        """The item side of every candidate."""
        return self._items.whole

    @property
    def widths(self) -> tuple[int, ...]:
        """The most candidates each level was to score; where time was up before that was decided, level 0 alone."""
        deeper = len(self.generation.artifact.model.config.levels)
        return (len(self.candidates), *[0] * deeper) if self.depth is None else self.depth.widths

    def _encode_request(self, user: list[str], time_ms: int) -> Encoded:
        generation = self.generation
        context = {name: [value] for name, value in self.request.context.items()}
        at = np.array([time_ms], dtype=np.int64)
        return generation.artifact.encoder.encode_requests(
            user, self.user_row, context, at, generation.users, generation.counters, self.history
        )

    def _encode_candidates(self, user: list[str], time_ms: int) -> CandidateInputs:
        """Candidates index the item rows that are gathered for this request, in their own order."""
        generation, candidates, n = self.generation, self.candidates, len(self.candidates)
        request_N, at = np.zeros(n, dtype=np.int64), np.array([time_ms], dtype=np.int64)
        encoded = generation.artifact.encoder.encode_candidates(
            candidates.rows,
            request_N,
            user,
            at,
            candidates.columns,
            generation.counters,
            generation.items,
            history=self.history,
        )
        return candidate_inputs(encoded, np.arange(n), request_N)

    def begin(self, request: Encoded, history: EncodedHistory, state: UserState | None = None) -> RequestState:
        """The user side of one request, or of several that differ in their histories; of one with its ``state``, the
        history's items are read only by foreign levels and for transitions."""
        model, rows = self.generation.artifact.model, history.rows
        read = rows if state is None or model.config.keeps_item_columns else rows[:, :0]
        items = self.snapshot.side(read.ravel().astype(np.int64))
        place = np.arange(read.size).reshape(read.shape) if read.size else rows
        with products_of(len(history.rows) if state is not None else history.rows.size, model.config.width):
            return model.begin(request_inputs(request, history, place), items, state=state)

    def steps(self, pace: Pace, choose: Choose) -> Generator[Piece, Refined | None, Scores]:
        """Level 0 for all, then deeper levels as ``choose`` says; nothing starts after the deadline."""
        model = self.generation.artifact.model
        scores = Scores.unscored(len(self.candidates), len(model.config.tasks))
        if not pace.may_start():
            scores.scored.append(0)
            scores.stopped = "the deadline passed before anything was scored"
            scores.reasons.append("deadline: it passed before anything was scored, candidates are in input order")
            return scores
        with self.timings.stage(USER_STAGE), pace.chunk(USER_STAGE, 0):
            self.seen = self._begin_user()
        self._account_user(pace)
        run = PlanRun(
            model,
            self.seen,
            self._items,
            self.valuation,
            self.timings,
            pace,
            self.generation.costs,
            self.history_length,
            lambda scored: choose(self, scored, pace),
            self.spent,
        )
        run.batches = self.batches
        self.depth = yield from run.steps(scores)
        self._keep_user()
        if not self.batches:  # its share of a pass says nothing of what a request takes alone
            self.generation.costs.observe(self.spent)
        return scores

    def _begin_user(self) -> RequestState:
        """The user's state, cached, extended or fresh, and what the request adds to it."""
        generation = self.generation
        model, key = generation.artifact.model, (generation.artifact.manifest.model_id, str(self.request.user))
        self.user = encode_user(model, generation.states, key, self.history, self.snapshot, generation.now)
        return self.begin(self.encoded_request, self.history, self.user.state)

    def _account_user(self, pace: Pace) -> None:
        assert self.user is not None
        warm, tokens = self.user.new_tokens == 0 and self.user.warmth != "cold", self.user.new_tokens
        predicted = self.generation.costs.rates.level_ms(USER, 0, tokens, warm=warm)
        self.spent.append(StageCost(USER, 0, tokens, warm, predicted, pace.thread_ms(USER_STAGE)))

    def _keep_user(self) -> None:
        assert self.user is not None
        if self.user.worth_keeping:
            self.generation.states.put(self.user.key, self.user.encoded, self._ticket)

    def accounts(self, stopped: str) -> Spent:
        """What the request took, after ``run``; ``stopped``: why it went no deeper."""
        thread_ms, predicted_ms = (
            sum(getattr(cost, name) for cost in self.spent) for name in ("actual_ms", "predicted_ms")
        )
        warm = self.user is not None and self.user.new_tokens == 0 and self.user.warmth != "cold"
        words = () if self.depth is None else self.depth.words
        return Spent(thread_ms, predicted_ms, self.history_length, warm, stopped, words)

    def best(self, scores: Scores) -> list[int]:
        """The first ``top`` candidates in order."""
        return top_candidates(scores.level_N, scores.value_N, self.request.top, self.candidates.id_of)

    def ranked(self, scores: Scores, best: list[int]) -> list[RankedItem]:
        """These candidates as the answer shows them."""
        tasks = self.generation.artifact.model.config.tasks
        asked_for_all = self.candidates.ids is None
        values, levels = scores.value_N[best].tolist(), scores.level_N[best].tolist()
        return [
            RankedItem(
                item=self.candidates.id_of(i),
                value=value,
                scores=dict(zip(tasks, probabilities, strict=True)),
                level=level,
                index=msgspec.UNSET if asked_for_all else i,
            )
            for i, value, level, probabilities in zip(
                best, values, levels, scores.probability_NK[best].tolist(), strict=True
            )
        ]
