"""Filters, caps and diversity: what is shown, what is told, and that nothing happens unless it was turned on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_server import live_server
from prometheus_client import CollectorRegistry
from ranker_double import RankerDouble
from test_server_limits import until

from depthrank.catalogue import Catalogue
from depthrank.errors import CatalogueError
from depthrank.schema import Answer, Degraded, RankedItem
from depthrank.server import ServerSettings
from depthrank.server.after_ranking import AfterRanking, AfterSettings, DiversitySettings, ExplorationSettings
from depthrank.server.after_ranking.choose_items import capped, diversified
from depthrank.server.after_ranking.item_values import similarity

GENRES = ["war", "love", "noir"]
ITEMS = Catalogue.build(
    "item",
    [str(i) for i in range(30)],
    {
        "genre": [GENRES[i % 3] for i in range(30)],
        "tags": [["a", "b"][: i % 3] for i in range(30)],
        "year": [2000 + i for i in range(30)],
        "vector": [[float(i % 3 == 0), float(i % 3 == 1), float(i % 3 == 2)] for i in range(30)],
    },
)


def answer(*ids: str) -> Answer:
    ranked = [RankedItem(item, 1.0 - n / 100, {"click": 0.5}, 1) for n, item in enumerate(ids)]
    story = {"items": [{"item": item} for item in ids]}
    return Answer("r", "m", ranked, [len(ids)], [len(ids)], {}, Degraded(), story)


def after(**settings: Any) -> AfterRanking:
    return AfterRanking(AfterSettings(**settings), lambda: ITEMS, CollectorRegistry())


def shown(answer: Answer) -> list[str]:
    return [item.item for item in answer.items]


TEN = answer(*map(str, range(10)))


def test_off_by_default_the_answer_is_the_very_same() -> None:
    quiet = after()
    assert not quiet.active and quiet.apply(TEN, 5) is TEN
    assert TEN.after is msgspec.UNSET and b"after" not in msgspec.json.encode(TEN)


@pytest.mark.parametrize(
    ("wanted", "expected"), [("war", ["0", "3", "6"]), (["war", "love"], ["0", "1", "3"]), ("none", [])]
)
def test_a_filter_keeps_only_items_with_the_value(wanted: Any, expected: list[str]) -> None:
    changed = after(filter={"genre": wanted}).apply(TEN, 3)
    assert shown(changed) == expected
    assert changed.after["left_out"]["filter"] > 0
    assert changed.after["short_by"] == 3 - len(expected)
    assert [row["item"] for row in changed.explain["items"]] == expected, "the explanation follows"


def test_an_item_that_nobody_knows_passes_no_filter_and_meets_no_cap() -> None:
    strangers = answer("x", "y", "z", "0")
    assert shown(after(filter={"genre": "war"}).apply(strangers, 4)) == ["0"]
    assert shown(after(max_per={"genre": 1}).apply(strangers, 4)) == ["x", "y", "z", "0"]


def test_a_cap_lets_the_best_of_each_value_through() -> None:
    assert shown(after(max_per={"genre": 2}).apply(TEN, 10)) == ["0", "1", "2", "3", "4", "5"]
    assert shown(after(max_per={"tags": 1}).apply(TEN, 10)) == ["0", "1", "3", "6", "9"]


@given(keys=st.lists(st.frozensets(st.integers(0, 4), max_size=3), max_size=30), most=st.integers(1, 3))
def test_a_cap_holds_and_leaves_out_nobody_without_need(keys: list[frozenset[int]], most: int) -> None:
    kept = capped(range(len(keys)), keys, most)
    seen: Counter[int] = Counter()
    for i in range(len(keys)):
        fits = all(seen[key] < most for key in keys[i])
        assert (i in kept) == fits
        if fits:
            seen.update(keys[i])
    assert all(count <= most for count in seen.values())


@pytest.mark.parametrize("column", ["genre", "vector"])
def test_diversity_mixes_what_is_alike(column: str) -> None:
    alike = answer("0", "3", "6", "9", "1", "2")
    mixed = after(diversity=DiversitySettings(column=column, strength=0.5)).apply(alike, 3)
    assert shown(mixed) == ["0", "1", "2"]
    assert mixed.after["ranked"] == [0, 4, 5]
    plain = after(diversity=DiversitySettings(column=column, strength=0.0)).apply(alike, 3)
    assert shown(plain) == ["0", "3", "6"]


@given(
    values=st.lists(st.floats(0, 10), min_size=1, max_size=12),
    strength=st.floats(0, 1),
    top=st.integers(1, 12),
    seed=st.integers(0, 1_000),
)
def test_diversity_shows_as_many_distinct_items_and_without_strength_the_best(
    values: list[float], strength: float, top: int, seed: int
) -> None:
    value_N = np.sort(np.array(values))[::-1]
    alike = np.random.default_rng(seed).random((len(values), len(values)))
    chosen = diversified(range(len(values)), value_N, (alike + alike.T) / 2, strength, top)
    assert len(chosen) == len(set(chosen)) == min(top, len(values))
    assert diversified(range(len(values)), value_N, alike, 0.0, top) == list(range(min(top, len(values))))


def test_likeness_is_one_with_itself_and_symmetric() -> None:
    for column in ("genre", "tags", "year", "vector"):
        alike = similarity(ITEMS, column, ["1", "2", "4", "5"])
        assert np.allclose(alike, alike.T) and alike[0, 2] == pytest.approx(1.0 if column != "year" else 0.0)


@pytest.mark.parametrize("settings", [{"filter": {"gerne": "war"}}, {"max_per": {"vector": 2}}, {"max_per": {"x": 1}}])
def test_a_rule_over_a_column_that_cannot_be_is_refused_at_the_start(settings: dict[str, Any]) -> None:
    with pytest.raises(CatalogueError):
        after(**settings)


def test_over_http_the_reserve_fills_what_rules_leave_out_and_the_answer_tells_it() -> None:
    settings = ServerSettings(after=AfterSettings(max_per={"year": 1}, reserve=4))
    body = {"user": "u", "candidates": "all", "top": 4}
    with live_server(RankerDouble(), settings) as live:
        told = live.client.post("/v1/rank", json=body).json()
        assert len(told["items"]) == 4 and told["after"]["short_by"] == 0
        assert told["after"]["left_out"]["max_per"] > 0 and len(told["after"]["ranked"]) == 4
        assert live.metric("depthrank_after_left_out_total", rule="max_per") == told["after"]["left_out"]["max_per"]
    with live_server() as plain:
        usual = plain.client.post("/v1/rank", json=body).json()
        assert "after" not in usual and usual["items"] != told["items"]


def test_an_explored_order_is_shown_told_recorded_and_the_same_when_asked_again() -> None:
    settings = ServerSettings(after=AfterSettings(exploration=ExplorationSettings(share=1.0, epsilon=0.5, depth=6)))
    body = {"user": "u", "candidates": "all", "top": 6}
    with live_server(RankerDouble(), settings) as live:
        first, again = (
            live.client.post("/v1/rank", json=body, headers={"X-Request-Id": "same"}).json() for _ in range(2)
        )
        orders = {tuple(live.client.post("/v1/rank", json=body).json()["after"]["ranked"]) for _ in range(20)}
        assert first["items"] == again["items"] and len(orders) > 3
        assert len(first["after"]["propensities"]) == 6 and first["after"]["explored"] is True
        until(lambda: len(live.ranker.recorded) >= 22)
        _, recorded = live.ranker.recorded[0]
        assert recorded.after["propensities"] == first["after"]["propensities"]
        assert live.metric("depthrank_explored_answers_total") == 22
