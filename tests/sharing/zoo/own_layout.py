"""Awkward in how they take and return tensors: packed matrices, keywords, in-place writes, bags, several outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .entry import Columns, Sizes, ZooModel, column, dense, history, ids, merged
from .own_cross import tower


class PackedFM(nn.Module):
    """One integer matrix of categories; per-field offsets into a single table; FM plus MLP."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        num = s.num_user + s.num_item
        self.offsets = np.arange(num) * s.vocab
        self.embedding, self.fc = nn.Embedding(num * s.vocab, s.width), nn.Embedding(num * s.vocab, 1)
        self.bias = nn.Parameter(torch.zeros((1,)))
        self.mlp = tower(num * s.width, s, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + x.new_tensor(self.offsets).unsqueeze(0)
        e = self.embedding(x)
        fm = (torch.sum(e, dim=1) ** 2 - torch.sum(e**2, dim=1)).sum(1, keepdim=True)
        y = torch.sum(self.fc(x), dim=1) + self.bias + 0.5 * fm + self.mlp(e.view(-1, e.size(1) * e.size(2)))
        return torch.sigmoid(y.squeeze(1))


class PackedFloats(nn.Module):
    """One float matrix holding ids and numbers by column ranges, sliced and cast, as feature-column libraries do."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.num_user, self.num_item, self.length = s.num_user, s.num_item, s.history
        self.tables = nn.ModuleList(nn.Embedding(s.vocab, s.width) for _ in range(s.num_user + s.num_item))
        self.past = nn.Embedding(s.vocab, s.width)
        self.linear = nn.Linear(4, 1, bias=False)
        self.dnn = tower((s.num_user + s.num_item + 1) * s.width + 4, s)

    def forward(self, X: Tensor) -> Tensor:
        start = self.num_user + 2 + self.length
        slots = [(i, i + 1) for i in range(self.num_user)] + [(start + i, start + i + 1) for i in range(self.num_item)]
        embs = [table(X[:, a:b].long()) for table, (a, b) in zip(self.tables, slots, strict=True)]
        hist = X[:, self.num_user + 2 : start].long()
        mask = (hist != 0).to(X.dtype).unsqueeze(2)
        pooled = (self.past(hist) * mask).sum(1, keepdim=True) / (mask.sum(1, keepdim=True) + 1e-8)
        numbers = torch.cat([X[:, self.num_user : self.num_user + 2], X[:, start + self.num_item :]], dim=-1)
        dense_in = torch.cat([torch.flatten(torch.cat([*embs, pooled], dim=1), start_dim=1), numbers], dim=-1)
        return torch.sigmoid(self.dnn(dense_in) + self.linear(numbers))


class TwoTowers(nn.Module):
    """User tower over a mean history, item tower, cosine over a temperature."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.item_emb, self.user_emb = nn.Embedding(s.vocab, s.width, padding_idx=0), nn.Embedding(s.vocab, s.width)
        self.cate_emb = nn.Embedding(s.vocab, s.width)
        self.user_tower = nn.Sequential(nn.Linear(2 * s.width, s.mlp[0]), nn.ReLU(), nn.Linear(s.mlp[0], s.mlp[1]))
        self.item_tower = nn.Sequential(nn.Linear(2 * s.width, s.mlp[0]), nn.ReLU(), nn.Linear(s.mlp[0], s.mlp[1]))
        self.log_temperature = nn.Parameter(torch.tensor(0.3))

    def forward(self, user_id: Tensor, hist: Tensor, item_id: Tensor, cate_id: Tensor) -> Tensor:
        mask = (hist > 0).float().unsqueeze(-1)
        past = (self.item_emb(hist) * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        u = F.normalize(self.user_tower(torch.cat([self.user_emb(user_id), past], -1)), dim=-1)
        v = F.normalize(self.item_tower(torch.cat([self.item_emb(item_id), self.cate_emb(cate_id)], -1)), dim=-1)
        return (u * v).sum(dim=-1) / self.log_temperature.exp()


class Siamese(nn.Module):
    """The same tables and the same tower read both sides (people and people they may know)."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.ModuleList(nn.Embedding(s.vocab, s.width) for _ in range(3))
        self.net = nn.Sequential(nn.Linear(3 * s.width, s.mlp[0]), nn.Tanh(), nn.Linear(s.mlp[0], s.mlp[1]))
        self.merge = tower(4 * s.mlp[1], s)

    def encode(self, person: Tensor) -> Tensor:
        return self.net(torch.cat([emb(person[:, i]) for i, emb in enumerate(self.emb)], dim=1))

    def forward(self, viewer: Tensor, candidate: Tensor) -> Tensor:
        a, b = self.encode(viewer), self.encode(candidate)
        return self.merge(torch.cat((a, b, torch.abs(a - b), a * b), dim=1))


class InPlaceWrites(nn.Module):
    """Writes into slices, adds in place, fills by mask in place, scatters rows of an output buffer."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.d = s.width
        self.user, self.item = nn.Embedding(s.vocab, s.width), nn.Embedding(s.vocab, s.width)
        self.fc = nn.Linear(3 * s.width, s.mlp[0])
        self.heads = nn.ModuleList(nn.Linear(s.mlp[0], 1) for _ in range(3))

    def forward(self, user: Tensor, price: Tensor, item: Tensor) -> Tensor:
        u, v = self.user(user), self.item(item)
        x = torch.zeros(u.size(0), 3 * self.d, dtype=u.dtype, device=u.device)
        x[:, : self.d] = u
        x[:, self.d : 2 * self.d] = v
        x[:, 2 * self.d :].copy_(u * v)
        x[:, 0] += price
        x.mul_(0.5).masked_fill_(x < -1.0, -1.0)
        h = F.relu_(self.fc(x))
        out = h.new_empty(h.size(0), len(self.heads))
        for k, task in enumerate(self.heads):
            out[:, k] = task(h)[:, 0]
        return out.sigmoid_()


class BooleanMasks(nn.Module):
    """where, masked_fill, logical operators and comparisons across the two sides."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.price = nn.Linear(1, s.width)
        self.head = tower(4 * s.width + 2, s)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hist, item = batch["hist"], batch["item0"]
        seen = ((hist == item.unsqueeze(1)) & (hist != 0)).any(dim=1)
        affordable = batch["budget"] >= batch["price"]
        past = self.emb(hist).masked_fill((hist == 0).unsqueeze(-1), float("-inf")).max(dim=1).values
        past = torch.where(torch.isinf(past), torch.zeros_like(past), past)
        target = self.emb(item)
        same = torch.where((hist == item[:, None])[..., None], self.emb(hist), 0.0).sum(1)
        priced = torch.where(affordable[:, None], self.price(batch["price"][:, None]), -target)
        flags = torch.stack([seen & ~affordable, seen | affordable], dim=1).to(target.dtype)
        return self.head(torch.cat([past, target, priced, same, flags], dim=-1)).squeeze(-1)


class Bags(nn.Module):
    """EmbeddingBag pooling of two-dimensional multi-hot inputs on both sides, mean and weighted sum."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.interests = nn.EmbeddingBag(s.vocab, s.width, mode="mean", padding_idx=0)
        self.tags = nn.EmbeddingBag(s.vocab, s.width, mode="sum")
        self.head = tower(3 * s.width, s)

    def forward(self, interests: Tensor, tags: Tensor, tag_weights: Tensor) -> Tensor:
        u, v = self.interests(interests), self.tags(tags, per_sample_weights=tag_weights)
        return self.head(torch.cat([u, v, u * v], dim=1)).squeeze(1)


class TextHash(nn.Module):
    """Query and title as hashed n-gram ids, summed embeddings, an exact-match count between them."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.buckets = s.vocab
        self.head = tower(3 * s.width + 1, s)

    def forward(self, query: Tensor, title: Tensor) -> Tensor:
        q_ids, t_ids = (torch.where(x > 0, (x * 2654435761) % (self.buckets - 1) + 1, 0) for x in (query, title))
        q, t = self.emb(q_ids).sum(dim=-2), self.emb(t_ids).sum(dim=-2)
        matches = ((q_ids[:, :, None] == t_ids[:, None, :]) & (q_ids[:, :, None] > 0)).sum(dim=(1, 2))
        return self.head(torch.cat([q, t, q * t, matches.to(q.dtype).unsqueeze(-1)], -1)).squeeze(-1)


class Scores(NamedTuple):
    click: Tensor
    quality: Tensor
    user_bias: Tensor


class NamedOutputs(nn.Module):
    """A named tuple of outputs, of which one depends on the item alone and one on the user alone."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(s.vocab, s.width), nn.Embedding(s.vocab, s.width)
        self.quality, self.bias = nn.Linear(s.width, 1), nn.Linear(s.width, 1)
        self.click = tower(2 * s.width, s)

    def forward(self, user: Tensor, item: Tensor) -> Scores:
        u, v = self.user(user), self.item(item)
        quality, bias = self.quality(v).squeeze(-1), self.bias(u).squeeze(-1)
        return Scores(self.click(torch.cat([u, v], 1)).squeeze(-1) + quality + bias, quality, bias)


class DictOutputs(nn.Module):
    """Multi-task with a nested dict of outputs, a shared body, and an entropy that only some callers read."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.user = nn.ModuleList(nn.Embedding(s.vocab, s.width) for _ in range(3))
        self.item = nn.ModuleList(nn.Embedding(s.vocab, s.width) for _ in range(2))
        self.body = nn.Sequential(nn.Linear(5 * s.width, s.mlp[0]), nn.BatchNorm1d(s.mlp[0]), nn.LeakyReLU(0.2))
        self.tasks = nn.ModuleDict({task: nn.Linear(s.mlp[0], 1) for task in ("click", "buy", "dwell")})

    def forward(self, batch: dict[str, Tensor]) -> dict[str, object]:
        embs = [e(batch[f"user{i}"]) for i, e in enumerate(self.user)]
        embs += [e(batch[f"item{i}"]) for i, e in enumerate(self.item)]
        h = self.body(torch.cat(embs, dim=1))
        logits = {task: layer(h).squeeze(1) for task, layer in self.tasks.items()}
        p = torch.sigmoid(logits["click"])
        return {"logits": logits, "aux": [p * torch.sigmoid(logits["buy"]), -(p * p.clamp_min(1e-6).log())]}


class OptionalKeywords(nn.Module):
    """Keyword inputs with defaults: a price that may be missing, a mask that is derived when absent."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.query = nn.Linear(s.width, s.width)
        self.head = tower(2 * s.width + 1, s)

    def forward(
        self, history: Tensor, item: Tensor, *, price: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        mask = history != 0 if mask is None else mask
        past, target = self.emb(history), self.emb(item)
        weights = F.softmax((past * self.query(target)[:, None]).sum(-1).masked_fill(~mask, -1e9), -1)
        numbers = torch.zeros_like(target[:, :1]) if price is None else price[:, None]
        return self.head(torch.cat([(past * weights[..., None]).sum(-2), target, numbers], dim=-1)).squeeze(-1)


class ConvText(nn.Module):
    """A text convolution over the query's tokens and the title's tokens, max pooled, with shared filters."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width)
        self.conv = nn.Conv1d(s.width, 2 * s.width, kernel_size=3, padding=1)
        self.score = nn.Linear(6 * s.width, 1)

    def pool(self, tokens: Tensor) -> Tensor:
        return F.relu(self.conv(self.emb(tokens).transpose(1, 2))).amax(-1)

    def forward(self, query: Tensor, title: Tensor) -> Tensor:
        q, t = self.pool(query), self.pool(title)
        return self.score(torch.cat([q, t, q * t], 1)).squeeze(1)


class KernelPooling(nn.Module):
    """KNRM: cosine matrix of query by title words, Gaussian kernels, log sums."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width)
        self.register_buffer("mu", torch.linspace(-0.6, 0.6, 7).view(1, 1, 1, 7))
        self.out = nn.Linear(7, 1)

    def forward(self, query: Tensor, title: Tensor) -> Tensor:
        q, t = F.normalize(self.emb(query), p=2, dim=-1), F.normalize(self.emb(title), p=2, dim=-1)
        match = torch.bmm(q, t.transpose(1, 2)).unsqueeze(3)
        kernels = torch.exp(-((match - self.mu) ** 2) / 0.08).sum(dim=2)
        return torch.tanh(self.out(0.01 * torch.log(kernels.clamp(min=1e-10)).sum(1))).squeeze(-1)


def packed_fm(s: Sizes) -> ZooModel:
    request, candidate = column("x", s.vocab, s.num_user), column("x", s.vocab, s.num_item)
    return ZooModel("PackedFM", s, lambda: PackedFM(s), request, candidate, style="packed")


def packed_floats(s: Sizes) -> ZooModel:
    def request(generator: Generator, rows: int) -> dict[str, Tensor]:
        parts = merged(column("u", s.vocab, s.num_user), dense("d", 2), history("h", vocab=s.vocab, length=s.history))
        return {"X": torch.cat([v.float() for v in parts(generator, rows).values()], 1)}

    def candidate(generator: Generator, rows: int) -> dict[str, Tensor]:
        parts = merged(column("i", s.vocab, s.num_item), dense("d", 2))
        return {"X": torch.cat([v.float() for v in parts(generator, rows).values()], 1)}

    return ZooModel("PackedFloats", s, lambda: PackedFloats(s), request, candidate, style="packed")


def layout(
    module: Callable[[Sizes], nn.Module],
    request: Callable[[Sizes], Columns],
    candidate: Callable[[Sizes], Columns],
    style: str = "positional",
    **flags: object,
) -> Callable[[Sizes], ZooModel]:
    name = getattr(module, "__name__", "")
    return lambda s: ZooModel(name, s, lambda: module(s), request(s), candidate(s), style=style, **flags)  # type: ignore[arg-type]


def hist_of(name: str) -> Callable[[Sizes], Columns]:
    return lambda s: history(name, vocab=s.vocab, length=s.history)


def price(generator: Generator, rows: int) -> dict[str, Tensor]:
    return {"price": torch.rand(rows, generator=generator)}


def id_of(name: str, *shape: int) -> Callable[[Sizes], Columns]:
    return lambda s: column(name, s.vocab, *shape, low=1)


MODELS: dict[str, Callable[[Sizes], ZooModel]] = {
    "PackedFM": packed_fm,
    "PackedFloats": packed_floats,
    "TwoTowers": layout(
        TwoTowers,
        lambda s: merged(column("user_id", s.vocab), hist_of("hist")(s)),
        lambda s: merged(column("item_id", s.vocab), column("cate_id", s.vocab)),
        user_side_is_encoder=True,
    ),
    "Siamese": layout(Siamese, id_of("viewer", 3), id_of("candidate", 3)),
    "InPlaceWrites": layout(InPlaceWrites, id_of("user"), lambda s: merged(price, column("item", s.vocab))),
    "BooleanMasks": layout(
        BooleanMasks,
        lambda s: merged(hist_of("hist")(s), dense("budget")),
        lambda s: merged(ids("item", 1, s.vocab, low=1), price),
        style="dict",
    ),
    "Bags": layout(
        Bags,
        lambda s: column("interests", s.vocab, 12),
        lambda s: merged(column("tags", s.vocab, 5), dense("tag_weights", 5)),
    ),
    "TextHash": layout(
        TextHash,
        lambda s: history("query", vocab=10**6, length=8),
        lambda s: history("title", vocab=10**6, length=12),
    ),
    "NamedOutputs": layout(NamedOutputs, id_of("user"), id_of("item")),
    "DictOutputs": layout(
        DictOutputs, lambda s: ids("user", 3, s.vocab), lambda s: ids("item", 2, s.vocab), style="dict"
    ),
    "OptionalKeywords": layout(
        OptionalKeywords, hist_of("history"), lambda s: merged(column("item", s.vocab, low=1), price), style="keyword"
    ),
    "ConvText": layout(ConvText, id_of("query", 8), id_of("title", 12)),
    "KernelPooling": layout(KernelPooling, id_of("query", 8), id_of("title", 12)),
}
