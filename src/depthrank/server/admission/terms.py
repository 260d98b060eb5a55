"""On what terms a request runs that starts now: the price of compute to it, its mode and budget, and when it must end.

Depth gives way first and for all alike. The price that follows the load is slow; what waits in a lane is known at once,
so where those that wait could not all have the depth that this price gives them, the one that starts pays more
(``LaneQueue.depth_share``). Where next to nothing is left of depth only the router runs and the policy is not asked;
only then do gates refuse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from depthrank.schema.request import Mode
from depthrank.server.admission.claim import Claim
from depthrank.server.admission.forecasts import Forecasts
from depthrank.server.admission.gate_counts import GateCounts
from depthrank.server.admission.guard import ConcurrencyGuard
from depthrank.server.admission.lane_queue import LaneQueue
from depthrank.server.admission.pricing import Pricing
from depthrank.server.admission.settings import Gates

ASKED_FROM = 0.1  # of the router's time: to ask the policy how deep to go takes as long as so little depth would


@dataclass(frozen=True)
class Terms:
    """How a claim is to be run: its mode and budget, when it must stop (infinite: never), the price of compute to
    it."""

    mode: Mode
    budget: float | None
    stop_s: float
    price: float | None


@dataclass
class TermsOffice:
    """Sets the terms from what the desk knows; ``counts`` says what was done."""

    gates: Gates
    forecasts: Forecasts
    pricing: Pricing
    guard: ConcurrencyGuard
    counts: GateCounts

    def of(self, claim: Claim, lane: LaneQueue, start_s: float) -> Terms:
        """At the price that has been set, until the time that others need."""
        until_s = lane.until_s(claim, start_s)
        stop_s = own_s = lane.own_until_s(claim, start_s)
        if until_s < own_s:
            others = f"{len(lane.waiting)} requests behind it need the rest"
            reason = f"{(until_s - start_s) * 1e3:.0f} of {(own_s - start_s) * 1e3:.0f} ms were its own, {others}"
            if self.counts.acts(claim, "share", self.gates.share, reason, "degraded"):
                stop_s, claim.shortened = until_s, reason
        mode, budget = self._depth(claim, lane, start_s, stop_s)
        self._note_price(claim)
        claim.mode = mode
        wanted = max(claim.forecast.router_ms, self.wanted_ms(claim, mode, budget))
        claim.expected_ms = min(wanted, max(claim.floor_ms, (stop_s - start_s) * 1e3 * lane.speed))
        limited = claim.has_deadline or claim.shortened
        return Terms(mode, budget, stop_s if limited else math.inf, claim.price)

    def set_price(self, claim: Claim, lane: LaneQueue, start_s: float) -> None:
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

    def wanted_at(self, claim: Claim, price: float | None) -> float:
        """What a claim would take at a price, its floor at least."""
        return max(claim.floor_ms, self.wanted_ms(claim, price=price))

    def _wanted_now_ms(self, claim: Claim) -> float:
        """What a claim would take at the price that follows the load."""
        return self.wanted_ms(claim, price=self.pricing.of(claim.version))

    def _price_at(self, claim: Claim, cost_ms: float) -> float:
        """The price at which a claim is predicted to take ``cost_ms``."""
        economy, forecast = self.forecasts.economy(claim.version), claim.forecast
        share = cost_ms / max(forecast.full_ms, 1e-9)
        if economy is None or not economy.prices:
            return self.pricing.usual(claim.version) / max(share, 1e-9)
        return self.forecasts.price_at(claim.version, forecast, cost_ms)

    def _depth(self, claim: Claim, lane: LaneQueue, start_s: float, stop_s: float) -> tuple[Mode, float | None]:
        """Mode and budget: full depth that does not fit is narrowed, and a version without a policy is capped."""
        mode, budget = claim.mode, claim.budget
        full_ms, left_ms = claim.forecast.full_ms, (stop_s - start_s) * 1e3 * lane.speed
        if mode == "full" and full_ms > left_ms:
            reason = f"full depth would take {full_ms:.0f} ms, {left_ms:.0f} are left"
            if self.counts.acts(claim, "full", self.gates.full, reason, "degraded"):
                mode, budget = "adaptive", max(1e-6, min(1.0, left_ms / full_ms))
        economy = self.forecasts.economy(claim.version)
        if mode != "adaptive" or economy is None or claim.price is None:
            return mode, budget
        if economy.prices and self._dearness(claim) > 1:
            depth_ms = self.wanted_ms(claim, mode, budget) - claim.forecast.router_ms
            if depth_ms < ASKED_FROM * claim.forecast.router_ms:
                return "router", budget
        if not economy.prices:
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
            if self.counts.acts(claim, "price", self.gates.price, reason, "degraded"):
                claim.notes.append(f"overload: {reason}")

    def wanted_ms(
        self, claim: Claim, mode: Mode | None = None, budget: float | None = None, price: float | None = None
    ) -> float:
        """What a claim takes, by default at its own price, in its own mode and budget."""
        mode, budget = mode or claim.mode, claim.budget if budget is None else budget
        price = claim.price if price is None else price
        forecast, economy = claim.forecast, self.forecasts.economy(claim.version)
        if mode == "full":
            return forecast.full_ms
        if mode == "router" or economy is None:
            return forecast.router_ms
        if economy.prices:
            price = price if price is not None else (economy.default_price or economy.prices[0][0])
            wanted = self.forecasts.wanted_ms(claim.version, forecast, price)
        else:
            share = 1.0 if price is None else min(1.0, self.pricing.usual(claim.version) / price)
            wanted = max(forecast.router_ms, share * forecast.full_ms)
        return wanted if budget is None else max(forecast.router_ms, min(wanted, budget * forecast.full_ms))
