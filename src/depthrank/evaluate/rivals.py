"""What replayed requests keep and cost under a policy: fixed plans, plain cascades, mixtures of them, and the adaptive
policy, whose own decisions and survivors are run, request by request.

Fixed plans are given their best case: at any cost between two of them, requests are shared out at random between the
two, so their curve is the upper hull of the plans, chosen on validation.

Legend: R requests, J plans, D levels beyond the router, n results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from depthrank.routing import AdaptivePolicy, CostRates, DecisionInputs
from depthrank.routing.ladder import ALL, geometric, plan_grid, scaled_widths
from depthrank.routing.replayed import Replayed, returned_top
from depthrank.training.fit_policy import kept_gain_of, returned_by, signals_of_all

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GRID_RATIO = 1.3
CASCADE_RATIO = 1.15


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a policy did on replayed requests: columns returned [R, n], candidates by level [R, L], cost in ms [R]."""

    top_RX: Ints
    scored_RL: Ints
    cost_R: Floats


@dataclass(frozen=True)
class FixedPlan:
    """Widths at the usual number of candidates, and the power they grow with."""

    widths: tuple[int, ...]
    usual: int
    power: float = 0.0

    def caps(self, replayed: Replayed) -> Ints:
        """Widths for every request, int64 [R, D]."""
        width_1D = np.array([self.widths], dtype=np.float64)
        rows = [scaled_widths(width_1D, int(n), replayed.top, self.usual, self.power)[0] for n in replayed.count_R]
        return np.array(rows).astype(np.int64)


def costs_of_counts(replayed: Replayed, scored_RL: Ints, rates: CostRates, *, warm: bool) -> Floats:
    """Predicted cost of what was scored, float64 [R]."""
    histories = replayed.history_R.tolist()
    rows = [rates.plan_ms(s, h, warm=warm) for s, h in zip(scored_RL.tolist(), histories, strict=True)]
    return np.array(rows, dtype=np.float64)


def run_fixed(replayed: Replayed, plan: FixedPlan, rates: CostRates, *, warm: bool = True) -> Outcome:
    """A fixed plan on every request."""
    caps_RD = plan.caps(replayed)
    scored_RL = np.concatenate((replayed.count_R[:, None], caps_RD), axis=1)
    return Outcome(returned_top(replayed, caps_RD), scored_RL, costs_of_counts(replayed, scored_RL, rates, warm=warm))


class AdaptiveRun:
    """The adaptive policy on replayed requests, at any price."""

    def __init__(self, policy: AdaptivePolicy, replayed: Replayed, rates: CostRates, *, warm: bool = True) -> None:
        self.policy, self.replayed, self.rates, self.warm = policy, replayed, rates, warm
        scenario_R = [policy.scenarios.of(context) for context in replayed.context_R]
        self.inputs = [
            DecisionInputs(s, int(n), int(h), replayed.top, warm=warm, rates=rates)
            for s, n, h in zip(signals_of_all(replayed, scenario_R), replayed.count_R, replayed.history_R, strict=True)
        ]
        options = [policy.options(inputs) for inputs in self.inputs]
        self.cost_RJ = np.stack([o.cost_J for o in options])
        self._caps_RJL = np.stack([o.caps_JL for o in options])
        self.gain_RJ = np.stack(
            [i.signals.request_value * o.stake * o.share_J for i, o in zip(self.inputs, options, strict=True)]
        )

    def rungs_at(self, price: float) -> Ints:
        """The rung of each request, int64 [R]: what ``policy.decide`` says without budget and deadline."""
        return np.asarray(np.argmax(self.gain_RJ - price * self.cost_RJ, axis=1), dtype=np.int64)

    def at(self, price: float) -> Outcome:
        """Decisions at a price, then survivors level by level."""
        policy, replayed = self.policy, self.replayed
        top_RX = np.full((len(replayed), replayed.top), -1, dtype=np.int64)
        scored_RL = np.zeros((len(replayed), replayed.num_levels), dtype=np.int64)
        scored_RL[:, 0] = replayed.count_R
        for r, rung in enumerate(self.rungs_at(price).tolist()):
            caps = self._caps_RJL[r, rung, 1:].astype(np.int64).tolist()
            top, counts = returned_by(replayed, r, caps, policy.spreads, policy.confidence, policy.most)
            top_RX[r, : top.size], scored_RL[r, 1:] = top, counts
        return Outcome(top_RX, scored_RL, costs_of_counts(replayed, scored_RL, self.rates, warm=self.warm))

    def price_for(self, target_ms: float, *, steps: int = 16) -> float:
        """The lowest price whose mean cost, survivors included, is ``target_ms`` at most, by bisection."""
        low, high = self.price_range()
        if float(self.at(low).cost_R.mean()) <= target_ms:
            return low
        for _ in range(steps):
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if float(self.at(middle).cost_R.mean()) <= target_ms else (middle, high)
        return high

    def price_range(self) -> tuple[float, float]:
        """From where nearly everything is deep to where everything stays at the router."""
        slope = self.gain_RJ[:, 1:] / np.maximum(self.cost_RJ[:, 1:] - self.cost_RJ[:, :1], 1e-12)
        high = float(slope.max(initial=1e-12)) * 1.01
        return max(high * 1e-9, 1e-300), max(high, 1e-290)


