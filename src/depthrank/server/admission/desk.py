"""The desk: every decision about who is served, when, how deep at most, and who is not. No clock, no thread, no socket:
what happens is told to it with the time, so that hours of load are simulated in a second and a decision can be
repeated.

A request meets the gates in this order: its cohort's turn to go without, the concurrency guard, its deadline. It then
waits for its engine; when it starts, it is given the price of now and the time that those behind it leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from depthrank.routing.economy import Economy
from depthrank.schema.request import Mode, Spent
from depthrank.server.admission.claim import Claim
from depthrank.server.admission.cohorts import Cohorts
from depthrank.server.admission.forecasts import Forecasts
from depthrank.server.admission.guard import ConcurrencyGuard
from depthrank.server.admission.lane_queue import LaneQueue
from depthrank.server.admission.pricing import Pricing
from depthrank.server.admission.settings import AdmissionSettings, Gate

LEAST_GUARD_MS = 20.0
MOST_RETRY_S = 60
WAITED = 0.2  # of a request's time, spent behind others: from here on, being late is the queue's doing
DRY = "dry run, not acted on: "
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
class Terms:
    """How a claim is to be run: its mode and budget, when it must stop (infinite: never), the price of compute to
    it."""

    mode: Mode
    budget: float | None
    stop_s: float
    price: float | None


@dataclass(frozen=True)
class Turn:
    """What a lane does next: claims that share a pass, each with its terms; and claims whose time has passed, or which
    cannot be served any more."""

    claims: tuple[tuple[Claim, Terms], ...] = ()
    late: tuple[Claim, ...] = ()
    refused: tuple[tuple[Claim, Refusal], ...] = ()


@dataclass
class Counts:
    """How often each gate acted, or would have: (gate, what, priority) -> how often."""

    acted: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def add(self, gate: str, what: str, priority: str) -> None:
        key = gate, what, priority
        self.acted[key] = self.acted.get(key, 0) + 1


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
        self.counts = Counts()
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
        claim.wanted_ms = max(claim.floor_ms, self._wanted_ms(claim))
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
            if self._acts(claim, "cohorts", self.gates.cohorts, reason):
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
            if lane.waiting and self._acts(claim, "concurrency", self.gates.concurrency, reason):
                return self._refused(claim, "concurrency", reason, backlog_ms / 2e3, now_s)
        lane, gone = self._place(claim, lane, now_s)
        if gone is None:
            end_s = lane.free_s(now_s) + lane.backlog_ms(now_s) / 1e3
            reason = f"{backlog_ms:.0f} ms of work wait: even the router's answer would come after the deadline"
            if self._acts(claim, "deadline", self.gates.deadline, reason):
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
        if not up:
            return None
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
                chosen = ((claim, self._terms(claim, lane, start_s)),)
                lane.begin(claim, now_s)
        return Turn(chosen, tuple(late), tuple(refused))

    @staticmethod
    def _may_hand_ahead(lane: LaneQueue, now_s: float, window_ms: float) -> bool:
        """Whether a busy lane may have one more: a single one, when what runs is nearly done (or takes longer than was
        predicted: how long is not known)."""
        return len(lane.running) == 1 and window_ms > 0 and (lane.free_s(now_s) - now_s) * 1e3 <= window_ms

    def _still_fits(self, claim: Claim, lane: LaneQueue, start_s: float) -> bool:
        """Whether the router can still answer by the deadline; the reserve may be used up by now."""
        return start_s + lane.wall_s(claim.floor_ms) <= claim.deadline_s

    def _terms(self, claim: Claim, lane: LaneQueue, start_s: float) -> Terms:
        """At the price of now and of the queue, until the time that others need."""
        self._set_price(claim, lane, start_s)
        until_s = lane.until_s(claim, start_s)
        stop_s = own_s = lane.own_until_s(claim, start_s)
        if until_s < own_s:
            others = f"{len(lane.waiting)} requests behind it need the rest"
            reason = f"{(until_s - start_s) * 1e3:.0f} of {(own_s - start_s) * 1e3:.0f} ms were its own, {others}"
            if self._acts(claim, "share", self.gates.share, reason, "degraded"):
                stop_s, claim.shortened = until_s, reason
        mode, budget = self._depth(claim, lane, start_s, stop_s)
        self._note_price(claim)
        claim.mode = mode
        wanted = max(claim.forecast.router_ms, self._wanted_ms(claim, mode, budget))
        claim.expected_ms = min(wanted, max(claim.floor_ms, (stop_s - start_s) * 1e3 * lane.speed))
        limited = claim.has_deadline or claim.shortened
        return Terms(mode, budget, stop_s if limited else math.inf, claim.price)

    def _set_price(self, claim: Claim, lane: LaneQueue, start_s: float) -> None:
        """What compute costs the claim: the price that follows the load, and more where those that wait could not all
        have the depth that it would give them."""
        if self.gates.price != "enforce":
            return
        claim.price = usual = self.pricing.of(claim.version)
        if usual is None or claim.mode != "adaptive":
            return
        share = lane.depth_share(claim, start_s, self._wanted_now_ms, self.guard.limit_ms / 1e3)
        if share < 1:
            wanted = self._wanted_now_ms(claim)
            claim.price = max(usual, self._price_at(claim, claim.floor_ms + share * (wanted - claim.floor_ms)))

    def _wanted_now_ms(self, claim: Claim) -> float:
        """What a claim would take at the price that follows the load."""
        return self._wanted_ms(claim, price=self.pricing.of(claim.version))

    def _price_at(self, claim: Claim, cost_ms: float) -> float:
        """The price at which a claim is predicted to take ``cost_ms``."""
        economy, forecast = self.forecasts.economy(claim.version), claim.forecast
        share = cost_ms / max(forecast.full_ms, 1e-9)
        if economy is None or not economy.prices:
            return self.pricing.usual(claim.version) / max(share, 1e-9)
        if cost_ms <= forecast.router_ms:
            return economy.prices[-1][0]
        return economy.price_at(share / self.forecasts.correction(claim.version))

    def _depth(self, claim: Claim, lane: LaneQueue, start_s: float, stop_s: float) -> tuple[Mode, float | None]:
        """Mode and budget: full depth that does not fit is narrowed, and a version without a policy is capped."""
        mode, budget = claim.mode, claim.budget
        full_ms, left_ms = claim.forecast.full_ms, (stop_s - start_s) * 1e3 * lane.speed
        if mode == "full" and full_ms > left_ms:
            reason = f"full depth would take {full_ms:.0f} ms, {left_ms:.0f} are left"
            if self._acts(claim, "full", self.gates.full, reason, "degraded"):
                mode, budget = "adaptive", max(1e-6, min(1.0, left_ms / full_ms))
        economy = self.forecasts.economy(claim.version)
        if mode == "adaptive" and economy is not None and not economy.prices and claim.price is not None:
            cap = 1.0 / max(self._dearness(claim), 1.0)
            if cap < (1.0 if budget is None else budget):
                budget = cap
        return mode, budget

    def _dearness(self, claim: Claim) -> float:
        """A claim's price as a multiple of the usual one."""
        return 1.0 if claim.price is None else claim.price / self.pricing.usual(claim.version)

    def _note_price(self, claim: Claim) -> None:
        dry = self.gates.price == "dry-run"
        dearness = self.pricing.dearness(claim.version) if dry else self._dearness(claim)
        if claim.mode == "adaptive" and dearness > 1.05:
            reason = f"compute costs {dearness:.3g} times its usual price"
            if self._acts(claim, "price", self.gates.price, reason, "degraded"):
                claim.notes.append(f"overload: {reason}")

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
        for claim, own in zip(claims, spent, strict=True):
            share = 1.0 / len(claims)
            self.forecasts.learn(claim, own, thread_s * 1e3 * share)
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

    def _wanted_ms(
        self, claim: Claim, mode: Mode | None = None, budget: float | None = None, price: float | None = None
    ) -> float:
        mode, budget = mode or claim.mode, claim.budget if budget is None else budget
        price = claim.price if price is None else price
        forecast, economy = claim.forecast, self.forecasts.economy(claim.version)
        if mode == "full":
            return forecast.full_ms
        if mode == "router" or economy is None:
            return forecast.router_ms
        if economy.prices:
            price = price if price is not None else (economy.default_price or economy.prices[0][0])
            wanted = self.forecasts.wanted_ms(claim.version, forecast, economy.cost_at(price))
        else:
            share = 1.0 if price is None else self.pricing.usual(claim.version) / price
            wanted = self.forecasts.wanted_ms(claim.version, forecast, min(share, 1.0))
        return wanted if budget is None else max(forecast.router_ms, min(wanted, budget * forecast.full_ms))

    def _acts(self, claim: Claim, gate: str, mode: Gate, reason: str, what: str = "refused") -> bool:
        """Whether a gate that finds something acts; in a dry run it only says so."""
        if mode == "off":
            return False
        self.counts.add(gate, what if mode == "enforce" else f"would_have_{what}", claim.priority)
        if mode == "dry-run":
            claim.notes.append(f"{DRY}{gate}: {reason}")
        return mode == "enforce"

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
        if self._input_order_tokens < 1 or not self._acts(
            claim, "input_order", self.gates.input_order, "candidates in input order", "degraded"
        ):
            return False
        self._input_order_tokens -= 1
        return True


def _affinity(user: str, lane: int) -> bytes:
    """Rendezvous hashing: when a lane goes, only its own users move. The same in every run, unlike ``hash``."""
    return blake2b(f"{lane}\0{user}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
