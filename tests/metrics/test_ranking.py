"""Ranking metrics against scikit-learn and plain loops over requests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from depthrank.metrics import (
    coverage,
    head_items,
    hit_rate_at_k,
    long_tail_share,
    mean_over_requests,
    mrr,
    ndcg_at_k,
    rank_in_request,
    recall_at_k,
    reciprocal_rank,
    request_of_candidate,
    top_rows,
)

requests = st.lists(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=0, max_size=12), min_size=1, max_size=6
)


def flat(drawn: list[list[tuple[bool, int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, drawn)])
    pairs = [pair for request in drawn for pair in request]
    return np.array([p[0] for p in pairs], bool), np.array([p[1] for p in pairs], float), offsets


@settings(deadline=None)
@given(requests)
def test_rank_is_a_permutation_of_each_request_that_sorts_its_scores(drawn: list[list[tuple[bool, int]]]) -> None:
    _, score, offsets = flat(drawn)
    rank = rank_in_request(score, offsets)
    for start, stop in itertools.pairwise(offsets):
        assert sorted(rank[start:stop]) == list(range(stop - start))
        assert (np.diff(score[start:stop][np.argsort(rank[start:stop])]) <= 0).all()


@settings(deadline=None)
@given(requests, st.integers(1, 8))
def test_metrics_equal_a_loop_over_requests(drawn: list[list[tuple[bool, int]]], k: int) -> None:
    relevant, score, offsets = flat(drawn)
    rank = rank_in_request(score, offsets)
    ndcg, hit = ndcg_at_k(relevant, rank, offsets, k), hit_rate_at_k(relevant, rank, offsets, k)
    first = reciprocal_rank(relevant, rank, offsets)
    for r, (start, stop) in enumerate(itertools.pairwise(offsets)):
        mine, places = relevant[start:stop], rank[start:stop]
        if not mine.any():
            assert np.isnan([ndcg[r], hit[r], first[r]]).all()
            continue
        assert hit[r] == float((places[mine] < k).any())
        assert first[r] == pytest.approx(1 / (places[mine].min() + 1))
        if len(mine) > 1:
            assert ndcg[r] == pytest.approx(ndcg_score([mine], [-places.astype(float)], k=k))


def test_ties_do_not_favour_candidates_that_come_first() -> None:
    offsets = np.arange(0, 20_001, 10)
    relevant = np.tile(np.arange(10) == 0, 2_000)
    rank = rank_in_request(np.zeros(20_000), offsets)
    assert rank[relevant].mean() == pytest.approx(4.5, abs=0.2)
    in_order = rank_in_request(np.zeros(20_000), offsets, tie=np.arange(20_000))
    assert in_order[relevant].mean() == 0  # what a stable sort would have claimed


def test_an_unscored_candidate_ranks_last() -> None:
    assert rank_in_request(np.array([np.nan, -1.0, -np.inf]), np.array([0, 3])).tolist() == [2, 0, 1]


def test_top_rows_are_padded_for_short_requests() -> None:
    rank = rank_in_request(np.array([0.1, 0.9, 0.5]), np.array([0, 2, 2, 3]))
    assert top_rows(rank, np.array([0, 2, 2, 3]), 2).tolist() == [[1, 0], [-1, -1], [2, -1]]


def test_recall_counts_the_deepest_levels_top_kept_by_a_shallow_level() -> None:
    offsets = np.array([0, 4, 4])
    shallow, deep = np.array([0, 1, 2, 3]), np.array([3, 0, 1, 2])
    assert recall_at_k(shallow, deep, offsets, k=2, top=2)[0] == 0.5
    assert recall_at_k(deep, deep, offsets, k=2, top=2)[0] == 1.0
    assert np.isnan(recall_at_k(shallow, deep, offsets, k=2, top=2)[1])


def test_mrr_and_means_leave_out_requests_without_a_positive() -> None:
    relevant, rank = np.array([False, True, False]), np.array([0, 1, 0])
    assert mrr(relevant, rank, np.array([0, 2, 3])) == 0.5
    assert np.isnan(mean_over_requests(np.array([np.nan])))


def test_coverage_and_long_tail_share_count_catalogue_rows() -> None:
    popularity = np.array([100, 1, 1, 1, 1])
    assert head_items(popularity).tolist() == [True, False, False, False, False]
    assert coverage(np.array([0, 0, 3]), 5) == 0.4
    assert long_tail_share(np.array([0, 0, 3, 4]), popularity) == 0.5
    assert np.isnan(long_tail_share(np.zeros(0, int), popularity)) and np.isnan(coverage(np.zeros(0, int), 0))


def test_request_of_candidate_skips_empty_requests() -> None:
    assert request_of_candidate(np.array([0, 2, 2, 3])).tolist() == [0, 0, 2]
