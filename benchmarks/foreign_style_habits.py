"""Rankers in habits of code: lazy caches, hooks, odd inputs and outputs, newer operators; see ``foreign_styles``.

Letters: B pairs, L history, D width, H heads.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreign_style_sequences import padded
from foreign_styles import LENGTH, NUM_IDS, NUM_ROWS, WIDTH, Made, ids, mlp, style


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


class Diagonal(nn.Module):
    """Scores of all users by all items, of which the diagonal is kept: rows meet, and leave again."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 16)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return torch.diagonal(self.users(user) @ self.items(item).t())


@style("in-batch scores, the diagonal kept")
def _() -> Made:
    return Diagonal(), (ids(), ids()), ["user"]


class ListWise(nn.Module):
    """Candidates see one another: a softmax over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 16)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(-1).softmax(0)


@style("a softmax over the batch")
def _() -> Made:
    return ListWise(), (ids(), ids()), ["user"]


class Capacity(nn.Module):
    """Experts with a capacity: places by cumsum over the batch, what is over is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gate = nn.Embedding(NUM_IDS, 16), nn.Linear(32, 4)
        self.experts = nn.Parameter(torch.randn(4, 32, 1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        x = torch.cat([self.table(user), self.table(item)], 1)
        weights = self.gate(x).softmax(-1)
        chosen = F.one_hot(weights.argmax(-1), 4)
        place = (chosen.cumsum(0) * chosen).sum(-1)
        y = torch.einsum("bd,edk->bek", x, self.experts).squeeze(-1)
        return (y * chosen * weights).sum(-1) * (place <= 64)


@style("experts with a capacity over the batch")
def _() -> Made:
    return Capacity(), (ids(), ids()), ["user"]


class Counter(nn.Module):
    """Eval that counts its calls in a buffer and decays a running mean of the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 16)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        self.calls += 1
        return (self.users(user) * self.items(item)).sum(-1)


@style("a buffer that counts calls")
def _() -> Made:
    return Counter(), (ids(), ids()), ["user"]


class Nested(nn.Module):
    """A NestedTensor of the histories without their padding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 16, padding_idx=0)

    def forward(self, history: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        rows = torch.nested.nested_tensor([self.table(h[:n]) for h, n in zip(history, lengths.tolist(), strict=True)])
        read = torch.nested.to_padded_tensor(rows, 0.0).sum(1)
        return (read * self.table(target)).sum(-1)


@style("a NestedTensor of histories")
def _() -> Made:
    history, lengths = padded()
    return Nested(), (history, lengths, ids()), ["history", "lengths"]


class Looped(nn.Module):
    """Rows of the batch in a Python loop, stacked again."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(NUM_IDS, 16), mlp(32, 1)

    def forward(self, history: Tensor, target: Tensor) -> Tensor:
        out = []
        for row, item in zip(history, target, strict=True):
            h, t = self.table(row), self.table(item)
            weights = torch.softmax(h @ t, dim=0)
            out.append(self.top(torch.cat([weights @ h, t])))
        return torch.stack(out).squeeze(1)


@style("a loop over rows, softmax within each")
def _() -> Made:
    return Looped(), (ids(LENGTH), ids()), ["history"]


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


class Branching(nn.Module):
    """torch.cond on a value of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 16)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, i = self.users(user), self.items(item)
        return torch.cond(u.sum() > 0, lambda a, b: (a * b).sum(-1), lambda a, b: (a - b).sum(-1), (u, i))


@style("torch.cond on the batch")
def _() -> Made:
    return Branching(), (ids(), ids()), ["user"]


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
