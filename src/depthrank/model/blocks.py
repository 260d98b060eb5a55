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
