"""The desk: every decision about who is served, when, how deep at most, and who is not. No clock, no thread, no socket:
what happens is told to it with the time, so that hours of load are simulated in a second and a decision can be
repeated.

A request meets the gates in this order: its cohort's turn to go without, the concurrency guard, its deadline. It then
waits for its engine; when it starts, it is given the price of now and the time that those behind it leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal

from depthrank.routing.economy import Economy
from depthrank.schema.request import Spent
from depthrank.server.admission.claim import Claim
from depthrank.server.admission.cohorts import Cohorts
from depthrank.server.admission.forecasts import Forecasts
from depthrank.server.admission.gate_counts import GateCounts
from depthrank.server.admission.guard import ConcurrencyGuard
from depthrank.server.admission.lane_queue import LaneQueue
from depthrank.server.admission.pricing import Pricing
from depthrank.server.admission.settings import AdmissionSettings
from depthrank.server.admission.terms import Terms, TermsOffice
from depthrank.server.admission.together import companions

LEAST_GUARD_MS = 20.0
MOST_RETRY_S = 60
WAITED = 0.2  # of a request's time, spent behind others: from here on, being late is the queue's doing
GateName = Literal["deadline", "concurrency", "cohorts", "queue", "engines"]


@dataclass(frozen=True)
class Refusal:
    """Why a request is not queued, and in how many seconds it may try again."""

    gate: GateName
    reason: str
    retry_after_s: int
    in_input_order: bool = False


@dataclass(frozen=True)
class Offered:
    """``refusal`` None: it waits. ``gone``: waiting claims that had to make room, refused as the refusals say."""

    refusal: Refusal | None = None
    gone: tuple[tuple[Claim, Refusal], ...] = ()


@dataclass(frozen=True)
class Turn:
    """What a lane does next: claims that share a pass, each with its terms; and claims whose time has passed, or which
    cannot be served any more."""

    claims: tuple[tuple[Claim, Terms], ...] = ()
    late: tuple[Claim, ...] = ()
    refused: tuple[tuple[Claim, Refusal], ...] = ()


class Desk:
    """Decisions over ``lanes`` engines. Not for several threads: its caller holds a lock."""

    def __init__(self, settings: AdmissionSettings, lanes: int, most_waiting: int) -> None:
        self.settings, self.gates = settings, settings.gates
        self.most_waiting = most_waiting
        self.lanes = [LaneQueue(number) for number in range(lanes)]
        self.forecasts = Forecasts()
        self.pricing = Pricing(settings.target_load, settings.price_interval_s)
        self.cohorts = Cohorts(settings.shed_load, settings.price_interval_s)
        self.guard = ConcurrencyGuard(settings.patience_ms, LEAST_GUARD_MS, settings.patience_ms)
        self.counts = GateCounts()
        self.terms = TermsOffice(self.gates, self.forecasts, self.pricing, self.guard, self.counts)
        self._number = 0
        self._input_order_tokens, self._tokens_at_s = settings.input_order_rps, -math.inf

    # ------------------------------------------------------------------ what is known

    def tell(self, version: str, economy: Economy) -> None:
        """What a model version costs by now."""
        self.forecasts.tell(version, economy)
        self.pricing.know(version, economy, self.capacity_ms_per_s())

    def capacity_ms_per_s(self) -> float:
        """Thread-milliseconds that the engines get done in a second."""
        return sum(lane.speed * 1e3 for lane in self.lanes if lane.up)

    @property
    def waiting(self) -> int:
        """Claims that wait."""
        return sum(len(lane.waiting) for lane in self.lanes)

    @property
    def running(self) -> int:
        """Claims that run."""
        return sum(len(lane.running) for lane in self.lanes)

    # ------------------------------------------------------------------ arrivals

    def claim(self, claim: Claim) -> Claim:
        """Fill in what a claim is predicted to cost, at the price of now."""
        version, forecast = claim.version, claim.forecast
        claim.price = self.pricing.of(version) if self.gates.price == "enforce" else None
        self._number += 1
        claim.number = self._number
        may_narrow = claim.mode != "full" or self.gates.full == "enforce"
        claim.floor_ms = forecast.router_ms if may_narrow else forecast.full_ms
        claim.wanted_ms = max(claim.floor_ms, self.terms.wanted_ms(claim))
        return claim

    def offer(self, claim: Claim, now_s: float) -> Offered:
        """Queue a claim, or say why not."""
        self._tick(now_s)
        self.claim(claim)
        self.cohorts.offered(claim.priority, claim.floor_ms)
        lane = self._lane_for(claim, now_s)
        if lane is None:
            return self._refused(claim, "engines", "no engine process is running", 1.0, now_s)
        if self.waiting >= self.most_waiting and not self._displaced(claim):
            wait_s = lane.backlog_ms(now_s) / 2e3
            return self._refused(claim, "queue", f"{self.waiting} requests wait already", wait_s, now_s)
        if self.cohorts.sheds(claim.priority, claim.cohort):
            reason = "the engines cannot serve everybody now, and this user's turn to wait has come"
            if self.counts.acts(claim, "cohorts", self.gates.cohorts, reason):
                return self._refused(claim, "cohorts", reason, 1.0, now_s)
        else:
            self.cohorts.kept(claim.floor_ms)
        backlog_ms = lane.backlog_ms(now_s)
        floors_ms = lane.floors_ms(now_s) + lane.wall_s(claim.floor_ms) * 1e3
        if not self.guard.allows(floors_ms):
            reason = (
                f"{floors_ms:.0f} ms of work without depth, answers were late lately at more than "
                f"{self.guard.limit_ms:.0f} ms"
            )
            if lane.waiting and self.counts.acts(claim, "concurrency", self.gates.concurrency, reason):
                return self._refused(claim, "concurrency", reason, backlog_ms / 2e3, now_s)
        lane, gone = self._place(claim, lane, now_s)
        if gone is None:
            end_s = lane.free_s(now_s) + lane.backlog_ms(now_s) / 1e3
            reason = f"{backlog_ms:.0f} ms of work wait: even the router's answer would come after the deadline"
            if self.counts.acts(claim, "deadline", self.gates.deadline, reason):
                return self._refused(claim, "deadline", reason, end_s - claim.deadline_s, now_s)
        return Offered(None, self._queue(claim, lane, gone or [], backlog_ms, now_s))

    def _place(self, claim: Claim, lane: LaneQueue, now_s: float) -> tuple[LaneQueue, list[Claim] | None]:
        """The lane where it fits, its own first, and who must go there for it; None: it fits nowhere."""
        others = (other for other in self.lanes if other.up and other is not lane)
        for one in (lane, *others):
            gone = self._make_room(claim, one, now_s)
            if gone is not None:
                return one, gone
        return lane, None

    def _make_room(self, claim: Claim, lane: LaneQueue, now_s: float) -> list[Claim] | None:
        """Who must go for it; None: it cannot be in time. Without a gate, nobody goes and everything is let in."""
        if self.gates.deadline == "off" or lane.fits(claim, now_s):
            return []
        if self.gates.deadline == "dry-run":
            return None
        return lane.room_for(claim, now_s)

    def _queue(
        self, claim: Claim, lane: LaneQueue, gone: Sequence[Claim], backlog_ms: float, now_s: float
    ) -> tuple[tuple[Claim, Refusal], ...]:
        refused = []
        for other in gone:
            lane.remove(other)
            reason = f"requests of a higher priority took the time that was left ({claim.priority})"
            offered = self._refused(other, "deadline", reason, backlog_ms / 2e3, now_s)
            assert offered.refusal is not None
            refused.append((other, offered.refusal))
        claim.backlog_ms = backlog_ms
        lane.put(claim)
        self.pricing.admitted(claim.wanted_ms)
        return tuple(refused)

    def _displaced(self, claim: Claim) -> bool:
        """Whether the queue's count does not apply: a claim of a higher class than the last one waiting goes before it,
        and the deadline gate decides."""
        last = max((lane.waiting[-1] for lane in self.lanes if lane.waiting), key=lambda c: c.order, default=None)
        return last is not None and last.order[0] > claim.order[0]

    def _lane_for(self, claim: Claim, now_s: float) -> LaneQueue | None:
        """The user's own engine, unless another is so much freer that encoding the user anew pays."""
        up = [lane for lane in self.lanes if lane.up]
        if len(up) < 2:
            return up[0] if up else None
        own = max(up, key=lambda lane: _affinity(claim.user, lane.number))
        freest = min(up, key=lambda lane: lane.backlog_ms(now_s))
        extra_ms = self.settings.spill_ms + freest.wall_s(claim.forecast.cold_ms) * 1e3
        if own.backlog_ms(now_s) > freest.backlog_ms(now_s) + extra_ms:
            return freest
        return own

    # ------------------------------------------------------------------ turns

    def next(self, number: int, now_s: float, window_ms: float = 0.0) -> Turn:
        """What lane ``number`` does next; nothing while it is busy, but for the last ``window_ms`` of that."""
        lane = self.lanes[number]
        late: list[Claim] = []
        refused: list[tuple[Claim, Refusal]] = []
        chosen: tuple[tuple[Claim, Terms], ...] = ()
        while lane.up and lane.waiting and not chosen:
            if lane.running and not self._may_hand_ahead(lane, now_s, window_ms):
                break
            claim = lane.waiting.pop(0)
            start_s = lane.free_s(now_s)
            if now_s >= claim.deadline_s:
                late.append(claim)
            elif self.gates.deadline == "enforce" and not self._still_fits(claim, lane, start_s):
                offered = self._refused(claim, "deadline", "its time ran out while it waited", 0.0, now_s)
                assert offered.refusal is not None
                refused.append((claim, offered.refusal))
            else:
                chosen = self._start(claim, lane, start_s, now_s)
        return Turn(chosen, tuple(late), tuple(refused))

    def _start(self, claim: Claim, lane: LaneQueue, start_s: float, now_s: float) -> tuple[tuple[Claim, Terms], ...]:
        """The claim and those that start together with it, each with its terms."""
        economy, most = self.forecasts.economy(claim.version), self.settings.requests_together
        self.terms.set_price(claim, lane, start_s)
        together = companions(lane, claim, start_s, most, economy, lambda one: self.terms.wanted_at(one, claim.price))
        for other in together.claims[1:]:
            lane.remove(other)
            other.price = claim.price
        terms = [self.terms.of(one, lane, start_s) for one in together.claims]
        stop_s = min(own.stop_s for own in terms)  # those behind them wait for all
        for one in together.claims:
            if len(terms) > 1:
                one.expected_ms = together.work_ms / len(terms)
            lane.begin(one, now_s)
        return tuple((one, replace(own, stop_s=stop_s)) for one, own in zip(together.claims, terms, strict=True))

    @staticmethod
    def _may_hand_ahead(lane: LaneQueue, now_s: float, window_ms: float) -> bool:
        """Whether a busy lane may have one more: a single one, when what runs is nearly done (or takes longer than was
        predicted: how long is not known)."""
        return len(lane.running) == 1 and window_ms > 0 and (lane.free_s(now_s) - now_s) * 1e3 <= window_ms

    def _still_fits(self, claim: Claim, lane: LaneQueue, start_s: float) -> bool:
        """Whether the router can still answer by the deadline; the reserve may be used up by now."""
        return start_s + lane.wall_s(claim.floor_ms) <= claim.deadline_s

    # ------------------------------------------------------------------ ends

    def finished(
        self,
        claims: Sequence[Claim],
        now_s: float,
        busy_s: float,
        thread_s: float,
        spent: Sequence[Spent | None],
    ) -> None:
        """A pass is done; ``spent`` by claim, None where there is no answer."""
        if not claims:
            return
        self.lanes[claims[0].lane].end(list(claims), now_s, busy_s, thread_s)
        beside_ms = (thread_s * 1e3 - sum(0.0 if own is None else own.thread_ms for own in spent)) / len(claims)
        for claim, own in zip(claims, spent, strict=True):
            self.forecasts.learn(claim, own, (0.0 if own is None else own.thread_ms) + max(0.0, beside_ms))
            if claim.has_deadline:
                self._observed(claim, now_s)
        self._tick(now_s)

    def _observed(self, claim: Claim, now_s: float) -> None:
        """The guard learns from answers in time, and from late ones that waited: a late one that hardly did was
        predicted wrongly, and letting in less would not have helped it."""
        late = now_s > claim.deadline_s
        own_ms = (claim.deadline_s - claim.arrived_s) * 1e3
        if not late or claim.backlog_ms >= WAITED * own_ms:
            self.guard.observed(late, claim.backlog_ms, now_s)

    def withdraw(self, claim: Claim) -> bool:
        """Who asked has left; True where the claim had not started."""
        return claim.lane >= 0 and self.lanes[claim.lane].remove(claim)

    def down(self, number: int) -> tuple[list[Claim], list[Claim]]:
        """A lane is gone: what waited there and what ran there, for other lanes."""
        lane = self.lanes[number]
        lane.up = False
        waiting, running = lane.waiting, lane.running
        lane.waiting, lane.running = [], []
        return waiting, running

    def up(self, number: int) -> None:
        """A lane is there (again)."""
        self.lanes[number].up = True

    def expired(self, now_s: float) -> list[Claim]:
        """Waiting claims whose deadline has passed, taken out."""
        found = [claim for lane in self.lanes for claim in lane.waiting if claim.deadline_s <= now_s]
        for claim in found:
            self.withdraw(claim)
        return found

    def tick(self, now_s: float) -> None:
        """Let prices and shares follow the load also where nobody asks."""
        self._tick(now_s)

    # ------------------------------------------------------------------ small things

    def _tick(self, now_s: float) -> None:
        capacity = self.capacity_ms_per_s()
        self.pricing.tick(now_s, capacity)
        self.cohorts.tick(now_s, capacity)

    def _refused(self, claim: Claim, gate: GateName, reason: str, wait_s: float, now_s: float) -> Offered:
        retry_s = max(1, min(MOST_RETRY_S, math.ceil(wait_s))) if math.isfinite(wait_s) else MOST_RETRY_S
        instead = gate != "engines" and self._acts_in_input_order(claim, now_s)
        return Offered(Refusal(gate, reason, retry_s, instead))

    def _acts_in_input_order(self, claim: Claim, now_s: float) -> bool:
        """Whether there is an answer in input order for it instead of a refusal; there are only so many a second."""
        rate = self.settings.input_order_rps
        passed_s = max(0.0, now_s - self._tokens_at_s)
        self._tokens_at_s = now_s
        self._input_order_tokens = min(rate, self._input_order_tokens + min(passed_s, 1.0) * rate)
        if self._input_order_tokens < 1 or not self.counts.acts(
            claim, "input_order", self.gates.input_order, "candidates in input order", "degraded"
        ):
            return False
        self._input_order_tokens -= 1
        return True


def _affinity(user: str, lane: int) -> bytes:
    """Rendezvous hashing: when a lane goes, only its own users move. The same in every run, unlike ``hash``."""
    return blake2b(f"{lane}\0{user}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
