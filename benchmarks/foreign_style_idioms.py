"""Rankers full of one idiom each: hashing, time, experts, wrapped layers, generated weights; see ``foreign_styles``.

Letters: B pairs, F fields, L history, D width, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from foreign_style_sequences import padded
from foreign_styles import ITEM, LENGTH, NUM_IDS, NUM_ROWS, USER, WIDTH, Made, fields, ids, mlp, style


class HashedFields(nn.Module):
    """Names in a loop; two hashes by primes and shifts, quotient and remainder, numbers with holes, log1p, buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.hashed = nn.ModuleDict({n: nn.Embedding(64, WIDTH) for n in (*USER, *ITEM)})
        self.quotient, self.remainder = nn.Embedding(NUM_IDS // 16 + 1, WIDTH), nn.Embedding(16, WIDTH)
        self.importance = nn.ParameterDict({n: nn.Parameter(torch.rand(2)) for n in (*USER, *ITEM)})
        self.register_buffer("edges", torch.linspace(0, 5, 9))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.bins, self.top = nn.Embedding(10, WIDTH), mlp(WIDTH * 12 + 6, 32, 1)

    def hash(self, x: Tensor, seed: int) -> Tensor:
        x = x * 2654435761 + seed
        return (x ^ (x >> 15)) % 64

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = []
        for name, value in features.items():
            if name == "numbers":
                continue
            table, weights = self.hashed[name], self.importance[name]
            parts.append(sum(weights[k] * table(self.hash(value, 17 * k)) for k in range(2)))
        item = features["item"]
        parts.append(self.quotient(torch.div(item, 16, rounding_mode="floor")) * self.remainder(item % 16))
        numbers = features["numbers"]
        missing = torch.isnan(numbers)
        filled = torch.where(missing, self.mean, numbers)
        scaled = ((torch.log1p(filled.abs()) * filled.sign() - self.mean) / self.std).clamp(-3, 3)
        parts += self.bins(torch.bucketize(filled, self.edges, right=True)).unbind(1)
        logit = self.top(torch.cat([*parts, scaled, missing.float()], dim=-1)).squeeze(-1)
        return {"logit": logit, "prob": torch.sigmoid(logit)}


@style("hashes by primes and shifts, quotient and remainder, numbers with holes")
def _() -> Made:
    numbers = torch.rand(NUM_ROWS, 3) * 5
    numbers[::5, 1] = math.nan
    return HashedFields(), {"features": fields() | {"numbers": numbers}}, [f"features.{n}" for n in USER]


class TimeFeatures(nn.Module):
    """Fourier features of hours and days, decays by the gap from event to candidate, Time2Vec of an age."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.weekday = nn.Embedding(NUM_IDS, 16), nn.Embedding(7, 4)
        self.register_buffer("freqs", 2 ** torch.arange(4) * math.pi)
        self.decay, self.linear, self.periodic = nn.Parameter(torch.zeros(())), nn.Linear(1, 2), nn.Linear(1, 6)
        self.top = mlp(32 + 8 + 4 + 8 + 8, 16, 1)

    def fourier(self, x: Tensor) -> Tensor:
        angles = x.unsqueeze(-1) * self.freqs
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def forward(self, history: Tensor, times: Tensor, now: Tensor, item: Tensor, posted: Tensor) -> Tensor:
        hour = (now // 3600) % 24
        day = (now // 86400 + 4) % 7
        weights = torch.exp(-F.softplus(self.decay) * torch.log1p((now.unsqueeze(1) - times).clamp(min=0) / 3600.0))
        pooled = (self.table(history) * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True)
        age = torch.log1p((now - posted).clamp(min=0).float()).unsqueeze(-1) / 10
        time2vec = torch.cat([self.linear(age), torch.sin(self.periodic(age))], -1)
        near = torch.exp(-((times - posted.unsqueeze(1)).abs() / 86400.0)).sum(1, keepdim=True)
        seasons = self.fourier(hour.float() / 24)
        parts = [pooled, self.table(item), seasons, self.weekday(day), time2vec, near * seasons]
        return self.top(torch.cat(parts, dim=1))[:, 0]


@style("Fourier hours, decays, Time2Vec of the candidate's age")
def _() -> Made:
    now = torch.randint(1_600_000_000, 1_600_600_000, (NUM_ROWS,))
    times, posted = now.unsqueeze(1) - torch.randint(0, 400_000, (NUM_ROWS, LENGTH)), now - 5000 * ids()
    return TimeFeatures(), (ids(LENGTH), times, now, ids(), posted), ["history", "times", "now"]


class TopKExperts(nn.Module):
    """Noisy top-k gates scattered to zeros, an auxiliary loss that nobody reads in eval, heads in a ModuleDict."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({n: nn.Embedding(NUM_IDS, 8) for n in (*USER, *ITEM)})
        self.w_gate, self.w_noise = nn.Parameter(torch.randn(64, 6)), nn.Parameter(torch.zeros(64, 6))
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(6)])
        self.heads = nn.ModuleDict({t: nn.Linear(16, 1) for t in ("click", "buy", "like")})

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        x = torch.cat([self.tables[n](batch[n]) for n in sorted(batch)], -1)
        logits = x @ self.w_gate
        if self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(x @ self.w_noise)
        top, index = logits.topk(2, dim=1)
        gates = torch.zeros_like(logits).scatter(1, index, top.softmax(1))
        load = gates.gt(0).sum(0).float()
        self.aux_loss = load.var() / (load.mean() ** 2 + 1e-10)
        outs = torch.stack([expert(x) for expert in self.experts], dim=1)
        mixed = torch.bmm(gates.unsqueeze(1), outs).squeeze(1)
        tasks = {t: torch.sigmoid(head(mixed)).squeeze(1) for t, head in self.heads.items()}
        return {"tasks": tasks, "ctcvr": tasks["click"] * tasks["buy"]}


