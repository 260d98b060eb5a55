"""What a history holds by action, as a loop over its tokens would say it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from feature_world import make_items, make_spec
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import SpecError
from depthrank.features import EncodedHistory, FeatureEncoder, FitSample
from depthrank.features.history_count import count_floats, num_count_floats

LENGTH = 6
Token = tuple[int, int]  # action bits, age bucket


def history(*requests: list[Token], length: int = LENGTH) -> EncodedHistory:
    """Requests as lists of tokens, oldest first."""
    rows, actions, ages = (np.zeros((len(requests), length), np.int32) for _ in range(3))
    for r, tokens in enumerate(requests):
        for place, token in enumerate(tokens):
            actions[r, place], ages[r, place] = token
    lengths = np.array([len(tokens) for tokens in requests], np.int32)
    return EncodedHistory(rows, actions, np.zeros_like(rows), ages, lengths)


def by_loop(tokens: list[Token], bits: int) -> list[float]:
    """The four numbers of one action."""
    places = [i for i, (took, _) in enumerate(tokens) if took & bits]
    if not places:
        return [0.0] * 4
    since = len(tokens) - 1 - places[-1]
    return [math.log(1 + len(places)), len(places) / len(tokens), 1 / (1 + since), 1 - tokens[places[-1]][1] / 32]


def test_counts_share_place_and_age_of_each_action() -> None:
    found = count_floats(history([(0b01, 9), (0b11, 8), (0b01, 4), (0b10, 2)]), [0b01, 0b10])
    expected = [math.log(4), 3 / 4, 1 / 2, 1 - 4 / 32, math.log(3), 2 / 4, 1.0, 1 - 2 / 32, math.log(5)]
    assert found[0] == pytest.approx(expected)


def test_without_history_everything_is_zero() -> None:
    assert not count_floats(history([]), [1, 2]).any()
    assert not count_floats(history([], length=0), [1, 2]).any()
    assert count_floats(history([(1, 0)]), [1, 2]).any()  # control


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 31)), max_size=LENGTH), min_size=1, max_size=5),
    st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3),
)
def test_every_request_is_what_a_loop_over_its_own_tokens_gives(requests: list[list[Token]], bits: list[int]) -> None:
    found = count_floats(history(*requests), bits)
    assert found.shape == (len(requests), num_count_floats(len(bits)))
    for row, tokens in zip(found, requests, strict=True):
        expected = [number for b in bits for number in by_loop(tokens, b)] + [math.log(1 + len(tokens))]
        assert row == pytest.approx(expected, abs=1e-6)


def test_padding_does_not_count() -> None:
    padded = count_floats(history([(1, 3)], length=9), [1])
    assert np.array_equal(padded, count_floats(history([(1, 3)], length=1), [1]))


def test_the_encoder_writes_the_named_actions_on_the_request_side() -> None:
    spec = make_spec({"past": {"kind": "history_count", "actions": ["like"]}})
    encoder = FeatureEncoder.fit(spec, make_items(), None, FitSample())
    assert encoder.reads_history
    like = 1 << spec.history_actions.index("like")
    past = history([(like, 3), (like, 1)])
    at = np.zeros(1, np.int64)
    found = encoder.encode_requests(["u1"], at, {}, at, None, None, past)
    assert found.floats[0] == pytest.approx([*by_loop([(like, 3), (like, 1)], like), math.log(3)])


def test_an_action_that_no_history_holds_is_refused() -> None:
    with pytest.raises(SpecError, match="an action of the history"):
        make_spec({"past": {"kind": "history_count", "actions": ["klick"]}})
    assert make_spec({"past": {"kind": "history_count"}}).features["past"]  # control
