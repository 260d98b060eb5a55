"""Hours of load on the desk in seconds: arrivals and engines on one made-up clock, nothing sleeps.

An engine runs each request for what its terms make of it: a share of full depth by the price, stopped where the terms
say.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from depthrank.routing import CostRates, Line
from depthrank.routing.economy import Economy
from depthrank.schema.request import Mode, Priority, Spent
from depthrank.server.admission.claim import Claim
from depthrank.server.admission.cohorts import cohort_of
from depthrank.server.admission.desk import Desk, Offered
from depthrank.server.admission.lane_queue import LaneQueue
from depthrank.server.admission.settings import AdmissionSettings
from depthrank.server.admission.terms import Terms

CANDIDATES = 1_000
RATES = CostRates(
    (Line(0.5, 0.0, 0.0), Line(0.5, 0.0005, 0.0), Line(1.0, 0.048, 0.0)),
    (Line(0.5, 0.0, 0.0), Line(0.5, 0.0005, 0.0), Line(1.0, 0.048, 0.0)),
)
"""The router takes 1.5 ms, full depth 50.5 ms, at 1,000 candidates."""
PRICES = tuple((10.0**k, max(0.03, 1 / (1 + 10 ** (k / 2)))) for k in range(-4, 5))
FITTED = Economy(RATES, 2, default_price=1e-4, prices=PRICES)
UNFITTED = Economy(RATES, 2)


@dataclass
class Outcome:
    """What became of one request."""

    at_s: float
    priority: Priority
    user: str
    what: str  # served, refused, input_order, late
    in_time: bool = False
    depth: float = 0.0  # share of full depth's cost that was spent
    price: float = 0.0


@dataclass
class Simulation:
    """``speed``: what engines really get out of wall time; ``error``: what a request really costs, as a multiple of
    what the rates say; ``saved``: of depth, where requests share passes."""

    settings: AdmissionSettings = field(default_factory=AdmissionSettings)
    economy: Economy = FITTED
    lanes: int = 1
    speed: float = 1.0
    error: Callable[[random.Random], float] = lambda rng: 1.0
    deadline_ms: float | None = 100.0
    mode: Mode = "adaptive"
    priority: Callable[[random.Random], Priority] = lambda rng: "normal"
    num_users: int = 500
    seed: int = 0
    saved: float = 0.2
    outcomes: list[Outcome] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk = Desk(self.settings, self.lanes, 100_000)
        self.desk.tell("m", self.economy)
        self.rng = random.Random(self.seed)
        self._ends: list[tuple[float, int, list[tuple[Claim, float]], float]] = []
        self.starts: list[int] = []
        self._count = 0

    def run(self, rate: Callable[[float], float], seconds: float) -> list[Outcome]:
        """Poisson arrivals at ``rate`` of the time, by the thinning of a faster process."""
        fastest = max(rate(seconds * k / 200) for k in range(201))
        for at_s in self._arrivals(rate, fastest, seconds):
            self._until(at_s)
            self._arrive(at_s)
        self._until(seconds + 60)
        return self.outcomes

    def _arrivals(self, rate: Callable[[float], float], fastest: float, seconds: float) -> Iterator[float]:
        at_s = 0.0
        while (at_s := at_s + self.rng.expovariate(fastest)) < seconds:
            if self.rng.random() < rate(at_s) / fastest:
                yield at_s

    def _until(self, at_s: float) -> None:
        while self._ends and self._ends[0][0] <= at_s:
            end_s, _, together, busy_s = heapq.heappop(self._ends)
            claims = [claim for claim, _ in together]
            spent = [Spent(max(0.0, ms - 0.3), claim.expected_ms, 0, True) for claim, ms in together]
            self.desk.finished(claims, end_s, busy_s, sum(ms for _, ms in together) / 1e3, spent)
            for claim, thread_ms in together:
                self._note(claim, "served", end_s <= claim.deadline_s, thread_ms)
            self._advance(claims[0].lane, end_s)

    def _arrive(self, at_s: float) -> None:
        user = f"u{self.rng.randrange(self.num_users)}"
        deadline_s = at_s + (10.0 if self.deadline_ms is None else self.deadline_ms / 1e3)
        forecast = self.desk.forecasts.of(user, "m", CANDIDATES)
        claim = Claim(
            user=user,
            version="m",
            priority=self.priority(self.rng),
            mode=self.mode,
            num_candidates=CANDIDATES,
            arrived_s=at_s,
            deadline_s=deadline_s,
            latest_s=deadline_s - 0.003,
            has_deadline=self.deadline_ms is not None,
            forecast=forecast,
            floor_ms=forecast.router_ms,
            wanted_ms=forecast.router_ms,
            cohort=cohort_of(user, int(at_s * 1e3)),
        )
        offered = self.desk.offer(claim, at_s)
        self._check(claim, offered, at_s)
        for gone, refusal in offered.gone:
            self._note(gone, "input_order" if refusal.in_input_order else "refused")
        if offered.refusal is not None:
            self._note(claim, "input_order" if offered.refusal.in_input_order else "refused")
            return
        self._advance(claim.lane, at_s)

    def _check(self, claim: Claim, offered: Offered, at_s: float) -> None:
        """What must hold at every arrival, by the desk's own forecasts."""
        lane = self.desk.lanes[max(claim.lane, 0)]
        if offered.refusal is None and self.settings.gates.deadline == "enforce":
            end_s = lane.free_s(at_s)
            for other in lane.waiting:
                end_s += lane.wall_s(other.floor_ms)
                if other is claim and end_s > claim.latest_s + 1e-9:
                    self.misfits.append(f"{at_s}: let in, would end {end_s - claim.latest_s:.4f} s late")
        refused = offered.refusal is not None and offered.refusal.gate == "deadline"
        if refused and any(one.fits(claim, at_s, lower_in(one, claim)) for one in self.desk.lanes):
            self.misfits.append(f"{at_s}: a {claim.priority} one was refused while lower ones waited")
        if any(gone.order[0] <= claim.order[0] for gone, _ in offered.gone):
            self.misfits.append(f"{at_s}: one of the same class had to go")

    def _advance(self, lane: int, now_s: float) -> None:
        while True:
            turn = self.desk.next(lane, now_s)
            for claim in turn.late:
                self._note(claim, "late")
            for claim, refusal in turn.refused:
                self._note(claim, "input_order" if refusal.in_input_order else "refused")
            if not turn.claims:
                return
            self._begin(turn.claims, now_s)

    def _begin(self, claims: tuple[tuple[Claim, Terms], ...], now_s: float) -> None:
        """Run claims that start together, one after the other as far as their time goes; ``saved`` of the depth where
        they share passes."""
        together = []
        for claim, terms in claims:
            scale = self.error(self.rng)
            router, full = claim.forecast.router_ms * scale, claim.forecast.full_ms * scale
            share = 1.0 if terms.budget is None else terms.budget
            if terms.mode == "router":
                share = 0.0
            if terms.mode == "adaptive" and self.economy.prices:
                share = min(share, self.economy.cost_at(terms.price or 1e-4))
            depth = max(0.0, full * share - router) * (1.0 if len(claims) == 1 else 1 - self.saved)
            left_ms = (terms.stop_s - now_s) * 1e3 * self.speed - sum(ms for _, ms in together)
            together.append((claim, router + max(0.0, min(depth, left_ms - router))))
        busy_s = sum(ms for _, ms in together) / 1e3 / self.speed
        self._count += 1
        self.starts.append(len(claims))
        heapq.heappush(self._ends, (now_s + busy_s, self._count, together, busy_s))

    def _note(self, claim: Claim, what: str, in_time: bool = False, thread_ms: float = 0.0) -> None:
        depth = thread_ms / claim.forecast.full_ms
        self.outcomes.append(
            Outcome(claim.arrived_s, claim.priority, claim.user, what, in_time, depth, claim.price or 0.0)
        )


def lower_in(lane: LaneQueue, claim: Claim) -> list[Claim]:
    """What waits there of lower classes."""
    return [other for other in lane.waiting if other.order[0] > claim.order[0]]


def share(outcomes: list[Outcome], holds: Callable[[Outcome], bool]) -> float:
    """The share of outcomes of which something holds."""
    return sum(map(holds, outcomes)) / max(len(outcomes), 1)


def after(outcomes: list[Outcome], at_s: float) -> list[Outcome]:
    """The outcomes of requests that came after a time."""
    return [outcome for outcome in outcomes if outcome.at_s >= at_s]
