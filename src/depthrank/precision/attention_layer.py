"""Softmax attention as a layer without weights, so that a policy can say in which format it runs.

Legend: n batch, H heads, Q queries, P keys, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCK_SCORES = 1 << 19  # 1 MB of bf16: scores of some queries against all keys stay in a core's cache


class AttentionLayer(nn.Module):
    """``forward(q, k, v, bias=None, causal=False)`` -> [n, H, Q, d]; subclasses say how."""

    def forward(
        self, q_nHQd: Tensor, k_nHPd: Tensor, v_nHPd: Tensor, bias: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """``bias`` broadcasts over queries [n, H, 1, P]; ``causal``: queries are the last positions of the keys."""
        raise NotImplementedError


class Bf16Attention(AttentionLayer):
    """Both products in bf16, queries in blocks whose scores stay in cache; answers in the dtype of the queries.

    torch's fused bf16 kernel goes through MKL, which does not use AVX-512 on AMD: measured slower than fp32.
    """

    def forward(
        self, q_nHQd: Tensor, k_nHPd: Tensor, v_nHPd: Tensor, bias: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """As the layer it stands for, to the precision of bf16."""
        num_queries, num_keys = q_nHQd.shape[2], k_nHPd.shape[2]
        q = (q_nHQd * q_nHQd.shape[-1] ** -0.5).to(torch.bfloat16)
        k, v = k_nHPd.to(torch.bfloat16).transpose(-2, -1), v_nHPd.to(torch.bfloat16)
        bias = None if bias is None else bias.to(torch.bfloat16)
        rows = max(1, BLOCK_SCORES // max(1, q.shape[0] * q.shape[1] * num_keys))
        out = q_nHQd.new_empty(q_nHQd.shape)
        for first in range(0, num_queries, rows):
            block = slice(first, min(first + rows, num_queries))
            seen = num_keys - num_queries + block.stop if causal else num_keys
            scores = q[:, :, block] @ k[..., :seen]
            if bias is not None:
                scores += bias[..., :seen]
            if causal:
                scores += _ahead(block.stop - block.start, seen, scores)
            out[:, :, block] = scores.softmax(dim=-1) @ v[:, :, :seen]
        return out


def _ahead(num_queries: int, num_keys: int, like: Tensor) -> Tensor:
    """[Q, P]: a huge negative number where a key lies behind its query, which is one of the last positions."""
    huge = torch.finfo(like.dtype).min / 2
    return like.new_full((num_queries, num_keys), huge).triu(1 + num_keys - num_queries)
