"""Awkward feature-cross models: products of fields in the many ways libraries spell them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Columns, Sizes, ZooModel, column, dense, ids, merged


def fields(s: Sizes) -> tuple[int, int]:
    """User and item fields of the cross models: fewer than the full set, since many build all pairs in Python."""
    return max(2, s.num_user // 2), max(2, s.num_item // 2)


class FieldEmbedding(nn.Module):
    """One table per field, stacked to [B, F, D]."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        num_user, num_item = fields(s)
        self.names = [f"u{i}" for i in range(num_user)] + [f"i{i}" for i in range(num_item)]
        self.tables = nn.ModuleDict({name: nn.Embedding(s.vocab, s.width) for name in self.names})

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.tables[name](batch[name]) for name in self.names], dim=1)


def tower(inputs: int, s: Sizes, *, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in s.mlp:
        layers += [nn.Linear(inputs, width), *([nn.BatchNorm1d(width)] if norm else []), nn.ReLU(inplace=True)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


class FwFM(nn.Module):
    """Field-weighted FM: a weight per field pair, by index into the pairs, with a linear term from width-one tables."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        num = len(self.embed.names)
        self.linear = nn.ModuleDict({name: nn.Embedding(s.vocab, 1) for name in self.embed.names})
        self.pair_weight = nn.Linear(num * (num - 1) // 2, 1)
        self.register_buffer("triu", torch.triu_indices(num, num, offset=1), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        left, right = torch.index_select(x, 1, self.triu[0]), torch.index_select(x, 1, self.triu[1])
        inner = torch.sum(left * right, dim=2)
        first = sum(self.linear[name](batch[name]) for name in self.embed.names)
        return (self.pair_weight(inner) + first).sigmoid().squeeze(1)


class MatrixFwFM(nn.Module):
    """FwFM with a symmetric field matrix and einsum."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        num = len(self.embed.names)
        self.matrix = nn.Parameter(torch.randn(num, num) / num)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        sym = (self.matrix + self.matrix.T).triu(1)
        return torch.einsum("bid,ij,bjd->b", x, sym, x)


class PNN(nn.Module):
    """Inner and outer products (kernel matrix) beside the linear signal."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        num = len(self.embed.names)
        self.pairs = num * (num - 1) // 2
        self.row = [i for i, _ in combinations(range(num), 2)]
        self.col = [j for _, j in combinations(range(num), 2)]
        self.kernel = nn.Parameter(torch.randn(s.width, self.pairs, s.width) / s.width)
        self.tower = tower(num * s.width + 2 * self.pairs, s, norm=True)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        p, q = x[:, self.row], x[:, self.col]
        inner = (p * q).sum(-1)
        outer = (torch.sum(p.unsqueeze(1) * self.kernel, dim=-1).permute(0, 2, 1) * q).sum(dim=-1)
        return self.tower(torch.cat([x.flatten(1), inner, outer], 1)).sigmoid().squeeze(-1)


class MaskedSelectPNN(nn.Module):
    """Inner products picked by masked_select with a constant upper-triangular mask."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        num = len(self.embed.names)
        self.units = num * (num - 1) // 2
        mask = torch.triu(torch.ones(num, num), 1).type(torch.BoolTensor)
        self.triu_mask = nn.Parameter(mask, requires_grad=False)
        self.tower = tower(num * s.width + self.units, s)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        products = torch.bmm(x, x.transpose(1, 2))
        inner = torch.masked_select(products, self.triu_mask).view(-1, self.units)
        return self.tower(torch.cat([x.flatten(start_dim=1), inner], dim=1))


class XDeepFM(nn.Module):
    """Compressed interaction network: outer product over fields, 1x1 convolution, sum pooling."""

    def __init__(self, s: Sizes, maps: tuple[int, ...] = (8, 8)) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        num = len(self.embed.names)
        self.convs, prev = nn.ModuleList(), num
        for size in maps:
            self.convs.append(nn.Conv1d(num * prev, size, kernel_size=1))
            prev = size
        self.out = nn.Linear(sum(maps), 1)
        self.tower = tower(num * s.width, s)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x0 = self.embed(batch)
        b, d, xs, pools = x0.shape[0], x0.shape[-1], x0, []
        for conv in self.convs:
            product = torch.einsum("bhd,bmd->bhmd", x0, xs)
            xs = conv(product.reshape(b, -1, d)).relu()
            pools.append(xs.sum(dim=-1))
        return (self.out(torch.cat(pools, dim=-1)) + self.tower(x0.flatten(1))).squeeze(-1)


class DLRM(nn.Module):
    """Dense features through a bottom MLP, dot interaction with triangular indices, top MLP; dense on both sides."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        num_user, num_item = fields(s)
        self.bags = nn.ModuleList(nn.EmbeddingBag(s.vocab, s.width, mode="sum") for _ in range(num_user + num_item))
        self.bottom = nn.Sequential(nn.Linear(7, s.mlp[1]), nn.ReLU(), nn.Linear(s.mlp[1], s.width), nn.ReLU())
        num = num_user + num_item + 1
        self.register_buffer("triu", torch.triu_indices(num, num, offset=1), persistent=False)
        self.top = tower(s.width + num * (num - 1) // 2, s)
        self.num_user = num_user

    def forward(self, user_dense: Tensor, user_sparse: Tensor, item_dense: Tensor, item_sparse: Tensor) -> Tensor:
        bottom = self.bottom(torch.cat([user_dense, item_dense], dim=1))
        sparse = torch.cat([user_sparse, item_sparse], dim=1)
        looked = [bag(sparse[:, i : i + 1]) for i, bag in enumerate(self.bags)]
        combined = torch.cat([bottom.unsqueeze(1), torch.stack(looked, dim=1)], dim=1)
        interactions = torch.bmm(combined, torch.transpose(combined, 1, 2))
        flat = interactions[:, self.triu[0], self.triu[1]]
        return self.top(torch.cat((bottom, flat), dim=1))


class SENETBilinear(nn.Module):
    """FiBiNet's other variant: one shared bilinear matrix, squeeze by max and mean, gates over groups."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        num = len(self.embed.names)
        self.excite = nn.Sequential(nn.Linear(2 * num, num // 2, bias=False), nn.ReLU(), nn.Linear(num // 2, num))
        self.bilinear = nn.Linear(s.width, s.width, bias=False)
        self.tower = tower(num * (num - 1) * s.width // 2 + num * s.width, s)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        squeezed = torch.cat([x.amax(dim=-1), x.mean(dim=-1)], dim=-1)
        gated = x * torch.sigmoid(self.excite(squeezed)).unsqueeze(-1)
        crossed = torch.cat([self.bilinear(a) * b for a, b in combinations(torch.split(x, 1, dim=1), 2)], dim=1)
        return self.tower(torch.cat([crossed.flatten(1), gated.flatten(1)], 1)).squeeze(1)


class FinalMLP(nn.Module):
    """Two gated streams joined by a multi-head bilinear fusion."""

    def __init__(self, s: Sizes, num_heads: int = 2) -> None:
        super().__init__()
        self.embed, self.h = FieldEmbedding(s), num_heads
        dim, (h1, h2) = len(self.embed.names) * s.width, s.mlp
        self.ctx1, self.ctx2 = nn.Embedding(s.vocab, s.width), nn.Embedding(s.vocab, s.width)
        self.gate1, self.gate2 = (
            nn.Sequential(nn.Linear(s.width, h2), nn.ReLU(), nn.Linear(h2, dim), nn.Sigmoid()) for _ in range(2)
        )
        self.mlp1, self.mlp2 = (nn.Sequential(nn.Linear(dim, h1), nn.ReLU(), nn.Linear(h1, h2)) for _ in range(2))
        self.w_x, self.w_y = nn.Linear(h2, 1), nn.Linear(h2, 1)
        self.w_xy = nn.Parameter(torch.randn(num_heads * (h2 // num_heads) ** 2, 1) / h2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        flat = self.embed(batch).flatten(start_dim=1)
        x = self.mlp1(flat * (self.gate1(self.ctx1(batch["u0"])) * 2))
        y = self.mlp2(flat * (self.gate2(self.ctx2(batch["i0"])) * 2))
        width = x.shape[1] // self.h
        heads_x, heads_y = x.view(-1, self.h, width), y.view(-1, self.h, width)
        xy = torch.matmul(
            torch.matmul(heads_x.unsqueeze(2), self.w_xy.view(self.h, width, -1)).view(-1, self.h, 1, width),
            heads_y.unsqueeze(-1),
        ).squeeze(-1)
        return self.w_x(x) + self.w_y(y) + xy.sum(dim=1)


class DCNMixEinsum(nn.Module):
    """Low-rank mixture of cross experts written with einsum over stacked weights."""

    def __init__(self, s: Sizes, rank: int = 8, num_experts: int = 3, num_layers: int = 2) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        dim = len(self.embed.names) * s.width
        self.u = nn.ParameterList(nn.Parameter(torch.randn(num_experts, dim, rank) / rank) for _ in range(num_layers))
        self.v = nn.ParameterList(nn.Parameter(torch.randn(num_experts, dim, rank) / 9) for _ in range(num_layers))
        self.c = nn.ParameterList(nn.Parameter(torch.randn(num_experts, rank, rank) / 3) for _ in range(num_layers))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(dim)) for _ in range(num_layers))
        self.gate = nn.Linear(dim, num_experts, bias=False)
        self.out = nn.Linear(dim, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x0 = self.embed(batch).flatten(1)
        x = x0
        for u, v, c, bias in zip(self.u, self.v, self.c, self.bias, strict=True):
            low = torch.tanh(torch.einsum("bd,edr->ber", x, v))
            low = torch.tanh(torch.einsum("ber,ers->bes", low, c))
            up = torch.einsum("bes,eds->bed", low, u) + bias
            gate = torch.softmax(self.gate(x), dim=-1)
            x = torch.einsum("be,bed->bd", gate, x0.unsqueeze(1) * up) + x
        return torch.sigmoid(self.out(x))[:, 0]


class GatedCross(nn.Module):
    """GDCN's gated cross network, then a linear head over both ends."""

    def __init__(self, s: Sizes, num_layers: int = 2) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        dim = len(self.embed.names) * s.width
        self.w, self.wg = (nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(num_layers)) for _ in range(2))
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(dim)) for _ in range(num_layers))
        self.out = nn.Linear(2 * dim, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x0 = x = self.embed(batch).reshape(batch["u0"].shape[0], -1)
        for w, wg, b in zip(self.w, self.wg, self.b, strict=True):
            x = x0 * (w(x) + b) * torch.sigmoid(wg(x)) + x
        return self.out(torch.hstack([x0, x])).ravel()


class Wukong(nn.Module):
    """Wukong layers: an FM block over compressed embeddings and a linear compression, with residual and LayerNorm."""

    def __init__(self, s: Sizes, num_layers: int = 2) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        num, d = len(self.embed.names), s.width
        self.compress = nn.ParameterList(nn.Parameter(torch.randn(num, 3) / num**0.5) for _ in range(num_layers))
        self.lcb = nn.ParameterList(nn.Parameter(torch.randn(num // 2, num) / num**0.5) for _ in range(num_layers))
        half = num - num // 2
        self.fmb = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(num * 3), nn.Linear(num * 3, 32), nn.ReLU(), nn.Linear(32, half * d))
            for _ in range(num_layers)
        )
        self.norm = nn.ModuleList(nn.LayerNorm(d) for _ in range(num_layers))
        self.out = nn.Linear(num * d, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        for compress, lcb, fmb, norm in zip(self.compress, self.lcb, self.fmb, self.norm, strict=True):
            interactions = x @ (x.permute(0, 2, 1) @ compress)
            fm = fmb(interactions.flatten(1)).view(x.shape[0], -1, x.shape[2])
            x = norm(torch.cat([fm, torch.matmul(lcb, x)], dim=1) + x)
        return self.out(x.view(x.size(0), -1))


class NFM(nn.Module):
    """Bi-interaction pooling with feature values: ids and values per field, as libsvm data brings them."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb, self.first = nn.Embedding(s.vocab, s.width), nn.Embedding(s.vocab, 1)
        self.bn = nn.BatchNorm1d(s.width)
        self.tower = tower(s.width, s)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, user_ids: Tensor, user_vals: Tensor, item_ids: Tensor, item_vals: Tensor) -> Tensor:
        ids_, vals = torch.cat([user_ids, item_ids], 1), torch.cat([user_vals, item_vals], 1)
        x = self.emb(ids_) * vals.unsqueeze(dim=-1)
        pooled = 0.5 * (x.sum(1).pow(2) - x.pow(2).sum(1))
        linear = (self.first(ids_).squeeze(-1) * vals).sum(1)
        return self.bias + linear + self.tower(self.bn(pooled)).view(-1)


class FieldAttention(nn.Module):
    """AutoInt with nn.MultiheadAttention over the fields, averaged."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = FieldEmbedding(s)
        self.attend = nn.ModuleList(nn.MultiheadAttention(s.width, 2, batch_first=True) for _ in range(2))
        self.res = nn.Linear(s.width, s.width)
        self.out = nn.Linear(s.width, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        for layer in self.attend:
            x = F.relu(layer(x, x, x)[0] + self.res(x))
        return self.out(x.mean(dim=1)).squeeze(-1)


class EinsumBilinear(nn.Module):
    """A user matrix times an item matrix through a learned tensor: einsum with four operands' worth of letters."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed, self.num_user = FieldEmbedding(s), fields(s)[0]
        self.core = nn.Parameter(torch.randn(3, s.width, s.width) / s.width)
        self.mix = nn.Linear(3 * self.num_user * fields(s)[1], 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        user, item = x[:, : self.num_user], x[:, self.num_user :]
        scores = torch.einsum("bud,kde,bie->bkui", user, self.core, item)
        return self.mix(F.leaky_relu(scores).flatten(start_dim=1)).squeeze(dim=-1)


def cross_model(name: str, module: Callable[[Sizes], nn.Module]) -> Callable[[Sizes], ZooModel]:
    def entry(s: Sizes) -> ZooModel:
        num_user, num_item = fields(s)
        return ZooModel(name, s, lambda: module(s), ids("u", num_user, s.vocab), ids("i", num_item, s.vocab))

    return entry


def dlrm(s: Sizes) -> ZooModel:
    num_user, num_item = fields(s)
    request = merged(dense("user_dense", 4), column("user_sparse", s.vocab, num_user))
    candidate = merged(dense("item_dense", 3), column("item_sparse", s.vocab, num_item))
    return ZooModel("DLRM", s, lambda: DLRM(s), request, candidate, style="positional")


def nfm(s: Sizes) -> ZooModel:
    def side(name: str, count: int) -> Columns:
        return merged(column(f"{name}_ids", s.vocab, count), dense(f"{name}_vals", count))

    return ZooModel("NFM", s, lambda: NFM(s), side("user", s.num_user), side("item", s.num_item), style="positional")


BY_CLASS: tuple[type[nn.Module], ...] = (
    FwFM, MatrixFwFM, PNN, MaskedSelectPNN, XDeepFM, SENETBilinear, FinalMLP, DCNMixEinsum, GatedCross, Wukong,
    FieldAttention, EinsumBilinear,
)  # fmt: skip
MODELS: dict[str, Callable[[Sizes], ZooModel]] = {
    **{cls.__name__: cross_model(cls.__name__, cls) for cls in BY_CLASS},
    "DLRM": dlrm,
    "NFM": nfm,
}
