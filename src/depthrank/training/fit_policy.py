"""The adaptive policy from replayed requests: residual spreads, ladder, value of depth, prices. No model runs here.

Legend: R requests, J rungs, D levels beyond the router, L levels, C candidates of a request (padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from depthrank.routing.cost_model import CostModel
from depthrank.routing.cost_rates import CostRates
from depthrank.routing.ladder import PlanLadder, Rung, pareto, plan_grid, scaled_widths, thinned
from depthrank.routing.policy import AdaptivePolicy, PricePoint
from depthrank.routing.price import choices_at, price_range
from depthrank.routing.replayed import Replayed, returned_top
from depthrank.routing.signals import Signals, signals_of
from depthrank.routing.survivors import CONFIDENCES, LevelSpread, fit_spread, log_odds, survivors
from depthrank.training.fit_depth_value import DepthData, fit_depth_value, fit_scenarios

MOST_RUNGS = 14
POWERS = (0.0, 0.5, 1.0)
JUDGED_COSTS = (0.05, 0.1, 0.2)
SPREAD_COLUMNS = 512  # residuals are learned from the best by a level; the tail behind never reaches the top
LEAST_KEPT_BY_BOUNDS = 0.9995
DEFAULT_KEPT = 0.97
NUM_PRICES = 25

Floats = npt.NDArray[np.float64]


def fit_policy(replayed: Replayed, costs: CostModel, *, made_for: str, most: float) -> AdaptivePolicy:
    """Everything the policy of a model needs, from validation requests. ``most``: the most a value can be."""
    rates = costs.rates()
    ladder = fit_ladder(replayed, rates)
    spreads = tuple(fit_level_spread(replayed, level, most) for level in range(replayed.num_levels - 1))
    confidence, bounds_report = fit_confidence(replayed, spreads, most)
    caps_RJD = caps_of(ladder, replayed)
    worth_RJ = worths(replayed, caps_RJD)
    gain_R, value_R = np.maximum(worth_RJ[:, -1] - worth_RJ[:, 0], 0.0), level_0_value(replayed)
    scenarios = fit_scenarios(replayed.context_R, gain_R / np.where(value_R > 0, value_R, 1.0))
    signals = signals_of_all(replayed, [scenarios.of(context) for context in replayed.context_R])
    data = DepthData(signals, caps_RJD, worth_RJ, replayed.user_R, replayed.count_R, replayed.top)
    value, value_report = fit_depth_value(data)
    draft = AdaptivePolicy(
        made_for, most, ladder, spreads, confidence, value, costs, scenarios, 1.0, (PricePoint(1.0, 1.0, 1.0),), {}
    )
    prices = price_table(draft, replayed, signals, caps_RJD, worth_RJ)
    kept = [p for p in prices if p.kept_gain >= DEFAULT_KEPT]
    fitted = {
        "requests": len(replayed),
        "left_out": replayed.left_out,
        "relative_gain": float(gain_R.sum() / max(value_R.sum(), 1e-300)),
        "bounds": bounds_report,
        "depth_value": value_report,
    }
    return AdaptivePolicy(
        made_for,
        most,
        ladder,
        spreads,
        confidence,
        value,
        costs,
        scenarios,
        (kept[-1] if kept else prices[0]).price,
        prices,
        fitted,
    )


def level_0_value(replayed: Replayed) -> Floats:
    """A request's value by level 0: what the signals call ``request_value``, float64 [R]."""
    value_RX = np.take_along_axis(replayed.value_LRC[0], np.maximum(replayed.router_top_RX, 0), axis=1)
    discount = 1.0 / np.log2(np.arange(value_RX.shape[1]) + 2.0)
    return np.asarray((np.where(replayed.router_top_RX >= 0, value_RX, 0.0) * discount).sum(axis=1))


def signals_of_all(replayed: Replayed, scenario_R: Sequence[float]) -> list[Signals]:
    """Signals of every request, from level 0 alone."""
    return [
        signals_of(
            replayed.value_LRC[0, r, : replayed.count_R[r]],
            replayed.top,
            history_length=int(replayed.history_R[r]),
            time_ms=int(replayed.time_ms_R[r]),
            scenario=scenario,
        )
        for r, scenario in enumerate(scenario_R)
    ]


