"""The softmax over a catalogue in blocks: the loss and the gradients of the plain one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from depthrank.training import catalogue_softmax as blocked
from depthrank.training.catalogue_softmax import catalogue_softmax


def inputs(seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    user = torch.randn(37, 6, generator=g, requires_grad=True)
    item = torch.randn(11, 6, generator=g, requires_grad=True)
    bias = torch.randn(11, generator=g, requires_grad=True)
    return user, item, bias, torch.randint(0, 11, (37,), generator=g)


@pytest.mark.parametrize("block_logits", [1, 50, 1 << 21])
def test_blocks_give_the_loss_and_gradients_of_the_whole(block_logits, monkeypatch):
    monkeypatch.setattr(blocked, "BLOCK_LOGITS", block_logits)
    user, item, bias, target = inputs()
    plain = F.cross_entropy(user @ item.T + bias, target, reduction="sum")
    expected = torch.autograd.grad(3.0 * plain, (user, item, bias))
    loss = catalogue_softmax(user, item, bias, target)
    found = torch.autograd.grad(3.0 * loss, (user, item, bias))
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, expected)


def test_without_gradients_the_loss_is_the_same_and_autocast_changes_nothing():
    user, item, bias, target = inputs()
    wanted = catalogue_softmax(user, item, bias, target).detach()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(catalogue_softmax(user, item, bias, target), wanted)


def test_no_positions_cost_nothing():
    user, item, bias, _ = inputs()
    loss = catalogue_softmax(user[:0], item, bias, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0.0 and not item.grad.any()
