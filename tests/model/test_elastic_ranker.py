from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from depthrank.model import CandidateInputs, ElasticRanker, RequestInputs, RoutedRequests


def one_request(request: RequestInputs, r: int) -> RequestInputs:
    names = ("ids_RI", "floats_RF", "history_rows_SL", "actions_SL", "gaps_SL", "age_RL", "length_R")
    return RequestInputs(*(getattr(request, name)[r : r + 1] for name in names))


@torch.no_grad()
def test_many_requests_in_one_call_score_as_each_request_alone(ranker, make_inputs, item_columns):
    request, candidates = make_inputs([3, 0, 5, 1], [8, 2, 0, 5])
    items = ranker.encode_items(*item_columns)
    together = ranker(request, items, candidates)
    for r in range(4):
        mine = candidates.request_of_candidate_N == r
        own = candidates.select(mine.nonzero().squeeze(1))
        own.request_of_candidate_N = torch.zeros_like(own.request_of_candidate_N)
        alone = ranker(one_request(request, r), items, own)
        for level, logits in enumerate(alone):
            assert_close(together[level][mine], logits, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_what_lies_behind_the_history_length_never_changes_a_score(ranker, make_inputs, item_columns):
    request, candidates = make_inputs([4], [5])
    items = ranker.encode_items(*item_columns)
    changed = replace(request, history_rows_SL=request.history_rows_SL.clone(), actions_SL=request.actions_SL.clone())
    changed.history_rows_SL[:, 5:] = 1
    changed.actions_SL[:, 5:] = 3
    for before, after in zip(ranker(request, items, candidates), ranker(changed, items, candidates), strict=True):
        assert_close(before, after)
    changed.history_rows_SL[:, 4] += 1  # positive control: the last event inside the length does matter
    assert not torch.allclose(ranker(request, items, candidates)[0], ranker(changed, items, candidates)[0])


@torch.no_grad()
def test_requests_of_one_user_may_share_one_encoded_sequence(ranker, make_inputs, item_columns):
    request, candidates = make_inputs([2, 3], [8, 4])
    items = ranker.encode_items(*item_columns)
    for name in ("history_rows_SL", "actions_SL", "gaps_SL"):
        getattr(request, name)[1] = getattr(request, name)[0]
    apart = ranker(request, items, candidates)
    shared = replace(
        request,
        history_rows_SL=request.history_rows_SL[:1],
        actions_SL=request.actions_SL[:1],
        gaps_SL=request.gaps_SL[:1],
        sequence_of_request_R=torch.tensor([0, 0]),
    )
    for one, other in zip(apart, ranker(shared, items, candidates), strict=True):
        assert_close(one, other, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_levels_can_be_run_one_by_one_and_on_survivors_only(ranker, make_inputs, item_columns):
    request, candidates = make_inputs([7], [6])
    items = ranker.encode_items(*item_columns)
    full = ranker(request, items, candidates)
    seen = ranker.begin(request, items)
    assert seen.view.state.depth == 2, "deeper user layers wait until a level asks for them"
    keep = torch.tensor([1, 4, 6])
    survivors = candidates.select(keep)
    level1, state = ranker.refine(
        1, seen, ranker.start(items, survivors), survivors.request_of_candidate_N, full[0][keep]
    )
    assert_close(level1, full[1][keep], atol=2e-5, rtol=1e-5)
    level2, _ = ranker.refine(2, seen, state, survivors.request_of_candidate_N, level1)
    assert_close(level2, full[2][keep], atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("history", [0, 8])
def test_no_candidates_and_no_history_are_ordinary(ranker, make_inputs, item_columns, history):
    request, candidates = make_inputs([0], [0], history=history)
    items = ranker.encode_items(*item_columns)
    for logits in ranker(request, items, candidates):
        assert logits.shape == (0, 2)
    request, candidates = make_inputs([2], [0], history=history)
    for logits in ranker(request, items, candidates):
        assert torch.isfinite(logits).all()


@torch.no_grad()
def test_the_router_over_the_catalogue_is_the_router_without_context(ranker, make_inputs, item_columns):
    request, _ = make_inputs([1, 1], [3, 7])
    items = ranker.encode_items(*item_columns)
    seen = ranker.begin(request, items)
    n = items.vector_UD.shape[0]
    request_of_candidate = torch.repeat_interleave(torch.arange(2), n)
    no_columns = torch.zeros(2 * n, 0, dtype=torch.int64)
    everything = CandidateInputs(torch.arange(n).repeat(2), no_columns, torch.zeros(2 * n, 4), request_of_candidate)
    for task in range(2):
        over = ranker.router.over_catalogue(seen.user, items, task, torch.tensor([0, 1]))
        assert_close(over.flatten(), ranker.route(seen, items, everything)[:, task])


def test_a_deeper_level_starts_as_the_level_before_it(config, make_inputs, item_columns):
    ranker = ElasticRanker(config).eval()
    request, candidates = make_inputs([5], [8])
    with torch.no_grad():
        logits = ranker(request, ranker.encode_items(*item_columns), candidates)
    assert_close(logits[0], logits[1])
    assert_close(logits[0], logits[2])


def test_gradients_reach_every_parameter(ranker, make_inputs, item_columns):
    request, candidates = make_inputs([3, 4], [8, 5])
    logits = ranker(request, ranker.encode_items(*item_columns), candidates)
    sum(level.square().sum() for level in logits).backward()
    unreached = [name for name, p in ranker.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


def test_the_routers_side_of_many_requests_equals_that_of_each_by_itself(ranker, make_inputs, item_columns):
    """Request columns once a distinct row, and the products with them too."""
    request, _ = make_inputs([1, 1, 1, 1], [3, 8, 0, 5])
    rows, sequence = torch.tensor([1, 0, 1, 1]), torch.tensor([2, 0, 3, 1])
    items = ranker.encode_items(*item_columns)
    state = ranker.encode_history(request, items, ranker.config.router_layers)
    length = request.length_R[sequence]
    found = ranker.user_vectors(
        state, RoutedRequests(request.ids_RI[:2], request.floats_RF[:2], rows, sequence, length)
    )
    for r in range(4):
        one = replace(
            request,
            ids_RI=request.ids_RI[rows[r] : rows[r] + 1],
            floats_RF=request.floats_RF[rows[r] : rows[r] + 1],
            age_RL=request.age_RL[:1],
            length_R=length[r : r + 1],
            sequence_of_request_R=sequence[r : r + 1],
        )
        user = ranker.begin(one, items).user
        torch.testing.assert_close(found.vector_RKD[r], user.vector_RKD[0])
        torch.testing.assert_close(found.bias_RK[r], user.bias_RK[0])
