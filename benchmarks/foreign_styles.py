"""Rankers written anew in the ways of public code: what `foreign_models.py` shares as library `styles`.

Each is a small model of a known family whose forward uses idioms that a compiler can trip over: containers in and out,
masks, in-place writes, parametrizations, hooks, complex numbers, Python loops. The feature-cross and multi-task
families stand here, those over a history in ``foreign_style_sequences``, those over text in ``foreign_style_texts``.

Letters: B pairs, F fields, D width, E experts, T tokens, K tasks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_ROWS, NUM_IDS, LENGTH, WIDTH = 12, 500, 30, 16
USER, ITEM = ("user", "age", "city", "device", "hour"), ("item", "brand", "category")
Made = tuple[nn.Module, Any, Any]
STYLES: dict[str, Callable[[], Made]] = {}


def style(name: str) -> Callable[[Callable[[], Made]], Callable[[], Made]]:
    """Register a builder of (module, example, request_inputs)."""

    def keep(build: Callable[[], Made]) -> Callable[[], Made]:
        STYLES[name] = build
        return build

    return keep


def ids(*sizes: int) -> Tensor:
    return torch.randint(1, NUM_IDS, (NUM_ROWS, *sizes))


def fields() -> dict[str, Tensor]:
    return {name: ids() for name in (*USER, *ITEM)}


def mlp(*sizes: int, last: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*(layers[:-2] if last else layers))


class ByName(nn.Module):
    """A table for every field of a dict batch."""

    def __init__(self, names: tuple[str, ...] = (*USER, *ITEM), width: int = WIDTH) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({n: nn.Embedding(NUM_IDS, width) for n in names})

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.tables[n](batch[n]) for n in self.tables], dim=1)


NUM_FIELDS = len(USER) + len(ITEM)


class DLRMBags(nn.Module):
    """Bags of multi-hot ids with offsets made in forward, dots below the triangle picked by index lists."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(NUM_IDS, WIDTH, mode="sum") for _ in range(4))
        self.bottom, self.top = mlp(6, 64, WIDTH), mlp(WIDTH + 10, 64, 1)

    def forward(self, dense: Tensor, sparse: list[Tensor]) -> Tensor:
        x = F.relu(self.bottom(dense))
        rows = [x]
        for ids_BL, bag in zip(sparse, self.bags):
            offsets = torch.arange(0, ids_BL.numel(), ids_BL.size(1), device=ids_BL.device)
            rows.append(bag(ids_BL.reshape(-1), offsets))
        tokens = torch.cat(rows, dim=1).view((x.size(0), -1, WIDTH))
        dots = torch.bmm(tokens, torch.transpose(tokens, 1, 2))
        _, ni, nj = dots.shape
        li = torch.tensor([i for i in range(ni) for j in range(i)])
        lj = torch.tensor([j for i in range(nj) for j in range(i)])
        return torch.sigmoid(self.top(torch.cat([x, dots[:, li, lj]], dim=1))).clamp(1e-4, 1 - 1e-4)


@style("DLRM, bags with offsets")
def _() -> Made:
    example = (torch.randn(NUM_ROWS, 6), [ids(3), ids(2), ids(1), ids(4)])
    return DLRMBags(), example, ["sparse.0", "sparse.1"]


