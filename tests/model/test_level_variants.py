"""Levels of their own width, levels that skip layers, and feed-forward parts of which a candidate runs through one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from depthrank.model import ElasticRanker, LevelConfig, ModelConfig, level_flops
from depthrank.model.config import preset
from depthrank.model.expert import CandidateState
from depthrank.model.sparse_experts import SparseExperts


def scored(model: ElasticRanker, make_inputs, item_columns, count=(5,), length=(4,)) -> list[torch.Tensor]:
    request, candidates = make_inputs(list(count), list(length))
    with torch.no_grad():
        return model.eval()(request, model.encode_items(*item_columns), candidates)


def varied(config: ModelConfig, **level: object) -> ElasticRanker:
    torch.manual_seed(0)
    levels = (LevelConfig(reads=(0,), width=8), LevelConfig(reads=(0, 1), width=24, **level))  # type: ignore[arg-type]
    model = ElasticRanker(replace(config, levels=levels))
    for expert in model.experts:
        torch.nn.init.normal_(expert.head.weight)  # zero at the start of training: nothing would show
    return model


def test_levels_may_differ_in_width_and_every_request_scores_as_alone(config, make_inputs, item_columns):
    model = varied(config)
    assert [config.width, 8, 24] == [model.config.level_width(level) for level in range(3)]
    together = scored(model, make_inputs, item_columns, (5, 3), (4, 2))
    assert [logits.shape[0] for logits in together] == [8, 8, 8]
    request, candidates = make_inputs([5, 3], [4, 2])
    items = model.encode_items(*item_columns)
    seen = model.begin(request, items)
    alone = model.levels_from(seen.select(torch.tensor([1])), items, _of_request(candidates, 1))
    torch.testing.assert_close(together[2][5:], alone[2].detach(), rtol=1e-4, atol=1e-5)


def _of_request(candidates, number):
    index = (candidates.request_of_candidate_N == number).nonzero().squeeze(1)
    own = candidates.select(index)
    own.request_of_candidate_N = torch.zeros_like(own.request_of_candidate_N)
    return own


def test_skipping_layers_runs_the_first_ones_and_encodes_no_more_than_they_read(config, make_inputs, item_columns):
    model = varied(config, skipping=0.5)
    request, candidates = make_inputs([5], [4])
    items = model.encode_items(*item_columns)
    seen = model.begin(request, items)
    rows = candidates.request_of_candidate_N
    logits = model.route(seen, items, candidates)
    state = model.start(items, candidates)
    logits, state = model.refine(1, seen, state, rows, logits)
    few, _ = model.refine(2, seen, state, rows, logits, num_reads=1)
    assert seen.view.state.depth == max(model.config.router_layers, 1)
    every, _ = model.refine(2, seen, state, rows, logits)
    assert not torch.equal(few, every)


def test_a_level_skips_in_training_only_and_never_its_first_layer(config):
    expert = varied(config, skipping=0.5).experts[1]
    torch.manual_seed(0)
    expert.train()
    assert {expert.reads_of_step() for _ in range(50)} == {1, 2}
    expert.eval()
    assert {expert.reads_of_step() for _ in range(50)} == {2}


def test_a_row_through_sparse_experts_does_not_depend_on_the_rows_beside_it():
    torch.manual_seed(0)
    experts = SparseExperts(8, 16, 8, 3).eval()
    x_MD = torch.randn(20, 8)
    whole = experts(x_MD)
    assert len(experts.gate(x_MD).argmax(dim=1).unique()) > 1
    for row in range(20):
        torch.testing.assert_close(experts(x_MD[row : row + 1])[0], whole[row], rtol=1e-5, atol=1e-6)
    assert experts(x_MD[:0]).shape == (0, 8)


def test_sparse_experts_take_more_weights_and_the_work_of_one(config):
    one, four = (replace(config, levels=(LevelConfig(reads=(0, 1), experts=e),)) for e in (1, 4))
    weights = [sum(p.numel() for p in ElasticRanker(c).parameters()) for c in (one, four)]
    assert weights[1] > weights[0] + 2 * 3 * 6 * config.width**2 // 2
    gates = 2 * 2 * 4 * config.width  # two layers of a gate over four experts, two FLOPs a multiply-add
    assert level_flops(four)[1].candidate == pytest.approx(level_flops(one)[1].candidate + gates)


def test_an_uneven_use_of_experts_costs_more_than_an_even_one():
    experts = SparseExperts(4, 8, 4, 2).train()
    with torch.no_grad():
        experts.gate.weight[:] = torch.tensor([[9.0, 0, 0, 0], [-9.0, 0, 0, 0]])
    even = torch.cat((torch.eye(4)[:1].repeat(5, 1), -torch.eye(4)[:1].repeat(5, 1)))
    experts(even)
    balanced = experts.balance.item()
    experts(torch.eye(4)[:1].repeat(10, 1))
    assert balanced == pytest.approx(1.0, abs=0.01)
    assert experts.balance.item() > 1.9


@pytest.mark.parametrize("name", ["demo", "small", "medium", "large"])
def test_every_preset_is_a_model_whose_levels_grow(config, name):
    sized = preset(config, name)
    costs = level_flops(replace(sized, history_length=64))
    assert [c.candidate for c in costs] == sorted(c.candidate for c in costs)


def test_the_largest_preset_is_of_llm_scale_when_nothing_is_shared(config):
    sized = replace(preset(config, "large"), history_length=1_024)
    unshared = sum(c.request + c.candidate for c in level_flops(sized))
    assert sized.num_levels in (3, 4) and sized.level_width(sized.num_levels - 1) >= 1_024
    assert unshared >= 1e10


@pytest.mark.parametrize("change", [{"cross_layers": 2}, {"interaction_layers": 0}, {"reads": ()}])
def test_parts_of_a_level_may_be_added_and_left_out_and_every_request_scores_as_alone(
    config, make_inputs, item_columns, change
):
    level = replace(config.levels[0], **change)
    model = ElasticRanker(replace(config, levels=(level,)))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    together = scored(model, make_inputs, item_columns, (5, 3), (4, 2))[1]
    request, candidates = make_inputs([5, 3], [4, 2])
    items = model.encode_items(*item_columns)
    seen = model.begin(request, items).select(torch.tensor([1]))
    own = _of_request(candidates, 1)
    alone = model.levels_from(seen, items, own)[1].detach()
    torch.testing.assert_close(together[5:], alone, rtol=1e-4, atol=1e-5)
    routed = model.route(seen, items, own)
    state, rows = model.start(items, own), own.request_of_candidate_N
    parts = [state.select(torch.tensor([0])), state.select(torch.tensor([1, 2]))]
    chunks = [
        model.refine(1, seen, part, rows[: len(part.x_ND)], routed[slot])[0]
        for part, slot in zip(parts, (slice(0, 1), slice(1, 3)), strict=True)
    ]
    torch.testing.assert_close(torch.cat(chunks).detach(), alone, rtol=1e-4, atol=1e-5)
    joined = CandidateState.joined(parts)
    torch.testing.assert_close(model.refine(1, seen, joined, rows, routed)[0].detach(), alone, rtol=1e-4, atol=1e-5)


def test_without_recency_the_age_of_events_changes_nothing(config, make_inputs, item_columns):
    for recency in (True, False):
        torch.manual_seed(0)
        model = ElasticRanker(replace(config, recency=recency)).eval()
        for expert in model.experts:
            for attention in expert.attention:
                torch.nn.init.normal_(attention.age.weight)
            torch.nn.init.normal_(expert.head.weight)
        request, candidates = make_inputs([5], [4])
        items = model.encode_items(*item_columns)
        now = model(request, items, candidates)[-1]
        later = model(replace(request, age_RL=request.age_RL + 3), items, candidates)[-1]
        assert torch.equal(now, later) == (not recency)


def test_a_ranker_may_be_its_router_alone(config, make_inputs, item_columns):
    model = ElasticRanker(replace(config, levels=()))
    assert len(scored(model, make_inputs, item_columns)) == 1


def test_a_level_that_starts_anew_ignores_the_logits_before_it(config, make_inputs, item_columns):
    for corrects in (True, False):
        torch.manual_seed(0)
        model = ElasticRanker(replace(config, levels=(replace(config.levels[0], corrects=corrects),))).eval()
        request, candidates = make_inputs([5], [4])
        items = model.encode_items(*item_columns)
        seen, state = model.begin(request, items), model.start(items, candidates)
        rows, before = candidates.request_of_candidate_N, torch.randn(5, len(config.tasks))
        found = model.refine(1, seen, state, rows, before)[0].detach()  # its own head is zero at the start
        expected = before if corrects else torch.tensor(config.prior_logit).expand(5, -1)
        torch.testing.assert_close(found, expected)
