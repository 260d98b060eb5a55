"""Requests whose deeper levels share a pass are answered as if each had been alone; what shares is what pays."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from asking import IDS, ask, shown
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.artifact import load_artifact
from depthrank.engine import Ranker
from depthrank.engine.costs import CostMeter
from depthrank.engine.shared_pass import FEW_FACTOR, PAYS, PassFactors, predicted, to_share
from depthrank.errors import RequestError
from depthrank.events import open_log
from depthrank.model import ElasticRanker
from depthrank.model.config import TransitionConfig
from depthrank.routing import CostModel, CostRates, Line
from depthrank.schema.ask import Ask

ONCE = Line(10.0, 0.01, 0.0)  # all fixed: sharing pays
EACH = Line(0.0, 1.0, 0.0)  # nothing fixed: it never does
TOLERANCE = 1e-5


def rates_of(level: Line) -> CostRates:
    lines = (Line(0.1, 0.0, 0.0), Line(0.1, 0.0, 0.0), level)
    return CostRates(lines, lines)


def believe(ranker: Ranker, level: Line) -> None:
    """What the ranker believes its level costs."""
    ranker.generation.costs = CostMeter(CostModel(rates_of(level)))
    ranker.generation.pass_factors = PassFactors()


def asked(*requests: Any, record: bool = True) -> list[Ask]:
    return [Ask(request, f"r{k}", 0.0, record=record) for k, request in enumerate(requests)]


def answers(ranker: Ranker, asks: list[Ask]) -> list[Any]:
    found = ranker.rank_together(asks)
    errors = [one for one in found if isinstance(one, Exception)]
    assert not errors
    return found


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 40), st.sampled_from(["full", "router", "adaptive"])),
        min_size=2,
        max_size=6,
    )
)
def test_whatever_shares_a_pass_is_answered_as_alone(ranker: Any, some: list[tuple[int, int, str]]) -> None:
    requests = [ask(f"u{user}", IDS[first : first + 5 + 3 * user], mode=mode) for user, first, mode in some]
    believe(ranker, ONCE)
    together = answers(ranker, asked(*requests))
    for request, one in zip(requests, together, strict=True):
        alone = ranker.rank(request)
        if request.mode != "adaptive":  # what a policy decides hangs on what it has learned by then
            assert one.plan == alone.plan and one.candidates_scored == alone.candidates_scored
            values = {item: value for item, _, value in shown(alone)}
            assert [level for _, level, _ in shown(one)] == [level for _, level, _ in shown(alone)]
            for item, _, value in shown(one):
                assert value == pytest.approx(values[item], rel=TOLERANCE)
    deeper = sum(len(one.candidates_scored) > 1 and one.candidates_scored[1] > 0 for one in together)
    batches = [one.record["batches"] for one in together]
    assert all(batch["requests"] <= deeper for told in batches for batch in told)
    full = sum(request.mode == "full" for request in requests)
    assert full < 2 or any(batches), "the control: they did share"


def test_levels_that_read_transitions_share_passes_too(world: Any) -> None:
    artifact = load_artifact(world.artifact)
    slot = artifact.model.config.item.slots[0]
    config = replace(artifact.model.config, transitions=TransitionConfig(slot.start, slot.num_rows, 4))
    torch.manual_seed(1)
    model = ElasticRanker(config).eval()
    for part in model.parameters():
        torch.nn.init.normal_(part, std=0.1)
    counts = model.transitions
    counts.neighbour_VM.random_(0, slot.num_rows)
    for buffer in (counts.count_VMG, counts.out_VG, counts.share_VG):
        buffer.uniform_(0.0, 1.0)
    with open_log(world.log_url, read_only=True) as log:
        ranker = Ranker(replace(artifact, model=model, adaptive=None), log)
        requests = [ask(f"u{user}", IDS[: 8 + 9 * user]) for user in (1, 2, 3)]
        believe(ranker, ONCE)
        together = answers(ranker, asked(*requests))
        assert together[0].record["batches"], "the control: they did share"
        for request, one in zip(requests, together, strict=True):
            values = {item: value for item, _, value in shown(ranker.rank(request))}
            assert {item: value for item, _, value in shown(one)} == pytest.approx(values, rel=TOLERANCE)


def test_the_record_holds_the_pass_and_alone_there_is_none(ranker: Any) -> None:
    believe(ranker, ONCE)
    first, second = answers(ranker, asked(ask("u1", IDS[:8]), ask("u2", IDS[:12])))
    (batch,) = first.record["batches"]
    assert batch["level"] == 1 and batch["requests"] == 2 and batch["candidates"] == [8, 16]  # calls are filled up
    assert batch["predicted_ms"] == pytest.approx(FEW_FACTOR * (24 * 0.01 + 10))
    assert second.record["batches"] == first.record["batches"]
    believe(ranker, EACH)
    alone, _ = answers(ranker, asked(ask("u1", IDS[:8]), ask("u2", IDS[:12])))
    assert alone.record["batches"] == [], "where nothing is saved, nothing is shared"


def test_time_in_a_shared_pass_is_divided_and_teaches_nothing_about_being_alone(ranker: Any) -> None:
    believe(ranker, ONCE)
    before = ranker.generation.costs.rates
    together = answers(ranker, asked(ask("u1", IDS[:8]), ask("u2", IDS[:8])))
    assert ranker.generation.costs.rates is before
    assert all(0 < one.spent.thread_ms < 1_000 for one in together)
    ranker.rank(ask("u1", IDS[:8]))
    assert ranker.generation.costs.rates is not before, "the control"


def test_one_that_cannot_be_ranked_does_not_keep_the_others_from_it(ranker: Any) -> None:
    believe(ranker, ONCE)
    bad = ask("u2", {"item": IDS[:2], "price": [1.0, -1.0]})
    bad.candidates["price"] = ["x", "y"]
    found = ranker.rank_together(asked(ask("u1", IDS[:8]), bad, ask("u3", IDS[:8])))
    assert isinstance(found[1], RequestError)
    assert found[0].candidates_scored == found[2].candidates_scored == [8, 8]


class _Pace:
    def __init__(self, left_ms: float) -> None:
        self._left_ms = left_ms

    def left_ms(self) -> float:
        return self._left_ms


class _Piece:
    def __init__(self, candidates: int, level: int = 1, left_ms: float = math.inf, history: int = 0) -> None:
        self.candidates, self.level, self.history, self.pace = candidates, level, history, _Pace(left_ms)


MEASURED = Line(6.0, 0.055, 0.0)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=12))
def test_a_pass_is_chosen_only_where_it_is_predicted_to_pay(sizes: list[int]) -> None:
    pieces: Any = [_Piece(n) for n in sizes]
    rates, factors = rates_of(MEASURED), PassFactors()
    found = to_share(pieces, rates, factors)
    if found is None:
        pairs = [predicted([a, b], rates, factors) for k, a in enumerate(pieces) for b in pieces[:k]]
        assert all(not pair.pays or len(pieces) == 1 for pair in pairs) or sum(sorted(sizes)[:2]) > 1_024
        return
    chosen, expected = found
    assert len(chosen) > 1 and expected.shared_ms < PAYS * sum(expected.alone_ms)
    assert [pieces.index(piece) for piece in chosen] == sorted(pieces.index(piece) for piece in chosen)


def test_a_piece_whose_deadline_the_pass_would_miss_does_not_join_it() -> None:
    rates, factors = rates_of(MEASURED), PassFactors()
    relaxed: Any = [_Piece(20, left_ms=50.0) for _ in range(3)]
    found = to_share(relaxed, rates, factors)
    assert found is not None and found[0] == relaxed, "the control"
    hurried: Any = [*relaxed, _Piece(30, left_ms=found[1].shared_ms / 2)]
    left = to_share(hurried, rates, factors)
    assert left is not None and left[0] == relaxed


def test_levels_are_not_mixed_and_the_shallower_one_goes_first() -> None:
    deeper: Any = [_Piece(10, level=2), _Piece(10), _Piece(12), _Piece(14, level=2)]
    rates = CostRates(*[(*rates_of(MEASURED).warm, MEASURED)] * 2)
    found = to_share(deeper, rates, PassFactors())
    assert found is not None and [piece.level for piece in found[0]] == [1, 1]


def test_passes_that_took_longer_than_predicted_end_where_they_do_not_pay() -> None:
    rates, factors = rates_of(MEASURED), PassFactors()
    pieces: Any = [_Piece(20), _Piece(20)]
    passes = 0
    while (found := to_share(pieces, rates, factors)) is not None and passes < 100:
        factors.learn(1, 40, found[1].ideal_ms, 3 * sum(found[1].alone_ms))
        passes += 1
    assert 0 < passes < 20


def test_histories_of_different_lengths_are_padded_and_nothing_is_seen_of_the_padding(ranker: Any) -> None:
    """One with no history beside one with the longest."""
    believe(ranker, ONCE)
    nobody, somebody = ask("nobody at all", IDS[:20]), ask("u1", IDS[:20])
    together = answers(ranker, asked(nobody, somebody))
    assert {batch["requests"] for one in together for batch in one.record["batches"]} == {2}
    for request, one in zip((nobody, somebody), together, strict=True):
        alone = {item: value for item, _, value in shown(ranker.rank(request))}
        np.testing.assert_allclose([v for _, _, v in shown(one)], [alone[i] for i, _, _ in shown(one)], rtol=TOLERANCE)
