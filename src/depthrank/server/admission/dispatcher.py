"""Carries out what the desk decides: queues requests, hands them to engines, and answers those who asked.

Any thread may submit and any thread may report a finished pass; decisions are made under one lock, futures are resolved
outside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import msgspec

from depthrank.errors import CapacityError, DepthrankError
from depthrank.schema import Answer, Request
from depthrank.schema.request import Spent
from depthrank.server.admission.claim import PRIORITIES, Claim
from depthrank.server.admission.cohorts import cohort_of
from depthrank.server.admission.desk import Desk, Offered, Refusal
from depthrank.server.admission.input_order import in_input_order, num_candidates
from depthrank.server.admission.settings import AdmissionSettings
from depthrank.server.admission.terms import Terms
from depthrank.server.admission.way_back import WayBack
from depthrank.server.bounded_pool import OverloadError
from depthrank.server.ranker_port import ServedRanker
from depthrank.server.workers.engines import Engines, Pass, Work

MOST_ATTEMPTS = 2
RESERVE_SHARE = 0.25  # of a deadline, where that is less than the reserve
ECONOMY_EVERY_S = 0.25


class DeadlineError(DepthrankError):
    """The deadline passed before anything was scored (HTTP 504)."""


@dataclass(eq=False)
class Ticket:
    """One request under way, and who waits for it."""

    ranker: ServedRanker
    request: Request
    request_id: str
    arrived_s: float
    record: bool
    future: Future[Answer] = field(default_factory=Future)
    attempts: int = 0


Resolve = Callable[[], object]


class Dispatcher:
    """``on_pass`` is told of every pass, for metrics. ``clock_ms``: milliseconds since 1970."""

    def __init__(
        self,
        engines: Engines,
        settings: AdmissionSettings,
        most_waiting: int,
        clock_ms: Callable[[], int],
        monotonic_s: Callable[[], float] = time.perf_counter,
        on_pass: Callable[[Sequence[Work], Pass], object] = lambda works, result: None,
    ) -> None:
        self.settings = settings
        self.desk = Desk(settings, engines.num_lanes, most_waiting)
        self._engines, self._clock_ms, self._now = engines, clock_ms, monotonic_s
        self._on_pass = on_pass
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._closed = False
        self.way_back = WayBack()
        self.retried = 0
        self._economies_s: dict[str, float] = {}
        engines.attach(self)

    # ------------------------------------------------------------------ requests

    def submit(
        self, ranker: ServedRanker, request: Request, request_id: str, arrived_s: float, *, record: bool = False
    ) -> Future[Answer]:
        """The answer to a request, some time; raises OverloadError where it is refused at once. Cancelling the future
        withdraws a request that still waits."""
        ticket = Ticket(ranker, request, request_id, arrived_s, record)
        now_s = self._now()
        with self._lock:
            if self._closed:
                raise OverloadError("the server is shutting down")
            claim = self._claim(ticket, now_s)
            if now_s >= claim.deadline_s:
                self._late(claim, now_s)()
                return ticket.future
            offered = self.desk.offer(claim, now_s)
            resolves = self._refused(offered)
            resolves += [] if offered.refusal is not None else self._advance(claim.lane, now_s)
        _carry_out(resolves)
        if offered.refusal is not None:
            return self._not_queued(claim, offered.refusal)
        ticket.future.add_done_callback(lambda future: self._withdraw(claim) if future.cancelled() else None)
        return ticket.future

    def _not_queued(self, claim: Claim, refusal: Refusal) -> Future[Answer]:
        ticket: Ticket = claim.held
        if not refusal.in_input_order:
            raise OverloadError(refusal.reason, refusal.retry_after_s)
        ticket.future.set_result(self._input_order(claim, refusal))
        return ticket.future

    def _claim(self, ticket: Ticket, now_s: float) -> Claim:
        """What the desk needs to know of a request."""
        request, ranker = ticket.request, ticket.ranker
        version = version_of(ranker)
        if now_s - self._economies_s.get(version, -1e9) >= ECONOMY_EVERY_S:
            self._economies_s[version] = now_s
            if (economy := ranker.economy()) is not None:
                self.desk.tell(version, economy)
        user, number = str(request.user), num_candidates(request, ranker.generation.items)
        own_ms = request.deadline_ms
        patience_ms = self.settings.patience_ms
        reserve_ms = self._reserve_ms if own_ms is None else min(self._reserve_ms, own_ms * RESERVE_SHARE)
        deadline_s = ticket.arrived_s + (patience_ms if own_ms is None else own_ms) / 1e3
        forecast = self.desk.forecasts.of(user, version, number)
        return Claim(
            user=user,
            version=version,
            priority=request.priority,
            mode=request.mode,
            num_candidates=number,
            arrived_s=ticket.arrived_s,
            deadline_s=deadline_s,
            latest_s=deadline_s - reserve_ms / 1e3,
            has_deadline=own_ms is not None,
            forecast=forecast,
            floor_ms=forecast.router_ms,
            wanted_ms=forecast.router_ms,
            cohort=cohort_of(user, self._clock_ms()),
            budget=request.budget,
            held=ticket,
        )

    @property
    def _reserve_ms(self) -> float:
        """Kept free before a deadline, for the way back."""
        return max(self.settings.reserve_ms, self.way_back.reserve_ms)

    def _withdraw(self, claim: Claim) -> None:
        with self._lock:
            self.desk.withdraw(claim)
            self._idle.notify_all()

    # ------------------------------------------------------------------ engines

    def _advance(self, lane: int, now_s: float) -> list[Resolve]:
        """Hand the lane what it should do next; returns what is to be told to whom. Under the lock."""
        resolves: list[Resolve] = []
        while True:
            turn = self.desk.next(lane, now_s, self._engines.window_ms)
            resolves += [self._late(claim, now_s) for claim in turn.late]
            resolves += [self._refuse(claim, refusal) for claim, refusal in turn.refused]
            works, gone = [], []
            for claim, terms in turn.claims:
                if self._begins(claim.held):
                    works.append(self._work(claim, terms))
                else:
                    gone.append(claim)
            if gone:
                self.desk.finished(gone, now_s, 0.0, 0.0, [None] * len(gone))
            if works:
                self._engines.start(lane, works)
            if not turn.claims or (works and not self._engines.window_ms):
                return resolves  # nothing more to do, or a lane that takes nothing ahead has work

    @staticmethod
    def _begins(ticket: Ticket) -> bool:
        """Whether somebody still waits for it."""
        if ticket.attempts == 0 and not ticket.future.set_running_or_notify_cancel():
            return False
        ticket.attempts += 1
        return True

    @staticmethod
    def _work(claim: Claim, terms: Terms) -> Work:
        ticket: Ticket = claim.held
        deadline_ms = None if terms.stop_s == float("inf") else max((terms.stop_s - ticket.arrived_s) * 1e3, 1e-3)
        request = msgspec.structs.replace(ticket.request, mode=terms.mode, budget=terms.budget, deadline_ms=deadline_ms)
        return Work(claim, ticket.ranker, request, ticket.request_id, ticket.arrived_s, terms.price, ticket.record)

    def passed(self, lane: int, works: Sequence[Work], result: Pass) -> None:
        """A pass is done: answer who asked, and go on."""
        now_s = self._now()
        spent = [_spent(outcome) for outcome in result.outcomes]
        with self._lock:
            self.desk.finished([work.claim for work in works], now_s, result.busy_s, result.thread_s, spent)
            resolves = self._advance(lane, now_s)
            self._idle.notify_all()
        for work, outcome in zip(works, result.outcomes, strict=True):
            self._answered(work.claim, outcome)
        _carry_out(resolves)
        self._on_pass(works, result)

    def _answered(self, claim: Claim, outcome: Answer | Exception) -> None:
        ticket: Ticket = claim.held
        if isinstance(outcome, Exception):
            _settle(ticket.future, outcome)
            return
        outcome.timings_ms["wait"] = round(max(0.0, claim.started_s - claim.arrived_s) * 1e3, 3)
        add_reasons(outcome, claim)
        _settle(ticket.future, outcome)

    def lane_down(self, lane: int, why: str) -> None:
        """An engine is gone: what waited there waits elsewhere, what ran there runs once more, if there is time."""
        now_s = self._now()
        resolves: list[Resolve] = []
        with self._lock:
            waiting, running = self.desk.down(lane)
            for claim in (*running, *waiting):
                resolves += self._moved(claim, why, now_s)
            self._idle.notify_all()
        _carry_out(resolves)

    def _moved(self, claim: Claim, why: str, now_s: float) -> list[Resolve]:
        ticket: Ticket = claim.held
        if ticket.attempts >= MOST_ATTEMPTS:
            lost = CapacityError(f"{why}, twice while it ranked this request")
            return [lambda: _settle(ticket.future, lost)]
        offered = self.desk.offer(claim, now_s)
        resolves = self._refused(offered)
        if offered.refusal is not None:
            refusal = Refusal(offered.refusal.gate, f"{why}: {offered.refusal.reason}", offered.refusal.retry_after_s)
            return [*resolves, self._refuse(claim, refusal)]
        self.retried += ticket.attempts
        return [*resolves, *self._advance(claim.lane, now_s)]

    def lane_up(self, lane: int) -> None:
        """An engine is ready for requests."""
        with self._lock:
            self.desk.up(lane)

    def tick(self) -> None:
        """Now and then: tell those whose deadline passed, and let prices follow the load."""
        now_s = self._now()
        with self._lock:
            resolves = [self._late(claim, now_s) for claim in self.desk.expired(now_s)]
            self.desk.tick(now_s)
        _carry_out(resolves)

    # ------------------------------------------------------------------ answers that are none

    def _refused(self, offered: Offered) -> list[Resolve]:
        return [self._refuse(claim, refusal) for claim, refusal in offered.gone]

    def _refuse(self, claim: Claim, refusal: Refusal) -> Resolve:
        ticket: Ticket = claim.held
        if refusal.in_input_order:
            return lambda: _settle(ticket.future, self._input_order(claim, refusal))
        return lambda: _settle(ticket.future, OverloadError(refusal.reason, refusal.retry_after_s))

    def _late(self, claim: Claim, now_s: float) -> Resolve:
        ticket: Ticket = claim.held
        waited_ms = (now_s - ticket.arrived_s) * 1e3
        late = DeadlineError(f"the deadline passed while the request waited {waited_ms:.1f} ms for its turn")
        return lambda: _settle(ticket.future, late)

    @staticmethod
    def _input_order(claim: Claim, refusal: Refusal) -> Answer:
        ticket: Ticket = claim.held
        ranker = ticket.ranker
        answer = in_input_order(
            ticket.request,
            ticket.request_id,
            ranker.model_id,
            list(ranker.spec.tasks),
            ranker.generation.items,
            refusal.reason,
        )
        answer.timings_ms["wait"] = 0.0
        return answer

    # ------------------------------------------------------------------ the whole

    @property
    def admitted(self) -> int:
        """Requests that run or wait."""
        return self.desk.waiting + self.desk.running

    def status(self) -> dict[str, Any]:
        """The load as an operator sees it."""
        now_s = self._now()
        with self._lock:
            desk, pricing = self.desk, self.desk.pricing
            versions = list(self._economies_s)
            return {
                "load": pricing.load,
                "price": {version: pricing.of(version) for version in versions},
                "dearness": {version: pricing.dearness(version) for version in versions},
                "capacity_ms_per_s": desk.capacity_ms_per_s(),
                "shed_shares": {priority: desk.cohorts.shares[priority] for priority in PRIORITIES},
                "guard_limit_ms": desk.guard.limit_ms,
                "reserve_ms": self._reserve_ms,
                "restarts": self._engines.restarts,
                "retried": self.retried,
                "lanes": [
                    {
                        "up": lane.up,
                        "waiting": len(lane.waiting),
                        "running": len(lane.running),
                        "backlog_ms": lane.backlog_ms(now_s),
                        "speed": lane.speed,
                    }
                    for lane in desk.lanes
                ],
                "acted": [
                    {"gate": gate, "what": what, "priority": priority, "times": times}
                    for (gate, what, priority), times in desk.counts.acted.items()
                ],
            }

    def close(self, timeout_s: float | None = None) -> None:
        """Finish what was admitted, admit nothing more."""
        with self._lock:
            self._closed = True
            self._idle.wait_for(lambda: self.admitted == 0, timeout_s)
        self._engines.close()


def version_of(ranker: ServedRanker) -> str:
    """The model version whose costs are remembered; a delta on top of it costs the same."""
    return ranker.model_id.partition("+")[0]


def add_reasons(answer: Answer, claim: Claim) -> None:
    """What admission did to the answer, beside what the engine says; a dry run's words degrade nothing."""
    reasons = list(claim.notes)
    if claim.shortened and any(reason.startswith("deadline") for reason in answer.degraded.reasons):
        reasons.insert(0, f"overload: {claim.shortened}")
    answer.degraded.reasons = [*answer.degraded.reasons, *reasons]
    answer.degraded.is_ = answer.degraded.is_ or any(reason.startswith("overload") for reason in reasons)


def _spent(outcome: Answer | Exception) -> Spent | None:
    """What an answer took."""
    if isinstance(outcome, Exception) or isinstance(outcome.spent, msgspec.UnsetType):
        return None
    return outcome.spent


def _settle(future: Future[Answer], outcome: Answer | Exception) -> None:
    """Tell who waits; one that has left is told nothing."""
    try:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        return


def _carry_out(resolves: Sequence[Resolve]) -> None:
    for resolve in resolves:
        resolve()
