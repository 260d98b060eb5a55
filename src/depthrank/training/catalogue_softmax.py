"""Softmax over a whole catalogue for many positions, without the [P, V] matrix of logits.

The loss of a row is ``-log softmax(h W^T + b)[target]`` and its gradient ``softmax - onehot``: both come from one block
of logits, so forward computes the gradients too, block by block in cache, and backward only scales them. A step of
20,000 positions over 3,416 items would otherwise write and read 270 MB several times. What is given up: second
derivatives.

Legend: P positions, V item rows, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK_LOGITS = 1 << 21  # 8 MB of fp32: product, softmax and both gradients find it in cache
_LEAST = 1e-38


class _CatalogueSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, user_PD: Tensor, item_VD: Tensor, bias_V: Tensor, target_P: Tensor) -> Tensor:
        block = max(1, BLOCK_LOGITS // item_VD.shape[0])
        grad_PD, grad_VD, grad_V = torch.empty_like(user_PD), torch.zeros_like(item_VD), torch.zeros_like(bias_V)
        loss, wanted = user_PD.new_zeros(()), any(ctx.needs_input_grad)
        for start in range(0, user_PD.shape[0], block):
            rows = slice(start, start + block)
            user_bD, target_b = user_PD[rows], target_P[rows]
            share_bV = torch.addmm(bias_V, user_bD, item_VD.T).softmax(dim=1)
            own_b = share_bV.gather(1, target_b.unsqueeze(1))
            loss -= own_b.clamp_min(_LEAST).log().sum()
            if not wanted:
                continue
            share_bV.scatter_(1, target_b.unsqueeze(1), own_b - 1)
            torch.mm(share_bV, item_VD, out=grad_PD[rows])
            grad_VD.addmm_(share_bV.T, user_bD)
            grad_V += share_bV.sum(0)
        ctx.save_for_backward(grad_PD, grad_VD, grad_V)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (scale,) = grads
        grad_PD, grad_VD, grad_V = ctx.saved_tensors
        return grad_PD * scale, grad_VD * scale, grad_V * scale, None


def catalogue_softmax(user_PD: Tensor, item_VD: Tensor, bias_V: Tensor, target_P: Tensor) -> Tensor:
    """Sum over P rows of -log softmax(``user_PD @ item_VD.T + bias_V``) at ``target_P`` (int64), a scalar.

    Everything is fp32; gradients reach the users, the items and the bias.
    """
    with torch.autocast(user_PD.device.type, enabled=False):
        loss: Tensor = _CatalogueSoftmax.apply(  # type: ignore[no-untyped-call]
            user_PD.float(), item_VD.float(), bias_V.float(), target_P
        )
    return loss
