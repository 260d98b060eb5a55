"""Causal attention in blocks: the values and the gradients of the plain one."""

from __future__ import annotations

import pytest
import torch

from depthrank.model import blocked_attention
from depthrank.model.blocked_attention import causal_attention


def plain(q, k, v):
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(ahead, -1e30).softmax(-1) @ v


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (3, 2, 7, 4), (5, 4, 16, 6)])
@pytest.mark.parametrize("block_scores", [1, 300, 1 << 18])
def test_blocks_give_the_values_and_gradients_of_plain_attention(shape, block_scores, monkeypatch):
    monkeypatch.setattr(blocked_attention, "BLOCK_SCORES", block_scores)
    torch.manual_seed(0)
    parts = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    weight = torch.randn(shape)
    expected, found = plain(*parts), causal_attention(*parts)
    torch.testing.assert_close(found, expected)
    of_plain = torch.autograd.grad((expected * weight).sum(), parts)
    of_blocks = torch.autograd.grad((found * weight).sum(), parts)
    torch.testing.assert_close(of_blocks, of_plain)
