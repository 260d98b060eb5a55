"""Exploration: logged propensities are the probabilities by which orders are drawn, exactly and by counting."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.server.after_ranking import ExplorationSettings
from depthrank.server.after_ranking.explore import explore, propensities

KINDS = [
    ExplorationSettings(share=0.5, kind="swap", epsilon=0.3),
    ExplorationSettings(share=1.0, kind="swap", epsilon=0.5),
    ExplorationSettings(share=0.4, kind="plackett_luce", temperature=0.7),
    ExplorationSettings(share=1.0, kind="plackett_luce", temperature=0.2),
]
VALUES = [0.9, 0.7, 0.65, 0.2]


def probability(order: tuple[int, ...], settings: ExplorationSettings, values: list[float]) -> float:
    return math.prod(propensities(order, values, settings))


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: f"{s.kind}-{s.share}")
def test_propensities_of_all_orders_sum_to_one(settings: ExplorationSettings) -> None:
    orders = list(itertools.permutations(range(4)))
    assert sum(probability(order, settings, VALUES) for order in orders) == pytest.approx(1.0)


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: f"{s.kind}-{s.share}")
def test_orders_are_drawn_as_often_as_their_propensities_say(settings: ExplorationSettings) -> None:
    chance, draws = np.random.default_rng(0), 20_000
    seen = Counter(explore(VALUES, settings, chance).order for _ in range(draws))
    for order in itertools.permutations(range(4)):
        p = probability(order, settings, VALUES)
        spread = 5 * math.sqrt(max(p * (1 - p), 1e-12) * draws)
        assert abs(seen[order] - p * draws) <= spread + 1e-9, (order, seen[order], p * draws)


def test_weighing_by_inverse_propensity_gives_back_the_unexplored_mean() -> None:
    """What the first place would earn by every item, estimated from explored orders alone."""
    settings, chance, clicks = KINDS[2], np.random.default_rng(1), [0.1, 0.5, 0.3, 0.9]
    total = [0.0] * 4
    draws = 20_000
    for _ in range(draws):
        drawn = explore(VALUES, settings, chance)
        first = drawn.order[0]
        total[first] += clicks[first] / drawn.propensity[0]
    assert np.allclose(np.array(total) / draws, clicks, rtol=0.15)


@given(
    values=st.lists(st.floats(0, 1e9), min_size=0, max_size=30),
    share=st.floats(0, 1),
    epsilon=st.floats(0, 1),
    temperature=st.floats(0.01, 10),
    kind=st.sampled_from(["swap", "plackett_luce"]),
    depth=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_every_draw_is_a_permutation_within_its_depth_with_usable_propensities(
    values: list[float], share: float, epsilon: float, temperature: float, kind: str, depth: int, seed: int
) -> None:
    settings = ExplorationSettings(share=share, epsilon=epsilon, temperature=temperature, kind=kind, depth=depth)  # type: ignore[arg-type]
    values = sorted(values, reverse=True)
    drawn = explore(values, settings, np.random.default_rng(seed))
    assert sorted(drawn.order) == list(range(len(values)))
    assert drawn.order[depth:] == tuple(range(len(values)))[depth:]
    assert len(drawn.propensity) == min(depth, len(values))
    assert all(0 < p <= 1 + 1e-9 for p in drawn.propensity), "what was drawn had a chance"
    if not drawn.explored:
        assert drawn.order == tuple(range(len(values)))


def test_without_a_share_nothing_moves_and_everything_is_certain() -> None:
    drawn = explore(VALUES, ExplorationSettings(), np.random.default_rng(0))
    assert drawn.order == (0, 1, 2, 3) and drawn.propensity == (1.0,) * 4 and not drawn.explored


def test_a_swap_moves_nobody_by_more_than_a_place() -> None:
    settings, chance = KINDS[1], np.random.default_rng(3)
    for _ in range(500):
        order = explore([1.0] * 9, settings, chance).order
        assert max(abs(place - item) for place, item in enumerate(order)) <= 1
