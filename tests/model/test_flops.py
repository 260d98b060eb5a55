"""FLOPs are counted, not guessed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from depthrank.model import level_flops


def test_the_count_is_that_of_a_real_run_of_each_level(ranker, make_inputs, item_columns):
    config = ranker.config
    request, candidates = make_inputs([13], [config.history_length])
    with torch.no_grad():
        items = ranker.encode_items(*item_columns)
        with FlopCounterMode(display=False) as counter:
            ranker(request, items, candidates)
    counted = level_flops(config)
    assert len(counted) == config.num_levels
    assert sum(f.request + 13 * f.candidate for f in counted) == pytest.approx(counter.get_total_flops())


def test_level_0_of_a_candidate_is_its_dot_product_and_context_term(config):
    router = level_flops(config)[0]
    tasks, floats = len(config.tasks), config.candidate.num_floats
    assert router.candidate == 2 * tasks * (config.width + floats)


def test_deeper_levels_cost_more_a_candidate_than_the_router(config):
    router, *deeper = level_flops(config)
    assert all(level.candidate > 10 * router.candidate for level in deeper)
