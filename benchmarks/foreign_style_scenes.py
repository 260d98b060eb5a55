"""Rankers with scenario towers, sparse experts, long histories and heterogeneous tokens: see ``foreign_styles``.

Letters: B pairs, F fields, L history length, D width, E experts, H heads, T tokens, S scenarios.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from foreign_style_sequences import padded
from foreign_styles import ITEM, LENGTH, NUM_IDS, NUM_ROWS, USER, WIDTH, ByName, Made, fields, ids, mlp, style

NUM_FIELDS = len(USER) + len(ITEM)


class ExtractionLayer(nn.Module):
    """CGC of PLE: experts of a task and shared ones, a gate each, stacked and mixed by matmul."""

    def __init__(self, width: int, tasks: int = 2, own: int = 2, common: int = 2, out: int = 32) -> None:
        super().__init__()
        self.own = nn.ModuleList(nn.ModuleList(mlp(width, out, last=False) for _ in range(own)) for _ in range(tasks))
        self.common = nn.ModuleList(mlp(width, out, last=False) for _ in range(common))
        self.gates = nn.ModuleList(nn.Linear(width, own + common) for _ in range(tasks))
        self.common_gate = nn.Linear(width, tasks * own + common)

    def forward(self, inputs: list[Tensor], last: bool) -> list[Tensor]:
        common = [e(inputs[-1]) for e in self.common]
        own = [[e(x) for e in experts] for x, experts in zip(inputs, self.own)]
        out = []
        for x, mine, gate in zip(inputs, own, self.gates):
            weights = torch.softmax(gate(x), dim=-1).unsqueeze(dim=1)
            out.append(torch.matmul(weights, torch.stack(mine + common, dim=1)).squeeze(dim=1))
        if not last:
            every = torch.stack([e for mine in own for e in mine] + common, dim=2)
            out.append((every * torch.softmax(self.common_gate(inputs[-1]), dim=-1)[:, None, :]).sum(-1))
        return out


class PLE(nn.Module):
    """Two levels of extraction and a NamedTuple of scores."""

    class Out(NamedTuple):
        click: Tensor
        buy: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = ByName()
        self.levels = nn.ModuleList([ExtractionLayer(NUM_FIELDS * WIDTH), ExtractionLayer(32)])
        self.towers = nn.ModuleList(mlp(32, 16, 1) for _ in range(2))

    def forward(self, **features: Tensor) -> PLE.Out:
        x = self.embed(features).reshape(len(features["user"]), -1)
        streams = [x, x, x]
        for depth, level in enumerate(self.levels):
            streams = level(streams, last=depth == len(self.levels) - 1)
        return PLE.Out(*[torch.sigmoid(tower(s)).squeeze(1) for tower, s in zip(self.towers, streams)])


@style("PLE, keywords in and a NamedTuple out")
def _() -> Made:
    return PLE(), fields(), list(USER)


class M2M(nn.Module):
    """Weights of a layer generated from the scenario, by a meta unit and a meta attention."""

    def __init__(self, scenarios: int = 4) -> None:
        super().__init__()
        self.embed, self.scene = ByName(), nn.Embedding(scenarios, WIDTH)
        self.vertex = nn.Linear(NUM_FIELDS * WIDTH, 32)
        self.weight, self.bias = nn.Linear(WIDTH + WIDTH, 32 * 32), nn.Linear(2 * WIDTH, 32)
        self.experts = nn.ModuleList(nn.Linear(NUM_FIELDS * WIDTH, 32) for _ in range(3))
        self.v, self.head = nn.Parameter(torch.randn(32, 1) * 0.2), nn.Linear(32, 1)

    def meta(self, x: Tensor, scene: Tensor) -> Tensor:
        w, b = self.weight(scene).view(-1, 32, 32), self.bias(scene).view(-1, 1, 32)
        return F.leaky_relu(torch.bmm(x.view(x.shape[0], -1, 32), w) + b)

    def forward(self, batch: dict[str, Tensor], scenario: Tensor) -> Tensor:
        e = self.embed(batch)
        x = e.flatten(1)
        scene = torch.cat((self.scene(scenario), e[:, 0]), dim=1)
        task = F.relu(self.vertex(x))
        experts = torch.stack([F.relu(net(x)) for net in self.experts], 1)
        scores = torch.matmul(self.meta(experts * task.unsqueeze(1), scene), self.v)
        mixed = (torch.softmax(scores, dim=1) * experts).sum(1)
        return torch.sigmoid(self.head(self.meta(mixed, scene).squeeze(1) + mixed)).view(-1)


@style("M2M, layers generated from the scenario")
def _() -> Made:
    return M2M(), (fields(), torch.randint(0, 4, (NUM_ROWS,))), ["scenario", *(f"batch.{n}" for n in USER)]


class ScenarioTowers(nn.Module):
    """A tower for each scenario, rows routed by masks of ones and zeros, one_hot and torch.where."""

    def __init__(self, scenarios: int = 3) -> None:
        super().__init__()
        self.embed, self.s = ByName(), scenarios
        self.norms = nn.ModuleList(nn.BatchNorm1d(NUM_FIELDS * WIDTH) for _ in range(scenarios))
        self.towers = nn.ModuleList(mlp(NUM_FIELDS * WIDTH, 32, 1) for _ in range(scenarios))
        self.wide = nn.Linear(scenarios, 1, bias=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        scene = batch["scene"]
        x = self.embed({k: v for k, v in batch.items() if k != "scene"}).flatten(1)
        out = torch.zeros(x.size(0), dtype=x.dtype, device=x.device)
        for k, (norm, tower) in enumerate(zip(self.norms, self.towers)):
            out = torch.where(scene.eq(k), tower(norm(x)).squeeze(1), out)
        hot = F.one_hot(scene, num_classes=self.s).to(x.dtype)
        return torch.sigmoid(out + self.wide(hot).squeeze(1))


@style("Scenario towers, one_hot and where")
def _() -> Made:
    batch = {**fields(), "scene": torch.randint(0, 3, (NUM_ROWS,))}
    return ScenarioTowers(), (batch,), [*USER, "scene"]


class ScenarioLoop(nn.Module):
    """Rows of a scenario written by a boolean index into an empty result: out[mask] = tower(x[mask])."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = ByName()
        self.towers = nn.ModuleDict({str(k): mlp(NUM_FIELDS * WIDTH, 32, 1) for k in range(3)})

    def forward(self, batch: dict[str, Tensor], scene: Tensor) -> Tensor:
        x = self.embed(batch).flatten(start_dim=1)
        out = x.new_zeros((x.shape[0], 1))
        for name, tower in self.towers.items():
            mask = scene == int(name)
            if mask.any():
                out[mask] = tower(x[mask])
        return out.sigmoid().squeeze(-1)


