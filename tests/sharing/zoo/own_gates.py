"""Awkward models built from gates, experts, masks and generated weights, most of them over a normalised concat."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Sizes, ZooModel, column, dense, history, ids, merged
from .own_cross import FieldEmbedding, cross_model, fields, tower


class LayerNormConcat(nn.Module):
    """LayerNorm over the whole concat, then an MLP with layer norms between."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        dim, (h1, h2) = len(self.embed.names) * s.width, s.mlp
        self.net = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, h1), nn.LayerNorm(h1), nn.GELU(),
                                 nn.Linear(h1, h2), nn.LayerNorm(h2), nn.SiLU(), nn.Linear(h2, 1))  # fmt: skip

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(self.embed(batch).flatten(1)).squeeze(-1)


class RMSNormSwiGLU(nn.Module):
    """An LLM-style block over the concat: hand-written RMSNorm and SwiGLU with a residual."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        dim = len(self.embed.names) * s.width
        self.scale = nn.Parameter(torch.ones(dim))
        self.gate, self.up = nn.Linear(dim, s.mlp[0], bias=False), nn.Linear(dim, s.mlp[0], bias=False)
        self.down, self.out = nn.Linear(s.mlp[0], dim, bias=False), nn.Linear(dim, 1, bias=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch).flatten(1)
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.out(x)


class ResidualMLP(nn.Module):
    """Deep Crossing: residual units of the concat's own width, batch norm before the activation."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        dim = len(self.embed.names) * s.width
        self.units = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, s.mlp[1]), nn.BatchNorm1d(s.mlp[1]), nn.ReLU(), nn.Linear(s.mlp[1], dim))
            for _ in range(3)
        )
        self.out = nn.Linear(dim, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch).flatten(1)
        for unit in self.units:
            x = torch.relu(unit(x) + x)
        return torch.sigmoid(self.out(x))


class InputBatchNorm(nn.Module):
    """Batch norm over the concat of embeddings and raw numbers before the first linear, PReLU after."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        dim = len(self.embed.names) * s.width + 6
        self.bn_dense, self.bn = nn.BatchNorm1d(6), nn.BatchNorm1d(dim)
        self.fc = nn.ModuleList([nn.Linear(dim, s.mlp[0]), nn.Linear(s.mlp[0], s.mlp[1])])
        self.act = nn.ModuleList([nn.PReLU(s.mlp[0]), nn.PReLU()])
        self.out = nn.Linear(s.mlp[1], 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        numbers = self.bn_dense(torch.cat([batch["user_dense"], batch["item_dense"]], -1))
        x = self.bn(torch.cat([self.embed(batch).flatten(1), numbers], -1))
        for fc, act in zip(self.fc, self.act, strict=True):
            x = F.dropout(act(fc(x)), p=0.1, training=self.training)
        return self.out(x).squeeze(-1)


class MaskNet(nn.Module):
    """Parallel mask blocks: instance-guided masks from all embeddings, layer norm per field."""

    def __init__(self, s: Sizes, num_blocks: int = 2) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        num, dim = len(self.embed.names), len(self.embed.names) * s.width
        self.field_norm = nn.ModuleList(nn.LayerNorm(s.width) for _ in range(num))
        self.masks = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * s.mlp[1]), nn.ReLU(), nn.Linear(2 * s.mlp[1], dim))
            for _ in range(num_blocks)
        )
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, s.mlp[1], bias=False), nn.LayerNorm(s.mlp[1]), nn.ReLU())
            for _ in range(num_blocks)
        )
        self.head = tower(num_blocks * s.mlp[1], s)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        raw = x.flatten(start_dim=1)
        normed = torch.cat([norm(v) for norm, v in zip(self.field_norm, x.unbind(1), strict=True)], dim=1)
        blocks = [hidden(mask(raw) * normed) for mask, hidden in zip(self.masks, self.hidden, strict=True)]
        return self.head(torch.cat(blocks, dim=-1))


class SparseExperts(nn.Module):
    """Experts with a top-k gate: the softmax of the k best, scattered back, weighs all experts' outputs."""

    def __init__(self, s: Sizes, num_experts: int = 4, k: int = 2) -> None:
        super().__init__()
        self.embed, self.k = FieldEmbedding(s), k
        dim = len(self.embed.names) * s.width
        self.gate = nn.Linear(dim, num_experts)
        self.w1 = nn.Parameter(torch.randn(num_experts, dim, s.mlp[0]) / dim**0.5)
        self.b1 = nn.Parameter(torch.zeros(num_experts, 1, s.mlp[0]))
        self.w2 = nn.Parameter(torch.randn(num_experts, s.mlp[0], s.mlp[1]) / s.mlp[0] ** 0.5)
        self.out = nn.Linear(s.mlp[1], 2)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x = self.embed(batch).flatten(1)
        logits = self.gate(x)
        best, where = logits.topk(self.k, dim=-1)
        gates = torch.zeros_like(logits).scatter(1, where, torch.softmax(best, dim=-1))
        hidden = torch.relu(torch.baddbmm(self.b1, x.unsqueeze(0).expand(self.w1.shape[0], -1, -1), self.w1))
        outs = torch.bmm(hidden, self.w2)
        y = self.out(torch.einsum("ebd,be->bd", outs, gates))
        ctr, cvr = torch.sigmoid(y).unbind(-1)
        return ctr, ctr * cvr


