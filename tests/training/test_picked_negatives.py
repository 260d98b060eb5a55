"""Negatives of deeper levels: the router's highest for certain, others at random, together an unbiased sample."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.training.survivors import pick_negatives


def drawn(value, eligible, survivors, others, seed=0):
    return pick_negatives(value, eligible, survivors, others, torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 8), st.integers(0, 8), st.integers(0, 2**31), st.floats(0, 1))
def test_what_is_picked_is_eligible_once_and_stands_for_all(slots, survivors, others, seed, share):
    g = torch.Generator().manual_seed(seed)
    value, eligible = torch.randn(4, slots, generator=g), torch.rand(4, slots, generator=g) < share
    picked = drawn(value, eligible, survivors, others, seed)
    for r in range(4):
        index = picked.index_RM[r][picked.taken_RM[r]]
        assert eligible[r, index].all() and index.unique().numel() == index.numel()
        room, available = survivors + others, int(eligible[r].sum())
        assert index.numel() == min(room, available)
        stands_for = picked.log_factor_RM[r][picked.taken_RM[r]].exp().sum()
        if others or available <= survivors:
            torch.testing.assert_close(stands_for, torch.tensor(float(available)), atol=1e-3, rtol=1e-4)


def test_survivors_are_the_highest_and_stand_for_themselves():
    value = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.3]])
    picked = drawn(value, torch.tensor([[True, True, True, False, True]]), 2, 1)
    assert picked.index_RM[0, :2].tolist() == [1, 2] and picked.log_factor_RM[0, :2].tolist() == [0.0, 0.0]
    assert picked.index_RM[0, 2] in (0, 4)
    torch.testing.assert_close(picked.log_factor_RM[0, 2], torch.tensor(2.0).log())


def test_a_sum_over_the_picked_estimates_the_sum_over_all_without_bias():
    g = torch.Generator().manual_seed(1)
    value = torch.randn(1, 60, generator=g)
    eligible, worth = torch.ones_like(value, dtype=torch.bool), value.exp()
    estimates, uncorrected = [], []
    for seed in range(400):
        picked = drawn(value, eligible, 6, 6, seed)
        of_picked = worth.gather(1, picked.index_RM)
        estimates.append((of_picked * picked.log_factor_RM.exp()).sum())
        uncorrected.append(of_picked.sum() * 60 / 12)
    error = torch.stack(estimates).mean() / worth.sum() - 1
    assert abs(float(error)) < 0.02
    assert float(torch.stack(uncorrected).mean() / worth.sum() - 1) > 0.3, "survivors without correction mislead"
