"""Exploration with known propensities: now and then the order that is shown is drawn, and its probability is logged.

With probability ``share`` a request explores. ``swap``: the first places are paired, from the first or from the second
place on with equal chance, and each pair is exchanged with probability epsilon. ``plackett_luce``: places are filled
one after the other with probability proportional to value^(1/temperature). The propensity of a place is the probability
of its item given the items above it, over both chances; their product is the probability of the whole order. So a
logged order can be weighed by the inverse of its probability (Horvitz-Thompson), place by place or as a whole.
Source: Plackett, 1975; Swaminathan and Joachims, 2015, for learning from such logs.

Legend: n places that may change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthrank.server.after_ranking.settings import ExplorationSettings

LEAST_VALUE = 1e-30


@dataclass(frozen=True)
class Explored:
    """``order``: indices into the ranking, in the order shown; ``propensity``: of each place that could change."""

    order: tuple[int, ...]
    propensity: tuple[float, ...]
    explored: bool


def explore(value_N: Sequence[float], settings: ExplorationSettings, chance: np.random.Generator) -> Explored:
    """Draw the order of items that are ranked 0, 1, ... with these values."""
    n = min(len(value_N), settings.depth)
    explored = bool(chance.random() < settings.share)
    first = tuple(range(n))
    if explored:
        first = _swap(n, settings, chance) if settings.kind == "swap" else _draw(value_N[:n], settings, chance)
    return Explored((*first, *range(n, len(value_N))), propensities(first, value_N, settings), explored)


def propensities(order: Sequence[int], value_N: Sequence[float], settings: ExplorationSettings) -> tuple[float, ...]:
    """Probability of each place's item given those above it; ``order`` permutes the first places of the ranking."""
    n = len(order)
    if settings.kind == "swap":
        chains = [_swap_conditionals(order, offset, settings.epsilon) for offset in (0, 1)]
        weights = [settings.share / 2, settings.share / 2]
    else:
        chains, weights = [_draw_conditionals(order, value_N[:n], settings)], [settings.share]
    chains.append([float(item == place) for place, item in enumerate(order)])
    weights.append(1 - settings.share)
    found = []
    for place in range(n):
        before = sum(weights)
        weights = [weight * chain[place] for weight, chain in zip(weights, chains, strict=True)]
        after = sum(weights)
        found.append(after / before if before > 0 else 0.0)
        weights = [weight / after for weight in weights] if after > 0 else weights  # so that products cannot underflow
    return tuple(found)


def _swap(n: int, settings: ExplorationSettings, chance: np.random.Generator) -> tuple[int, ...]:
    order = list(range(n))
    for place in range(int(chance.integers(2)), n - 1, 2):
        if chance.random() < settings.epsilon:
            order[place], order[place + 1] = place + 1, place
    return tuple(order)


def _swap_conditionals(order: Sequence[int], offset: int, epsilon: float) -> list[float]:
    n, found = len(order), []
    for place, item in enumerate(order):
        opens = place >= offset and (place - offset) % 2 == 0 and place + 1 < n
        closes = place > offset and (place - offset) % 2 == 1
        if opens:
            found.append({place: 1 - epsilon, place + 1: epsilon}.get(item, 0.0))
        elif closes:
            other = place if order[place - 1] == place - 1 else place - 1
            found.append(float(item == other))
        else:
            found.append(float(item == place))
    return found


def _log_weights(value_n: Sequence[float], settings: ExplorationSettings) -> NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(np.asarray(value_n, np.float64), LEAST_VALUE)) / settings.temperature)


def _draw(value_n: Sequence[float], settings: ExplorationSettings, chance: np.random.Generator) -> tuple[int, ...]:
    """Sorting by Gumbel noise plus log weight draws by Plackett-Luce."""
    keys_n = _log_weights(value_n, settings) + chance.gumbel(size=len(value_n))
    return tuple(np.argsort(-keys_n, kind="stable").tolist())


def _draw_conditionals(order: Sequence[int], value_n: Sequence[float], settings: ExplorationSettings) -> list[float]:
    log_n = _log_weights(value_n, settings)[list(order)]
    rest_n = np.logaddexp.accumulate(log_n[::-1])[::-1] if len(order) else log_n
    return [float(p) for p in np.exp(log_n - rest_n)]
