"""``curve``: kept gain against cost for fixed plans, plain cascades and the adaptive policy, on held-out requests.

Everything that is chosen (plans, mixtures, prices) is chosen on validation requests and judged on those of the split.
At several fractions of full depth's cost the adaptive policy is compared with the best mixture of fixed plans and of
cascades at the cost that the policy really had, request by request, with intervals by bootstrap over users.

Legend: R requests, n results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from depthrank.evaluate.replay import ReplayedArtifact
from depthrank.evaluate.rivals import (
    AdaptiveRun,
    FixedPlan,
    Hull,
    Outcome,
    at_cost,
    cascade_plans,
    fixed_plans,
    hull_of,
    run_fixed,
)
from depthrank.metrics import Interval, kept_gain, kept_value, mean_interval
from depthrank.metrics.kept_gain import kept_gain_difference
from depthrank.routing.replayed import Replayed

TARGETS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
NUM_PRICES = 13
HISTORY_EDGES = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1_000)
MOST_SCENARIOS = 12

Floats = npt.NDArray[np.float64]
Plain = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """Plain data of a curve, and its page."""

    figures: Plain

    def to_json(self) -> Plain:
        """``{"points", "scaling", ...}`` as in the design; a figure without meaning is null."""
        plain = _without_nan(self.figures)
        assert isinstance(plain, dict)
        return plain

    def write_html(self, path: str | Path) -> None:
        """One self-contained page with all plots."""
        from depthrank.evaluate.curve_report import render_curve

        Path(path).write_text(render_curve(self.to_json()), encoding="utf-8")


def curve_of(
    replayed: ReplayedArtifact,
    *,
    split: str = "test",
    replicates: int = 1000,
    scaling: Sequence[Plain] = (),
    timing: Plain | None = None,
) -> Curve:
    """All points, comparisons and slices."""
    judged, policy, rates = replayed.judged, replayed.policy, replayed.rates
    points = _Points(judged, replicates)
    full = FixedPlan(replayed.policy.ladder.rungs[-1].widths, policy.ladder.usual)
    points.baseline = {warm: run_fixed(judged, full, rates, warm=warm) for warm in (True, False)}
    points.add("full", points.baseline[True], points.baseline[False], {"plan": "every candidate at every level"})
    for rung in policy.ladder.rungs[:-1]:
        plan = FixedPlan(rung.widths, policy.ladder.usual, policy.ladder.power)
        outcome, cold = (run_fixed(judged, plan, rates, warm=warm) for warm in (True, False))
        points.add("fixed", outcome, cold, {"plan": list(rung.widths)})
    for plan in cascade_plans(judged)[1:-1:3]:
        outcome, cold = (run_fixed(judged, plan, rates, warm=warm) for warm in (True, False))
        points.add("cascade", outcome, cold, {"plan": list(plan.widths)})
    run = {warm: AdaptiveRun(policy, judged, rates, warm=warm) for warm in (True, False)}
    low, high = run[True].price_range()
    for price in np.geomspace(max(low, policy.prices[0].price), high, NUM_PRICES).tolist():
        points.add("adaptive", run[True].at(price), run[False].at(price), {"price": price})
    gain = replayed.depth_over_router(replicates)
    return Curve(
        {
            "points": points.found,
            "scaling": list(scaling),
            "comparisons": [
                found for warm in (True, False) for found in _comparisons(replayed, run[warm], replicates, warm=warm)
            ],
            "full_over_router": {"ndcg@10": gain.to_plain(), "meaningful": bool(gain.low > 0)},
            "said": _said(gain),
            "depth": _depth(judged, run[True], policy.default_price),
            "importance": {kind: dict(found) for kind, found in policy.value.importance.items()},
            "timing": timing,
            "about": {
                "model": replayed.artifact.manifest.model_id,
                "name": replayed.artifact.manifest.name,
                "split": split,
                "requests": len(judged),
                "validation_requests": len(replayed.validation),
                "users": int(judged.user_R.max(initial=-1)) + 1,
                "candidates_per_request": float(judged.count_R.mean()),
                "left_out": judged.left_out,
                "full_ms": {
                    "warm": float(points.baseline[True].cost_R.mean()),
                    "cold": float(points.baseline[False].cost_R.mean()),
                },
                "costs": rates.to_plain(),
                "cost_is": "predicted thread-milliseconds of user side and levels, fitted to timings on this machine",
            },
        }
    )


def _said(gain: Interval) -> str:
    """What the figures may be taken for."""
    told = f"NDCG@10 of full depth minus router: {gain.estimate:.4f} ({gain.low:.4f} to {gain.high:.4f})"
    if gain.low > 0:
        return f"{told}: full depth is better, so kept gain means something"
    return f"{told}: full depth does not beat the router here, so kept gain has no meaning on this data"


class _Points:
    """Collects points: one policy at one setting."""

    def __init__(self, judged: Replayed, replicates: int) -> None:
        self.judged, self.replicates = judged, replicates
        self.baseline: dict[bool, Outcome] = {}
        self.found: list[Plain] = []
        self._router = judged.worth(judged.router_top_RX)
        self._full = judged.worth(judged.full_top_RX)

    def add(self, policy: str, warm: Outcome, cold: Outcome, setting: Plain) -> None:
        """A point with warm figures, and the cold ones beside them."""
        judged, options = self.judged, {"replicates": self.replicates}
        worth = judged.worth(warm.top_RX)
        gain = kept_gain(worth, self._router, self._full, judged.user_R, **options)
        value = kept_value(worth, self._full, judged.user_R, **options)
        overlap = mean_interval(judged.overlap(warm.top_RX), judged.user_R, **options)
        ndcg = mean_interval(judged.ndcg(warm.top_RX), judged.user_R, **options)
        gain_cold = kept_gain(judged.worth(cold.top_RX), self._router, self._full, judged.user_R, **options)
        self.found.append(
            {
                "policy": policy,
                **setting,
                "cost": self._fraction(warm, True),
                "cost_cold": self._fraction(cold, False),
                "ms": float(warm.cost_R.mean()),
                "ms_cold": float(cold.cost_R.mean()),
                "kept_gain": gain.estimate,
                "kept_gain_cold": gain_cold.estimate,
                "kept_value": value.estimate,
                "overlap@10": overlap.estimate,
                "ndcg@10": ndcg.estimate,
                "candidates_scored": warm.scored_RL.mean(axis=0).tolist(),
                "intervals": {
                    name: [found.low, found.high]
                    for name, found in (
                        ("kept_gain", gain),
                        ("kept_gain_cold", gain_cold),
                        ("kept_value", value),
                        ("overlap@10", overlap),
                        ("ndcg@10", ndcg),
                    )
                },
            }
        )

    def _fraction(self, outcome: Outcome, warm: bool) -> float:
        return float(outcome.cost_R.sum() / self.baseline[warm].cost_R.sum())


def _comparisons(replayed: ReplayedArtifact, judged_run: AdaptiveRun, replicates: int, *, warm: bool) -> list[Plain]:
    """The adaptive policy against the best fixed plans and cascades at each target cost."""
    validation, rates = replayed.validation, replayed.rates
    run = AdaptiveRun(replayed.policy, validation, rates, warm=warm)
    full_ms = _full_ms(replayed, validation, warm)
    hulls = {
        "fixed": hull_of(validation, fixed_plans(validation), rates, warm=warm),
        "cascade": hull_of(validation, cascade_plans(validation), rates, warm=warm),
    }
    found = []
    for target in TARGETS:
        if float(run.cost_RJ[:, 0].mean()) > target * full_ms:
            found.append({"state": "warm" if warm else "cold", "target_cost": target, "reachable": False})
            continue  # the router alone costs more
        price = run.price_for(target * full_ms)
        outcome = judged_run.at(price)
        entry: Plain = {
            "state": "warm" if warm else "cold",
            "target_cost": target,
            "reachable": True,
            "price": price,
            "cost": float(outcome.cost_R.mean()) / _full_ms(replayed, replayed.judged, warm),
            "over": {name: _against(replayed, outcome, hull, replicates, warm=warm) for name, hull in hulls.items()},
        }
        judged = replayed.judged
        router, full = judged.worth(judged.router_top_RX), judged.worth(judged.full_top_RX)
        kept = kept_gain(judged.worth(outcome.top_RX), router, full, judged.user_R, replicates=replicates)
        entry["kept_gain"] = kept.to_plain()
        found.append(entry)
    return found


def _full_ms(replayed: ReplayedArtifact, requests: Replayed, warm: bool) -> float:
    """Mean cost of full depth."""
    full = FixedPlan(replayed.policy.ladder.rungs[-1].widths, replayed.policy.ladder.usual)
    return float(run_fixed(requests, full, replayed.rates, warm=warm).cost_R.mean())


def _against(replayed: ReplayedArtifact, outcome: Outcome, hull: Hull, replicates: int, *, warm: bool) -> Plain | None:
    """Paired differences to a rival that costs the same on the judged requests; None where it cannot be as cheap."""
    judged = replayed.judged
    rival = at_cost(judged, hull, replayed.rates, float(outcome.cost_R.mean()), warm=warm)
    if rival is None:
        return None
    worth, ndcg, _ = rival
    router, full = judged.worth(judged.router_top_RX), judged.worth(judged.full_top_RX)
    difference = kept_gain_difference(
        judged.worth(outcome.top_RX), worth, router, full, judged.user_R, replicates=replicates
    )
    ndcg_R = judged.ndcg(outcome.top_RX) - ndcg
    return {
        "kept_gain": kept_gain(worth, router, full, judged.user_R, replicates=replicates).estimate,
        "difference": difference.to_plain(),
        "ndcg@10_difference": mean_interval(ndcg_R, judged.user_R, replicates=replicates).to_plain(),
    }


def _depth(judged: Replayed, run: AdaptiveRun, price: float) -> Plain:
    """Candidates that levels beyond the router score, by history length, scenario and price, at the default price."""
    outcome = run.at(price)
    full_R = run.cost_RJ[:, -1]
    cost_R, deeper_R = outcome.cost_R / np.maximum(full_R, 1e-12), outcome.scored_RL[:, 1]
    by_history = []
    edges = (*HISTORY_EDGES, 1 << 40)
    for low, high in pairwise(edges):
        inside = (judged.history_R >= low) & (judged.history_R < high)
        if inside.any():
            label = f"{low}" if high == low + 1 else f"{low} to {high - 1}" if high < 1 << 40 else f"{low} or more"
            by_history.append(_slice(label, inside, cost_R, deeper_R))
    scenarios: dict[str, list[Plain]] = {}
    for column in judged.context_R[0] if len(judged) else ():
        text = np.array([str(context.get(column)) for context in judged.context_R])
        names, counts = np.unique(text, return_counts=True)
        if len(names) > 1:
            best = names[np.argsort(-counts)][:MOST_SCENARIOS]
            scenarios[str(column)] = [_slice(str(name), text == name, cost_R, deeper_R) for name in best]
    return {"price": price, "history_length": by_history, "scenario": scenarios}


def _slice(label: str, inside: npt.NDArray[np.bool_], cost_R: Floats, deeper_R: npt.NDArray[np.int64]) -> Plain:
    return {
        "slice": label,
        "requests": int(inside.sum()),
        "cost": float(cost_R[inside].mean()),
        "level_1_candidates": float(deeper_R[inside].mean()),
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
