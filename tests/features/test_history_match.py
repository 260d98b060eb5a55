"""History matches: what occurs in the request's own history, how often and how lately, as a loop would say it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from feature_world import make_items
from hypothesis import given
from hypothesis import strategies as st

from depthrank.catalogue import TextColumn
from depthrank.errors import SpecError
from depthrank.features import EncodedHistory
from depthrank.features.history_match import MatchPlan, compare_floats, match_floats
from depthrank.schema import Spec

ITEMS = make_items()
ALL_ACTIONS = 0b11


def history(*requests: list[tuple[int, int, int]], length: int = 6) -> EncodedHistory:
    """Requests as lists of (item row, action bits, age bucket), oldest first."""
    rows, actions, ages = (np.zeros((len(requests), length), np.int32) for _ in range(3))
    for r, tokens in enumerate(requests):
        for place, token in enumerate(tokens):
            rows[r, place], actions[r, place], ages[r, place] = token
    lengths = np.array([len(tokens) for tokens in requests], np.int32)
    return EncodedHistory(rows, actions, np.zeros_like(rows), ages, lengths)


def match(past: EncodedHistory, rows: list[int], request: list[int], plan: MatchPlan) -> np.ndarray:
    return match_floats(plan, ITEMS, past, np.array(rows, np.int64), np.array(request, np.int64))


def test_a_match_tells_count_place_and_age_of_the_newest() -> None:
    past = history([(2, 1, 9), (1, 1, 8), (2, 2, 4), (3, 1, 0)])
    found = match(past, [2, 3, 1, 4], [0, 0, 0, 0], MatchPlan(None, ALL_ACTIONS))
    assert found[0] == pytest.approx([math.log(3), 1 / 2, 1 - 4 / 32])
    assert found[1] == pytest.approx([math.log(2), 1.0, 1.0])
    assert found[2] == pytest.approx([math.log(2), 1 / 3, 1 - 8 / 32])
    assert not found[3].any()


def test_only_the_named_actions_count() -> None:
    past = history([(2, 0b01, 3), (1, 0b10, 2)])
    clicks = match(past, [1, 2], [0, 0], MatchPlan(None, 0b01))
    assert not clicks[0].any() and clicks[1, 0] > 0
    assert match(past, [1, 2], [0, 0], MatchPlan(None, ALL_ACTIONS))[:, 0].all()  # control


def test_a_candidate_never_matches_the_history_of_another_request() -> None:
    past = history([(1, 1, 0)], [(2, 1, 0)])
    found = match(past, [1, 2, 1, 2], [0, 0, 1, 1], MatchPlan(None, ALL_ACTIONS))
    assert (found[:, 0] > 0).tolist() == [True, False, False, True]


def test_items_that_the_catalogue_does_not_know_match_nothing() -> None:
    assert not match(history([(0, 1, 0)]), [0], [0], MatchPlan(None, ALL_ACTIONS)).any()


def test_requests_without_history_and_calls_without_candidates_match_nothing() -> None:
    assert not match(history([], [(1, 1, 0)]), [1], [0], MatchPlan(None, ALL_ACTIONS)).any()
    assert match(history([(1, 1, 0)]), [], [], MatchPlan(None, ALL_ACTIONS)).shape == (0, 3)


tokens = st.tuples(st.integers(0, ITEMS.size - 1), st.integers(1, 3), st.integers(0, 31))
pasts = st.lists(st.lists(tokens, max_size=6), min_size=1, max_size=4)


@given(pasts, st.lists(st.tuples(st.integers(0, ITEMS.size - 1), st.integers(0, 3)), max_size=8), st.integers(1, 3))
def test_matches_equal_a_loop_and_one_request_alone_gives_the_same_bits(
    past: list[list[tuple[int, int, int]]], asked: list[tuple[int, int]], bits: int
) -> None:
    asked = sorted(((row, r % len(past)) for row, r in asked), key=lambda pair: pair[1])
    rows, request = [row for row, _ in asked], [r for _, r in asked]
    found = match(history(*past), rows, request, MatchPlan(None, bits))
    for (row, r), floats in zip(asked, found, strict=True):
        same = [i for i, (item, acted, _) in enumerate(past[r]) if item == row > 0 and acted & bits]
        wanted = [0.0, 0.0, 0.0]
        if same:
            age = past[r][same[-1]][2]
            wanted = [math.log1p(len(same)), 1 / (len(past[r]) - same[-1]), 1 - age / 32]
        assert floats == pytest.approx(wanted)
        alone = match(history(past[r]), [row], [0], MatchPlan(None, bits))
        assert alone[0].tobytes() == floats.tobytes()


@pytest.mark.parametrize("name", ["author", "price"])  # texts and numbers
def test_a_column_matches_by_its_value(name: str) -> None:
    column = ITEMS.column(name)
    stored = column.codes if isinstance(column, TextColumn) else column.values
    missing = column.codes == 0 if isinstance(column, TextColumn) else column.missing
    row = int(np.flatnonzero(~missing)[0])
    found = match(history([(row, 1, 0)]), list(range(ITEMS.size)), [0] * ITEMS.size, MatchPlan(name, ALL_ACTIONS))
    expected = (stored == stored[row]) & ~missing
    assert (found[:, 0] > 0).tolist() == expected.tolist()
    assert 0 < expected.sum() < ITEMS.size


def test_a_comparison_is_to_the_candidate_touched_last_in_the_same_request() -> None:
    touched = np.array([0.0, 0.5, 1.0, 0.0, 0.0], np.float32)
    value, missing = np.array([1.0, 2.0, 5.0, 7.0, 9.0]), np.array([False, False, False, True, False])
    found = compare_floats(touched, value, missing, np.array([0, 0, 0, 0, 1]))
    assert found[:3, 0] == pytest.approx([-math.log(5), -math.log(4), 0.0])
    assert found[:, 1].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert found[3:, 0].tolist() == [0.0, 0.0]


def test_a_spec_names_what_is_wrong_with_a_match() -> None:
    plain = {
        "name": "shop",
        "dataset": {"events": {"path": "e", "user": "u", "item": "i", "time": "order", "action": "click"}},
        "features": {"again": {"kind": "history_match", "of": "user", "actions": ["clik"], "compare": ["price"]}},
        "tasks": {"click": {}},
        "value": {"weights": {"click": 1.0}},
    }
    with pytest.raises(SpecError, match=r"\$\.features\.again\.of"):
        Spec.from_plain(plain)
    plain["features"]["again"]["of"] = "item"  # type: ignore[index]
    with pytest.raises(SpecError, match=r"(?s)actions\[0\].*did you mean 'click'.*compare\[0\]"):
        Spec.from_plain(plain)
    plain["features"]["again"].update(actions=["click"], compare=[])  # type: ignore[index]
    assert Spec.from_plain(plain).features["again"]