@style("Scenario loop, if mask.any()")
def _() -> Made:
    return ScenarioLoop(), (fields(), torch.randint(0, 3, (NUM_ROWS,))), ["scene", *(f"batch.{n}" for n in USER)]


class SparseMoE(nn.Module):
    """Top-2 of 4 experts by a noisy gate (no noise in eval), dispatched by where and index_add_."""

    def __init__(self, dispatch: str) -> None:
        super().__init__()
        self.embed, self.gate, self.dispatch = ByName(), nn.Linear(NUM_FIELDS * WIDTH, 4, bias=False), dispatch
        self.noise = nn.Linear(NUM_FIELDS * WIDTH, 4, bias=False)
        self.experts = nn.ModuleList(mlp(NUM_FIELDS * WIDTH, 48, 24) for _ in range(4))
        self.head = nn.Linear(24, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch).flatten(1)
        logits = self.gate(x)
        if self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(self.noise(x))
        weights, chosen = torch.topk(torch.softmax(logits, dim=1, dtype=torch.float), 2, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        if self.dispatch == "index_add":
            out = torch.zeros(x.shape[0], 24, dtype=x.dtype, device=x.device)
            mask = F.one_hot(chosen, num_classes=4).permute(2, 1, 0)
            for k, expert in enumerate(self.experts):
                slot, rows = torch.where(mask[k])
                out.index_add_(0, rows, expert(x[rows]) * weights[rows, slot, None])
        elif self.dispatch == "scatter":
            dense = torch.zeros_like(logits).scatter_(1, chosen, weights)
            out = torch.einsum("be,bed->bd", dense, torch.stack([e(x) for e in self.experts], 1))
        else:
            every = torch.stack([e(x) for e in self.experts], dim=1)
            picked = every.gather(1, chosen.unsqueeze(-1).expand(-1, -1, every.size(-1)))
            out = (picked * weights.unsqueeze(-1)).sum(1)
        return self.head(out).squeeze(-1).sigmoid()


for way in ("index_add", "scatter", "gather"):

    @style(f"Sparse experts, topk and {way}")
    def _(way: str = way) -> Made:
        return SparseMoE(way), (fields(),), list(USER)


class CAN(nn.Module):
    """Co-action units: an item's embedding is the weights of a small net over the history's and the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.feed, self.weights = nn.Embedding(NUM_IDS, 8), nn.Embedding(NUM_IDS, 8 * 4 + 4 + 4 * 4 + 4)
        self.head = mlp(8 * 2 + 8, 32, 1)

    def unit(self, feed: Tensor, params: Tensor, mask: Tensor | None = None) -> Tensor:
        w1, b1, w2, b2 = torch.split(params, [32, 4, 16, 4], dim=-1)
        outs, x = [], feed if feed.dim() == 3 else feed.unsqueeze(1)
        for w, b, size in ((w1, b1, 8), (w2, b2, 4)):
            x = torch.tanh(torch.matmul(x, w.reshape(-1, size, 4)) + b.unsqueeze(1))
            outs.append(x if mask is None else x * mask.unsqueeze(-1))
        return torch.cat([o.sum(1) for o in outs], dim=-1)

    def forward(self, user: Tensor, hist: Tensor, item: Tensor) -> Tensor:
        params = self.weights(item)
        mask = hist.ne(0).float()
        units = [self.unit(self.feed(user), params), self.unit(self.feed(hist), params, mask)]
        x = torch.cat([*units, self.feed(item)], 1)
        return self.head(x).sigmoid().squeeze()


@style("CAN, co-action units")
def _() -> Made:
    return CAN(), (ids(), padded()[0], ids()), ["user", "hist"]


class SDIM(nn.Module):
    """Hash signatures by random planes; history rows whose codes collide with the candidate's are summed."""

    def __init__(self, width: int = 32, hashes: int = 12, group: int = 3) -> None:
        super().__init__()
        self.items, self.group = nn.Embedding(NUM_IDS, width, padding_idx=0), group
        self.planes = nn.Parameter(torch.randn(width, hashes), requires_grad=False)
        self.head = mlp(2 * width, 32, 1)

    def code(self, x: Tensor) -> Tensor:
        bits = (torch.einsum("...d,dm->...m", x, self.planes) > 0).long()
        bits = bits.unflatten(-1, (-1, self.group))
        return torch.sum(bits * 2 ** torch.arange(self.group, device=x.device), dim=-1)

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        seq, target = self.items(hist), self.items(item)
        hit = self.code(seq) == self.code(target).unsqueeze(1)
        hit = hit & (hist != 0)[..., None]
        pooled = torch.einsum("blg,bld->bgd", hit.float(), seq)
        read = F.normalize(pooled, dim=-1).mean(1)
        return self.head(torch.cat((target, read), -1))


@style("SDIM, sampled hash collisions")
def _() -> Made:
    return SDIM(), (padded()[0], ids()), ["hist"]


class TWIN(nn.Module):
    """Two stages: cheap scores with cross features as biases, the best kept by topk, attention over those."""

    def __init__(self, width: int = 32, heads: int = 4, keep: int = 10) -> None:
        super().__init__()
        self.items, self.cross, self.h, self.keep = nn.Embedding(NUM_IDS, width), nn.Embedding(9, 4), heads, keep
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.beta, self.out = nn.Linear(4, heads), nn.Linear(width, width)
        self.head = mlp(2 * width, 32, 1)

    def forward(self, hist: Tensor, cross: Tensor, item: Tensor) -> Tensor:
        b, n = hist.shape
        seq, t = self.items(hist), self.items(item)
        q = self.q(t).view(b, self.h, 1, -1)
        k = self.k(seq).view(b, n, self.h, -1).transpose(1, 2)
        scores = (q @ k.transpose(-2, -1)).squeeze(2) / math.sqrt(q.size(-1))
        scores = scores + self.beta(self.cross(cross)).permute(0, 2, 1)
        scores.masked_fill_((hist == 0).unsqueeze(1), float("-inf"))
        best, place = torch.topk(scores, self.keep, dim=-1, sorted=False)
        v = self.v(seq).view(b, n, self.h, -1).transpose(1, 2)
        v = torch.take_along_dim(v, place.unsqueeze(-1), dim=2)
        read = torch.nan_to_num(torch.softmax(best, -1)).unsqueeze(2) @ v
        return self.head(torch.cat([t, self.out(read.reshape(b, -1))], -1)).squeeze(-1)


@style("TWIN, two stages with take_along_dim")
def _() -> Made:
    return TWIN(), (padded()[0], torch.randint(0, 9, (NUM_ROWS, LENGTH)), ids()), ["hist", "cross"]


class XDeepInt(nn.Module):
    """Polynomial interaction over subspaces: [B, F, D] cut along D and laid along F."""

    def __init__(self, cuts: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.cuts = ByName(), cuts
        self.filters = nn.ModuleList(nn.Conv1d(NUM_FIELDS * cuts, NUM_FIELDS * cuts, 1) for _ in range(depth))
        self.head = nn.Linear(NUM_FIELDS * WIDTH, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = torch.cat(torch.tensor_split(self.embed(batch), self.cuts, dim=-1), dim=1)
        h = x
        for conv in self.filters:
            h = h * conv(x) + h
        return self.head(h.flatten(1)).squeeze(1)


@style("xDeepInt, subspaces by tensor_split")
def _() -> Made:
    return XDeepInt(), (fields(),), list(USER)


class DHEN(nn.Module):
    """Stacked ensembles of attention, a cross layer, dot compression and an MLP over field tokens, with residuals."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.embed, n = ByName(), NUM_FIELDS
        self.attend = nn.ModuleList(nn.MultiheadAttention(WIDTH, 2, batch_first=True) for _ in range(depth))
        self.cross = nn.ModuleList(nn.Linear(n * WIDTH, n * WIDTH) for _ in range(depth))
        self.compress = nn.ParameterList(nn.Parameter(torch.randn(n, n) * 0.2) for _ in range(depth))
        self.deep = nn.ModuleList(mlp(n * WIDTH, 64, n * WIDTH) for _ in range(depth))
        self.norm, self.head = nn.ModuleList(nn.LayerNorm([n, WIDTH]) for _ in range(depth)), mlp(n * WIDTH, 32, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        for attend, cross, compress, deep, norm in zip(self.attend, self.cross, self.compress, self.deep, self.norm):
            flat = torch.flatten(x, 1)
            read, _ = attend(x, x, x, need_weights=False)
            crossed = (flat * cross(flat)).view_as(x)
            dots = torch.baddbmm(x, torch.bmm(x, x.mT), (compress @ x))
            x = norm(torch.stack([read, crossed, dots, deep(flat).view_as(x)]).mean(0) + x)
        return self.head(x.flatten(1))[:, 0]


@style("DHEN, an ensemble of interactions")
def _() -> Made:
    return DHEN(), (fields(),), list(USER)


class HiFormer(nn.Module):
    """Heterogeneous attention: every field its own Q, K, V by einsum over stacked weights, and a low-rank composite."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.embed, self.h, n = ByName(), heads, NUM_FIELDS
        self.q, self.k, self.v = (nn.Parameter(torch.randn(n, WIDTH, WIDTH) * 0.2) for _ in range(3))
        self.low, self.high = nn.Linear(n * WIDTH, 8, bias=False), nn.Linear(8, n * WIDTH, bias=False)
        self.ffn, self.head = nn.Parameter(torch.randn(n, WIDTH, WIDTH) * 0.2), nn.Linear(n * WIDTH, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        q = torch.einsum("bnd,nde->bne", x, self.q)
        k = torch.einsum("bnd,nde->bne", x, self.k) + self.high(self.low(x.flatten(1))).view_as(x)
        v = torch.einsum("bnd,nde->bne", x, self.v)
        q, k, v = (t.unflatten(-1, (self.h, -1)).transpose(1, 2) for t in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2) + x
        x = F.gelu((x.transpose(0, 1) @ self.ffn).transpose(0, 1)) + x
        return torch.sigmoid(self.head(x.flatten(1)).squeeze(-1))


@style("HiFormer, weights of every token")
def _() -> Made:
    return HiFormer(), (fields(),), list(USER)


class OneTrans(nn.Module):
    """History tokens, then tokens of the user and the candidate with weights of their own; causal, grouped keys."""

    def __init__(self, width: int = 32, heads: int = 4, kv_heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.items, self.user = nn.Embedding(NUM_IDS, width, padding_idx=0), nn.Embedding(NUM_IDS, width)
        self.h, self.kv, self.d = heads, kv_heads, width // heads
        self.shared = nn.ModuleList(nn.Linear(width, (heads + 2 * kv_heads) * self.d) for _ in range(depth))
        self.own = nn.ModuleList(nn.ModuleList(nn.Linear(width, (heads + 2 * kv_heads) * self.d) for _ in range(2))
                                 for _ in range(depth))  # fmt: skip
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norm, self.head = nn.ModuleList(nn.RMSNorm(width) for _ in range(depth)), mlp(width, 32, 2)
        angles = torch.outer(torch.arange(LENGTH + 2).float(), 10000 ** (-torch.arange(0, self.d, 2) / self.d))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turns[: x.size(1)].view(1, x.size(1), 1, -1)).flatten(3).type_as(x)

    def forward(self, hist: Tensor, user: Tensor, item: Tensor) -> Tensor:
        x = torch.cat([self.items(hist), self.user(user).unsqueeze(1), self.items(item).unsqueeze(1)], 1)
        n = hist.size(1)
        for shared, own, out, norm in zip(self.shared, self.own, self.out, self.norm):
            y = norm(x)
            mixed = torch.cat([shared(y[:, :n]), *(net(y[:, n + k : n + k + 1]) for k, net in enumerate(own))], 1)
            q, k, v = mixed.view(*x.shape[:2], -1, self.d).split([self.h, self.kv, self.kv], dim=2)
            q, k, v = self.rotate(q).transpose(1, 2), self.rotate(k).transpose(1, 2), v.transpose(1, 2)
            read = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + out(read.transpose(1, 2).reshape_as(x))
        return self.head(x[:, -1])


@style("OneTrans, causal with grouped keys and complex rotary")
def _() -> Made:
    return OneTrans(), (padded(left=True)[0], ids(), ids()), ["hist", "user"]


class InterFormer(nn.Module):
    """Sequence and fields inform each other: fields pooled from the history, the history conditioned on the fields."""

    def __init__(self, width: int = WIDTH, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.items = ByName(), nn.Embedding(NUM_IDS, width, padding_idx=0)
        self.pool = nn.ModuleList(nn.MultiheadAttention(width, 2, batch_first=True) for _ in range(depth))
        self.condition = nn.ModuleList(nn.Linear(NUM_FIELDS * width, width * width) for _ in range(depth))
        self.field = nn.ModuleList(nn.Linear((NUM_FIELDS + 1) * width, NUM_FIELDS * width) for _ in range(depth))
        self.head = mlp((NUM_FIELDS + 1) * width, 32, 1)

    def forward(self, batch: dict[str, Tensor], hist: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x, seq = self.embed(batch), self.items(hist)
        pad = hist == 0
        maps = []
        for pool, condition, field in zip(self.pool, self.condition, self.field):
            query = x.mean(1, keepdim=True)
            read, weights = pool(query, seq, seq, key_padding_mask=pad, need_weights=True, average_attn_weights=False)
            maps.append(weights.mean(1).squeeze(1))
            seq = seq + torch.tanh(seq @ condition(x.flatten(1)).view(-1, WIDTH, WIDTH) / WIDTH)
            x = F.silu(field(torch.cat([x, read.nan_to_num()], 1).flatten(1))).view_as(x) + x
        return self.head(torch.cat((x, read.nan_to_num()), 1).flatten(1)).flatten(), {"maps": torch.stack(maps, 1)}


@style("InterFormer, maps of nn.MultiheadAttention returned")
def _() -> Made:
    hist = padded()[0]
    return InterFormer(), (fields(), hist), ["hist", *(f"batch.{n}" for n in USER)]


class ComiRec(nn.Module):
    """Interests by self-attention, the candidate's own chosen by argmax and a flat index over B * K."""

    def __init__(self, width: int = 32, interests: int = 4, soft: bool = False) -> None:
        super().__init__()
        self.items, self.k, self.soft = nn.Embedding(NUM_IDS, width, padding_idx=0), interests, soft
        self.position = nn.Parameter(torch.randn(1, LENGTH, width) * 0.1)
        self.w1, self.w2 = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, interests, bias=False)

    def forward(self, hist: Tensor, mask: Tensor, item: Tensor) -> Tensor:
        x = self.items(hist) * torch.reshape(mask, (-1, LENGTH, 1))
        scores = self.w2(torch.tanh(self.w1(x + self.position.repeat(x.shape[0], 1, 1)))).transpose(2, 1).contiguous()
        m = mask.unsqueeze(1).repeat(1, self.k, 1)
        scores = torch.where(torch.eq(m, 0), torch.ones_like(m) * (-(2**32) + 1), scores)
        interests = torch.matmul(F.softmax(scores, dim=-1), x)
        target = self.items(item)
        match = torch.matmul(interests, torch.reshape(target, (-1, target.shape[-1], 1))).reshape(-1, self.k)
        if self.soft:
            return (torch.pow(F.softmax(match, -1), 2.0).unsqueeze(-1) * interests).sum(1).mul(target).sum(1)
        best = torch.argmax(match, dim=-1)
        flat = best + torch.arange(item.shape[0], device=item.device) * self.k
        own = torch.reshape(interests, (-1, interests.shape[-1]))[flat.long()]
        return torch.sum(own * target, dim=-1)


@style("ComiRec, argmax over interests")
def _() -> Made:
    hist = padded()[0]
    return ComiRec(), (hist, (hist > 0).float(), ids()), ["hist", "mask"]


class DMIN(nn.Module):
    """Behaviour refined by nn.TransformerEncoder, heads as interests, attention of each to the candidate."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.items, self.position = nn.Embedding(NUM_IDS, width, padding_idx=0), nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.attend = mlp(4 * (width // 4), 16, 1)
        self.head = mlp(2 * width, 32, 1)
        self.squeeze = nn.Linear(width, width // 4)

    def forward(self, hist: Tensor, item: Tensor, label: Tensor | None = None) -> dict[str, Tensor | None]:
        steps = torch.arange(hist.size(1), device=hist.device).expand_as(hist)
        pad = hist.eq(0)
        x = self.encoder(self.items(hist) + self.position(steps), src_key_padding_mask=pad)
        target = self.items(item)
        t = self.squeeze(target)[:, None, None].expand(-1, 4, hist.size(1), -1)
        heads = x.unflatten(2, (4, -1)).permute(0, 2, 1, 3)
        scores = self.attend(torch.cat([heads, t, heads - t, heads * t], -1)).squeeze(-1)
        scores = scores.masked_fill(pad.unsqueeze(1), torch.finfo(scores.dtype).min).softmax(-1)
        read = torch.einsum("bhl,bhld->bhd", scores, heads).flatten(1)
        loss = None if label is None else F.binary_cross_entropy_with_logits(read.sum(1), label)
        return {"score": self.head(torch.cat([read, target], 1)).squeeze(1), "loss": loss}


@style("DMIN, pre-norm encoder, optional label")
def _() -> Made:
    hist = padded()[0]
    hist[:, 0] = hist[:, 0].clamp(min=1)
    return DMIN(), {"hist": hist, "item": ids()}, ["hist"]


class PackedLSTM(nn.Module):
    """A two-layer LSTM over a packed sequence; its last hidden state, and attention over what it gives."""

    def __init__(self, bidirectional: bool) -> None:
        super().__init__()
        self.items = nn.Embedding(NUM_IDS, 24, padding_idx=0)
        self.rnn = nn.LSTM(24, 16, 2, batch_first=True, bidirectional=bidirectional)
        width = 32 if bidirectional else 16
        self.q, self.head = nn.Linear(24, width), mlp(3 * width, 32, 1)

    def forward(self, hist: Tensor, length: Tensor, item: Tensor) -> Tensor:
        pack = nn.utils.rnn.pack_padded_sequence
        packed = pack(self.items(hist), length.cpu(), batch_first=True, enforce_sorted=False)
        out, (h, _) = self.rnn(packed)
        out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=hist.size(1))
        last = torch.cat([h[-2], h[-1]], -1) if self.rnn.bidirectional else h[-1]
        q = self.q(self.items(item))
        scores = torch.bmm(out, q.unsqueeze(-1)).squeeze(-1)
        valid = torch.arange(hist.size(1))[None, :] < length[:, None]
        read = (scores.masked_fill(~valid, -1e9).softmax(1)[:, None] @ out)[:, 0]
        return self.head(torch.cat([read, last, q], -1)).squeeze(-1)


for both in (False, True):

    @style(f"Packed LSTM, {'both ways' if both else 'one way'}")
    def _(both: bool = both) -> Made:
        hist, length = padded()
        return PackedLSTM(both), {"hist": hist, "length": length, "item": ids()}, ["hist", "length"]


class PerRow(nn.Module):
    """torch.vmap over rows of a function of one row, and functional_call of a small net with the row's own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.user = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 16)
        self.net, self.make = nn.Linear(16, 8), nn.Linear(16, 16 * 8 + 8)

    def forward(self, hist: Tensor, user: Tensor, item: Tensor) -> Tensor:
        def one(target: Tensor, seq: Tensor) -> Tensor:
            return torch.softmax(seq @ target / 4.0, 0) @ seq

        read = torch.vmap(one)(self.items(item), self.items(hist))
        params = self.make(self.user(user))
        weights = {"weight": params[:, :128].unflatten(1, (8, 16)), "bias": params[:, 128:]}
        own = torch.func.vmap(lambda w, x: torch.func.functional_call(self.net, w, (x,)))(weights, read)
        return own.sum(1)


@style("Rows by vmap, functional_call with own weights")
def _() -> Made:
    return PerRow(), (ids(LENGTH), ids(), ids()), ["hist", "user"]


class Counted(nn.Module):
    """Buffers updated in forward while training only; a temperature, a running mean, a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.deep = ByName(), mlp(NUM_FIELDS * WIDTH, 64, 1)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.randn(NUM_FIELDS, WIDTH) * 0.1)
        self.register_buffer("temperature", torch.tensor(1.3))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch)
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
            self.seen += 1
        y = self.deep((x - self.mean).flatten(1)).squeeze(1) / self.temperature.clamp(min=0.1)
        return torch.clip(y.sigmoid(), 1e-6, 1 - 1e-6).logit()


@style("Buffers of training, temperature")
def _() -> Made:
    return Counted(), (fields(),), list(USER)


class Wrapped(nn.Module):
    """Parametrizations, a checkpointed block, gumbel gates that are hard in eval, gradient-free target."""

    def __init__(self) -> None:
        super().__init__()
        total = NUM_FIELDS * WIDTH
        self.embed = ByName()
        self.a = parametrizations.weight_norm(nn.Linear(total, 64))
        self.b = parametrizations.spectral_norm(nn.Linear(64, 64))
        self.c = parametrizations.orthogonal(nn.Linear(64, 64, bias=False))
        self.gate, self.head = nn.Parameter(torch.randn(NUM_FIELDS)), nn.Linear(64, 1)
        self.dropout = nn.Dropout1d(0.2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.dropout(self.embed(batch))
        gate = torch.sigmoid(self.gate) if self.training else (self.gate > 0).float()
        h = F.selu(self.a((x * gate[None, :, None]).flatten(1)))
        h = checkpoint(lambda t: F.mish(self.b(t)) + t, h, use_reentrant=False)
        h = h + F.hardswish(self.c(h.detach()))
        return self.head(F.glu(torch.cat([h, h], -1))).squeeze(-1)


@style("Parametrizations, checkpoint, hard gates")
def _() -> Made:
    return Wrapped(), (fields(),), list(USER)


class InRow(nn.Module):
    """Sort, cumsum, unfold, unique counts by one_hot, diff, quantile buckets and strides within a row."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(NUM_IDS, 16, padding_idx=0)
        self.register_buffer("edges", torch.tensor([0.1, 0.5, 1.0, 2.0]))
        self.gap, self.conv = nn.Embedding(5, 16), nn.Conv1d(16, 16, 3, padding=1, groups=2)
        self.window, self.head = nn.Linear(48, 16), mlp(16 * 5 + 2, 32, 1)

    def forward(self, hist: Tensor, gaps: Tensor, item: Tensor, price: Tensor) -> Tensor:
        seq, t = self.items(hist), self.items(item)
        times = torch.cumsum(gaps, dim=1)
        order = torch.argsort(times, dim=1, descending=True)
        recent = seq.gather(1, order[:, :5, None].expand(-1, -1, 16)).mean(1)
        local = F.avg_pool1d(F.relu(self.conv(seq.permute(0, 2, 1))), 3, 3).max(-1)[0]
        windows = self.window(seq.unfold(1, 3, 2).flatten(2)).amax(dim=1)
        age = self.gap(torch.searchsorted(self.edges, gaps.diff(dim=1).abs().contiguous())).sum(1)
        same = (hist == item[:, None]).sum(1, keepdim=True).log1p()
        decay = torch.logcumsumexp(-gaps, 1)[:, -1:] + torch.cummax(gaps, 1).values[:, -1:] * price.unsqueeze(1)
        return self.head(torch.cat([t * recent, local, windows, age, t, same, decay], 1)).squeeze()


@style("Sort, cumsum, unfold, searchsorted within a row")
def _() -> Made:
    return InRow(), (padded()[0], torch.rand(NUM_ROWS, LENGTH) * 3, ids(), torch.rand(NUM_ROWS)), ["hist", "gaps"]


class Compact(nn.Module):
    """Left-pads the history by a stable argsort of its mask and appends the candidate behind the last item."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.items, self.position = nn.Embedding(NUM_IDS, width, padding_idx=0), nn.Embedding(LENGTH + 1, width)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, 64, batch_first=True) for _ in range(2))
        self.head = nn.Linear(width, 1)

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        mask = hist.ne(0)
        order = mask.long().argsort(dim=1, stable=True)
        hist, mask = hist.gather(1, order), mask.gather(1, order)
        seq = torch.cat([hist, item.unsqueeze(-1)], dim=-1)
        where = torch.cat([mask.cumsum(1), mask.sum(1, keepdim=True) + 1], 1) - 1
        x = self.items(seq) + self.position(where.clamp_min(0))
        causal = torch.triu(torch.full((seq.size(1), seq.size(1)), -1e9), diagonal=1)
        allowed = torch.zeros_like(seq, dtype=x.dtype).masked_fill(seq == 0, -1e9)
        for layer in self.layers:
            x = layer(x, src_mask=causal, src_key_padding_mask=allowed)
        x = torch.where(torch.isnan(x), torch.zeros_like(x), x)
        return self.head(x[:, -1, :]).view(-1)


@style("Compacted history, causal encoder layers")
def _() -> Made:
    return Compact(), (padded()[0], ids()), ["hist"]


class BagRows(nn.Module):
    """Ragged ids as one flat column per batch would be; here EmbeddingBags with per-sample weights and padding_idx."""

    def __init__(self) -> None:
        super().__init__()
        self.clicks = nn.EmbeddingBag(NUM_IDS, 16, mode="sum", padding_idx=0)
        self.tags, self.item = nn.EmbeddingBag(NUM_IDS, 16, mode="max"), nn.Embedding(NUM_IDS, 16)
        self.wide = nn.EmbeddingBag(NUM_IDS, 1, mode="mean", include_last_offset=False)
        self.head = mlp(48, 32, 1)

    def forward(self, hist: Tensor, weights: Tensor, item: Tensor, tags: Tensor) -> Tensor:
        h = self.clicks(hist, per_sample_weights=weights)
        x = torch.cat([h, self.tags(tags), self.item(item) * h], 1)
        return torch.sigmoid(self.head(x) + self.wide(torch.cat([hist, tags], 1))).squeeze(1)


@style("EmbeddingBag, weights of samples, max and mean")
def _() -> Made:
    return BagRows(), (padded()[0], torch.rand(NUM_ROWS, LENGTH), ids(), ids(4)), ["hist", "weights"]


class LowPrecision(nn.Module):
    """Towers in bfloat16 under autocast, a float16 table, the last layer in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 32).half()
        self.user, self.item = mlp(5 * 32, 64, 32), mlp(3 * 32, 64, 32)
        self.head = nn.Linear(64, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, v = self.table(user).float().flatten(1), self.table(item).float().flatten(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            u, v = self.user(u), self.item(v)
        return self.head(torch.cat([u.float() * v.float(), v.float()], 1)).squeeze(1)


@style("Autocast towers, half table")
def _() -> Made:
    return LowPrecision(), (ids(5), ids(3)), ["user"]


class KernelScores(nn.Module):
    """KNRM-like kernels over a similarity matrix of query and title words, log-sums with masks, a saturation."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(NUM_IDS, 24, padding_idx=0)
        self.register_buffer("mu", torch.linspace(-0.9, 1, 7).view(1, 1, 1, -1))
        self.register_buffer("sigma", torch.tensor([0.1] * 6 + [0.001]).view(1, 1, 1, -1))
        self.dense = nn.Linear(7, 1)

    def forward(self, query: Tensor, title: Tensor) -> Tensor:
        q, d = F.normalize(self.words(query), p=2, dim=2), F.normalize(self.words(title), p=2, dim=2)
        match = torch.bmm(q, d.transpose(1, 2)).unsqueeze(3)
        both = ((query > 0).unsqueeze(2) & (title > 0).unsqueeze(1)).float().unsqueeze(-1)
        kernels = torch.exp(-((match - self.mu) ** 2) / self.sigma**2 / 2) * both
        sums = torch.log(torch.clamp(kernels.sum(2), min=1e-10)) * 0.01 * (query > 0).float().unsqueeze(-1)
        return torch.tanh(self.dense(sums.sum(1))).squeeze(1)


@style("KNRM, kernels over a match matrix")
def _() -> Made:
    title = ids(9)
    title[:, 6:] = torch.where(torch.rand(NUM_ROWS, 3) < 0.5, 0, title[:, 6:])
    return KernelScores(), (ids(6), title), ["query"]


class Tree(nn.Module):
    """Soft decision trees over numbers of both sides (NODE-like): entmax-free gates, products along paths, buffers."""

    def __init__(self, trees: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.trees, self.depth = trees, depth
        self.choice = nn.Parameter(torch.randn(14, trees, depth))
        self.threshold, self.scale = nn.Parameter(torch.randn(trees, depth)), nn.Parameter(torch.zeros(trees, depth))
        self.response = nn.Parameter(torch.randn(trees, 2**depth))
        codes = torch.arange(2**depth).unsqueeze(0) >> torch.arange(depth).unsqueeze(1) & 1
        self.register_buffer("codes", torch.stack([codes, 1 - codes], -1).float())

    def forward(self, x: Tensor) -> Tensor:
        picked = torch.einsum("bf,ftd->btd", x, F.softmax(self.choice, dim=0))
        gate = (picked - self.threshold) * torch.exp(-self.scale)
        bins = torch.clamp(0.5 * torch.stack([-gate, gate], dim=-1) + 0.5, 0, 1)
        match = torch.einsum("btds,dcs->btdc", bins, self.codes)
        return torch.einsum("btc,tc->b", torch.prod(match, dim=-2), self.response)


@style("Soft trees, products along paths")
def _() -> Made:
    return Tree(), (torch.randn(NUM_ROWS, 14),), {"x": slice(0, 8)}


class Delta(nn.Module):
    """A linear recurrence over the history, step by step in Python, with the candidate's query at the end."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.items, self.qkv = nn.Embedding(NUM_IDS, width, padding_idx=0), nn.Linear(width, 3 * width)
        self.beta, self.head = nn.Linear(width, 1), mlp(2 * width, 32, 1)

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        x = self.items(hist)
        _, k, v = self.qkv(x).chunk(3, -1)
        k, beta = F.normalize(k, dim=-1), self.beta(x).sigmoid() * hist.ne(0).unsqueeze(-1)
        state = x.new_zeros(x.size(0), x.size(2), x.size(2))
        for step in range(x.size(1)):
            kt, vt, bt = k[:, step], v[:, step], beta[:, step]
            old = torch.einsum("bd,bde->be", kt, state)
            state = state + torch.einsum("bd,be->bde", kt, bt * (vt - old))
        target = self.items(item)
        query = self.qkv(target)[:, : x.size(2)]
        return self.head(torch.cat([torch.einsum("bd,bde->be", query, state), target], -1)).squeeze(-1)


@style("Delta rule, a recurrence over the history")
def _() -> Made:
    return Delta(), (padded()[0], ids()), ["hist"]


class ImageTower(nn.Module):
    """A small convolutional tower over the item's picture beside the user's features, FiLM from the user."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(NUM_IDS, 16)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1), nn.GroupNorm(4, 16))
        self.film, self.pool = nn.Linear(16, 32), nn.AdaptiveAvgPool2d((1, 1))
        self.head = mlp(32, 32, 1)

    def forward(self, user: Tensor, picture: Tensor) -> Tensor:
        u = self.user(user)
        x = self.block(F.max_pool2d(self.stem(picture), 2))
        scale, shift = self.film(u).chunk(2, dim=1)
        x = F.relu6(x * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
        return self.head(torch.cat([self.pool(x).flatten(1), u], 1)).squeeze(1)


@style("Picture tower, FiLM from the user")
def _() -> Made:
    return ImageTower(), (ids(), torch.randn(NUM_ROWS, 3, 16, 16)), ["user"]
