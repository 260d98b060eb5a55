"""Transition counts: what they say of candidates, pair by pair, and that a level reads them the same in any company."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from depthrank.model import CandidateInputs, CandidateLayout, ElasticRanker, ModelConfig
from depthrank.model.config import TransitionConfig
from depthrank.model.transitions import BEFORE, NEXT, NUM_KINDS, POSITIONS, RECENT, SOON, Transitions, recent_codes

ITEMS, NEIGHBOURS = 30, 4


@pytest.fixture
def transitions() -> Transitions:
    g = torch.Generator().manual_seed(1)
    made = Transitions(TransitionConfig(0, ITEMS, NEIGHBOURS))
    for row in range(2, ITEMS):
        made.neighbour_VM[row] = (torch.randperm(ITEMS - 2, generator=g)[:NEIGHBOURS] + 2).int()
    made.neighbour_VM[5, 2:] = 0  # an item with two neighbours only
    made.count_VMG.copy_(torch.randint(0, 9, (ITEMS, NEIGHBOURS, NUM_KINDS), generator=g))
    made.out_VG.copy_(torch.randint(20, 90, (ITEMS, NUM_KINDS), generator=g))
    made.share_VG.copy_(torch.rand(ITEMS, NUM_KINDS, generator=g) / ITEMS)
    return made


def plainly(t: Transitions, recent: list[int], code: int, counted: bool = False) -> list[float]:
    """The signals of one candidate, by loops."""
    found = []
    for first, stop in POSITIONS:
        for kind in range(NUM_KINDS):
            count = expected = 0.0
            for place in range(first, min(stop, len(recent))):
                item = recent[place]
                if item < 2:
                    continue
                for neighbour, counts in zip(t.neighbour_VM[item].tolist(), t.count_VMG[item].tolist(), strict=True):
                    count += counts[kind] if neighbour == code and code >= 2 else 0.0
                own = (kind == NEXT and place == 0) or (kind == SOON and 1 <= place <= 7)
                count -= float(counted and own)
                expected += float(t.out_VG[item, kind] * t.share_VG[code, kind])
            found.append(math.log((max(count, 0.0) + 2) / (expected + 2)))
    return [*found, math.log1p(float(t.share_VG[code, NEXT]) * 1e4), 1.0]


def test_signals_are_what_a_loop_over_the_counts_gives(transitions):
    recent = [[5, 9, 9, 1, 20], [], list(range(2, 2 + RECENT))]
    padded = torch.tensor([r + [0] * (RECENT - len(r)) for r in recent])
    code = torch.randint(0, ITEMS, (40,), generator=torch.Generator().manual_seed(2))
    request = torch.arange(40) * 3 // 40
    counted = torch.arange(40) % 5 == 0
    for own in (None, counted):
        found = transitions(padded, code, request, own)
        wanted = [
            plainly(transitions, recent[r], c, own is not None and bool(own[n]))
            for n, (c, r) in enumerate(zip(code.tolist(), request.tolist(), strict=True))
        ]
        torch.testing.assert_close(found, torch.tensor(wanted))


def test_a_choice_that_was_made_once_and_is_ones_own_looks_like_one_never_made(transitions):
    transitions.count_VMG[5, 0] = torch.tensor([1.0, 0.0, 0.0])
    recent, code = torch.tensor([[5] + [0] * (RECENT - 1)]), transitions.neighbour_VM[5, :1].long()
    request = torch.zeros(1, dtype=torch.int64)
    told = transitions(recent, code, request)
    hidden = transitions(recent, code, request, torch.tensor([True]))
    transitions.count_VMG[5, 0] = 0
    never = transitions(recent, code, request)
    assert torch.equal(hidden, never) and told[0, NEXT] > never[0, NEXT]
    assert torch.equal(told[:, BEFORE], never[:, BEFORE])


def test_recent_items_are_read_from_the_end_of_what_a_request_sees():
    codes, rows = torch.tensor([0, 11, 12, 13]), torch.tensor([[1, 2, 3], [3, 1, 0]])
    found = recent_codes(codes, rows, torch.tensor([2, 0, 3]), torch.tensor([0, 0, 1]))
    assert found.shape == (3, RECENT)
    assert found[:, :4].tolist() == [[12, 11, 0, 0], [0, 0, 0, 0], [0, 11, 13, 0]]
    assert not recent_codes(codes, rows[:, :0], torch.tensor([0]), None).any()


def test_levels_read_transitions_alike_in_chunks_and_as_survivors(config, make_inputs, item_columns, transitions):
    torch.manual_seed(3)
    slot = config.item.slots[0]
    with_counts = replace(config, transitions=TransitionConfig(slot.start, slot.num_rows, NEIGHBOURS))
    assert ModelConfig.from_plain(with_counts.to_plain()) == with_counts
    model = ElasticRanker(with_counts).eval()
    assert model.transitions is not None
    for name, buffer in transitions.named_buffers():
        if name in ("neighbour_VM", "count_VMG", "out_VG", "share_VG"):
            getattr(model.transitions, name).copy_(buffer[: slot.num_rows])
    for level in model.experts:
        torch.nn.init.normal_(level.transitions.state.weight)
        torch.nn.init.normal_(level.transitions.head.weight)
        torch.nn.init.normal_(level.head.weight)
    request, candidates = make_inputs([5, 4], [8, 3])
    with torch.no_grad():
        items = model.encode_items(*item_columns)
        seen = model.begin(request, items)
        whole = model.levels_from(seen, items, candidates)
        some = torch.tensor([1, 2, 6])
        after = model.start(items, candidates).select(some)
        for level in range(1, with_counts.num_levels):
            layout = CandidateLayout(candidates.request_of_candidate_N[some], 2)
            known = (candidates.request_of_candidate_N[some], whole[level - 1][some], layout)
            refined, after = model.refine(level, seen, after, *known)
            torch.testing.assert_close(refined, whole[level][some], rtol=1e-4, atol=1e-4)
        alone = candidates.request_of_candidate_N == 1
        mine = CandidateInputs(
            *(part[alone] for part in (candidates.rows_N, candidates.ids_NI, candidates.floats_NF)),
            torch.zeros(int(alone.sum()), dtype=torch.int64),
        )
        second = model.levels_from(seen.select(torch.tensor([1])), items, mine)
        torch.testing.assert_close(second[-1], whole[-1][alone], rtol=1e-4, atol=1e-4)
        silent = replace(request, history_rows_SL=torch.zeros_like(request.history_rows_SL))
        other = model.begin(silent, items)
        other.view = seen.view
        told = model.deeper_levels(other, items, candidates, whole[0])
        assert not torch.allclose(told[-1], whole[-1]), "the last items matter"