@style("top-k gates scattered, a loss on the side, heads by name")
def _() -> Made:
    return TopKExperts(), {"batch": fields()}, [f"batch.{n}" for n in USER]


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 4, alpha: float = 8.0) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        self.scaling, self.active_adapters = {"default": alpha / rank}, ["default"]

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        for name in self.active_adapters:
            x = x.to(self.lora_A[name].weight.dtype)
            result = result + self.lora_B[name](self.lora_A[name](x)) * self.scaling[name]
        return result


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


class Wrapped(nn.Module):
    """LoRA, weight and spectral norms, an orthogonal layer, a parametrization, a checkpoint, autocast around it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 16)
        self.first = LoRALinear(nn.Linear(32, 32))
        self.second = parametrizations.weight_norm(nn.Linear(32, 32))
        self.third = parametrizations.spectral_norm(nn.Linear(32, 32))
        self.turn = parametrizations.orthogonal(nn.Linear(16, 16, bias=False))
        self.form = nn.Linear(16, 16, bias=False)
        parametrize.register_parametrization(self.form, "weight", Symmetric())
        self.head = nn.Sequential(nn.Linear(33, 16), nn.GELU(), nn.Linear(16, 1))

    def block(self, x: Tensor) -> Tensor:
        return F.silu(self.second(x)) * torch.tanh(self.third(x))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, i = self.turn(self.table(user)), self.table(item)
        with torch.autocast("cpu", enabled=False):
            x = checkpoint(self.block, self.first(torch.cat([u, i], -1)), use_reentrant=False)
        bilinear = torch.einsum("bd,bd->b", self.form(u), i).unsqueeze(-1)
        return self.head(torch.cat([x, bilinear], -1)).squeeze(-1)


@style("LoRA, weight norm, spectral norm, orthogonal, checkpointed")
def _() -> Made:
    model = Wrapped().eval()
    return model, (ids(), ids()), ["user"]


class BagsOfOffsets(nn.Module):
    """F.embedding_bag over flat ids with offsets of every row, weights of samples, padding_idx, a mean beside a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.decay = nn.Parameter(torch.randn(NUM_IDS, 16)), nn.Parameter(torch.rand(LENGTH))
        self.items, self.top = nn.Embedding(NUM_IDS, 16), mlp(48 + 16, 16, 1)

    def forward(self, history: Tensor, target: Tensor) -> Tensor:
        batch, length = history.shape
        offsets = torch.arange(0, batch * length, length)
        flat = history.reshape(-1)
        mean = F.embedding_bag(flat, self.weight, offsets, mode="mean", padding_idx=0)
        weights = self.decay.sigmoid().unsqueeze(0).expand(batch, -1).reshape(-1)
        total = F.embedding_bag(flat, self.weight, offsets, mode="sum", per_sample_weights=weights)
        most = F.embedding_bag(history, self.weight, mode="max")
        return self.top(torch.cat([mean, total, most, self.items(target)], dim=1)).squeeze(1)


