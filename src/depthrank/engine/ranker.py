"""``Ranker``: an artifact and an event log, ready to answer. No HTTP.

A request goes through ``rank`` top to bottom: check, history, features, user side, levels by plan, order, answer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from depthrank.artifact import Artifact, load_artifact
from depthrank.catalogue import Catalogue, UpsertResult
from depthrank.engine.candidates import CandidateRows, resolve_candidates
from depthrank.engine.explain import NEWEST_EVENTS, leave_one_out, reasons_of, story
from depthrank.engine.generation import Generation
from depthrank.engine.order import top_candidates
from depthrank.engine.run_plan import PlanRun, Scores, Valuation
from depthrank.engine.served import served_events
from depthrank.engine.timings import Timings
from depthrank.engine.valuation import value_factor
from depthrank.errors import LogError
from depthrank.events import AppendResult, EraseResult, EventBatch, EventLog, HistoryBatch, now_ms, open_log
from depthrank.features import Encoded, EncodedHistory
from depthrank.model import CandidateInputs, ItemSide, RequestState, candidate_inputs, request_inputs
from depthrank.routing import choose_plan
from depthrank.schema import Answer, Degraded, Limits, RankedItem, Request, Spec
from depthrank.schema.request import Mode
from depthrank.schema.wire import check_request

WARM_UP_USER = "(warm-up)"


class Ranker:
    """Ranks requests with one model version. Safe for use by several threads."""

    def __init__(
        self,
        artifact: Artifact,
        log: EventLog,
        *,
        limits: Limits | None = None,
        clock: Callable[[], int] = now_ms,
        monotonic_s: Callable[[], float] = time.perf_counter,
        owns_log: bool = False,
    ) -> None:
        self.artifact, self.log, self.limits = artifact, log, limits or Limits()
        self.spec: Spec = artifact.spec
        self._clock, self._monotonic_s, self._owns_log = clock, monotonic_s, owns_log
        self._wall_clock = getattr(artifact.spec.dataset.main, "time", None) != "order"
        self.generation = Generation.load(artifact, log)
        self._cost_per_candidate = [1.0, *[10.0] * (artifact.model.config.num_levels - 1)]

    @classmethod
    def load(cls, path: str | Path, log: EventLog | str | None = None, *, limits: Limits | None = None) -> Ranker:
        """Load the artifact at ``path``; ``log`` is a log, its URL, or None for the folder ``events`` beside it.

        Raises ArtifactError or LogError, each with the one reason.
        """
        artifact = load_artifact(path)
        if isinstance(log, EventLog):
            return cls(artifact, log, limits=limits)
        url = log or f"lmdb:{Path(path).resolve().parent / 'events'}"
        return cls(artifact, open_log(url), limits=limits, owns_log=True)

    @property
    def model_id(self) -> str:
        """Name and content hash of the model version."""
        return self.artifact.manifest.model_id

    @torch.inference_mode()
    def rank(self, request: Request, *, arrived_s: float | None = None, request_id: str | None = None) -> Answer:
        """The ranking for one request; ``arrived_s`` (monotonic) is when its deadline starts, by default now.

        Raises RequestError with the path of every wrong field.
        """
        started = self._monotonic_s() if arrived_s is None else arrived_s
        timings = Timings(self._monotonic_s)
        with timings.stage("check"):
            request = check_request(request, self.limits, wall_clock=self._wall_clock)
        time_ms = self._clock() if request.time_ms is None else request.time_ms
        reasons: list[str] = []
        with timings.stage("candidates"):
            candidates = resolve_candidates(request, self.generation.items, self.generation.store.size)
            factor_N = value_factor(self.spec, candidates.columns, len(candidates), reasons)
        with timings.stage("history"):
            events = self._read_history(str(request.user), time_ms, reasons)
        job = _Job(self, request, candidates, time_ms, events, Valuation(self.generation.weight_K, factor_N), timings)
        deadline_s = None if request.deadline_ms is None else started + request.deadline_ms / 1e3
        scores = job.run(deadline_s, reasons)
        with timings.stage("order"):
            items = job.ranked(scores)
        explain = job.explain(scores, items) if request.explain else None
        timings.ms["total"] = (self._monotonic_s() - started) * 1e3
        return Answer(
            request_id=request_id or uuid.uuid4().hex,
            model=self.model_id,
            items=items,
            plan=list(job.plan_widths),
            candidates_scored=scores.scored,
            timings_ms=timings.ms,
            degraded=Degraded(bool(scores.reasons), scores.reasons),
            explain=explain,
        )

    def _read_history(self, user: str, time_ms: int, reasons: list[str]) -> HistoryBatch:
        """The user's events as of the request; a log that cannot be read degrades the answer and says so."""
        as_of = np.array([time_ms], dtype=np.int64)
        rows, actions = self.spec.history_events, self.spec.history_actions
        try:
            return self.log.histories([user], as_of, rows, actions)
        except LogError as error:
            reasons.append(f"the event log cannot be read, ranked without history: {error}")
            return _no_history()

    def append(self, events: EventBatch) -> AppendResult:
        """Append events to the log and feed the counters; returns when they are durable and readable."""
        result = self.log.append(events)
        self.generation.counters.catch_up(self.log)
        return result

    def record_served(self, request: Request, answer: Answer) -> AppendResult:
        """Log the shown items of an answer as impressions, so that later actions join them."""
        return self.append(served_events(self.spec, request, answer, self._clock()))

    def upsert_items(self, columns: Mapping[str, Sequence[object]]) -> UpsertResult:
        """Change or add catalogue rows; the next request sees them. Raises RequestError."""
        return self.generation.upsert_items(columns)

    def history(self, user: str, limit: int = 100, time_ms: int | None = None) -> list[dict[str, Any]]:
        """The user's newest events of all actions, newest first."""
        found = self.log.history(str(user), self._clock() + 1 if time_ms is None else time_ms, limit)
        items, actions = self.log.item_dictionary(), self.log.action_dictionary()
        return [
            {"item": items[item], "action": actions[action], "time_ms": int(at)}
            for item, action, at in zip(
                found.item_code[::-1], found.action_code[::-1], found.time_ms[::-1], strict=True
            )
        ]

    def erase(self, user: str) -> EraseResult:
        """Remove a user from the log's files and from the counters."""
        result = self.log.erase(str(user))
        self.generation.counters.forget_user(str(user))
        return result

    @property
    def items(self) -> Catalogue:
        """The catalogue being ranked."""
        return self.generation.items

    def info(self) -> dict[str, Any]:
        """What is being served."""
        manifest, config = self.artifact.manifest, self.artifact.model.config
        return {
            "model": manifest.model_id,
            "name": manifest.name,
            "created_ms": manifest.created_ms,
            "tasks": list(config.tasks),
            "levels": config.num_levels,
            "items": self.generation.items.size - 1,
            "users": 0 if self.generation.users is None else self.generation.users.size - 1,
            "history_actions": list(self.spec.history_actions),
            "catalogue_generation": self.generation.items.generation,
            "log_position_trained": manifest.log_position,
        }

    def warm(self) -> None:
        """Rank once at full depth and once by the router, so that the first request finds everything ready."""
        modes: tuple[Mode, ...] = ("full", "router")
        for mode in modes:
            self.rank(Request(user=WARM_UP_USER, candidates="all", top=1, mode=mode, time_ms=self._clock()))

    def close(self) -> None:
        """Close the log where this ranker opened it."""
        if self._owns_log:
            self.log.close()


