"""Rankers whose attention has caches, biases or masks of its own; see ``foreign_styles``.

Letters: B pairs, L history, D width, H heads.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreign_style_sequences import padded
from foreign_styles import LENGTH, NUM_IDS, NUM_ROWS, Made, ids, mlp, style


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        kind = x.dtype
        x = x.float()
        return (self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))).to(kind)


class Decoder(nn.Module):
    """A layer as in LLaMA: rotary positions computed lazily, two heads of keys for four of queries, SwiGLU."""

    def __init__(self, width: int, lazy: bool) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(width, width, False), nn.Linear(width, width, False)
        self.k, self.v = nn.Linear(width, width // 2, False), nn.Linear(width, width // 2, False)
        self.gate, self.up, self.down = nn.Linear(width, 48, False), nn.Linear(width, 48, False), nn.Linear(48, width)
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.tables: tuple[Tensor, Tensor] | None = None
        self.lazy = lazy

    def rotary(self, length: int, width: int) -> tuple[Tensor, Tensor]:
        if self.tables is None or self.tables[0].size(0) < length or not self.lazy:
            angles = torch.outer(torch.arange(length).float(), 10000 ** (-torch.arange(0, width, 2).float() / width))
            self.tables = (torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin())
        return self.tables[0][:length], self.tables[1][:length]

    def turn(self, x: Tensor) -> Tensor:
        cos, sin = self.rotary(x.size(-2), x.size(-1))
        a, b = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-b, a), dim=-1) * sin

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        h = self.norm1(x)
        q = self.q(h).view(batch, length, 4, -1).transpose(1, 2)
        k, v = (f(h).view(batch, length, 2, -1).transpose(1, 2) for f in (self.k, self.v))
        out = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True, enable_gqa=True)
        x = x + self.o(out.transpose(1, 2).reshape(batch, length, width))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class LlamaRanker(nn.Module):
    """The candidate's token behind the history; the last state is scored."""

    def __init__(self, lazy: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 32)
        self.layers = nn.ModuleList(Decoder(32, lazy) for _ in range(2))
        self.norm, self.head = RMSNorm(32), nn.Linear(32, 1)

    def forward(self, input_ids: Tensor, target: Tensor) -> Tensor:
        x = self.table(torch.cat([input_ids, target[:, None]], 1))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))[:, -1, 0]


@style("LLaMA layers, GQA by enable_gqa, rotary tables cached lazily")
def _() -> Made:
    return LlamaRanker(True), (ids(LENGTH), ids()), ["input_ids"]


@style("LLaMA layers, rotary tables made in every call")
def _() -> Made:
    return LlamaRanker(False), (ids(LENGTH), ids()), ["input_ids"]


class PastKeys(nn.Module):
    """Keys and values of the prompt come as a nested tuple, as past_key_values do; the candidate attends to them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.q, self.out = nn.Embedding(NUM_IDS, 16), nn.Linear(16, 16), nn.Linear(32, 2)

    def forward(self, target: Tensor, past: tuple[tuple[Tensor, Tensor], ...]) -> tuple[Tensor, Tensor]:
        x = self.table(target)
        read = []
        for k, v in past:
            q = self.q(x).view(-1, 2, 1, 8)
            read.append(F.scaled_dot_product_attention(q, k, v).flatten(1))
        logits = self.out(torch.cat([x, torch.stack(read).sum(0)], -1))
        return logits, logits.softmax(-1)[:, 1]


@style("past keys and values as nested tuples")
def _() -> Made:
    past = tuple((torch.randn(NUM_ROWS, 2, 6, 8), torch.randn(NUM_ROWS, 2, 6, 8)) for _ in range(2))
    return PastKeys(), (ids(), past), ["past"]


class Weights(nn.Module):
    """nn.MultiheadAttention with key_padding_mask, a float attn_mask, and its weights as a second output."""

    def __init__(self, average: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 16, padding_idx=0)
        self.attention, self.top = nn.MultiheadAttention(16, 4, batch_first=True), mlp(32, 1)
        self.average = average

    def forward(self, history: Tensor, target: Tensor) -> dict[str, Any]:
        h, t = self.table(history), self.table(target).unsqueeze(1)
        bias = torch.linspace(-1, 0, history.shape[1]).unsqueeze(0)
        read, weights = self.attention(t, h, h, key_padding_mask=history.eq(0), attn_mask=bias, need_weights=True,
                                       average_attn_weights=self.average)  # fmt: skip
        logit = self.top(torch.cat([read, t], -1)).squeeze(-1).squeeze(-1)
        return {"logit": logit, "weights": weights, "extra": {"probability": logit.sigmoid(), "none": None}}


@style("MultiheadAttention, averaged weights in a nested dict")
def _() -> Made:
    return Weights(True), (padded()[0], ids()), ["history"]


@style("MultiheadAttention, weights of every head in a nested dict")
def _() -> Made:
    return Weights(False), (padded()[0], ids()), ["history"]


class EncoderDecoder(nn.Module):
    """nn.Transformer: the history is the source, the candidate the target."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 16, padding_idx=0)
        self.net = nn.Transformer(16, 2, 1, 1, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 1)

    def forward(self, history: Tensor, target: Tensor) -> Tensor:
        mask = history == 0
        out = self.net(self.table(history), self.table(target).unsqueeze(1), src_key_padding_mask=mask,
                       memory_key_padding_mask=mask)  # fmt: skip
        return self.head(out[:, 0]).squeeze(-1).sigmoid()


@style("nn.Transformer, the candidate as its target")
def _() -> Made:
    return EncoderDecoder(), (padded()[0], ids()), ["history"]


class T5Bias(nn.Module):
    """Relative positions in logarithmic buckets as T5 has them, and ALiBi slopes on other heads."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.bias = nn.Embedding(NUM_IDS, 16), nn.Embedding(8, 2)
        self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, 1)

    def buckets(self, length: int) -> Tensor:
        gap = torch.arange(length)[None, :] - torch.arange(length)[:, None]
        gap = -torch.min(gap, torch.zeros_like(gap))
        large = 4 + (torch.log(gap.float() / 4 + 1e-9) / math.log(20 / 4) * 4).to(torch.long)
        return torch.where(gap < 4, gap, torch.min(large, torch.full_like(large, 7)))

    def forward(self, history: Tensor, target: Tensor) -> Tensor:
        x = self.table(torch.cat([history, target.view(-1, 1)], dim=-1))
        n = x.size(1)
        q, k, v = rearranged(self.qkv(x))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(4)
        relative = self.bias(self.buckets(n)).permute(2, 0, 1).unsqueeze(0)
        slopes = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1) * torch.arange(n).sub(n - 1).view(1, 1, 1, n)
        scores = scores + torch.cat([relative, slopes.expand(1, 2, n, n)], dim=1)
        causal = torch.ones(n, n, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(causal, torch.finfo(scores.dtype).min).softmax(dim=-1)
        return self.head(torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2)[:, -1]).squeeze(-1)


def rearranged(x: Tensor) -> tuple[Tensor, ...]:
    """[B, L, 3 H d] to three of [B, H, L, d], as einops writes it."""
    return x.view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)


@style("T5 buckets and ALiBi slopes, causal")
def _() -> Made:
    return T5Bias(), (ids(LENGTH), ids()), ["history"]
