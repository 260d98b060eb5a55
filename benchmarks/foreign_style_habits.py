"""Rankers in habits of code: lazy caches, hooks, odd inputs and outputs, newer operators; see ``foreign_styles``.

Letters: B pairs, L history, D width, H heads.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foreign_style_sequences import padded
from foreign_styles import LENGTH, NUM_IDS, NUM_ROWS, WIDTH, Made, ids, mlp, style


class Windows(nn.Module):
    """Tensor.unfold over the history, an ellipsis in einsum, three operands in one, index_put_ with accumulation."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(NUM_IDS, 16), nn.Parameter(torch.randn(3, 16, 8))
        self.cube, self.top = nn.Parameter(torch.randn(8, 16, 4)), mlp(4 + 5, 1)

    def forward(self, history: Tensor, target: Tensor, price: Tensor) -> Tensor:
        windows = self.table(history).unfold(1, 3, 1)  # [B, L - 2, D, 3]
        read = torch.einsum("...dw,wde->...e", windows, self.mix).amax(dim=1)
        crossed = torch.einsum("be,edk,bd->bk", read, self.cube, self.table(target))
        counts = torch.zeros(history.size(0), 5)
        rows = torch.arange(history.size(0)).unsqueeze(1).expand_as(history)
        counts.index_put_((rows, history % 5), price.unsqueeze(1).expand_as(history), accumulate=True)
        return self.top(torch.cat([crossed, counts], dim=1)).flatten()


@style("unfold, ellipsis, three operands, index_put_ with accumulation")
def _() -> Made:
    return Windows(), (ids(LENGTH), ids(), torch.rand(NUM_ROWS)), ["history"]


class Scores(NamedTuple):
    click: Tensor
    like: Tensor | None
    ids: Tensor
    version: str


class Hooked(nn.Module):
    """Forward hooks, a pre-hook, a compiled part, a lazy layer, an lru_cache over sizes, an attribute kept."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({n: nn.Embedding(NUM_IDS, WIDTH) for n in ("user", "item")})
        self.net = nn.Sequential(OrderedDict(first=nn.LazyLinear(16), act=nn.GELU("tanh"), last=nn.Linear(16, 1)))
        self.scales = nn.ParameterList([torch.full((1,), 2.0), torch.full((WIDTH,), 0.5)])
        self.net.register_forward_hook(lambda module, args, out: out * 2)
        self.net.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        self.last: Tensor | None = None

    @staticmethod
    @functools.lru_cache(maxsize=8)
    def decay(size: int) -> Tensor:
        return torch.exp(-torch.arange(size) / size)

    @torch.no_grad()
    def forward(self, *, user: Tensor, item: Tensor, note: str = "x", flag: Tensor | None = None) -> Scores:
        u, i = self.tables["user"](user), self.tables["item"](item)
        x = torch.cat([u * self.scales[1], i, self.decay(WIDTH).expand(len(u), -1)], dim=-1)
        self.last = x
        y = self.net(x).squeeze(-1) * self.scales[0]
        return Scores(y.sigmoid(), None if flag is None else y * flag, item, note)


@style("hooks, a lazy layer, lru_cache, keyword-only, a NamedTuple with an id, None and text")
def _() -> Made:
    module = Hooked().eval()
    example = {"user": ids(), "item": ids()}
    module(**example)
    return module, example, ["user"]


class EightBit(nn.Module):
    """Tables in eight bits with a scale a row, ids modulo their size, -1 as padding clamped and masked."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.randint(-127, 128, (NUM_IDS, 16), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(NUM_IDS, 1) / 64)
        self.top = mlp(32, 1)

    def look_up(self, index: Tensor) -> Tensor:
        index = index % NUM_IDS
        return self.rows[index].float() * self.scale[index]

    def forward(self, history: Tensor, target: Tensor) -> Tensor:
        here = (history >= 0).unsqueeze(-1)
        pooled = (self.look_up(history.clamp(min=0)) * here).sum(1) / here.sum(1).clamp(min=1)
        return self.top(torch.cat([pooled, self.look_up(target * 2654435761)], 1)).reshape(-1)


@style("int8 tables, hashed ids, -1 as padding")
def _() -> Made:
    history = torch.where(torch.rand(NUM_ROWS, LENGTH) < 0.3, -1, ids(LENGTH))
    return EightBit(), (history, ids()), ["history"]


