"""Replayed requests with a known truth: how much deeper levels change differs by request, and a signal tells it."""

from __future__ import annotations

import numpy as np

from depthrank.routing import CostModel, CostRates, Line
from depthrank.routing.replayed import Replayed

RATES = CostRates(
    (Line(0.5, 0.0, 0.01), Line(0.1, 0.0002, 0.0), Line(0.3, 0.02, 0.0)),
    (Line(0.1, 0.0, 0.0), Line(0.1, 0.0002, 0.0), Line(0.3, 0.02, 0.0)),
)
RATES_3 = CostRates((*RATES.cold, Line(0.5, 0.1, 0.0)), (*RATES.warm, Line(0.5, 0.1, 0.0)))


def planted(requests: int = 120, *, levels: int = 2, seed: int = 0, fewest: int = 150, most: int = 300) -> Replayed:
    """Requests whose deeper values differ from level 0's by noise: much for long histories, little for short ones."""
    rng = np.random.default_rng(seed)
    count_R = rng.integers(fewest, most + 1, requests)
    history_R = rng.integers(0, 100, requests)
    value_LRC = np.full((levels, requests, most), -np.inf)
    relevant_RC = np.zeros((requests, most), dtype=np.bool_)
    for r, n in enumerate(count_R.tolist()):
        odds = -3 + 1.2 * rng.standard_normal(n)
        noise = 0.05 + 1.2 * (history_R[r] > 50)
        by_level = [odds]
        for _ in range(levels - 1):
            by_level.append(by_level[-1] + noise * rng.standard_normal(n))
        value_LN = 1 / (1 + np.exp(-np.array(by_level)))
        order = np.argsort(-value_LN[0], kind="stable")
        value_LRC[:, r, :n] = value_LN[:, order]
        relevant_RC[r, :n] = rng.random(n) < value_LN[-1, order]
    return Replayed(
        value_LRC,
        count_R.astype(np.int64),
        np.ones((requests, most)),
        relevant_RC,
        history_R.astype(np.int64),
        (np.arange(requests) // 2).astype(np.int64),
        np.full(requests, 1_700_000_000_000, dtype=np.int64),
        [{"device": "ios" if h > 50 else "web"} for h in history_R.tolist()],
    )


def costs(levels: int = 2) -> CostModel:
    return CostModel(RATES if levels == 2 else RATES_3)