class _Job:
    """One request on its way through the levels."""

    def __init__(
        self,
        ranker: Ranker,
        request: Request,
        candidates: CandidateRows,
        time_ms: int,
        events: HistoryBatch,
        valuation: Valuation,
        timings: Timings,
    ) -> None:
        self.ranker, self.request, self.candidates = ranker, request, candidates
        self.valuation, self.timings, self.events = valuation, timings, events
        self.plan_widths: tuple[int, ...] = ()
        self._encode(time_ms)

    def _encode(self, time_ms: int) -> None:
        """Features of both sides, and the item rows this request needs, gathered once."""
        generation, encoder = self.ranker.generation, self.ranker.artifact.encoder
        user, at = [str(self.request.user)], np.array([time_ms], dtype=np.int64)
        self.user_row = np.zeros(1, np.int64) if generation.users is None else generation.users.row_of(user)
        n = len(self.candidates)
        self.request_of_candidate = np.zeros(n, dtype=np.int64)
        with self.timings.stage("features"):
            context = {name: [value] for name, value in self.request.context.items()}
            self.encoded_request: Encoded = encoder.encode_requests(
                user, self.user_row, context, at, generation.users, generation.counters
            )
            self.encoded_history: EncodedHistory = encoder.encode_history(
                self.events, generation.codes, at, self.ranker.spec.history.length
            )
            encoded = encoder.encode_candidates(
                self.candidates.rows,
                self.request_of_candidate,
                user,
                at,
                self.candidates.columns,
                generation.counters,
                generation.items,
                None,
            )
            self.items: ItemSide = generation.store.gather(self.candidates.rows)
            self.history_items: ItemSide = generation.store.gather(self.encoded_history.rows.ravel().astype(np.int64))
            self.inputs: CandidateInputs = candidate_inputs(encoded, np.arange(n), self.request_of_candidate)

    def run(self, deadline_s: float | None, reasons: list[str]) -> Scores:
        """Level 0 for all, then deeper levels by the plan, until the deadline."""
        ranker, model, n = self.ranker, self.ranker.artifact.model, len(self.candidates)
        plan = choose_plan(
            self.request.mode, n, cost_per_candidate=ranker._cost_per_candidate, budget=self.request.budget
        )
        self.plan_widths = plan.widths
        with self.timings.stage("user"):
            self.seen = self._begin(self.encoded_request, self.encoded_history)
        run = PlanRun(
            model=model,
            seen=self.seen,
            items=self.items,
            candidates=self.inputs,
            valuation=self.valuation,
            timings=self.timings,
            out_of_time=lambda: deadline_s is not None and ranker._monotonic_s() >= deadline_s,
            has_deadline=deadline_s is not None,
        )
        scores = run.run(plan)
        scores.reasons[:0] = reasons
        return scores

    def _begin(self, request: Encoded, history: EncodedHistory) -> RequestState:
        """The user side; history rows index the gathered history items."""
        place = np.arange(self.encoded_history.rows.size).reshape(self.encoded_history.rows.shape)
        if len(history) > 1:  # counterfactual copies name catalogue rows: gather their own items
            items = self.ranker.generation.store.gather(history.rows.ravel().astype(np.int64))
            place = np.arange(history.rows.size).reshape(history.rows.shape)
            return self.ranker.artifact.model.begin(request_inputs(request, history, place), items)
        return self.ranker.artifact.model.begin(request_inputs(request, history, place), self.history_items)

    def ranked(self, scores: Scores) -> list[RankedItem]:
        """The first ``top`` candidates, in order."""
        tasks = self.ranker.artifact.model.config.tasks
        best = top_candidates(scores.level_N, scores.value_N, self.request.top, self.candidates.id_of)
        self.best = best
        return [
            RankedItem(
                item=self.candidates.id_of(i),
                value=float(scores.value_N[i]),
                scores={task: float(p) for task, p in zip(tasks, scores.probability_NK[i], strict=True)},
                level=int(scores.level_N[i]),
            )
            for i in best
        ]

    def explain(self, scores: Scores, items: list[RankedItem]) -> dict[str, Any]:
        """The story of this request, and what each shown item owes to the newest events."""
        facts = {
            "user": str(self.request.user),
            "user_known": bool(self.user_row[0] > 0),
            "history_length": int(self.encoded_history.length[0]),
            "num_candidates": len(self.candidates),
            "scored": scores.scored,
            "reasons": scores.reasons,
            "timings_ms": dict(self.timings.ms),
        }
        with self.timings.stage("explain"):
            because = self._because(scores)
        router_rank = self._router_ranks()
        shown = [
            {"item": item.item, "rank": place, "router_rank": router_rank[i], "because": because[place - 1]}
            for place, (i, item) in enumerate(zip(self.best, items, strict=True), start=1)
        ]
        return {**facts, "story": story(facts), "items": shown}

    def _router_ranks(self) -> dict[int, int]:
        """Where level 0 alone would have put the shown candidates, from 1."""
        model = self.ranker.artifact.model
        probability_NK = model.probabilities(0, model.route(self.seen, self.items, self.inputs)).numpy()
        value_N = self.valuation.of(probability_NK, slice(None))
        return {i: 1 + int((value_N > value_N[i]).sum()) for i in self.best}

    def _because(self, scores: Scores) -> list[list[dict[str, Any]]]:
        """Counterfactual reasons of the shown items, at the level that scored them deepest."""
        length = int(self.encoded_history.length[0])
        if not length or not self.best:
            return [[] for _ in self.best]
        histories, dropped = leave_one_out(self.encoded_history, NEWEST_EVENTS)
        copies = len(dropped) + 1
        request = Encoded(
            np.repeat(self.encoded_request.ids, copies, 0), np.repeat(self.encoded_request.floats, copies, 0)
        )
        shown = self.inputs.select(torch.tensor(self.best))
        many = CandidateInputs(
            shown.rows_N.repeat(copies),
            shown.ids_NI.repeat(copies, 1),
            shown.floats_NF.repeat(copies, 1),
            torch.arange(copies).repeat_interleave(len(self.best)),
        )
        model = self.ranker.artifact.model
        logits_L = model.levels_from(self._begin(request, histories), self.items, many)
        deepest = max(0, int(scores.level_N[self.best].max()))
        probability = model.probabilities(deepest, logits_L[deepest]).numpy()
        index = np.tile(np.array(self.best, dtype=np.int64), copies)
        value_CN = self.valuation.of(probability, index).reshape(copies, len(self.best))
        return reasons_of(value_CN, dropped, self._tokens(length))

    def _tokens(self, length: int) -> list[dict[str, Any]]:
        """The history's tokens as a person reads them."""
        rows, bits = self.encoded_history.rows[0, :length], self.encoded_history.actions[0, :length]
        ids = self.ranker.generation.items.ids_of(rows)
        actions = self.ranker.spec.history_actions
        return [
            {"item": item, "actions": [a for k, a in enumerate(actions) if mask >> k & 1]}
            for item, mask in zip(ids, bits.tolist(), strict=True)
        ]


def _no_history() -> HistoryBatch:
    """One empty history."""
    nothing = np.zeros(0, np.int64)
    return HistoryBatch(
        offsets=np.zeros(2, np.int64),
        item_code=nothing.astype(np.int32),
        action_code=nothing.astype(np.int16),
        time_ms=nothing,
        appended_ms=nothing,
        log_position=nothing,
    )
