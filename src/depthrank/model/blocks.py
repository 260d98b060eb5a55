"""The blocks that LLM-style rankers are made of: RMSNorm, SwiGLU, rotary positions. No biases anywhere.

Legend: D width, H heads, d width of a head, L positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """``W_down (silu(W_gate x) * W_up x)``; gate and up are one product (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.gate_and_up = nn.Linear(width_in, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width_in] -> [..., width_out]."""
        gate, up = self.gate_and_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


def norm(width: int) -> nn.RMSNorm:
    """RMSNorm with a learned scale (Zhang and Sennrich 2019)."""
    return nn.RMSNorm(width, eps=1e-6)


def split_heads(x_nLD: Tensor, num_heads: int) -> Tensor:
    """[n, L, D] -> [n, H, L, d]."""
    n, length, width = x_nLD.shape
    return x_nLD.view(n, length, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x_nHLd: Tensor) -> Tensor:
    """[n, H, L, d] -> [n, L, D]."""
    n, heads, length, width = x_nHLd.shape
    return x_nHLd.transpose(1, 2).reshape(n, length, heads * width)


FUSED_ATTENTION_SCORES = 1 << 18  # above this many scores a head, the fused kernel's saved traffic pays for its overhead


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """Softmax attention [n, H, Lq, d]; ``bias`` broadcasts to the scores [n, H, Lq, Lk], -inf-like where hidden.

    Short sequences run as two products and a softmax: torch's fused CPU kernel costs several times that on them,
    forward and backward (docs/log.md). Long ones run fused, without the scores in memory.
    """
    if q.shape[2] * k.shape[2] > FUSED_ATTENTION_SCORES and not (torch.is_grad_enabled() and q.requires_grad):
        mask = None if bias is None else bias.to(q.dtype).expand(-1, -1, q.shape[2], -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(ahead, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1) @ v


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021): scores depend on the distance of positions only."""

    frequency_d: Tensor

    def __init__(self, head_width: int, base: float = 10_000.0) -> None:
        super().__init__()
        exponent = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
        self.register_buffer("frequency_d", base**-exponent, persistent=False)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Rotate ``x`` [..., L, d] to ``position``, which broadcasts to [..., L]."""
        angle = position.to(torch.float32).unsqueeze(-1) * self.frequency_d
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        even, odd = x.chunk(2, dim=-1)
        return torch.cat((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
