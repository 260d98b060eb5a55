"""Where a candidate lies among those of its list that the history touched, as a loop over the list would say it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from feature_world import make_items, make_spec
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import SpecError
from depthrank.features import EncodedHistory, FeatureEncoder, FitSample
from depthrank.features.history_along import NUM_ALONG_FLOATS, NUMBERED, along_floats

Row = tuple[float, float | None, int]  # how new its match is (0: none), its value (None: missing), item row


def along(*requests: list[Row]) -> np.ndarray:
    rows = [(r, *row) for r, request in enumerate(requests) for row in request]
    request, touched, value, item = (np.array(column) for column in zip(*rows, strict=True))
    missing = np.array([v is None for v in value])
    values = np.where(missing, 0.0, value).astype(np.float64)
    return along_floats(touched.astype(np.float32), values, missing, item.astype(np.int64), request.astype(np.int64))


def by_loop(request: list[Row]) -> list[list[float]]:
    nothing = [0.0] * (NUM_ALONG_FLOATS - 2 * NUMBERED) + [0.0, 1.0] * NUMBERED
    found = [nothing] * len(request)
    known = [i for i, (_, value, _) in enumerate(request) if value is not None]
    known.sort(key=lambda i: (request[i][1], request[i][2]))
    newest_first = sorted({request[i][0] for i in known if request[i][0] > 0}, reverse=True)
    number = [newest_first.index(request[i][0]) + 1 if request[i][0] > 0 else 0 for i in known]
    share = [1 / n if n else 0.0 for n in number]
    for place, i in enumerate(known):
        before, after = number[:place], number[place + 1 :]
        row = [share[place], math.log(1 + sum(n > 0 for n in number)), math.log(1 + before.count(0))]
        row += [sum(n > 0 for n in side) / max(len(side), 1) for side in (before, after)]
        row += [share[place - 1] if before else 0.0, share[place + 1] if after else 0.0]
        for wanted in range(1, NUMBERED + 1):
            places = place - number.index(wanted) if wanted in number else 0
            row += [math.copysign(math.log(1 + abs(places)), places), float(wanted not in number)]
        found[i] = row
    return found


def test_the_next_one_down_the_page_is_told_from_the_others() -> None:
    page = [(0.0, 1.0, 5), (0.5, 2.0, 6), (1.0, 3.0, 7), (0.0, 4.0, 8), (0.0, 5.0, 9)]
    found = along(page)
    assert found == pytest.approx(np.array(by_loop(page)), abs=1e-6)
    assert found[3, 6 - 1] == 1.0 and found[3, 7] == pytest.approx(math.log(2))
    assert found[4, 6 - 1] == 0.0 and found[4, 7] == pytest.approx(math.log(3))


def test_a_candidate_without_a_value_has_no_place_and_counts_for_nobody() -> None:
    found = along([(1.0, None, 1), (0.0, 1.0, 2), (0.0, 2.0, 3)])
    assert found[0].tolist() == by_loop([(1.0, None, 1)])[0]
    assert not found[1:, 1].any()
    assert along([(1.0, 0.5, 1), (0.0, 1.0, 2), (0.0, 2.0, 3)])[1:, 1].all()  # control


def test_lists_without_candidates_or_touched_ones_are_ordinary() -> None:
    nobody = np.zeros(0)
    assert along_floats(nobody, nobody, nobody > 0, nobody.astype(int), nobody.astype(int)).shape == (0, 13)
    assert along([(0.0, 1.0, 1), (0.0, 1.0, 2)])[:, [8, 10, 12]].all()


touches = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0])
lists = st.lists(st.tuples(touches, st.none() | st.sampled_from([1.0, 2.0, 3.5]), st.integers(1, 99)), max_size=7)


@given(st.lists(lists, min_size=1, max_size=4).filter(any))
def test_a_row_is_what_a_loop_over_its_own_list_gives_and_the_same_bits_alone(requests: list[list[Row]]) -> None:
    found = along(*requests)
    expected = [row for request in requests for row in by_loop(request)]
    assert found == pytest.approx(np.array(expected), abs=1e-6)
    alone = np.concatenate([along(request) for request in requests if request])
    assert np.array_equal(found, alone)


@given(lists.filter(lambda rows: len({row[2] for row in rows}) == len(rows) > 0))
def test_the_order_in_which_candidates_are_sent_changes_nothing(request: list[Row]) -> None:
    order = np.random.default_rng(0).permutation(len(request))
    assert np.array_equal(along([request[i] for i in order]), along(request)[order])


def encode(columns: dict[str, list[float]]) -> np.ndarray:
    spec = make_spec({"beside": {"kind": "history_along", "of": "item", "along": "offer", "actions": ["like"]}})
    encoder = FeatureEncoder.fit(spec, make_items(), None, FitSample())
    assert encoder.reads_history
    like = 1 << spec.history_actions.index("like")
    rows, actions = np.array([[2, 3]], np.int32), np.array([[like, like << 1 | like >> 1]], np.int32)
    past = EncodedHistory(rows, actions, np.zeros_like(rows), np.zeros_like(rows), np.array([2], np.int32))
    items, request = np.array([1, 2, 3]), np.zeros(3, np.int64)
    return encoder.encode_candidates(
        items, request, ["u"], np.zeros(1, np.int64), columns, None, make_items(), history=past
    ).floats


def test_the_encoder_reads_the_column_and_the_named_actions() -> None:
    found = encode({"offer": [3.0, 2.0, 1.0]})
    assert found == pytest.approx(np.array(by_loop([(0.0, 3.0, 1), (0.5, 2.0, 2), (0.0, 1.0, 3)])), abs=1e-6)


def test_a_column_that_was_not_sent_is_a_list_without_places() -> None:
    assert encode({}).tolist() == by_loop([(1.0, None, 1)] * 3)


def test_a_spec_names_what_is_wrong() -> None:
    with pytest.raises(SpecError, match=r"beside\.along"):
        make_spec({"beside": {"kind": "history_along", "along": "ofer"}})
    with pytest.raises(SpecError, match="an action of the history"):
        make_spec({"beside": {"kind": "history_along", "along": "offer", "actions": ["klick"]}})
    assert make_spec({"beside": {"kind": "history_along", "along": "offer"}}).features["beside"]  # control