def caps_of(ladder: PlanLadder, replayed: Replayed) -> Floats:
    """Widths of every rung for every request, float64 [R, J, D]."""
    return np.stack([ladder.caps(int(n), replayed.top) for n in replayed.count_R])


def worths(replayed: Replayed, caps_RJD: Floats) -> Floats:
    """Full-depth value of what each rung returns, float64 [R, J]."""
    by_rung = [
        replayed.worth(returned_top(replayed, caps_RJD[:, j].astype(np.int64))) for j in range(caps_RJD.shape[1])
    ]
    return np.stack(by_rung, axis=1)


def costs_of(replayed: Replayed, rates: CostRates, caps_RJD: Floats, *, warm: bool = True) -> Floats:
    """Predicted cost of each rung, float64 [R, J]."""
    num_rungs = caps_RJD.shape[1]
    rows = []
    for r, n in enumerate(replayed.count_R.tolist()):
        caps_JL = np.concatenate((np.full((num_rungs, 1), float(n)), caps_RJD[r]), axis=1)
        rows.append(rates.plans_ms(caps_JL, float(replayed.history_R[r]), warm=warm))
    return np.stack(rows)


def kept_gain_of(worth_R: Floats, router_R: Floats, full_R: Floats) -> float:
    """Sum of gains over the sum of full depth's; 1 where full depth gains nothing."""
    stake = float((full_R - router_R).sum())
    return float((worth_R - router_R).sum()) / stake if stake > 0 else 1.0


def fit_ladder(replayed: Replayed, rates: CostRates, *, most_rungs: int = MOST_RUNGS) -> PlanLadder:
    """The Pareto front of the plan grid, at the power of the widths that keeps most at small costs."""
    usual = max(1, int(np.median(replayed.count_R)))
    grid = plan_grid(usual, replayed.num_levels - 1, replayed.top)
    varied = float(replayed.count_R.std()) > 0.1 * usual
    powers = POWERS if varied else (0.0,)
    ladders = [_ladder_at(replayed, rates, grid, usual, power, most_rungs) for power in powers]
    return max(ladders, key=_kept_at_small_costs)


def _ladder_at(
    replayed: Replayed, rates: CostRates, grid: list[tuple[int, ...]], usual: int, power: float, most_rungs: int
) -> PlanLadder:
    widths_JD = np.array(grid, dtype=np.float64)
    caps_RJD = np.stack([scaled_widths(widths_JD, int(n), replayed.top, usual, power) for n in replayed.count_R])
    worth_RJ, cost_RJ = worths(replayed, caps_RJD), costs_of(replayed, rates, caps_RJD)
    cost_J = cost_RJ.sum(axis=0) / cost_RJ[:, -1].sum()
    kept_J = np.array([kept_gain_of(worth_RJ[:, j], worth_RJ[:, 0], worth_RJ[:, -1]) for j in range(len(grid))])
    inner = [j for j in pareto(cost_J[:-1], kept_J[:-1]) if j > 0 and cost_J[j] < cost_J[-1]]
    chosen = thinned([0, *inner, len(grid) - 1], cost_J, kept_J, most_rungs)
    return PlanLadder(tuple(Rung(grid[j], float(cost_J[j]), float(kept_J[j])) for j in chosen), usual, power)


def _kept_at_small_costs(ladder: PlanLadder) -> float:
    costs, kept = [r.cost for r in ladder.rungs], [r.kept_gain for r in ladder.rungs]
    return float(np.interp(JUDGED_COSTS, costs, kept).mean())


def fit_level_spread(replayed: Replayed, level: int, most: float) -> LevelSpread:
    """Residuals from a level to full depth in log-odds, measured from what the request's best have in common."""
    odds, residuals = [], []
    for r, n in enumerate(replayed.count_R.tolist()):
        value_N, factor_N = replayed.value_LRC[level, r, :n], replayed.factor_RC[r, :n]
        best = np.argsort(-value_N, kind="stable")[:SPREAD_COLUMNS]
        best = best[factor_N[best] > 0]
        here = log_odds(value_N[best], most, factor_N[best])
        residual = log_odds(replayed.value_LRC[-1, r, best], most, factor_N[best]) - here
        common = float(np.median(residual[: 2 * replayed.top])) if residual.size else 0.0
        odds.append(here)
        residuals.append(residual - common)
    odds_n, residual_n = np.concatenate(odds), np.concatenate(residuals)
    if not odds_n.size:
        odds_n = residual_n = np.zeros(1)
    return fit_spread(odds_n, residual_n)


