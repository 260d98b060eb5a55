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
        n, heads, num_queries, width = q_nHQd.shape
        num_keys, bf16 = k_nHPd.shape[2], torch.bfloat16
        q_bQd = (q_nHQd * width**-0.5).to(bf16).reshape(n * heads, num_queries, width)
        # contiguous at once: products copy keys of a transposed layout, which a mere cast would keep
        k_bPd, v_bPd = (
            x.to(bf16, memory_format=torch.contiguous_format).reshape(n * heads, num_keys, width)
            for x in (k_nHPd, v_nHPd)
        )
        bias_b1P = None
        if bias is not None:
            bias_b1P = bias.to(bf16).expand(n, heads, 1, num_keys).reshape(n * heads, 1, num_keys)
        rows = max(1, BLOCK_SCORES // max(1, n * heads * num_keys))
        out_bQd = torch.empty_like(q_bQd)
        for first in range(0, num_queries, rows):
            block = slice(first, min(first + rows, num_queries))
            seen = num_keys - num_queries + block.stop if causal else num_keys
            turned_bdP = k_bPd[:, :seen].transpose(1, 2)
            if bias_b1P is None:
                score_bQP = torch.bmm(q_bQd[:, block], turned_bdP)
            else:
                score_bQP = torch.baddbmm(bias_b1P[..., :seen], q_bQd[:, block], turned_bdP)
            if causal:
                score_bQP += _ahead(block.stop - first, seen, score_bQP)
            out_bQd[:, block] = torch.bmm(score_bQP.softmax(dim=-1), v_bPd[:, :seen])
        return out_bQd.view(n, heads, num_queries, width).to(q_nHQd.dtype)


def _ahead(num_queries: int, num_keys: int, like: Tensor) -> Tensor:
    """[Q, P]: a huge negative number where a key lies behind its query, which is one of the last positions."""
    huge = torch.finfo(like.dtype).min / 2
    return like.new_full((num_queries, num_keys), huge).triu(1 + num_keys - num_queries)