class UserGate(nn.Module):
    """PEPNet-like: gates made of user features alone scale embeddings and every hidden layer."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        dim, (h1, h2) = len(self.embed.names) * s.width, s.mlp
        self.domain = nn.Embedding(s.vocab, s.width)
        self.ep = nn.Sequential(nn.Linear(s.width, dim), nn.Sigmoid())
        self.pp = nn.ModuleList(nn.Sequential(nn.Linear(s.width, d), nn.Sigmoid()) for d in (h1, h2))
        self.layers = nn.ModuleList([nn.Linear(dim, h1), nn.Linear(h1, h2)])
        self.out = nn.Linear(h2, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        domain = self.domain(batch["u0"])
        x = self.embed(batch).flatten(1) * self.ep(domain) * 2
        for layer, gate in zip(self.layers, self.pp, strict=True):
            x = torch.relu(layer(x)) * gate(domain) * 2
        return self.out(x)[..., 0]


class CoAction(nn.Module):
    """Co-action network: the item's embedding is reshaped into a small MLP that the user's vector runs through."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.d = s.width
        self.user = nn.Embedding(s.vocab, s.width)
        self.weights = nn.Embedding(s.vocab, s.width * 4 + 4 * 4)
        self.head = nn.Linear(8, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        flat = self.weights(item)
        first, second = flat[:, : self.d * 4].view(-1, self.d, 4), flat[:, self.d * 4 :].view(-1, 4, 4)
        h1 = torch.tanh(torch.bmm(self.user(user).unsqueeze(1), first))
        h2 = torch.tanh(torch.matmul(h1, second))
        return self.head(torch.cat([h1, h2], dim=-1).squeeze(1)).squeeze(1)


class GeneratedWeights(nn.Module):
    """The user generates a low-rank weight matrix that the item's features pass through."""

    def __init__(self, s: Sizes, rank: int = 4) -> None:
        super().__init__()
        self.rank = rank
        self.user, self.item = nn.Embedding(s.vocab, s.width), nn.Embedding(s.vocab, s.width)
        self.u, self.v = nn.Linear(s.width, s.mlp[1]), nn.Linear(s.width, s.width)
        self.make = nn.Sequential(nn.Linear(s.width, 16), nn.ReLU(), nn.Linear(16, rank * rank))
        self.p, self.q = nn.Parameter(torch.randn(s.width, rank)), nn.Parameter(torch.randn(rank, s.mlp[1]))
        self.out = nn.Linear(s.mlp[1], 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        core = self.make(self.user(user)).view(-1, self.rank, self.rank)
        x = torch.einsum("bd,dr,brs,st->bt", self.v(self.item(item)), self.p, core, self.q)
        return self.out(torch.relu(x / self.rank)).squeeze(1)


class HadamardTowers(nn.Module):
    """GMF and MLP halves (NeuMF), with |u - v| and cosine as more inputs."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        d = 2 * s.width
        self.user_gmf, self.item_gmf = nn.Embedding(s.vocab, d), nn.Embedding(s.vocab, d)
        self.user_mlp, self.item_mlp = nn.Embedding(s.vocab, d), nn.Embedding(s.vocab, d)
        self.mlp = tower(2 * d, s)
        self.predict = nn.Linear(2 * d + 2, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, v = self.user_gmf(user), self.item_gmf(item)
        deep = self.mlp(torch.cat((self.user_mlp(user), self.item_mlp(item)), dim=-1))
        cosine = F.cosine_similarity(u, v, dim=-1).unsqueeze(-1)
        return torch.sigmoid(self.predict(torch.cat((u * v, (u - v).abs(), deep, cosine), dim=-1))).view(-1)


class SnapshotGate(nn.Module):
    """Per-field gates by field-wise softmax, clamped numbers, log transforms, one-hot of a small category."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        num = len(self.embed.names)
        self.field_gate = nn.Linear(num * s.width, num)
        self.head = tower(num * s.width + 8 + 6, s)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        gate = torch.softmax(self.field_gate(x.flatten(1)), dim=1).unsqueeze(2)
        numbers = torch.cat([batch["user_dense"], batch["item_dense"]], 1)
        numbers = torch.sign(numbers) * torch.log1p(numbers.abs().clamp(max=10.0))
        hour = F.one_hot(batch["hour"], num_classes=8).to(numbers.dtype)
        return self.head(torch.cat(((x * gate).flatten(1), hour, numbers), 1))


def numbers_model(
    name: str, module: Callable[[Sizes], nn.Module], *, hour: bool = False
) -> Callable[[Sizes], ZooModel]:
    def entry(s: Sizes) -> ZooModel:
        num_user, num_item = fields(s)
        request = merged(ids("u", num_user, s.vocab), dense("user_dense", 4, scale=3.0))
        if hour:
            request = merged(request, column("hour", 8))
        candidate = merged(ids("i", num_item, s.vocab), dense("item_dense", 2, scale=3.0))
        return ZooModel(name, s, lambda: module(s), request, candidate)

    return entry


def pair_model(name: str, module: Callable[[Sizes], nn.Module]) -> Callable[[Sizes], ZooModel]:
    """Two id columns passed by position."""
    return lambda s: ZooModel(
        name, s, lambda: module(s), column("user", s.vocab), column("item", s.vocab), style="positional"
    )


class ContextualHistoryGate(nn.Module):
    """A mean of the history gates the item; the candidate's position in the list is context, not item."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.pos = nn.Embedding(20, s.width)
        self.gate = nn.Linear(s.width, s.width)
        self.item_tower = nn.Sequential(nn.Linear(s.width + 2, s.mlp[0]), nn.ReLU(), nn.Linear(s.mlp[0], s.width))
        self.head = tower(3 * s.width, s)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        mask = batch["hist"].ne(0).unsqueeze(-1)
        mean = (self.emb(batch["hist"]) * mask).sum(1) / mask.sum(1).clamp_min(1)
        item = self.item_tower(torch.cat([self.emb(batch["item_id"]), batch["item_dense"]], dim=1))
        x = torch.cat([mean, item * torch.sigmoid(self.gate(mean)), self.pos(batch["slot"])], dim=1)
        return self.head(x).squeeze(1) + 0.1 * batch["bid"].log1p()


def contextual(s: Sizes) -> ZooModel:
    def bid(generator: torch.Generator, rows: int) -> dict[str, Tensor]:
        return {"bid": torch.rand(rows, generator=generator)}

    candidate = merged(column("item_id", s.vocab, low=1), dense("item_dense", 2), column("slot", 20), bid)
    return ZooModel(
        "ContextualHistoryGate", s, lambda: ContextualHistoryGate(s),
        history("hist", vocab=s.vocab, length=s.history), candidate, per_request_context=("slot", "bid"),
    )  # fmt: skip


BY_CLASS: tuple[type[nn.Module], ...] = (
    LayerNormConcat, RMSNormSwiGLU, ResidualMLP, MaskNet, SparseExperts, UserGate
)  # fmt: skip
MODELS: dict[str, Callable[[Sizes], ZooModel]] = {
    **{cls.__name__: cross_model(cls.__name__, cls) for cls in BY_CLASS},
    **{cls.__name__: pair_model(cls.__name__, cls) for cls in (CoAction, GeneratedWeights, HadamardTowers)},
    "InputBatchNorm": numbers_model("InputBatchNorm", InputBatchNorm),
    "SnapshotGate": numbers_model("SnapshotGate", SnapshotGate, hour=True),
    "ContextualHistoryGate": contextual,
}
