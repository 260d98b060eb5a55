"""Target attention: candidate tokens of a request attend to that request's history K/V, all in one product.

No K/V is repeated per candidate: queries are laid out [R, H, C, d] against [R, H, P, d]. Recency relative to the
request enters here, as a bias per head and age bucket, so user states stay free of the request's time.

Legend: R requests, C candidates a request (padded), P history positions, D width, H heads, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthrank.model.blocks import Attention, Dropout, Rotary, SwiGLU, merge_heads, norm, split_heads
from depthrank.model.config import ModelConfig
from depthrank.model.sparse_experts import SparseExperts

NUM_AGE_BUCKETS = 64


class TargetAttention(nn.Module):
    """One layer of candidates over history: pre-norm cross-attention and SwiGLU, both residual."""

    def __init__(self, config: ModelConfig, width: int | None = None, experts: int = 1) -> None:
        """``width`` of the candidate states (None: the encoder's, whose K/V they attend to)."""
        super().__init__()
        width = width or config.width
        self.heads = config.heads
        self.attention_norm = norm(width)
        self.query = nn.Linear(width, config.width, bias=False)
        self.attention = Attention()
        self.out = nn.Linear(config.width, width, bias=False)
        self.age = nn.Embedding(NUM_AGE_BUCKETS, config.heads)
        nn.init.zeros_(self.age.weight)
        self.mlp_norm = norm(width)
        hidden = config.ffn_multiple * width
        self.mlp = SwiGLU(width, hidden, width) if experts == 1 else SparseExperts(width, hidden, width, experts)
        self.recency = config.recency
        self.rotary = Rotary(config.width // config.heads, config.num_positions)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x_RCD: Tensor, k_RHPd: Tensor, v_RHPd: Tensor, age_RP: Tensor, visible_RP: Tensor, length_R: Tensor
    ) -> Tensor:
        """The next candidate states [R, C, D].

        ``age_RP``: age bucket of each position as of the request. ``visible_RP``: bool, the start token and the
        request's own history. ``length_R``: history length; queries stand at the position after the last event.
        """
        q_RHCd = split_heads(self.query(self.attention_norm(x_RCD)), self.heads)
        q_RHCd = self.rotary.at(q_RHCd, length_R + 1)
        age_RP = age_RP if self.recency else torch.zeros_like(age_RP)
        bias_RH1P = self.age(age_RP).permute(0, 2, 1).unsqueeze(2)
        hidden = torch.finfo(bias_RH1P.dtype).min
        bias_RH1P = bias_RH1P.masked_fill(~visible_RP[:, None, None, :], hidden)
        mixed_RCD = merge_heads(self.attention(q_RHCd, k_RHPd, v_RHPd, bias_RH1P))
        x_RCD = x_RCD + self.dropout(self.out(mixed_RCD))
        return x_RCD + self.dropout(self.mlp(self.mlp_norm(x_RCD)))  # type: ignore[no-any-return]
