"""Levels of their own width, levels that skip layers, and feed-forward parts of which a candidate runs through one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from depthrank.model import ElasticRanker, LevelConfig, ModelConfig, level_flops
from depthrank.model.config import preset
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