class Sinkhorn(nn.Module):
    """Soft matching of history and query words by Sinkhorn steps, and a distance by cdist."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.steps = nn.Embedding(NUM_IDS, 16), 4

    def forward(self, history: Tensor, words: Tensor) -> Tensor:
        cost = torch.cdist(self.table(history), self.table(words))
        plan, step = -cost, 0
        while step < self.steps:
            plan = plan - plan.logsumexp(dim=-1, keepdim=True)
            plan = plan - plan.logsumexp(dim=-2, keepdim=True)
            step += 1
        return -(plan.exp() * cost).sum(dim=(-2, -1))


@style("Sinkhorn steps over cdist")
def _() -> Made:
    return Sinkhorn(), (ids(LENGTH), ids(5)), ["history"]


class Bilinear(nn.Module):
    """nn.Bilinear, nn.CosineSimilarity, nn.PairwiseDistance, a Hadamard of the two, and ids as an output."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 16)
        self.form, self.cosine, self.distance = nn.Bilinear(16, 16, 4), nn.CosineSimilarity(), nn.PairwiseDistance()
        self.top = nn.Sequential(nn.Linear(6, 8), nn.Hardswish(), nn.Linear(8, 3))

    def forward(self, user: Tensor, item: Tensor) -> list[Tensor]:
        u, i = self.users(user), self.items(item)
        near = torch.stack([self.cosine(u, i), self.distance(u, i)], -1)
        out = self.top(torch.cat([self.form(u, i), near], -1))
        return [*out.unbind(-1), out.argmax(-1), user]


@style("nn.Bilinear, cosine and distance; labels and the user's id as outputs")
def _() -> Made:
    return Bilinear(), (ids(), ids()), ["user"]


class LongShort(nn.Module):
    """SIM: hard search by category through nonzero per row is a topk over a masked score; time gaps by bucketize."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.kind, self.gap = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 8), nn.Embedding(8, 8)
        self.register_buffer("edges", torch.tensor([1.0, 2, 4, 8, 16, 32, 64]))
        self.attention, self.top = nn.MultiheadAttention(32, 2, kdim=32, vdim=32, batch_first=True), mlp(64, 1)

    def forward(self, seen: Tensor, kinds: Tensor, times: Tensor, item: Tensor, kind: Tensor, now: Tensor) -> Tensor:
        same = (kinds == kind.unsqueeze(1)).float() - torch.arange(kinds.size(1)) * 1e-3
        best = same.topk(4, dim=1)
        pick = lambda x: torch.gather(x, 1, best.indices)  # noqa: E731 as found
        gaps = torch.bucketize(now.unsqueeze(1) - pick(times), self.edges)
        rows = torch.cat([self.table(pick(seen)), self.kind(pick(kinds)), self.gap(gaps)], -1)
        query = torch.cat([self.table(item), self.kind(kind), torch.zeros(len(item), 8)], -1).unsqueeze(1)
        read = self.attention(query, rows, rows, key_padding_mask=best.values < 0.5, need_weights=False)[0]
        return self.top(torch.cat([torch.nan_to_num(read), query], -1)).squeeze()


@style("SIM by category, topk and bucketized gaps")
def _() -> Made:
    times = torch.rand(NUM_ROWS, LENGTH) * 60
    inputs = (ids(LENGTH), ids(LENGTH) % 3, times, ids(), ids() % 3, torch.full((NUM_ROWS,), 61.0))
    return LongShort(), inputs, ["seen", "kinds", "times", "now"]


class TargetTime(nn.Module):
    """TIN: target-aware time positions, attention and representation both by the target (semantic x temporal)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.time = nn.Embedding(NUM_IDS, 16), nn.Embedding(LENGTH + 1, 16)
        self.top = mlp(32, 1)

    def forward(self, history: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        steps = torch.arange(history.shape[1], device=history.device)
        place = (lengths.unsqueeze(1) - steps).clamp(0, history.shape[1])
        h = self.table(history) + self.time(place)
        t = (self.table(target) + self.time.weight[0]).unsqueeze(1)
        here = steps < lengths.unsqueeze(1)
        alpha = (h * t).sum(-1, keepdim=True) / 4
        alpha = alpha.masked_fill(~here.unsqueeze(-1), -1e9).softmax(1)
        return self.top(torch.cat([(alpha * (h * t)).sum(1), t.squeeze(1)], -1)).view(-1)


@style("TIN, target-aware time positions")
def _() -> Made:
    history, lengths = padded()
    return TargetTime(), (history, lengths, ids()), ["history", "lengths"]