@style("F.embedding_bag with offsets, padding and weights of samples")
def _() -> Made:
    return BagsOfOffsets(), (padded()[0], ids()), ["history"]


class PackedLSTM(nn.Module):
    """A packed BiLSTM over the history, additive attention by the candidate, its last states by layer joined."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 12, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.w, self.u, self.v = nn.Linear(24, 16, bias=False), nn.Linear(16, 16), nn.Linear(16, 1, bias=False)
        self.top = mlp(24 + 24 + 16, 16, 1)

    def forward(self, history: Tensor, lengths: Tensor, item: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.table(history), lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, (last, _) = self.lstm(packed)
        out, _ = pad_packed_sequence(out, batch_first=True, total_length=history.size(1))
        t = self.table(item)
        scores = self.v(torch.tanh(self.w(out) + self.u(t).unsqueeze(1))).squeeze(-1)
        scores = scores.masked_fill(history.eq(0), -1e9)
        read = torch.bmm(scores.softmax(1).unsqueeze(1), out).squeeze(1)
        state = torch.cat([last[-2], last[-1]], dim=1)
        return self.top(torch.cat([read, state, t], 1)).squeeze()


@style("packed BiLSTM, additive attention by the candidate")
def _() -> Made:
    history, lengths = padded()
    return PackedLSTM(), (history, lengths, ids()), ["history", "lengths"]


class EvolvingState(nn.Module):
    """DIEN's second net as a loop over a packed sequence that keeps each row's last state by its number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 16, padding_idx=0)
        self.gru, self.x2h, self.h2h = nn.GRU(16, 16, batch_first=True), nn.Linear(16, 48), nn.Linear(16, 48)
        self.top = mlp(32, 16, 1)

    def evolve(self, packed: PackedSequence, attention: PackedSequence) -> Tensor:
        x, batch_sizes, _, unsorted_indices = packed
        h = torch.zeros(int(batch_sizes[0]), 16)
        last = torch.zeros(int(batch_sizes[0]), 16)
        start = 0
        for rows in batch_sizes:
            gates, state = self.x2h(x[start : start + rows]), self.h2h(h[:rows])
            (iu, ir, inew), (hu, hr, hnew) = gates.chunk(3, 1), state.chunk(3, 1)
            update = torch.sigmoid(iu + hu) * attention.data[start : start + rows]
            new = torch.tanh(inew + torch.sigmoid(ir + hr) * hnew)
            h = h[:rows] + update * (new - h[:rows])
            last[:rows] = h
            start += rows
        return last[unsorted_indices]

    def forward(self, history: Tensor, lengths: Tensor, item: Tensor) -> Tensor:
        t = self.table(item)
        packed = pack_padded_sequence(self.table(history), lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed, _ = self.gru(packed)
        states, _ = pad_packed_sequence(packed, batch_first=True, total_length=history.shape[1])
        scores = (states * t.unsqueeze(1)).sum(-1).masked_fill(history == 0, -1e9).softmax(1)
        weights = pack_padded_sequence(scores.unsqueeze(-1), lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.top(torch.cat([self.evolve(packed, weights), t], dim=-1)).squeeze(-1)


@style("DIEN, the last state of a packed loop")
def _() -> Made:
    history, lengths = padded()
    return EvolvingState(), (history, lengths, ids()), ["history", "lengths"]


class GeneratedTower(nn.Module):
    """Weights of the candidate's net from the user: reshaped embeddings, bmm, functional layers, a gate by user."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 12)
        self.generate = nn.Linear(16, 12 * 8 + 8 + 8 * 1 + 1)
        self.gate = nn.Sequential(nn.Linear(16, 12), nn.Sigmoid())

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, x = self.users(user), self.items(item)
        w1, b1, w2, b2 = torch.split(self.generate(u), [96, 8, 8, 1], dim=-1)
        x = x * (2 * self.gate(u))
        h = torch.bmm(x.unsqueeze(1), w1.view(-1, 12, 8)).squeeze(1) + b1
        return torch.baddbmm(b2.unsqueeze(-1), F.leaky_relu(h).unsqueeze(1), w2.view(-1, 8, 1))[:, 0, 0]


@style("weights of the candidate's net generated by the user")
def _() -> Made:
    return GeneratedTower(), (ids(), ids()), ["user"]


class Ensemble(nn.Module):
    """An ensemble by torch.func: stacked states, vmap over members, functional_call; mean and spread come out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 16)
        self.w1, self.b1 = nn.Parameter(torch.randn(4, 16, 32)), nn.Parameter(torch.zeros(4, 16))
        self.w2 = nn.Parameter(torch.randn(4, 16))

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([self.table(user), self.table(item)], -1)
        member = lambda w1, b1, w2: F.relu(F.linear(x, w1, b1)) @ w2  # noqa: E731 as found
        scores = torch.vmap(member)(self.w1, self.b1, self.w2)
        return scores.mean(0), scores.std(0)


@style("an ensemble by vmap over members")
def _() -> Made:
    return Ensemble(), (ids(), ids()), ["user"]


class OwnPlaces(nn.Module):
    """x[arange(B), :, own], x[arange(B), own, kind] and a scatter_reduce: every row's own places on several axes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv = nn.Embedding(NUM_IDS, 16), nn.Conv1d(16, 16, 3, padding=1)
        self.kinds, self.top = nn.Embedding(NUM_IDS, 4 * 6), mlp(16 + 1 + 5 + 16, 16, 1)

    def forward(self, history: Tensor, lengths: Tensor, item: Tensor, kind: Tensor) -> Tensor:
        x = F.relu(self.conv(self.table(history).transpose(1, 2)))
        rows = torch.arange(x.size(0), device=x.device)
        last = x[rows, :, lengths - 1]
        cell = self.kinds(history[:, 0]).view(-1, 4, 6)[rows, item % 4, kind]
        counts = torch.zeros(len(history), 5).scatter_reduce(1, history % 5, history.gt(0).float(), reduce="sum")
        return self.top(torch.cat([last, cell.unsqueeze(1), counts, self.table(item)], 1)).squeeze(1)


@style("each row's own places along two axes, split by a slice")
def _() -> Made:
    history, lengths = padded()
    return OwnPlaces(), (history, lengths, ids(), ids() % 6), ["history", "lengths"]


class MixtureOfLogits(nn.Module):
    """Several user vectors against several item vectors, gated by both sides: every pair's dot is a logit."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(NUM_IDS, 32), nn.Embedding(NUM_IDS, 32)
        self.user_gate, self.item_gate, self.pair = nn.Linear(32, 16), nn.Linear(32, 16), mlp(16, 16, 16)
        self.cosine = nn.CosineSimilarity(dim=-1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, i = self.user(user), self.item(item)
        left, right = u.unflatten(-1, (4, 8)), i.unflatten(-1, (4, 8))
        logits = self.cosine(left.unsqueeze(2), right.unsqueeze(1)).flatten(1)
        gate = F.silu(self.user_gate(u)) * self.item_gate(i) + self.pair(logits)
        return (gate.softmax(-1) * logits / 0.05).sum(-1)


@style("mixture of logits, gated by both sides")
def _() -> Made:
    return MixtureOfLogits(), (ids(), ids()), ["user"]


class Kernels(nn.Module):
    """cdist of [B, 1, D] and prototypes, an RBF kernel, a bilinear form, a tower on [B, 1, D] by [B, L, D] repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.prototypes = nn.Embedding(NUM_IDS, 16), nn.Parameter(torch.randn(5, 16))
        self.form, self.unit = nn.Bilinear(16, 16, 4), mlp(64, 16, 1)
        self.top = mlp(5 + 1 + 4 + 16, 16, 1)

    def forward(self, user: Tensor, history: Tensor, item: Tensor) -> Tensor:
        u, h, t = self.table(user), self.table(history), self.table(item.unsqueeze(1))
        wide = t.repeat_interleave(h.size(1), dim=1)
        weights = self.unit(torch.cat((wide, h, wide - h, torch.mul(wide, h)), dim=-1)).squeeze(-1)
        weights = weights * history.ne(0).to(weights.dtype)
        pooled = torch.einsum("bl,bld->bd", weights, h)
        near = torch.exp(-torch.cdist(t, self.prototypes.expand(len(t), -1, -1)).square() / 16).squeeze(1)
        gap = torch.cdist(u[:, None], t).flatten(1)
        return self.top(torch.cat([near, gap, self.form(u, t.squeeze(1)), pooled], dim=1)).sigmoid().flatten()


@style("cdist to prototypes, a kernel, a bilinear form, DIN by repeat_interleave")
def _() -> Made:
    return Kernels(), (ids(), padded()[0], ids()), ["user", "history"]


class MaskedWrites(nn.Module):
    """Slices and masks written in place, torch.where, clamp_, index_fill, roll within a row, argmax one_hot."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.start = nn.Embedding(NUM_IDS, 16), nn.Parameter(torch.randn(16))
        self.top = mlp(32 + LENGTH, 16, 1)

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        x = self.table(history)
        shifted = torch.roll(x, shifts=1, dims=1)
        shifted[:, 0] = self.start
        x = x + 0.5 * shifted
        x[history == 0] = 0.0
        x[:, -1].mul_(2.0)
        t = self.table(item)
        match = (history == item[:, None]).float().clamp_(max=1.0)
        match = torch.where(match.any(-1, keepdim=True), match, torch.full_like(match, 0.1))
        best = F.one_hot(torch.einsum("bld,bd->bl", x, t).argmax(-1), history.size(1)).to(x.dtype)
        picked = torch.einsum("bl,bld->bd", best, x)
        return self.top(torch.cat([picked, t, match.index_fill(1, torch.tensor([0]), 0.0)], -1)).squeeze(-1)


@style("in-place slices and masks, roll within a row, one_hot of argmax")
def _() -> Made:
    return MaskedWrites(), (padded()[0], ids()), ["history"]


class Ordinal(nn.Module):
    """Thresholds by a cumsum of softplus, watch time by quantiles: cumulative heads, cumprod, log1mexp, expm1."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.steps = mlp(2 * WIDTH, 32, 16), nn.Linear(16, 6)
        self.tables = nn.ModuleList(nn.Embedding(NUM_IDS, WIDTH) for _ in range(2))
        self.register_buffer("seconds", torch.tensor([3.0, 7, 15, 30, 60, 120]))

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.relu(self.body(torch.cat([t(v) for t, v in zip(self.tables, (user, item))], dim=1)))
        stay = torch.sigmoid(self.steps(x))
        survive = stay.cumprod(dim=-1)
        widths = torch.diff(self.seconds, prepend=torch.zeros(1))
        watch = (survive * widths).sum(-1)
        quantiles = F.softplus(self.steps(x)).cumsum(-1)
        return watch, torch.expm1(quantiles.clamp(max=5)), torch.logcumsumexp(self.steps(x), dim=-1)


@style("ordinal heads, survival by cumprod, quantiles by cumsum")
def _() -> Made:
    return Ordinal(), (ids(), ids()), ["user"]


class NormsOfAllKinds(nn.Module):
    """Norms over groups, instances and the batch of [B, C, L], RMSNorm, LayerNorm without weights, GLU, PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 16)
        self.batch, self.group, self.instance = nn.BatchNorm1d(16), nn.GroupNorm(4, 16), nn.InstanceNorm1d(16)
        self.plain, self.rms, self.act = nn.LayerNorm(32, elementwise_affine=False), nn.RMSNorm(32), nn.PReLU(16)
        self.pool, self.fc, self.head = nn.AdaptiveAvgPool1d(4), nn.Linear(80, 64), nn.Linear(32, 1)

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        x = self.act(self.group(self.batch(self.table(history).transpose(1, 2)))) + 0.1
        x = self.pool(self.instance(x)).flatten(1)
        x = F.glu(self.fc(torch.cat([x, self.table(item)], 1)), dim=-1)
        return self.head(F.mish(self.rms(self.plain(x)))).squeeze(-1)


@style("norms of all kinds, adaptive pooling, GLU")
def _() -> Made:
    model = NormsOfAllKinds()
    model.batch.running_mean.normal_()
    return model, (ids(LENGTH), ids()), ["history"]


class Keywords(nn.Module):
    """Nothing but **features: names from a schema, tables made from a config, missing ones given a default."""

    def __init__(self, schema: dict[str, int]) -> None:
        super().__init__()
        self.schema = schema
        self.tables = nn.ModuleDict({f"emb_{n}": nn.Embedding(size, 8) for n, size in schema.items()})
        self.top = mlp(8 * len(schema), 16, 1)

    def forward(self, **features: Tensor) -> Tensor:
        first = next(iter(features.values()))
        rows = []
        for name in self.schema:
            value = features.get(name)
            if value is None:
                value = torch.zeros_like(first)
            rows.append(self.tables[f"emb_{name}"](value))
        return torch.sigmoid(self.top(torch.cat(rows, -1))).reshape(len(first), -1)


@style("keywords only, by a schema, one of them missing")
def _() -> Made:
    model = Keywords({n: NUM_IDS for n in (*USER, *ITEM, "campaign")})
    return model, fields(), list(USER)
