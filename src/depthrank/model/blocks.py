"""The blocks that LLM-style rankers are made of: RMSNorm, SwiGLU, rotary positions. No biases anywhere.

Legend: D width, H heads, d width of a head, L positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthrank.model.blocked_attention import causal_attention
from depthrank.precision import AttentionLayer


class SwiGLU(nn.Module):
    """``W_down (silu(W_gate x) * W_up x)``; gate and up are one product (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width_in: int, hidden: int, width_out: int, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.gate_and_up = linear(width_in, 2 * hidden, bias=False)
        self.down = linear(hidden, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width_in] -> [..., width_out]."""
        gate, up = self.gate_and_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class Dropout(nn.Module):
    """Dropout from random bytes, its rate rounded to 1/256: a quarter of the time of torch's on a CPU."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = round(rate * 256)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` in eval mode; in training with values dropped and the rest scaled up."""
        if not self.training or not self.dropped:
            return x
        words = torch.empty(x.numel() // 8 + 1, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * kept * (256 / (256 - self.dropped))


class RMSNorm(nn.Module):
    """``x / rms(x) * scale`` (Zhang and Sennrich 2019); torch's own makes four passes over memory on a CPU."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        if torch.compiler.is_exporting():  # compiled code computes a row's scale anew for every 16 of its numbers
            mean = x.square().sum(dim=-1, keepdim=True) * (1.0 / self.width)
            return x * (mean + self.eps).rsqrt() * self.weight
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scaled: Tensor = x * (length.square() / self.width + self.eps).rsqrt()
        return scaled * self.weight if torch.is_grad_enabled() else scaled.mul_(self.weight)


def norm(width: int) -> RMSNorm:
    """RMSNorm with a learned scale."""
    return RMSNorm(width)


def split_heads(x_nLD: Tensor, num_heads: int) -> Tensor:
    """[n, L, D] -> [n, H, L, d]."""
    n, length, width = x_nLD.shape
    return x_nLD.view(n, length, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x_nHLd: Tensor) -> Tensor:
    """[n, H, L, d] -> [n, L, D]."""
    n, heads, length, width = x_nHLd.shape
    return x_nHLd.transpose(1, 2).reshape(n, length, heads * width)


FUSED_ATTENTION_SCORES = (
    1 << 18
)  # above this many scores a head, the fused kernel's saved traffic pays for its overhead


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """Softmax attention [n, H, Lq, d]; ``bias`` broadcasts to the scores [n, H, Lq, Lk], -inf-like where hidden.

    ``causal``: the queries are the last positions of the keys, and see none behind their own.
    Short sequences run as two products and a softmax: torch's fused CPU kernel costs several times that on them,
    forward and backward (docs/log.md), and causal ones in training run in cache (``blocked_attention``). Long ones run
    fused, without the scores in memory.
    """
    num_queries, num_keys = q.shape[2], k.shape[2]
    causal = causal and num_queries > 1
    if num_queries * num_keys > FUSED_ATTENTION_SCORES and not (torch.is_grad_enabled() and q.requires_grad):
        mask = None if bias is None else bias.to(q.dtype).expand(-1, -1, num_queries, -1)
        if causal and num_queries < num_keys:  # torch's own causal mask takes the queries for the first positions
            mask, causal = _ahead(num_queries, num_keys, q.device).logical_not(), False
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    if causal and bias is None and num_queries == num_keys and torch.is_grad_enabled() and _is_fp32_on_cpu(q):
        return causal_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if causal:
        scores = scores.masked_fill(_ahead(num_queries, num_keys, scores.device), torch.finfo(scores.dtype).min)
    mixed: Tensor = scores.softmax(dim=-1) @ v
    return mixed


class Attention(AttentionLayer):
    """``attend`` as a layer, so that serving may run it in another format."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """As ``attend``."""
        return attend(q, k, v, bias, causal=causal)


def _is_fp32_on_cpu(q: Tensor) -> bool:
    return q.dtype == torch.float32 and q.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _ahead(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Bool [Lq, Lk]: the keys that lie behind each of the last Lq positions."""
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).triu(1 + num_keys - num_queries)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021): scores depend on the distance of positions only."""

    cos_Pd: Tensor
    sin_Pd: Tensor

    def __init__(self, head_width: int, num_positions: int, base: float = 10_000.0) -> None:
        super().__init__()
        exponent = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
        angle_Pd = torch.arange(num_positions, dtype=torch.float32).unsqueeze(1) * base**-exponent
        self.register_buffer("cos_Pd", angle_Pd.cos(), persistent=False)
        self.register_buffer("sin_Pd", angle_Pd.sin(), persistent=False)

    def forward(self, x_nHLd: Tensor, first: int = 0) -> Tensor:
        """Rotate L vectors to the positions from ``first`` on."""
        here = slice(first, first + x_nHLd.shape[2])
        return _rotate(x_nHLd, self.cos_Pd[here], self.sin_Pd[here])

    def at(self, x_RHCd: Tensor, position_R: Tensor) -> Tensor:
        """Rotate all vectors of request r to ``position_R[r]``."""
        place = (position_R.shape[0], 1, 1, -1)
        return _rotate(x_RHCd, self.cos_Pd[position_R].view(place), self.sin_Pd[position_R].view(place))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    even, odd = x.chunk(2, dim=-1)
    return torch.cat((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
