from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from depthrank.features import EncodedHistory
from depthrank.model.share_sequences import share_sequences


def histories(tokens: list[list[int]], length: int = 6) -> EncodedHistory:
    rows = np.zeros((len(tokens), length), np.int32)
    for r, own in enumerate(tokens):
        rows[r, : len(own)] = own
    return EncodedHistory(rows, rows * 0 + 1, rows * 0, rows * 0, np.array([len(t) for t in tokens], np.int32))


def test_prefixes_of_one_user_share_the_longest():
    shared = share_sequences(histories([[1, 2], [1, 2, 3], [1], [1, 2]]), ["u", "u", "u", "other"])
    assert shared.leader_S.tolist() == [1, 3]
    assert shared.sequence_of_request_R.tolist() == [0, 0, 0, 1]


def test_a_history_that_differs_in_one_token_keeps_its_own_sequence():
    shared = share_sequences(histories([[1, 2, 3], [1, 9]]), ["u", "u"])
    assert shared.leader_S.tolist() == [0, 1]


def test_empty_histories_share_whoever_asks():
    assert share_sequences(histories([[], [], [4]]), ["a", "b", "a"]).leader_S.tolist() == [0, 2]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(1, 2), max_size=6)), min_size=1, max_size=12))
def test_every_request_reads_its_own_tokens(drawn):
    history = histories([tokens for _, tokens in drawn])
    shared = share_sequences(history, [user for user, _ in drawn])
    for r, (_, tokens) in enumerate(drawn):
        leader = shared.leader_S[shared.sequence_of_request_R[r]]
        assert history.rows[leader, : len(tokens)].tolist() == tokens