class CIN(nn.Module):
    """xDeepFM's compressed interactions by Conv1d over an outer product, the first half of the maps going on."""

    def __init__(self, sizes: tuple[int, ...] = (16, 16)) -> None:
        super().__init__()
        self.sizes, self.convs, before = sizes, nn.ModuleList(), NUM_FIELDS
        for size in sizes:
            self.convs.append(nn.Conv1d(NUM_FIELDS * before, size, kernel_size=1))
            before = size // 2
        self.embed, self.fc = ByName(), nn.Linear(sum(s // 2 for s in sizes[:-1]) + sizes[-1], 1)
        self.linear, self.dnn = ByName(width=1), mlp(NUM_FIELDS * WIDTH, 64, 32, 1)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        x0 = self.embed(batch)
        xs, h = [], x0
        for size, conv in zip(self.sizes, self.convs):
            z = torch.einsum("bhd,bmd->bhmd", h, x0)
            z = F.relu(conv(z.reshape(x0.shape[0], -1, WIDTH)))
            h, keep = (z, z) if size == self.sizes[-1] and len(xs) == len(self.sizes) - 1 else z.chunk(2, dim=1)
            xs.append(keep)
        cin = torch.cat(xs, dim=1).sum(dim=-1)
        logit = self.linear(batch).sum(1) + self.fc(cin) + self.dnn(x0.flatten(start_dim=1)) + self.bias
        return {"logits": logit.squeeze(-1), "loss": None, "probabilities": torch.sigmoid(logit).squeeze(-1)}


@style("xDeepFM, Conv1d, dict out")
def _() -> Made:
    return CIN(), fields(), list(USER)


class FiBiNet(nn.Module):
    """SENET by masked pooling, one bilinear matrix a pair, products in a Python loop over combinations."""

    def __init__(self, kind: str = "interaction") -> None:
        super().__init__()
        pairs = NUM_FIELDS * (NUM_FIELDS - 1) // 2
        self.embed, self.kind = ByName(), kind
        self.senet = nn.Sequential(nn.Linear(NUM_FIELDS, 3, bias=False), nn.ReLU(), nn.Linear(3, NUM_FIELDS), nn.ReLU())
        count = {"interaction": pairs, "each": NUM_FIELDS, "all": 1}[kind]
        self.bilinear = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count))
        self.head = mlp(2 * pairs * WIDTH, 64, 1)

    def products(self, x: Tensor) -> Tensor:
        parts = torch.split(x, 1, dim=1)
        out = []
        for k, (i, j) in enumerate(itertools.combinations(range(len(parts)), 2)):
            layer = self.bilinear[{"interaction": k, "each": i, "all": 0}[self.kind]]
            out.append(torch.mul(layer(parts[i]), parts[j]))
        return torch.cat(out, dim=1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        weighted = x * self.senet(torch.mean(x, dim=-1)).unsqueeze(2)
        both = torch.cat([self.products(x), self.products(weighted)], dim=1)
        return self.head(torch.flatten(both, start_dim=1)).view(-1)


@style("FiBiNet, a matrix a pair")
def _() -> Made:
    return FiBiNet(), fields(), list(USER)


@style("FiBiNet, a matrix a field")
def _() -> Made:
    return FiBiNet("each"), fields(), list(USER)


class MaskBlock(nn.Module):
    def __init__(self, into: int, out: int, total: int) -> None:
        super().__init__()
        self.mask = nn.Sequential(nn.Linear(total, 2 * total), nn.ReLU(), nn.Linear(2 * total, into))
        self.hidden, self.norm = nn.Linear(into, out, bias=False), nn.LayerNorm(out)

    def forward(self, whole: Tensor, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.hidden(self.mask(whole) * x)))


