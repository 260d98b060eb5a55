"""The ladder: plans are nested, scale with candidates, form a front; and what replay says plans return is true."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import ArtifactError
from depthrank.routing import PlanLadder, Rung
from depthrank.routing.ladder import ALL, pareto, plan_grid, scaled_widths, thinned
from depthrank.routing.replayed import returned_top
from planted_requests import planted

LADDER = PlanLadder(
    (Rung((0, 0), 0.1, 0.0), Rung((40, 0), 0.3, 0.6), Rung((80, 20), 0.5, 0.9), Rung((ALL, ALL), 1, 1)), 200, 0.5
)


@given(st.integers(0, 5_000), st.integers(1, 30))
def test_a_rung_never_scores_more_than_there_are_nor_fewer_than_are_shown(candidates, top):
    caps = LADDER.caps(candidates, top)
    assert (caps <= candidates).all() and (caps[-1] == candidates).all() and not caps[0].any()
    ran = caps[:, 0] > 0
    assert (caps[ran, 0] >= min(top, candidates)).all() and (caps[:, 1] <= caps[:, 0]).all()


def test_widths_grow_with_candidates_as_the_power_says():
    widths = np.array([[40.0]])
    assert [scaled_widths(widths, n, 1, 200, 1.0)[0, 0] for n in (200, 400, 800)] == [40, 80, 160]
    assert [scaled_widths(widths, n, 1, 200, 0.5)[0, 0] for n in (200, 800, 3_200)] == [40, 80, 160]
    assert [scaled_widths(widths, n, 1, 200, 0.0)[0, 0] for n in (10, 200, 800)] == [10, 40, 40]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_grid_holds_nested_plans_of_every_depth_from_the_router_to_all(levels):
    grid = plan_grid(1_000, levels, 10)
    assert grid[0] == (0,) * levels and grid[-1] == (ALL,) * levels and len(set(grid)) == len(grid)
    assert all(a >= b for plan in grid for a, b in pairwise(plan))
    assert {sum(w > 0 for w in plan) for plan in grid} == set(range(levels + 1))


def test_a_front_has_only_plans_that_keep_more_than_all_cheaper_ones():
    costs, gains = np.array([1.0, 2, 2, 3, 4]), np.array([0.0, 0.5, 0.4, 0.45, 0.9])
    assert pareto(costs, gains) == [0, 1, 4]


def test_a_thinned_front_keeps_its_ends_and_its_steep_part():
    costs = np.array([0.03, 0.085, 0.088, 0.093, 0.1, 0.12, 0.2, 0.4, 0.7, 1.0])
    gains = np.array([0.0, 0.2, 0.5, 0.73, 0.84, 0.9, 0.95, 0.97, 0.99, 1.0])
    front = list(range(10))
    assert thinned(front, costs, gains, 10) == front
    for most in (2, 3, 5, 7):
        kept = thinned(front, costs, gains, most)
        assert len(kept) == most and kept[0] == 0 and kept[-1] == 9 and kept == sorted(kept)
    assert thinned(front, costs, gains, 7) == [0, 4, 5, 6, 7, 8, 9], (
        "those below a mixture of their neighbours go first"
    )
    assert {4, 5, 6} <= set(thinned(front, costs, gains, 5)), "and the last to go lie where a little cost keeps much"
    assert thinned([2, 5, 7], costs, gains, 2) == [2, 7]


@pytest.mark.parametrize(
    "change",
    [
        {"rungs": []},
        {"rungs": [{"widths": [5, 9], "cost": 0, "kept_gain": 0}] * 2},
        {
            "rungs": [
                {"widths": [0, 0], "cost": float("inf"), "kept_gain": 0},
                {"widths": [ALL, ALL], "cost": 1, "kept_gain": 1},
            ]
        },
        {"rungs": [{"widths": [0, 0], "cost": 0, "kept_gain": 0}] * 2},
        {"rungs": [{"widths": [-3], "cost": 0, "kept_gain": 0}] * 2},
        {"usual": 0},
        {"power": 2.0},
        {"power": "x"},
    ],
)
def test_hostile_ladders_are_refused(change):
    plain = LADDER.to_plain()
    assert PlanLadder.from_plain(plain) == LADDER
    with pytest.raises(ArtifactError):
        PlanLadder.from_plain(plain | change)


def by_hand(replayed, r: int, widths: list[int]) -> list[int]:
    """What a plan returns for one request, in plain Python."""
    n = int(replayed.count_R[r])
    alive, level_of, last = list(range(n)), [0] * n, replayed.value_LRC[0, r, :n].tolist()
    for level, width in enumerate(widths, start=1):
        above = replayed.value_LRC[level - 1, r]
        alive = sorted(alive, key=lambda c: -above[c])[:width]
        for c in alive:
            level_of[c], last[c] = level, float(replayed.value_LRC[level, r, c])
    return sorted(range(n), key=lambda c: (-level_of[c], -last[c]))[: replayed.top]


@pytest.mark.parametrize("widths", [[0, 0], [5, 0], [30, 0], [30, 4], [300, 12], [300, 300], [60, 60]])
def test_what_a_plan_returns_is_what_going_through_its_levels_by_hand_returns(widths):
    replayed = planted(12, levels=3, fewest=8, most=300)
    widths_RD = np.minimum(np.array([widths] * 12), replayed.count_R[:, None])
    top_RX = returned_top(replayed, widths_RD)
    for r in range(12):
        found = [int(c) for c in top_RX[r] if c >= 0]
        assert found == by_hand(replayed, r, widths_RD[r].tolist())


def test_full_depth_is_worth_most_overlaps_itself_and_judges_ndcg_only_where_there_is_an_order():
    replayed = planted(30)
    full, router = replayed.worth(replayed.full_top_RX), replayed.worth(replayed.router_top_RX)
    assert (full >= router).all() and full.sum() > 1.05 * router.sum()
    assert (replayed.overlap(replayed.full_top_RX) == 1).all() and replayed.overlap(replayed.router_top_RX).mean() < 1
    replayed.relevant_RC[3] = False
    assert np.isnan(replayed.ndcg(replayed.full_top_RX)[3])
