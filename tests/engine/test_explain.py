"""The story of a request, and counterfactual reasons."""

from __future__ import annotations

import numpy as np
import pytest
from asking import IDS, ask, one_event

from depthrank.engine import explain as explanation
from depthrank.engine.order import top_candidates


def test_an_explanation_tells_rank_router_rank_and_reasons_of_every_item_shown(make_ranker):
    ranker = make_ranker()
    for n in range(4):
        ranker.append(one_event("guest", f"i{n}", "click", ranker.clock_ms[0] - 10_000 + n))
    told = ranker.rank(ask("guest", IDS, top=12, explain=True)).explain
    router = [i.item for i in ranker.rank(ask("guest", IDS, mode="router")).items]
    assert [entry["rank"] for entry in told["items"]] == list(range(1, 13))
    assert all(router[entry["router_rank"] - 1] == entry["item"] for entry in told["items"])
    reasons = [reason for entry in told["items"] for reason in entry["because"]]
    assert reasons and all(r["adds"] > 0 and r["item"] in IDS[:4] and r["actions"] == ["click"] for r in reasons)
    assert told["history_length"] == 4 and "has a history of 4 events" in told["story"][0]
    assert "level 0 (the router) scored all" in told["story"][2] and "Level 1 scored 80" in told["story"][3]


def test_a_reason_is_what_the_value_falls_by_without_the_event(make_ranker):
    """Asked of the ranker itself: the same user without that click."""
    ranker = make_ranker()
    at = ranker.clock_ms[0] - 10_000
    ranker.append(one_event("one click", "i5", "click", at))
    told = ranker.rank(ask("one click", IDS[:10], explain=True)).explain
    values = {i.item: i.value for i in ranker.rank(ask("one click", IDS[:10], time_ms=ranker.clock_ms[0] + 1)).items}
    without = {i.item: i.value for i in ranker.rank(ask("one click", IDS[:10], time_ms=at)).items}
    for entry in told["items"]:
        fall = values[entry["item"]] - without[entry["item"]]
        found = entry["because"][0]["adds"] if entry["because"] else 0.0
        assert found == pytest.approx(max(fall, 0.0), abs=0.1), "but for user counters and the seconds between"


def test_only_the_first_items_are_explained_by_counterfactuals(make_ranker, monkeypatch):
    ranker = make_ranker()
    ranker.append(one_event("guest", "i5", "click", ranker.clock_ms[0]))
    wanted = ask("guest", IDS, top=40, explain=True)
    assert any(entry["because"] for entry in ranker.rank(wanted).explain["items"][3:])
    monkeypatch.setattr(explanation, "EXPLAINED_ITEMS", 3)
    told = ranker.rank(wanted).explain["items"]
    assert len(told) == 40 and not any(entry["because"] for entry in told[3:])
    assert all(entry["router_rank"] >= 1 for entry in told)


def test_the_order_breaks_ties_by_id_only_at_one_level_and_value():
    level = np.array([0, 1, 1, 0, 1, -1, -1], np.int8)
    value = np.array([9.0, 1.0, 2.0, 9.0, 2.0, 0.0, 0.0])
    ids = ["d", "c", "b", "a", "B", "z", "y"]
    assert top_candidates(level, value, 9, ids.__getitem__) == [4, 2, 1, 3, 0, 5, 6], "input order where nothing scored"
    for top in range(8):
        assert top_candidates(level, value, top, ids.__getitem__) == [4, 2, 1, 3, 0, 5, 6][:top]