def fit_confidence(
    replayed: Replayed, spreads: Sequence[LevelSpread], most: float
) -> tuple[float | None, dict[str, Any]]:
    """The lowest confidence whose bounds, applied at full widths, keep nearly all gain; None where none does."""
    router_R, full_R = replayed.worth(replayed.router_top_RX), replayed.worth(replayed.full_top_RX)
    tried = []
    for confidence in CONFIDENCES:
        worth_R, scored = _bounded(replayed, spreads, most, confidence)
        kept = kept_gain_of(worth_R, router_R, full_R)
        tried.append({"confidence": confidence, "kept_gain": kept, "share_scored": scored})
        if kept >= LEAST_KEPT_BY_BOUNDS:
            return confidence, {"chosen": confidence, "tried": tried}
    return None, {"chosen": None, "tried": tried}


def _bounded(
    replayed: Replayed, spreads: Sequence[LevelSpread], most: float, confidence: float
) -> tuple[Floats, float]:
    """Value of what bounds alone return [R], and the share of candidates that deeper levels score."""
    top_RX = np.full((len(replayed), replayed.top), -1, dtype=np.int64)
    scored = 0
    for r, n in enumerate(replayed.count_R.tolist()):
        caps = [n] * (replayed.num_levels - 1)
        returned, counts = returned_by(replayed, r, caps, spreads, confidence, most)
        top_RX[r, : returned.size] = returned
        scored += sum(counts)
    possible = float(replayed.count_R.sum() * (replayed.num_levels - 1))
    return replayed.worth(top_RX), scored / max(possible, 1.0)


def returned_by(
    replayed: Replayed,
    r: int,
    caps: Sequence[int],
    spreads: Sequence[LevelSpread],
    confidence: float | None,
    most: float,
) -> tuple[npt.NDArray[np.int64], list[int]]:
    """One request through survivors as the engine runs them: columns of its top n, and candidates by deeper level."""
    n, top = int(replayed.count_R[r]), replayed.top
    depth, last = np.zeros(n, dtype=np.int64), replayed.value_LRC[0, r, :n].copy()
    alive, counts = np.arange(n), []
    for level, cap in enumerate(caps, start=1):
        if cap <= 0:
            break
        spread = spreads[level - 1] if confidence is not None else None
        found = survivors(
            replayed.value_LRC[level - 1, r, alive],
            top,
            cap,
            spread,
            confidence,
            most=most,
            factor_N=replayed.factor_RC[r, alive],
        )
        if not found.kept.size:
            break
        alive = alive[found.kept]
        depth[alive], last[alive] = level, replayed.value_LRC[level, r, alive]
        counts.append(int(alive.size))
    order = np.lexsort((-last, -depth))[:top]
    return order.astype(np.int64), counts + [0] * (len(caps) - len(counts))


def predicted_gains(
    policy: AdaptivePolicy, signals: Sequence[Signals], caps_RJD: Floats, count_R: Any, top: int
) -> Floats:
    """What the policy expects each rung to gain, float64 [R, J]."""
    rows = [
        s.request_value * policy.value.stake_of(s) * policy.value.shares_of(s, caps_JD, int(n), top)
        for s, caps_JD, n in zip(signals, caps_RJD, count_R, strict=True)
    ]
    return np.stack(rows)


def price_table(
    policy: AdaptivePolicy, replayed: Replayed, signals: Sequence[Signals], caps_RJD: Floats, worth_RJ: Floats
) -> tuple[PricePoint, ...]:
    """Mean cost and kept gain over the range of prices, lowest price first."""
    gain_RJ = predicted_gains(policy, signals, caps_RJD, replayed.count_R, replayed.top)
    cost_RJ = costs_of(replayed, policy.costs.rates(), caps_RJD)
    low, high = price_range(gain_RJ, cost_RJ)
    rows, points = np.arange(len(replayed)), []
    for price in np.geomspace(low, high, NUM_PRICES).tolist():
        choice_R = choices_at(price, gain_RJ, cost_RJ)
        cost = float(cost_RJ[rows, choice_R].sum() / cost_RJ[:, -1].sum())
        kept = kept_gain_of(worth_RJ[rows, choice_R], worth_RJ[:, 0], worth_RJ[:, -1])
        points.append(PricePoint(price, cost, kept))
    return tuple(points)
