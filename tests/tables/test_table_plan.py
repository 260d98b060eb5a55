"""A plan keeps to its budget, gives rows to the ids that are looked up most, and says what sharing will cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import SpecError
from depthrank.tables import RowMap, TableSlot, row_bytes
from depthrank.tables.overlap import overlaps
from depthrank.tables.plan import SlotTraffic, plan_tables

sizes = st.lists(st.integers(2, 400), min_size=1, max_size=6)


def traffic_of(sizes: list[int], sides: tuple[str, ...] = ("item",)) -> list[SlotTraffic]:
    """Features of these numbers of ids, their lookups falling as 1 / rank."""
    found, columns = [], dict.fromkeys(sides, 0)
    for i, n in enumerate(sizes):
        side = sides[i % len(sides)]
        lookups = np.array([0, 0, *(1_000 * (i + 1) // np.arange(1, n - 1))], dtype=np.int64)[:n]
        found.append(SlotTraffic(side, TableSlot(f"f{i}", n, columns[side], columns[side] + 1), lookups))
        columns[side] += 1
    return found


@given(sizes, st.integers(2_000, 60_000), st.sampled_from(["auto", "fp32", "int8", "int4"]), st.booleans())
def test_a_plan_never_costs_more_than_its_budget_and_its_slots_are_the_rows_it_says(sizes, budget, form, unified):
    traffic = traffic_of(sizes, ("request", "item"))
    try:
        plan = plan_tables(
            traffic, width=8, budget_bytes=budget, row_format=form, sharing="unified" if unified else "separate"
        )
    except SpecError:
        assert budget < (2 * len(sizes) + 4) * row_bytes("fp32", 8)
        return
    rows = {side: RowMap(slots).num_rows for side, slots in plan.slots.items()}
    assert sum(rows.values()) * row_bytes(plan.row_format, 8) <= plan.bytes <= budget
    for traffic_of_slot, share in zip(traffic, plan.features, strict=True):
        assert 2 <= share.own_rows <= traffic_of_slot.slot.num_rows and 0 <= share.same_share <= 1
        assert (share.pool_rows > 0) == (share.own_rows < traffic_of_slot.slot.num_rows)


def test_with_room_for_all_every_id_has_its_row_and_without_a_budget_too():
    traffic = traffic_of([50, 9])
    for budget in (None, 59 * 32):
        plan = plan_tables(traffic, width=8, budget_bytes=budget)
        assert plan.row_format == "fp32" and plan.exact_share == 1.0
        assert all(slot == t.slot for slot, t in zip(plan.slots["item"], traffic, strict=True))
    less = plan_tables(traffic, width=8, budget_bytes=59 * 16)
    assert less.row_format == "int8" and less.exact_share == 1.0, "narrower rows before shared ones"


def test_own_rows_go_to_the_ids_that_are_looked_up_most_whatever_their_feature():
    often, seldom = np.array([0, 0, 90, 80, 70, 5, 4]), np.array([0, 0, 60, 3, 2, 1, 1])
    traffic = [
        SlotTraffic("item", TableSlot("often", 7, 0, 1), often),
        SlotTraffic("item", TableSlot("seldom", 7, 1, 2), seldom),
    ]
    plan = plan_tables(traffic, width=8, budget_bytes=10 * 32, row_format="fp32")
    own = {f.feature: f.own_rows for f in plan.features}
    assert own["often"] - 2 >= own["seldom"] - 2 >= 0 and sum(own.values()) <= 8
    assert own["often"] > 2 or plan.exact_share == 0


def test_ids_without_an_order_get_all_rows_or_none():
    hashed = SlotTraffic("item", TableSlot("words", 100, 0, 3), np.full(100, 5), by_frequency=False)
    for rows in (60, 130):
        plan = plan_tables([*traffic_of([20]), hashed], width=8, budget_bytes=rows * 32, row_format="fp32")
        assert next(f.own_rows for f in plan.features if f.feature == "words") == (2 if rows == 60 else 100)


def test_a_budget_without_room_for_the_rows_that_every_feature_needs_says_how_much_it_takes():
    traffic = traffic_of([50, 50, 50])
    with pytest.raises(
        SpecError, match=r"budget of 60 bytes has no room .* 3 features of width 8 take at least 64 bytes"
    ):
        plan_tables(traffic, width=8, budget_bytes=60)
    assert plan_tables(traffic, width=8, budget_bytes=64).bytes <= 64


def test_expected_collisions_are_those_that_happen():
    traffic = [SlotTraffic("item", TableSlot("f", 302, 0, 1), np.array([0, 0, *([1] * 300)]))]
    plan = plan_tables(traffic, width=8, budget_bytes=40 * 32, row_format="fp32")
    share, slot = plan.features[0], plan.slots["item"][0]
    ids = torch.arange(share.own_rows, 302).unsqueeze(1)
    pairs = [tuple(sorted(rows)) for rows in RowMap([slot])(ids).squeeze(1).tolist()]
    same = sum(pairs.count(pair) > 1 for pair in pairs) / len(pairs)
    assert share.same_share / 2.5 < same < share.same_share * 2.5, "an unordered pair is met twice as often"
    assert share.ids_per_pool_row == pytest.approx(2 * len(ids) / share.pool_rows)


def test_features_whose_values_are_mostly_the_same_are_found():
    a = {f"v{i}": 10 for i in range(30)}
    b = {**a, "other": 100}
    found = overlaps({"a": a, "b": b, "c": {f"w{i}": 1 for i in range(30)}, "few": {"v0": 5}})
    assert [(o.feature, o.other, o.share) for o in found] == [("a", "b", 1.0), ("b", "a", 0.75)]
