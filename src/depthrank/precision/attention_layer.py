"""Softmax attention as a layer without weights, so that a policy can say in which format it runs.

Legend: n batch, H heads, Q queries, P keys, d head width.
"""

from __future__ import annotations

from torch import Tensor, nn

from depthrank.kernels import rounded_attention


class AttentionLayer(nn.Module):
    """``forward(q, k, v, bias=None, causal=False)`` -> [n, H, Q, d]; subclasses say how."""

    def forward(
        self, q_nHQd: Tensor, k_nHPd: Tensor, v_nHPd: Tensor, bias: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """``bias`` broadcasts over queries [n, H, 1, P]; ``causal``: queries are the last positions of the keys."""
        raise NotImplementedError


class RoundedAttention(AttentionLayer):
    """In bf16, or with queries and keys in int8: ``kernels.rounded_attention``."""

    def __init__(self, int8: bool = False) -> None:
        super().__init__()
        self.int8 = int8

    def forward(
        self, q_nHQd: Tensor, k_nHPd: Tensor, v_nHPd: Tensor, bias: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """As the layer it stands for, to the precision of its format."""
        return rounded_attention(q_nHQd, k_nHPd, v_nHPd, bias, causal, self.int8)
