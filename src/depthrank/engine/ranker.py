"""``Ranker``: an artifact and an event log, ready to answer. No HTTP.

A request goes through ``rank`` top to bottom: check, candidates, history, features, user side, levels by plan, order,
answer.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from depthrank.artifact import (
    Artifact,
    Cache,
    compaction_is_due,
    default_log_url,
    hot_row_measures,
    is_remote,
)
from depthrank.catalogue import Catalogue, UpsertResult
from depthrank.engine.answer_of import answer_of
from depthrank.engine.candidates import resolve_candidates
from depthrank.engine.decision_inputs import inputs_of
from depthrank.engine.depth import AdaptiveDepth, Depth, FixedDepth
from depthrank.engine.generation import Generation
from depthrank.engine.job import Job
from depthrank.engine.overlay import DeltaReport, Prepared
from depthrank.engine.overlay_ages import StateAges
from depthrank.engine.overlay_switch import GenerationSwitch
from depthrank.engine.pace import Chunk, Pace
from depthrank.engine.read_history import HistoryReader
from depthrank.engine.ready_artifact import ready_artifact
from depthrank.engine.record import record_of
from depthrank.engine.run_plan import Scores
from depthrank.engine.served import all_served_events
from depthrank.engine.shown_history import shown_history
from depthrank.engine.timings import Timings
from depthrank.engine.under_way import UnderWay, finish_together, or_error
from depthrank.engine.user_side import encode_user
from depthrank.engine.user_states import DEFAULT_STATE_BYTES, UserStates
from depthrank.engine.valuation import value_factor
from depthrank.errors import DepthrankError, LogError
from depthrank.events import AppendResult, EraseResult, EventBatch, EventLog, now_ms, open_log
from depthrank.routing import fixed_plan, plan_within_budget
from depthrank.routing.economy import Economy
from depthrank.schema import Answer, Limits, Request, Spec
from depthrank.schema.ask import Ask
from depthrank.schema.request import Mode
from depthrank.schema.wire import check_request

WARM_UP_USER = "(warm-up)"
WARM_UP_CANDIDATES = 256

logger = logging.getLogger("depthrank.engine")


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
        user_state_bytes: int = DEFAULT_STATE_BYTES,
        trace: Callable[[list[Chunk]], None] | None = None,
        state_max_age_s: float = 0.0,
    ) -> None:
        """``user_state_bytes`` bounds the cache of encoded histories (0: none); ``trace`` is told the chunks of work of
        every request that was ranked; ``state_max_age_s``: how long a history encoded before a delta may serve."""
        self.log, self.limits = log, limits or Limits()
        self.spec: Spec = artifact.spec
        self._clock, self._monotonic_s, self._owns_log = clock, monotonic_s, owns_log
        self._wall_clock = getattr(artifact.spec.dataset.main, "time", None) != "order"
        self._newest_event_ms, self._newest_lock = -1, threading.Lock()
        self.price: float | None = None  # of compute, for the adaptive policy; None: the policy's own
        self._trace = trace
        self._history = HistoryReader(log, self.spec)
        self.states = UserStates(user_state_bytes)
        ages = StateAges(state_max_age_s, monotonic_s)
        self._switch = GenerationSwitch(Generation(artifact, log, self.states, ages), ages)

    @classmethod
    def load(
        cls,
        path: str | Path,
        log: EventLog | str | None = None,
        *,
        limits: Limits | None = None,
        user_state_bytes: int = DEFAULT_STATE_BYTES,
        copy: bool = False,
        precision: Literal["policy", "fp32"] = "policy",
        deltas: str | Path | None = None,
        state_max_age_s: float = 0.0,
        hot_row_bytes: int = 0,
    ) -> Ranker:
        """Load the artifact at ``path``; ``log`` is a log, its URL, or None for the folder ``events`` beside it.

        A URL (s3://..., memory://...) is copied into the local cache and verified on the way; it needs a ``log``.
        ``copy`` serves a folder from such a copy too: what happens to its files then cannot end this process.
        ``user_state_bytes`` bounds the cache of encoded histories; 0 turns it off. ``precision``: layers in the formats
        that `depthrank tune` chose on this machine, where it did, or all in fp32. ``deltas``: a folder whose deltas are
        applied, all there are; ``state_max_age_s``: how long a history encoded before a later one may serve.
        ``hot_row_bytes``: memory for single rows of tables that memory does not hold (docs/tables.md).
        Raises ArtifactError or LogError, each with the one reason.
        """
        if log is None and is_remote(path):
            raise LogError(f"{path} has no event log beside it: name one, such as log='lmdb:events'")
        artifact = ready_artifact(path, copy=copy, precision=precision, deltas=deltas, hot_row_bytes=hot_row_bytes)
        options: dict[str, Any] = {"user_state_bytes": user_state_bytes, "state_max_age_s": state_max_age_s}
        if isinstance(log, EventLog):
            return cls(artifact, log, limits=limits, **options)
        opened = open_log(log or default_log_url(path))
        try:
            return cls(artifact, opened, limits=limits, owns_log=True, **options)
        except BaseException:
            opened.close()
            raise

    @property
    def generation(self) -> Generation:
        """What serves now; a request keeps the one it began with."""
        return self._switch.generation

    @property
    def artifact(self) -> Artifact:
        """What is served now, deltas included."""
        return self.generation.artifact

    @property
    def model_id(self) -> str:
        """Name and content hash of the model version, and how many deltas are applied."""
        return self.artifact.served_id

    @property
    def items(self) -> Catalogue:
        """The catalogue being ranked."""
        return self.generation.items

    @torch.inference_mode()
    def rank(
        self,
        request: Request,
        *,
        arrived_s: float | None = None,
        request_id: str | None = None,
        checked: bool = False,
        record: bool = False,
        price: float | None = None,
        spent: bool = False,
    ) -> Answer:
        """The ranking for one request; ``arrived_s`` (monotonic) is when its deadline starts, by default now.

        ``checked``: it comes from ``decode_request`` under limits as strict as the ranker's. ``record``: the answer
        holds what it takes to rank again exactly as now (``engine.replay``). ``price``: of compute (None: its own).
        ``spent``: the answer tells what it took.

        Raises RequestError with the path of every wrong field; schema's TooLargeError for too many candidates.
        """
        with self._switch.beside.request():
            under_way = self._begin(request, arrived_s, checked, price)
            under_way.finish()
            return self._answer(under_way, request_id or uuid.uuid4().hex, record, spent)

    @torch.inference_mode()
    def rank_together(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        """The rankings of several checked requests, or why there is none, in their order; narrow deeper levels run in
        shared passes where that pays (``engine.shared_pass``). Every answer tells what it took."""
        with self._switch.beside.request():
            generation = self.generation
            begun = [or_error(partial(self._begin, ask.request, ask.arrived_s, True, ask.price)) for ask in asks]
            finished = finish_together(begun, generation)
            return [
                one
                if isinstance(one, Exception)
                else or_error(partial(self._answer, one, ask.request_id, ask.record, spent=True))
                for ask, one in zip(asks, finished, strict=True)
            ]

    def _begin(self, request: Request, arrived_s: float | None, checked: bool, price: float | None) -> UnderWay:
        """The request up to its first piece of a deeper level: level 0 has scored, and how deep it goes is known."""
        torch.get_num_threads()  # a new thread obeys torch.set_num_threads in oneDNN products only after this call
        started = self._monotonic_s() if arrived_s is None else arrived_s
        timings, reasons = Timings(self._monotonic_s), list[str]()
        with timings.stage("check"):
            if not checked:
                request = check_request(request, self.limits, wall_clock=self._wall_clock)
        time_ms = self._now() if request.time_ms is None else request.time_ms
        with timings.stage("candidates"):
            generation, snapshot, upserts = self._switch.view()
            candidates = resolve_candidates(request, generation.items, snapshot.size)
            factor_N = value_factor(self.spec, candidates.columns, len(candidates), reasons)
        with timings.stage("history"):
            ticket = self.states.ticket()
            pace = self._pace(math.inf if request.deadline_ms is None else started + request.deadline_ms / 1e3)
            history = self._history.read(generation, str(request.user), time_ms, pace, reasons)
        job = Job(generation, snapshot, request, candidates, factor_N, history, time_ms, timings, ticket)
        choose = self._choose if price is None else partial(self._choose, price=price)
        return UnderWay(job, pace, choose, reasons, started, upserts)

    def _answer(self, under_way: UnderWay, request_id: str, record: bool, spent: bool) -> Answer:
        """The answer to a request whose levels have run."""
        answer = answer_of(under_way, request_id, spent, self._monotonic_s)
        if self._trace is not None:
            self._trace(under_way.pace.chunks)
        if record:
            answer.record = record_of(under_way, answer, self.log_position())
        return answer

    def apply_delta(self, path: str | Path) -> DeltaReport:
        """Put the next delta into service; the request after it sees all of it, those that run see none of it.

        Raises ArtifactError where the delta is damaged, is not the next one or does not fit; nothing has changed then.
        """
        return self._switch.apply_delta(path)

    def prepare_delta(self, path: str | Path) -> Prepared:
        """The first step of ``apply_delta``, which may take long and changes nothing; for several rankers at once."""
        return self._switch.prepare_delta(path)

    def publish_delta(self, prepared: Prepared) -> DeltaReport:
        """The second step: publish what was prepared. Raises ArtifactError where another was published meanwhile."""
        return self._switch.publish_delta(prepared)

    def compact(self, cache: Cache | None = None) -> bool:
        """Write changed rows and their table into one new file and serve from there; False where no row is changed.

        Answers do not change. It reads and writes whole tables: run it beside the traffic, not in its way.
        """
        return self._switch.compact(cache)

    def compact_if_due(self) -> bool:
        """``compact`` once overlays have become large; a cache that cannot hold the file leaves them as they are."""
        if not compaction_is_due(self.artifact):
            return False
        try:
            return self.compact()
        except DepthrankError as error:
            logger.warning("%s serves from its overlays: %s", self.model_id, error)
            return False

    def log_position(self) -> int | None:
        """The log's newest position; None where it cannot be read now."""
        return self._history.log_position()

    def _pace(self, deadline_s: float) -> Pace:
        return Pace(self._monotonic_s, deadline_s)

    def _choose(self, job: Job, scores: Scores, pace: Pace, price: float | None = None) -> Depth:
        """How deep a request goes whose candidates level 0 has scored."""
        request, n, generation = job.request, len(job.candidates), job.generation
        policy = generation.policy
        depth: Depth
        if request.mode == "adaptive" and policy is not None:
            depth = AdaptiveDepth.decide(
                policy, inputs_of(policy, job, scores, pace, self.price if price is None else price)
            )
        elif request.mode == "adaptive" and request.budget is not None:
            depth = FixedDepth(plan_within_budget(request.budget, n, generation.flops))
        else:
            depth = FixedDepth(fixed_plan(request.mode, n, generation.artifact.model.config.num_levels))
        scores.reasons.extend(depth.reasons)
        return depth

    def _now(self) -> int:
        """The time of a request that names none: after every acknowledged event, as a history ends before its time."""
        return max(self._clock(), self._newest_event_ms + 1)

    def append(self, events: EventBatch) -> AppendResult:
        """Append events to the log and feed the counters; returns when they are durable and readable."""
        result = self.log.append(events)
        self.observe(events)
        return result

    def observe(self, events: EventBatch) -> None:
        """Events have been appended to the log, by this ranker or by another over the same log: count them."""
        past = events.time_ms[events.time_ms <= self._clock()]
        with self._newest_lock:
            self._newest_event_ms = max(self._newest_event_ms, int(past.max(initial=-1)))
        self.generation.counters.catch_up(self.log)

    def record_served(self, request: Request, answer: Answer) -> AppendResult:
        """Log the shown items of an answer as impressions at the request's time, so that later actions join them."""
        return self.record_all_served([(request, answer)])

    def record_all_served(self, shown: Sequence[tuple[Request, Answer]]) -> AppendResult:
        """The same of several answers, in one append."""
        return self.append(all_served_events(self.spec, shown, self._clock()))

    def upsert_items(self, columns: Mapping[str, Sequence[object]]) -> UpsertResult:
        """Change or add catalogue rows; returns when that is durable, and the next request sees it.

        Raises RequestError, StorageFullError, LogError; then nothing has changed.
        """
        return self.generation.upsert_items(columns)

    def apply_upserts(self) -> None:
        """Apply the upserts that another ranker over the same log has appended; those that do not fit are counted."""
        self.generation.apply_upserts()

    def history(self, user: str, limit: int = 100, time_ms: int | None = None) -> list[dict[str, Any]]:
        """The user's newest events of all actions, newest first."""
        return shown_history(self.log, user, self._now() + 1 if time_ms is None else time_ms, limit)

    def some_users(self, limit: int) -> list[str]:
        """Users that the log names, for a load test or a page to begin with."""
        return self.log.some_users(limit)

    def erase(self, user: str) -> EraseResult:
        """Remove a user from the log's files and from the counters."""
        result = self.log.erase(str(user))
        self.forget(user)
        return result

    @torch.inference_mode()
    def remember(self, user: str) -> None:
        """Encode a user's history, as deep as levels read it, so that the user's next request finds it."""
        generation, snapshot, _ = self._switch.view()
        ticket, key = self.states.ticket(), (generation.artifact.manifest.model_id, user)
        history = self._history.read(generation, user, self._now(), self._pace(math.inf), [])
        model = generation.artifact.model
        found = encode_user(model, self.states, key, history, snapshot, generation.now)
        model.encoder.deepen_(found.state, model.config.encoder_layers)
        self.states.put(found.key, found.encoded, ticket)

    def forget(self, user: str) -> None:
        """Drop what is held of a user whom the log has erased."""
        self.generation.counters.forget_user(str(user))
        self.states.forget(str(user))

    def info(self) -> dict[str, Any]:
        """What is being served."""
        manifest, config, generation = self.artifact.manifest, self.artifact.model.config, self.generation
        return {
            "model": self.artifact.served_id,
            "name": manifest.name,
            "created_ms": manifest.created_ms,
            "tasks": list(config.tasks),
            "levels": config.num_levels,
            "items": generation.items.size - 1,
            "users": 0 if generation.users is None else generation.users.size - 1,
            "history_actions": list(self.spec.history_actions),
            "catalogue_generation": generation.items.generation,
            "upserts_refused": generation.replayed.refused,
            "log_position_trained": manifest.log_position,
            "deltas": self.artifact.sequence,
            "rows_changed": self.artifact.rows_overlaid,
            "precision": {} if self.artifact.precision is None else self.artifact.precision.facts(),
        }

    def measures(self) -> dict[str, float]:
        """Numbers for an operator's metrics: the user-state cache, and how far off predicted costs are."""
        counts, errors = self.states.counts(), self.generation.costs.errors()
        return {
            **self._history.measures(),
            "user_states_warm": counts["hits"],
            "user_states_extended": counts["extends"],
            "user_states_cold": counts["misses"],
            "user_states_older": counts["older"],
            "user_states_evicted": counts["evicted"],
            "user_states_held": counts["users"],
            "user_state_bytes": counts["bytes"],
            "deltas_applied": self.artifact.sequence,
            "rows_overlaid": self.artifact.rows_overlaid,
            **hot_row_measures(self.artifact),
            "layers_tuned": 0 if self.artifact.precision is None else self.artifact.precision.num_tuned,
            **{f"cost_error_{name}": error for name, error in errors.items()},
        }

    def economy(self) -> Economy:
        """What requests cost here by now, and what compute is worth to this model."""
        return Economy.of(self.generation.costs.rates, self.generation.policy)

    def warm(self) -> None:
        """Bring the artifact's pages into memory, then rank at full depth and by the router alone, so that the first
        request finds everything ready."""
        self.artifact.touch_ahead()
        some = self.items.ids_of(range(1, min(self.items.size, WARM_UP_CANDIDATES)))
        modes: tuple[Mode, ...] = ("full", "router")
        with self.generation.costs.paused():
            for mode in modes:
                self.rank(Request(user=WARM_UP_USER, candidates=list(some), top=1, mode=mode))

    def close(self) -> None:
        """Close the log where this ranker opened it."""
        if self._owns_log:
            self.log.close()
