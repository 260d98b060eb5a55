"""One request in, one answer out: order, sizes, modes, unknown names, as-of, value."""

from __future__ import annotations

import numpy as np
import pytest
from asking import IDS, ask, one_event, shown

from depthrank.artifact import load_artifact
from depthrank.engine import Ranker
from depthrank.errors import DepthrankError, RequestError
from depthrank.events import open_log
from depthrank.schema import Spec


def test_an_answer_is_ordered_by_level_then_value_then_id(fixed_ranker):
    answer = fixed_ranker.rank(ask(candidates=IDS, mode="adaptive", budget=0.6))
    keys = [(-item.level, -item.value, item.item) for item in answer.items]
    assert keys == sorted(keys) and len(keys) == 80
    assert {item.level for item in answer.items} == {0, 1}


def test_ties_go_to_the_smaller_id_and_ids_compare_as_text(ranker):
    answer = ranker.rank(ask(candidates=["zz", "unknown 10", "unknown 9"], context={}, mode="router"))
    assert [item.item for item in answer.items[1:]] != [], "three rows"
    prices_equal = ranker.rank(ask(candidates={"item": ["zz", "n10", "n9"], "price": [2.0, 2.0, 2.0]}))
    assert [item.item for item in prices_equal.items] == ["n10", "n9", "zz"]


def test_duplicate_candidates_are_separate_rows(ranker):
    answer = ranker.rank(ask(candidates={"item": ["i1", "i2", "i1"], "price": [3.0, 3.0, 9.0]}))
    assert sorted(item.item for item in answer.items) == ["i1", "i1", "i2"]
    assert len({item.value for item in answer.items if item.item == "i1"}) == 2, "each with its own price"


@pytest.mark.parametrize("count", [0, 1, 50_000])
def test_any_number_of_candidates_is_ranked(ranker, count):
    answer = ranker.rank(ask(candidates=(IDS * 625)[:count], top=7, mode="router" if count > 80 else "full"))
    assert len(answer.items) == min(count, 7) and answer.candidates_scored[0] == count
    assert not answer.degraded.is_


def test_one_candidate_more_than_allowed_is_refused(ranker):
    with pytest.raises(DepthrankError, match=r"\$\.candidates\.item: found 50,001 values, expected at most 50,000"):
        ranker.rank(ask(candidates=["i1"] * 50_001))


def test_the_top_of_a_long_list_is_the_top_of_its_full_order(ranker):
    many = (IDS * 40)[:3000]
    full = shown(ranker.rank(ask(candidates=many, top=3000)))
    assert shown(ranker.rank(ask(candidates=many, top=17))) == full[:17]


def test_unknown_users_items_and_context_are_ordinary(ranker):
    answer = ranker.rank(ask("nobody", ["i1", "never seen", 42], context={"device": "a toaster", "what": 1}))
    assert {item.item for item in answer.items} == {"i1", "never seen", "42"}
    assert all(np.isfinite(item.value) and item.level == 1 for item in answer.items)
    assert not answer.degraded.is_


def test_a_million_character_id_is_ranked_or_refused_but_never_a_crash(ranker):
    answer = ranker.rank(ask("u" * 1_000_000, ["i" * 1_000_000, "i1"]))
    assert len(answer.items) == 2
    with pytest.raises(RequestError, match=r"\$\.user"):
        ranker.rank(ask("u" * 1_000_001))


def test_adaptive_without_a_fitted_ladder_is_full_depth(fixed_ranker):
    assert shown(fixed_ranker.rank(ask(mode="adaptive"))) == shown(fixed_ranker.rank(ask(mode="full")))


def test_modes_say_how_deep_to_go(ranker):
    full, router = ranker.rank(ask(mode="full")), ranker.rank(ask(mode="router"))
    assert (full.plan, full.candidates_scored) == ([30, 30], [30, 30])
    assert (router.plan, router.candidates_scored) == ([30, 0], [30])
    assert {i.level for i in full.items} == {1} and {i.level for i in router.items} == {0}
    assert ranker.rank(ask(mode="full", budget=0.1)).plan == [30, 30], "full depth is always available"


def test_a_budget_narrows_the_deep_levels_keeps_the_best_and_says_so(fixed_ranker):
    router = fixed_ranker.rank(ask(mode="router"))
    widths = []
    for budget in (0.2, 0.5, 0.9, 1.0):
        answer = fixed_ranker.rank(ask(mode="adaptive", budget=budget))
        width = answer.plan[1]
        widths.append(width)
        deep = {item.item for item in answer.items if item.level == 1}
        assert deep == {item.item for item in router.items[:width]}, "the router's best go deeper"
        assert answer.degraded.is_ == (width < 30) and len(answer.items) == 30
    assert widths == sorted(widths) and widths[0] < 30 and widths[-1] == 30


def test_all_means_every_item_of_the_catalogue(ranker):
    answer = ranker.rank(ask(candidates="all"))
    assert sorted(item.item for item in answer.items) == sorted(IDS)


