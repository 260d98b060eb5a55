"""The survival loss: cheap where the shallow level keeps the deepest's top, dear where it loses it."""

from __future__ import annotations

import pytest
import torch

from depthrank.model import CandidateLayout
from depthrank.training.losses import Labels
from depthrank.training.survival import survival_loss

ONE = torch.ones(1)


def labels_of(request: torch.Tensor, log_importance: torch.Tensor | None = None) -> Labels:
    n = request.shape[0]
    importance = torch.zeros(n) if log_importance is None else log_importance
    layout = CandidateLayout(request, int(request.max()) + 1)
    return Labels(torch.zeros(n, 1), importance, torch.ones(n, dtype=torch.bool), request, layout)


def orders(seed: int = 0) -> tuple[torch.Tensor, Labels]:
    g = torch.Generator().manual_seed(seed)
    request = torch.repeat_interleave(torch.arange(3), torch.tensor([40, 25, 33]))
    return torch.randn(98, 1, generator=g), labels_of(request)


def test_agreeing_levels_cost_less_than_opposed_ones():
    deep, labels = orders()
    agreeing = survival_loss(3 * deep, deep, labels, ONE, [12])
    opposed = survival_loss(-3 * deep, deep, labels, ONE, [12])
    assert float(agreeing) < 0.7 < 2.0 < float(opposed)


def test_descending_the_loss_brings_the_deepest_top_inside_the_width():
    deep, labels = orders()
    shallow = torch.randn(98, 1, generator=torch.Generator().manual_seed(9)).requires_grad_()

    def kept() -> float:
        total = 0.0
        for r in range(3):
            own = labels.request_of_candidate_N == r
            top, inside = deep[own, 0].topk(10).indices, shallow.detach()[own, 0].topk(15).indices
            total += float(torch.isin(top, inside).float().mean()) / 3
        return total

    before = kept()
    optimizer = torch.optim.Adam([shallow], lr=0.1)
    for _ in range(120):
        optimizer.zero_grad()
        survival_loss(shallow, deep, labels, ONE, [15]).backward()
        optimizer.step()
    assert before < 0.7 and kept() > 0.95


def test_no_gradient_reaches_the_deepest_level():
    deep, labels = orders()
    deep.requires_grad_()
    shallow = torch.randn(98, 1, requires_grad=True)
    survival_loss(shallow, deep, labels, ONE, [12]).backward()
    assert deep.grad is None and shallow.grad is not None and shallow.grad.any()


def test_a_width_that_holds_every_candidate_costs_nothing():
    deep, labels = orders()
    assert float(survival_loss(-deep, deep, labels, ONE, [1000])) == 0.0


def test_a_sampled_candidate_counts_for_as_many_as_it_stands_for():
    deep = torch.arange(30.0).unsqueeze(1).flip(0)
    request = torch.zeros(30, dtype=torch.int64)
    heavy = torch.where(torch.arange(30) < 12, 0.0, float(torch.tensor(50.0).log()))
    alone = survival_loss(deep, deep, labels_of(request), ONE, [40])
    standing = survival_loss(deep, deep, labels_of(request, heavy), ONE, [40])
    assert float(alone) == 0.0, "30 candidates all fit in a width of 40"
    assert float(standing) > 0.0, "18 of them stand for 50 each: the threshold lies among them"


def test_several_tasks_survive_by_value():
    g = torch.Generator().manual_seed(2)
    deep, request = torch.randn(40, 2, generator=g), torch.zeros(40, dtype=torch.int64)
    value = torch.tensor([1.0, 0.0])
    by_first = survival_loss(deep, deep, labels_of(request), value, [12])
    other = torch.stack((deep[:, 0], -deep[:, 1]), 1)
    assert float(survival_loss(other, deep, labels_of(request), value, [12])) == pytest.approx(
        float(by_first), rel=1e-5
    )