@dataclass(frozen=True)
class Hull:
    """The upper hull of plans over mean cost, from validation: cheapest first."""

    plans: tuple[FixedPlan, ...]


def fixed_plans(replayed: Replayed, powers: Sequence[float] = (0.0, 1.0)) -> list[FixedPlan]:
    """Every fixed plan worth trying, narrow steps apart."""
    usual = max(1, int(np.median(replayed.count_R)))
    grid = plan_grid(usual, replayed.num_levels - 1, replayed.top, ratio=GRID_RATIO)
    return [FixedPlan(widths, usual, power) for power in powers for widths in grid]


def cascade_plans(replayed: Replayed) -> list[FixedPlan]:
    """Plain two-stage cascades: the router, then everything at full depth for its top k."""
    usual = max(1, int(np.median(replayed.count_R)))
    depth = replayed.num_levels - 1
    counts = geometric(replayed.top, usual, CASCADE_RATIO)
    widths = [0, *(k for k in counts if k < ALL), ALL]
    return [FixedPlan((k,) * depth, usual) for k in widths]


def hull_of(replayed: Replayed, plans: Sequence[FixedPlan], rates: CostRates, *, warm: bool = True) -> Hull:
    """The plans on the upper hull of kept gain over mean cost."""
    router, full = replayed.worth(replayed.router_top_RX), replayed.worth(replayed.full_top_RX)
    points = []
    for plan in plans:
        outcome = run_fixed(replayed, plan, rates, warm=warm)
        points.append((float(outcome.cost_R.mean()), kept_gain_of(replayed.worth(outcome.top_RX), router, full)))
    hull: list[int] = []
    for i in sorted(range(len(plans)), key=lambda i: (points[i][0], -points[i][1])):
        if hull and points[i][1] <= points[hull[-1]][1]:
            continue
        while len(hull) > 1 and _below(points[hull[-2]], points[hull[-1]], points[i]):
            hull.pop()
        hull.append(i)
    return Hull(tuple(plans[i] for i in hull))


def _below(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def at_cost(
    replayed: Replayed, hull: Hull, rates: CostRates, target_ms: float, *, warm: bool = True
) -> tuple[Floats, Floats, Floats] | None:
    """Worth, NDCG and cost [R] of the mixture of two neighbouring plans with mean cost ``target_ms`` on these requests;
    None where even the cheapest costs more."""
    before: Outcome | None = None
    for plan in hull.plans:
        outcome = run_fixed(replayed, plan, rates, warm=warm)
        mean = float(outcome.cost_R.mean())
        if mean >= target_ms:
            if before is None:
                return None if mean > target_ms * (1 + 1e-9) else _figures(replayed, outcome)
            start = float(before.cost_R.mean())
            share = (target_ms - start) / max(mean - start, 1e-12)
            a, b = _figures(replayed, before), _figures(replayed, outcome)
            mixed = [x + share * (y - x) for x, y in zip(a, b, strict=True)]
            return mixed[0], mixed[1], mixed[2]
        before = outcome
    return None if before is None else _figures(replayed, before)


def _figures(replayed: Replayed, outcome: Outcome) -> tuple[Floats, Floats, Floats]:
    return replayed.worth(outcome.top_RX), replayed.ndcg(outcome.top_RX), outcome.cost_R
