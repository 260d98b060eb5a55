"""Plans: fixed ones, and the widest that a budget affords."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from depthrank.routing import LevelCost, fixed_plan, plan_within_budget

amounts = st.floats(0.001, 1e9)
costs = st.lists(st.builds(LevelCost, amounts, amounts), min_size=1, max_size=4)


def cost_of(widths: tuple[int, ...], costs: list[LevelCost]) -> float:
    """What a plan costs: a level that is not run costs nothing."""
    return sum(c.request + w * c.candidate for w, c in zip(widths, costs, strict=True) if w)


def test_full_depth_and_the_router_alone_are_fixed():
    assert fixed_plan("full", 7, 3).widths == fixed_plan("adaptive", 7, 3).widths == (7, 7, 7)
    assert fixed_plan("router", 7, 3).widths == (7, 0, 0)
    assert fixed_plan("full", 0, 2).widths == (0, 0)


def test_a_budget_buys_the_request_side_first_and_then_as_many_candidates_as_fit():
    costs = [LevelCost(100, 1), LevelCost(50, 10)]  # 100 candidates: 200 + 1050 at full depth
    plan = plan_within_budget(0.5, 100, costs)
    assert plan.widths == (100, 37) and plan.reasons == ("budget 0.5: 37 of 100 go deeper",)
    assert plan_within_budget(0.199, 100, costs).widths == (100, 0), "not even the user's deeper layers fit"
    assert plan_within_budget(1.0, 100, costs).reasons == ()


@given(costs, st.integers(0, 5_000), st.floats(0.001, 1))
def test_a_plan_keeps_to_its_budget_unless_the_router_alone_is_more_and_is_the_widest(costs, n, budget):
    plan = plan_within_budget(budget, n, costs)
    full, width = cost_of((n,) * len(costs), costs) if n else 0.0, plan.widths[-1]
    assert plan.widths[0] == n and len(set(plan.widths[1:])) <= 1 and all(w <= n for w in plan.widths)
    if len(costs) == 1 or not n:
        return
    if width:
        assert cost_of(plan.widths, costs) <= budget * full * (1 + 1e-9)
    if width < n:
        wider = (n, *[width + 1] * (len(costs) - 1))
        assert cost_of(wider, costs) >= budget * full * (1 - 1e-9)
    assert bool(plan.reasons) == (width < n)
