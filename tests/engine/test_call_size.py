"""Calls of a level are filled up to few sizes, and nobody sees it."""

from __future__ import annotations

import numpy as np
import pytest
from asking import IDS, ask
from hypothesis import given
from hypothesis import strategies as st

import depthrank.engine.run_plan as run_plan
from depthrank.engine.call_size import call_size, filled
from depthrank.routing.cost_rates import MOST_IN_CALL


@given(st.integers(0, 5_000))
def test_a_call_is_filled_by_less_than_a_step_and_sizes_are_few(candidates):
    size = call_size(candidates)
    assert candidates <= size < candidates + 64 and call_size(size) == size
    index = filled(np.arange(candidates))
    assert index.size == size and (index[:candidates] == np.arange(candidates)).all()
    assert (index[candidates:] == candidates - 1).all()


def test_a_whole_call_stays_as_large_as_it_may_be():
    assert call_size(MOST_IN_CALL) == MOST_IN_CALL
    assert len({call_size(n) for n in range(1, MOST_IN_CALL + 1)}) == 26


@pytest.mark.parametrize("count", [1, 7, 8, 9, 33, 79])
def test_levels_run_in_filled_calls_and_every_candidate_gets_its_own_scores(make_ranker, monkeypatch, count):
    ranker, seen = make_ranker(), []
    model = ranker.artifact.model
    request, refine = ask(candidates=IDS[:count], mode="full", top=count), model.refine
    with monkeypatch.context() as unfilled:
        unfilled.setattr(run_plan, "filled", lambda index_N: index_N)
        expected = ranker.rank(request)

    def counted(level, request, candidates, request_N, *rest):
        seen.append(request_N.shape[0])
        return refine(level, request, candidates, request_N, *rest)

    monkeypatch.setattr(model, "refine", counted)
    answer = ranker.rank(request)
    assert answer.candidates_scored == [count] * len(answer.candidates_scored)
    assert seen == [call_size(count)] * (len(answer.candidates_scored) - 1)
    assert [i.item for i in answer.items] == [i.item for i in expected.items]
    assert [i.value for i in answer.items] == pytest.approx([i.value for i in expected.items], rel=1e-5)