class MaskNet(nn.Module):
    """Masks guided by the instance, in series, on embeddings normalised field by field."""

    def __init__(self, serial: bool) -> None:
        super().__init__()
        total = NUM_FIELDS * WIDTH
        self.embed, self.norms = ByName(), nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(NUM_FIELDS))
        self.serial = serial
        self.blocks = nn.ModuleList([MaskBlock(total, 64, total), MaskBlock(64 if serial else total, 64, total)])
        self.head = nn.Linear(64 if serial else 128, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        normed = torch.cat([norm(x[:, k]) for k, norm in enumerate(self.norms)], dim=-1)
        whole = x.view(x.size(0), -1)
        if self.serial:
            out = self.blocks[1](whole, self.blocks[0](whole, normed))
        else:
            out = torch.cat([block(whole, normed) for block in self.blocks], dim=-1)
        return self.head(out)[:, 0]


@style("MaskNet, serial")
def _() -> Made:
    return MaskNet(True), fields(), list(USER)


@style("MaskNet, parallel")
def _() -> Made:
    return MaskNet(False), fields(), list(USER)


class FinalMLP(nn.Module):
    """Two streams with gates from learned contexts, fused by bilinear heads."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        total = NUM_FIELDS * WIDTH
        self.embed, self.heads = ByName(), heads
        self.context = nn.ParameterList([nn.Parameter(torch.zeros(1, WIDTH)), nn.Parameter(torch.zeros(1, WIDTH))])
        self.gates = nn.ModuleList(nn.Sequential(mlp(WIDTH, 32, total), nn.Sigmoid()) for _ in range(2))
        self.streams = nn.ModuleList(mlp(total, 64, 32, last=False) for _ in range(2))
        self.wx, self.wy = nn.Linear(32, 1), nn.Linear(32, 1)
        self.wxy = nn.Parameter(torch.randn(heads * (32 // heads) ** 2, 1) * 0.1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        flat = self.embed(batch).flatten(1)
        streams = []
        for context, gate, net in zip(self.context, self.gates, self.streams):
            weights = 2 * gate(context.repeat(flat.size(0), 1))
            streams.append(net(flat * weights))
        x, y = streams
        hx = x.view(-1, self.heads, 32 // self.heads)
        hy = y.view(-1, self.heads, 32 // self.heads)
        xy = torch.matmul(
            torch.matmul(hx.unsqueeze(2), self.wxy.view(self.heads, 32 // self.heads, -1)).view(-1, self.heads, 1, 8),
            hy.unsqueeze(-1),
        )
        return (self.wx(x) + self.wy(y) + xy.squeeze(-1).sum(dim=1)).squeeze(1)


@style("FinalMLP, contexts repeated over the batch")
def _() -> Made:
    return FinalMLP(), fields(), list(USER)


class GDCN(nn.Module):
    """Gated cross layers beside a deep net, on one table with offsets for all fields."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        total = NUM_FIELDS * WIDTH
        self.table = nn.Embedding(NUM_FIELDS * NUM_IDS, WIDTH)
        self.register_buffer("offsets", torch.arange(NUM_FIELDS) * NUM_IDS, persistent=False)
        self.w = nn.ModuleList(nn.Linear(total, total, bias=False) for _ in range(depth))
        self.wg = nn.ModuleList(nn.Linear(total, total, bias=False) for _ in range(depth))
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(total)) for _ in range(depth))
        self.deep = nn.Sequential(nn.Linear(total, 64), nn.BatchNorm1d(64), nn.PReLU(64), nn.Dropout(0.2))
        self.head = nn.Linear(total + 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        x0 = self.table(x + self.offsets).view(-1, NUM_FIELDS * WIDTH)
        cross = x0
        for w, wg, b in zip(self.w, self.wg, self.b):
            cross = x0 * (w(cross) + b) * torch.sigmoid(wg(cross)) + cross
        return torch.sigmoid(self.head(torch.cat([cross, self.deep(x0)], dim=-1)).squeeze(1))


@style("GDCN, packed ids")
def _() -> Made:
    return GDCN(), ids(NUM_FIELDS), {"x": slice(0, len(USER))}


class AutoIntTorch(nn.Module):
    """AutoInt by nn.MultiheadAttention with fields first, as its default wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up = ByName(), nn.Linear(WIDTH, 32)
        self.attentions = nn.ModuleList(nn.MultiheadAttention(32, 2, dropout=0.1) for _ in range(2))
        self.residual, self.head = nn.Linear(WIDTH, 32), nn.Linear(NUM_FIELDS * 32, 1)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        x = self.embed(batch)
        cross, maps = self.up(x).transpose(0, 1), []
        for attention in self.attentions:
            cross, weights = attention(cross, cross, cross)
            maps.append(weights)
        cross = cross.transpose(0, 1)
        cross += self.residual(x)
        return self.head(F.relu(cross).contiguous().view(-1, NUM_FIELDS * 32)), maps


@style("AutoInt, attention maps returned")
def _() -> Made:
    return AutoIntTorch(), fields(), list(USER)


class Euler(nn.Module):
    """EulerNet: features as complex numbers in polar form, products as sums of angles."""

    def __init__(self, orders: int = 6) -> None:
        super().__init__()
        self.embed, self.orders = ByName(), orders
        self.mu = nn.Parameter(torch.ones(1, NUM_FIELDS, 1))
        self.inter = nn.Parameter(torch.randn(NUM_FIELDS * WIDTH, orders * WIDTH) * 0.05)
        self.re, self.im = nn.Linear(orders * WIDTH, 1), nn.Linear(orders * WIDTH, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        angle = self.embed(batch)
        z = torch.polar(self.mu.expand_as(angle).abs() + 1e-6, angle)
        r, p = z.real, z.imag
        lam, theta = r**2 + p**2 + 1e-8, torch.atan2(p, r)
        theta = theta.reshape(theta.shape[0], -1) @ self.inter
        lam = torch.exp(0.5 * torch.log(lam).reshape(lam.shape[0], -1) @ self.inter)
        out = torch.complex(lam * torch.cos(theta), lam * torch.sin(theta))
        return torch.sigmoid(self.re(out.real) + self.im(torch.imag(out))).reshape(-1)


@style("EulerNet, complex numbers")
def _() -> Made:
    return Euler(), fields(), list(USER)


class PEPNet(nn.Module):
    """Gates of a scenario over embeddings, of a person over layers; inputs detached, as the paper asks."""

    def __init__(self) -> None:
        super().__init__()
        total = NUM_FIELDS * WIDTH
        self.embed, self.domain = ByName(), nn.Embedding(NUM_IDS, WIDTH)
        self.ep = nn.Sequential(nn.Linear(total + WIDTH, 64), nn.ReLU(), nn.Linear(64, total), nn.Sigmoid())
        self.pp = nn.ModuleList(nn.Sequential(nn.Linear(total + 2 * WIDTH, n), nn.Sigmoid()) for n in (64, 32))
        self.towers = nn.ModuleDict({t: nn.ModuleList([nn.Linear(total, 64), nn.Linear(64, 32)]) for t in "ab"})
        self.heads = nn.ModuleDict({t: nn.Linear(32, 1) for t in "ab"})

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = self.embed(batch).flatten(1)
        domain = self.domain(batch["scenario"])
        x = self.ep(torch.cat([domain, x.detach()], -1)) * 2.0 * x
        person = torch.cat([self.embed.tables["user"](batch["user"]), self.embed.tables["item"](batch["item"])], -1)
        gates = [2.0 * gate(torch.cat([person, x.detach()], dim=1)) for gate in self.pp]
        out = {}
        for task, layers in self.towers.items():
            h = x
            for layer, gate in zip(layers, gates):
                h = F.relu(layer(h)) * gate
            out[task] = self.heads[task](h).squeeze(dim=1)
        return out


@style("PEPNet, detached gates")
def _() -> Made:
    return PEPNet(), {**fields(), "scenario": ids()}, [*USER, "scenario"]


class STAR(nn.Module):
    """Shared and domain weights multiplied, picked by a domain id of the request."""

    def __init__(self, domains: int = NUM_IDS) -> None:
        super().__init__()
        total = NUM_FIELDS * WIDTH
        self.embed = ByName()
        self.shared = nn.Parameter(torch.randn(total, 32) * 0.05)
        self.own = nn.Parameter(torch.randn(domains, total, 32) * 0.05)
        self.bias, self.own_bias = nn.Parameter(torch.zeros(32)), nn.Parameter(torch.zeros(domains, 32))
        self.head = nn.Linear(32, 1)

    def forward(self, batch: dict[str, Tensor], domain: Tensor) -> Tensor:
        x = self.embed(batch).flatten(1)
        weight = self.shared.unsqueeze(0) * self.own[domain]
        h = torch.bmm(x.unsqueeze(1), weight).squeeze(1) + self.bias + self.own_bias[domain]
        return self.head(torch.relu_(h))


@style("STAR, weights by domain")
def _() -> Made:
    return STAR(), (fields(), ids()), [*(f"batch.{n}" for n in USER), "domain"]


class HardGates(nn.Module):
    """Multi-task experts stacked and mixed by the gate's best two, scattered back."""

    def __init__(self, experts: int = 6) -> None:
        super().__init__()
        total = NUM_FIELDS * WIDTH
        self.embed = ByName()
        self.w1 = nn.Parameter(torch.randn(experts, total, 64) * 0.05)
        self.w2 = nn.Parameter(torch.randn(experts, 64, 32) * 0.1)
        self.gates = nn.ModuleList(nn.Linear(total, experts) for _ in range(2))
        self.towers = nn.ModuleList(mlp(32, 16, 1) for _ in range(2))

    def forward(self, batch: dict[str, Tensor]) -> list[Tensor]:
        x = self.embed(batch).flatten(1)
        h = torch.einsum("bi,eio->beo", x, self.w1).relu()
        h = torch.einsum("beo,eop->bep", h, self.w2)
        out = []
        for gate, tower in zip(self.gates, self.towers):
            values, places = gate(x).topk(2, dim=-1)
            weights = torch.zeros(x.size(0), h.size(1)).scatter_(1, places, F.softmax(values, dim=-1))
            out.append(tower((weights.unsqueeze(-1) * h).sum(dim=1)))
        return out


@style("MMOE, top two experts scattered")
def _() -> Made:
    return HardGates(), fields(), list(USER)


class AdaTT(nn.Module):
    """Task and shared experts fused by gates whose own experts are added as a residual (bmm over tasks)."""

    def __init__(self, tasks: int = 2, each: int = 2) -> None:
        super().__init__()
        total = NUM_FIELDS * WIDTH
        self.embed, self.tasks = ByName(), tasks
        count = tasks * each
        self.levels = nn.ModuleList(
            nn.ModuleList(nn.Sequential(nn.Linear(n, 32), nn.GELU()) for _ in range(count)) for n in (total, 32)
        )
        self.gates = nn.ModuleList(nn.ModuleList(nn.Linear(n, count) for _ in range(tasks)) for n in (total, 32))
        own = torch.zeros(tasks, count)
        for t in range(tasks):
            own[t, t * each : (t + 1) * each] = 1.0 / each
        self.register_buffer("own", own)
        self.heads = nn.ModuleList(nn.Linear(32, 1) for _ in range(tasks))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch).flatten(1).unsqueeze(1).expand(-1, self.tasks, -1)
        for experts, gates in zip(self.levels, self.gates):
            outs = torch.stack([e(x[:, k // 2]) for k, e in enumerate(experts)], dim=1)
            weights = torch.stack([gate(x[:, t]).softmax(-1) for t, gate in enumerate(gates)], dim=1)
            x = torch.bmm(weights, outs) + torch.einsum("te,bed->btd", self.own, outs)
        return torch.cat([head(x[:, t]) for t, head in enumerate(self.heads)], dim=-1)


@style("AdaTT, bmm over tasks")
def _() -> Made:
    return AdaTT(), fields(), list(USER)


class RankMixer(nn.Module):
    """Tokens mixed by a transposed view, a feed-forward net of its own for every token."""

    def __init__(self, tokens: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.tokens = ByName(), tokens
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * depth))
        self.up = nn.ParameterList(nn.Parameter(torch.randn(tokens, WIDTH, 32) * 0.1) for _ in range(depth))
        self.down = nn.ParameterList(nn.Parameter(torch.randn(tokens, 32, WIDTH) * 0.1) for _ in range(depth))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        size, t, d = x.shape
        for k, (up, down) in enumerate(zip(self.up, self.down)):
            mixed = x.view(size, t, t, d // t).transpose(1, 2).reshape(size, t, d)
            x = self.norms[2 * k](mixed + x)
            h = F.gelu(torch.bmm(x.transpose(0, 1), up))
            x = self.norms[2 * k + 1](x + torch.bmm(h, down).transpose(0, 1))
        return self.head(x.mean(dim=1))


@style("RankMixer, bmm by token")
def _() -> Made:
    return RankMixer(), fields(), list(USER)


class Wukong(nn.Module):
    """Compressed dots and linear compression side by side, residual and LayerNorm."""

    def __init__(self, depth: int = 2, k: int = 4) -> None:
        super().__init__()
        self.embed = ByName()
        n = NUM_FIELDS
        self.squeeze = nn.ParameterList(nn.Parameter(torch.randn(n, k) * 0.2) for _ in range(depth))
        self.fmb = nn.ModuleList(mlp(n * k, 64, n // 2 * WIDTH) for _ in range(depth))
        self.lcb = nn.ParameterList(nn.Parameter(torch.randn(n - n // 2, n) * 0.2) for _ in range(depth))
        self.norms, self.head = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth)), mlp(n * WIDTH, 32, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        for squeeze, fmb, lcb, norm in zip(self.squeeze, self.fmb, self.lcb, self.norms):
            dots = x @ (x.mT @ squeeze)
            a = fmb(dots.flatten(-2)).unflatten(-1, (-1, WIDTH))
            x = norm(torch.cat((a, lcb @ x), dim=1) + x)
        return self.head(x.flatten(-2))


@style("Wukong, mT and unflatten")
def _() -> Made:
    return Wukong(), fields(), list(USER)


class Residual(nn.Module):
    """Deep Crossing with weight norm, a spectral norm and batch norm, as parametrizations and as hooks."""

    def __init__(self) -> None:
        super().__init__()
        total = NUM_FIELDS * WIDTH
        self.embed = ByName()
        self.a = nn.utils.parametrizations.weight_norm(nn.Linear(total, 64))
        self.b = nn.utils.parametrizations.spectral_norm(nn.Linear(64, total))
        self.norm, self.head = nn.BatchNorm1d(total), nn.Linear(total, 1)
        self.act = nn.PReLU()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch).flatten(1)
        for _ in range(2):
            x = self.act(self.norm(self.b(F.leaky_relu(self.a(x), 0.1, inplace=True)) + x))
        return torch.sigmoid(self.head(x)).squeeze()


@style("Deep Crossing, parametrizations")
def _() -> Made:
    return Residual(), fields(), list(USER)


class Reversal(torch.autograd.Function):
    """Forward the identity, backward the negative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


@torch.jit.script
def swish_scaled(x: Tensor, scale: float) -> Tensor:
    return x * torch.sigmoid(scale * x)


class Adversarial(nn.Module):
    """Gradient reversal, a scripted activation, an attention map kept on the module, a hook that rescales."""

    def __init__(self) -> None:
        super().__init__()
        total = NUM_FIELDS * WIDTH
        self.embed, self.deep, self.head = ByName(), nn.Linear(total, 64), nn.Linear(64, 1)
        self.domain = nn.Linear(64, 3)
        self.last_gate: Tensor | None = None
        self.deep.register_forward_hook(lambda module, args, out: out * 0.5)

    def forward(self, batch: dict[str, Tensor], return_domain: bool = False) -> Any:
        x = self.embed(batch)
        gate = torch.softmax(x.mean(-1), dim=1)
        self.last_gate = gate.detach()
        h = swish_scaled(self.deep((x * gate[..., None]).flatten(1)), 1.7)
        if return_domain:
            return self.head(h), self.domain(Reversal.apply(h))
        return self.head(Reversal.apply(h))


@style("Custom function, scripted activation, hook, kept map")
def _() -> Made:
    return Adversarial(), (fields(),), list(USER)


@dataclass
class Ads:
    """A typed batch."""

    user_ids: Tensor
    context: Tensor
    ad_ids: Tensor
    price: Tensor
    flags: tuple[str, ...] = ()


@dataclass
class Scores:
    ctr: Tensor
    cvr: Tensor
    aux: dict[str, Tensor] | None = None


class Typed(nn.Module):
    """A dataclass in and out, hashed crosses, quotient-remainder tables, numbers in buckets and by soft bins."""

    def __init__(self) -> None:
        super().__init__()
        self.quotient, self.rest = nn.Embedding(32, WIDTH), nn.Embedding(16, WIDTH)
        self.crossed = nn.EmbeddingBag(1000, WIDTH, mode="mean")
        self.register_buffer("bounds", torch.linspace(-2, 2, 9))
        self.bins, self.meta = nn.Embedding(10, WIDTH), nn.Parameter(torch.randn(20, WIDTH) * 0.3)
        self.soft = nn.Sequential(nn.Linear(1, 20, bias=False), nn.LeakyReLU(), nn.Linear(20, 20))
        self.trunk = mlp(9 * WIDTH, 64, 32, last=False)
        self.ctr, self.cvr = nn.Linear(32, 1), nn.Linear(32, 1)

    def lookup(self, x: Tensor) -> Tensor:
        return self.quotient(torch.div(x, 16, rounding_mode="floor")) * self.rest(x % 16)

    def forward(self, batch: Ads) -> Scores:
        pairs = (batch.user_ids[:, :2].unsqueeze(2) * 31 + batch.ad_ids.unsqueeze(1) * 7) % 1000
        price = torch.bucketize(batch.price, self.bounds)
        auto = F.softmax(self.soft(batch.price.unsqueeze(-1)) / 0.5, -1) @ self.meta
        parts = [
            self.lookup(batch.user_ids).flatten(1),
            self.lookup(batch.ad_ids).flatten(1),
            self.crossed(pairs.flatten(1)),
            self.bins(price),
            auto,
        ]
        x = torch.hstack([*parts, F.pad(batch.context, (0, WIDTH - batch.context.size(1)))])
        h = self.trunk(x)
        ctr = torch.sigmoid(self.ctr(h)).flatten()
        return Scores(ctr=ctr, cvr=ctr * torch.sigmoid(self.cvr(h)).flatten(), aux={"h": h})


@style("Typed batch, hashed crosses, bins")
def _() -> Made:
    batch = Ads(ids(3), torch.randn(NUM_ROWS, 5), ids(2), torch.randn(NUM_ROWS))
    return Typed(), (batch,), ["batch.user_ids", "batch.context"]


class Hyperbolic(nn.Module):
    """Two towers compared in the Poincare ball, with a metric-learning distance and a cosine beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = mlp(5 * WIDTH, 64, 32), mlp(3 * WIDTH, 64, 32)
        self.embed_user, self.embed_item = ByName(USER), ByName(ITEM)
        self.bilinear = nn.Bilinear(32, 32, 1)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, user: dict[str, Tensor], item: dict[str, Tensor]) -> dict[str, Tensor]:
        u = self.user(self.embed_user(user).flatten(1))
        i = self.item(self.embed_item(item).flatten(1))
        pu, pi = (0.9 * torch.tanh(v.norm(dim=-1, keepdim=True)) * F.normalize(v, dim=-1) for v in (u, i))
        square = (pu - pi).pow(2).sum(-1)
        gap = 1 + 2 * square / ((1 - pu.square().sum(-1)) * (1 - pi.square().sum(-1))).clamp_min(1e-5)
        cosine = self.scale.exp() * F.cosine_similarity(u, i)
        apart = torch.cdist(u.unsqueeze(1), i.unsqueeze(1)).view(-1)
        return {"hyperbolic": -torch.acosh(gap.clamp_min(1 + 1e-6)), "cosine": cosine, "metric": -apart,
                "bilinear": self.bilinear(u, i).squeeze(-1), "pair": -F.pairwise_distance(u, i)}  # fmt: skip


@style("Two towers, five distances, nested dicts")
def _() -> Made:
    batch = fields()
    user, item = {n: batch[n] for n in USER}, {n: batch[n] for n in ITEM}
    return Hyperbolic(), (user, item), ["user"]


class FTTransformer(nn.Module):
    """Feature tokens behind a learned class token through nn.TransformerEncoder; numbers as tokens too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = ByName(width=32)
        self.weight, self.bias = nn.Parameter(torch.randn(4, 32)), nn.Parameter(torch.zeros(4, 32))
        self.cls = nn.Parameter(torch.randn(1, 1, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, categories: dict[str, Tensor], numbers: Tensor) -> Tensor:
        tokens = torch.cat(
            [
                self.cls.expand(numbers.shape[0], -1, -1),
                numbers.unsqueeze(-1) * self.weight + self.bias,
                self.embed(categories),
            ],
            dim=1,
        )
        return self.head(self.encoder(tokens)[:, 0])


@style("FT-Transformer, class token")
def _() -> Made:
    request = {"numbers": slice(0, 2), **{f"categories.{n}": None for n in USER}}
    return FTTransformer(), (fields(), torch.randn(NUM_ROWS, 4)), request


class GraphScores(nn.Module):
    """LightGCN's scoring: ids looked up in embeddings propagated over a sparse graph in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, WIDTH), nn.Embedding(NUM_IDS, WIDTH)
        index = torch.randint(0, 2 * NUM_IDS, (2, 4000), generator=torch.Generator().manual_seed(1))
        graph = torch.sparse_coo_tensor(index, torch.full((4000,), 0.2), (2 * NUM_IDS, 2 * NUM_IDS))
        self.register_buffer("graph", graph.coalesce())

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        every = torch.cat([self.users.weight, self.items.weight])
        layers = [every]
        for _ in range(2):
            every = torch.sparse.mm(self.graph, every)
            layers.append(every)
        users, items = torch.split(torch.stack(layers, dim=1).mean(dim=1), [NUM_IDS, NUM_IDS])
        return (users[user] * items[item]).sum(dim=1)


@style("LightGCN, sparse graph in forward")
def _() -> Made:
    return GraphScores(), (ids(), ids()), ["user"]


class HalfBlock(nn.Module):
    """Autocast around the deep part, float outside; weights tied between sides; a scalar gate by torch.where."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.out = ByName(USER), ByName(ITEM)
        self.out.tables["item"].weight = self.user.tables["user"].weight
        self.deep = mlp(NUM_FIELDS * WIDTH, 64, 32)
        self.decode = nn.Linear(WIDTH, NUM_IDS, bias=False)
        self.decode.weight = self.out.tables["item"].weight
        self.up = nn.Linear(32, WIDTH)

    def forward(self, **batch: Tensor) -> Tensor:
        x = torch.cat([self.user(batch), self.out(batch)], 1).flatten(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.deep(x)
        h = self.up(h.float())
        logits = self.decode(h)
        picked = logits.gather(1, batch["item"].view(-1, 1)).squeeze(1)
        new = batch["age"] < 10
        return torch.where(new, picked, picked * 0.5) if not self.training else logits


@style("Autocast block, tied weights, keywords")
def _() -> Made:
    return HalfBlock(), fields(), list(USER)