def test_scores_do_not_depend_on_the_other_candidates_but_for_features_within_the_request(ranker):
    """``price`` is ``within: request``; without it a candidate's probabilities are its own, in the router exactly."""
    without = {i.item: i.scores for i in ranker.rank(ask(candidates={"item": IDS})).items}
    for few in (IDS[3:5], IDS[40:61]):
        for item in ranker.rank(ask(candidates={"item": few})).items:
            assert item.scores == pytest.approx(without[item.item], abs=2e-5)
    priced = ranker.rank(ask(candidates={"item": ["i1", "i2"], "price": [5.0, 1.0]}))
    other = ranker.rank(ask(candidates={"item": ["i1", "i2"], "price": [5.0, 9.0]}))
    value = [next(i.scores["buy"] for i in a.items if i.item == "i1") for a in (priced, other)]
    assert abs(value[0] - value[1]) > 1e-4, "the cheaper of two is bought more: the feature works"


def test_a_request_of_the_past_is_answered_the_same_before_and_after_newer_events(make_ranker):
    ranker = make_ranker()
    past = ranker.clock_ms[0] - 10_000
    before = shown(ranker.rank(ask(time_ms=past)))
    ranker.append(one_event("u1", "i5", "click", past + 1))
    ranker.append(one_event("u1", "i6", "click", past - 5_000))  # late: it arrives now
    assert shown(ranker.rank(ask(time_ms=past))) == before
    assert shown(ranker.rank(ask())) != before, "the events do matter now"


def test_an_appended_event_changes_the_next_ranking_within_the_same_millisecond(make_ranker):
    ranker = make_ranker()
    before = shown(ranker.rank(ask()))
    ranker.append(one_event("u1", "i5", "click", ranker.clock_ms[0]))
    assert shown(ranker.rank(ask())) != before
    assert ranker.history("u1", 1) == [{"item": "i5", "action": "click", "time_ms": ranker.clock_ms[0]}]


def test_a_history_lists_the_newest_first_of_all_actions(make_ranker):
    ranker = make_ranker()
    for n, (item, action) in enumerate([("i1", "impression"), ("i1", "click"), ("i2", "buy")]):
        ranker.append(one_event("fresh", item, action, 1000 + n))
    assert [(e["item"], e["action"]) for e in ranker.history("fresh", 2)] == [("i2", "buy"), ("i1", "click")]
    assert ranker.history("fresh", time_ms=1002) == [], "as of then, the log knew nothing of it yet"


def test_an_erased_user_has_no_history_and_is_forgotten_by_the_counters(make_ranker):
    ranker = make_ranker()
    stranger = shown(ranker.rank(ask("stranger")))
    for n in range(20):
        ranker.append(one_event("guest", f"i{n}", "click", ranker.clock_ms[0] - 7_200_000 + n))
    ranker.clock_ms[0] += 7_200_000
    stranger = shown(ranker.rank(ask("stranger")))
    assert shown(ranker.rank(ask("guest"))) != stranger
    assert ranker.erase("guest").events == 20
    assert ranker.history("guest") == []
    assert shown(ranker.rank(ask("guest"))) == stranger, "history and user counters are gone"


# ---------------------------------------------------------------------- value


@pytest.fixture(scope="module")
def bidding(world):
    """The same model, ranking by value times a bid."""
    artifact = load_artifact(world.artifact)
    plain = artifact.spec.to_plain()
    plain["value"]["times"] = "bid"
    plain["dataset"]["impressions"]["candidate"] = ["price", "bid"]
    object.__setattr__(artifact, "spec", Spec.from_plain(plain))
    with open_log(world.log_url, read_only=True) as log:
        yield Ranker(artifact, log)


def bids(*values: object) -> dict[str, list[object]]:
    return {"item": IDS[: len(values)], "price": [2.0] * len(values), "bid": list(values)}


def test_values_are_multiplied_by_the_bid(bidding):
    plain = {i.item: i for i in bidding.rank(ask(candidates=bids(1, 1, 1))).items}
    paid = {i.item: i for i in bidding.rank(ask(candidates=bids(0.5, 0, 1e30))).items}
    for item, factor in (("i0", 0.5), ("i1", 0.0), ("i2", 1e30)):
        assert paid[item].value == pytest.approx(plain[item].value * factor)
        assert paid[item].scores == plain[item].scores, "probabilities know nothing of the bid"
    assert next(iter(paid)) == "i2"


def test_a_value_is_the_weighted_sum_of_probabilities(ranker):
    for item in ranker.rank(ask()).items:
        assert item.value == pytest.approx(item.scores["click"] + 4 * item.scores["buy"], rel=1e-6)


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), None, "2", True, [1], 10**400, 1.1e30])
def test_a_bid_that_is_no_usable_number_is_named_and_the_others_are_not(bidding, bad):
    with pytest.raises(RequestError) as caught:
        bidding.rank(ask(candidates=bids(1.0, 2, bad, 0)))
    assert [problem.path for problem in caught.value.problems] == ["$.candidates.bid[2]"]


def test_a_request_without_bids_ranks_by_probability_and_says_so(bidding):
    answer = bidding.rank(ask(candidates=["i1", "i2"]))
    assert answer.degraded.reasons == ["no bid column: ranked without it"] and len(answer.items) == 2
