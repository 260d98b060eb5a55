"""Rankers over a history, written in the ways people write them: see ``foreign_styles``.

Letters: B pairs, L history length, D width, H heads, S sessions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from foreign_styles import LENGTH, NUM_IDS, NUM_ROWS, WIDTH, Made, ids, mlp, style


def padded(*, left: bool = False) -> tuple[Tensor, Tensor]:
    """Ids [B, L] padded with 0, and lengths [B] of at least one."""
    lengths = torch.randint(1, LENGTH + 1, (NUM_ROWS,))
    steps = torch.arange(LENGTH)
    valid = steps >= LENGTH - lengths.unsqueeze(1) if left else steps < lengths.unsqueeze(1)
    return torch.where(valid, ids(LENGTH), 0), lengths


class Dice(nn.Module):
    """x p + alpha x (1 - p), p from a batch norm without affine, over [B, L, D] by transposing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.alpha = nn.BatchNorm1d(width, affine=False, eps=1e-8), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(self.norm(x.transpose(1, 2)).transpose(1, 2) if x.dim() == 3 else self.norm(x))
        return self.alpha * (1 - p) * x + p * x


class DIN(nn.Module):
    """The unit over cat(t, h, t - h, t * h) with Dice, -2**32 + 1 at padding, softmax or raw weights."""

    def __init__(self, softmax: bool) -> None:
        super().__init__()
        self.items = nn.Embedding(NUM_IDS, WIDTH, padding_idx=0)
        self.user, self.softmax = nn.Embedding(NUM_IDS, WIDTH), softmax
        self.unit = nn.Sequential(nn.Linear(4 * WIDTH, 64), Dice(64), nn.Linear(64, 16), Dice(16), nn.Linear(16, 1))
        self.head = nn.Sequential(nn.BatchNorm1d(3 * WIDTH), nn.Linear(3 * WIDTH, 64), Dice(64), nn.Linear(64, 2))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        target, hist = self.items(inputs["item"]), self.items(inputs["hist"])
        mask = (inputs["hist"] > 0).unsqueeze(1)
        wide = target.unsqueeze(1).expand_as(hist)
        scores = self.unit(torch.cat([wide, hist, wide - hist, wide * hist], dim=-1)).transpose(1, 2)
        if self.softmax:
            scores = torch.where(mask, scores, torch.ones_like(scores) * (-(2**32) + 1)) / WIDTH**0.5
            scores = F.softmax(scores, dim=-1)
        else:
            scores = scores * mask.float()
        pooled = torch.matmul(scores, hist).squeeze(1)
        return F.softmax(self.head(torch.cat([self.user(inputs["user"]), pooled, target], -1)), dim=1)[:, 1]


@style("DIN, softmax and Dice")
def _() -> Made:
    hist, _ = padded()
    return DIN(True), {"user": ids(), "hist": hist, "item": ids()}, ["user", "hist"]


@style("DIN, raw weights")
def _() -> Made:
    hist, _ = padded(left=True)
    return DIN(False), {"user": ids(), "hist": hist, "item": ids()}, ["user", "hist"]


class AUGRUCell(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.xr, self.xz, self.xn = (nn.Linear(width, width) for _ in range(3))
        self.hr, self.hz, self.hn = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x: Tensor, h: Tensor, a: Tensor) -> Tensor:
        r, z = torch.sigmoid(self.xr(x) + self.hr(h)), torch.sigmoid(self.xz(x) + self.hz(h)) * a
        return (1 - z) * h + z * torch.tanh(self.xn(x) + r * self.hn(h))


class DIEN(nn.Module):
    """GRU over the packed history, attention of the candidate, AUGRU step by step with the mask holding the state."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.gru = nn.Embedding(NUM_IDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.w, self.cell = nn.Parameter(torch.randn(WIDTH, WIDTH) * 0.3), AUGRUCell(WIDTH)
        self.head = mlp(2 * WIDTH, 32, 1)

    def forward(self, hist: Tensor, length: Tensor, item: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.items(hist), length.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=hist.size(1))
        target = self.items(item)
        mask = torch.arange(hist.size(1))[None, :] < length[:, None]
        scores = torch.bmm(states, (target @ self.w).unsqueeze(-1)).squeeze(-1).masked_fill(~mask, -1e9)
        weights = torch.softmax(scores, dim=-1)
        h = torch.zeros(hist.size(0), WIDTH, device=hist.device)
        for t in range(hist.size(1)):
            new = self.cell(states[:, t], h, weights[:, t : t + 1])
            h = torch.where(mask[:, t : t + 1], new, h)
        return torch.sigmoid(self.head(torch.cat([h, target], dim=1)))


@style("DIEN, packed GRU and AUGRU")
def _() -> Made:
    hist, length = padded()
    return DIEN(), (hist, length, ids()), ["hist", "length"]


class BST(nn.Module):
    """[history; candidate] with positions from a buffer through TransformerEncoder, everything flattened."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.items, self.position = nn.Embedding(NUM_IDS, 32, padding_idx=0), nn.Embedding(LENGTH + 1, 32)
        self.register_buffer("steps", torch.arange(LENGTH + 1).unsqueeze(0))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, activation=F.leaky_relu, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1 if not causal else 2, enable_nested_tensor=False)
        self.user, self.causal = nn.Embedding(NUM_IDS, 32), causal
        self.head = mlp(32 + (32 if causal else (LENGTH + 1) * 32), 64, 1)

    def forward(self, user: Tensor, hist: Tensor, item: Tensor) -> Tensor:
        sequence = torch.cat((hist, item.unsqueeze(-1)), dim=-1)
        x = self.items(sequence) * math.sqrt(32) + self.position(self.steps)
        mask = nn.Transformer.generate_square_subsequent_mask(x.size(1)) if self.causal else None
        x = self.encoder(x, mask=mask, is_causal=self.causal)
        x = x[:, -1] if self.causal else x.reshape(x.size(0), -1)
        return self.head(torch.cat([self.user(user), x], dim=-1))


@style("BST, all positions flattened")
def _() -> Made:
    return BST(), (ids(), ids(LENGTH), ids()), ["user", "hist"]


@style("BST, causal, last position")
def _() -> Made:
    return BST(True), (ids(), ids(LENGTH), ids()), ["user", "hist"]


class PointWise(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x.transpose(-1, -2)))).transpose(-1, -2)
        out += x
        return out


class SASRec(nn.Module):
    """The widely copied form: timeline mask multiplied in, attention with the batch second, Conv1d layers."""

    def __init__(self) -> None:
        super().__init__()
        self.item_emb, self.pos_emb = nn.Embedding(NUM_IDS, 32, padding_idx=0), nn.Embedding(LENGTH + 1, 32)
        self.norms1 = nn.ModuleList(nn.LayerNorm(32, eps=1e-8) for _ in range(2))
        self.norms2 = nn.ModuleList(nn.LayerNorm(32, eps=1e-8) for _ in range(2))
        self.attention = nn.ModuleList(nn.MultiheadAttention(32, 2, 0.2) for _ in range(2))
        self.forwards, self.last = nn.ModuleList(PointWise(32) for _ in range(2)), nn.LayerNorm(32, eps=1e-8)

    def log2feats(self, log_seqs: Tensor) -> Tensor:
        seqs = self.item_emb(log_seqs)
        seqs *= self.item_emb.embedding_dim**0.5
        poss = torch.arange(1, log_seqs.shape[1] + 1).unsqueeze(0).repeat(log_seqs.shape[0], 1)
        poss *= log_seqs != 0
        seqs += self.pos_emb(poss)
        timeline_mask = log_seqs == 0
        seqs *= ~timeline_mask.unsqueeze(-1)
        mask = ~torch.tril(torch.ones((seqs.shape[1], seqs.shape[1]), dtype=torch.bool))
        for a, n1, n2, f in zip(self.attention, self.norms1, self.norms2, self.forwards):
            seqs = torch.transpose(seqs, 0, 1)
            q = n1(seqs)
            out, _ = a(q, seqs, seqs, attn_mask=mask)
            seqs = torch.transpose(q + out, 0, 1)
            seqs = f(n2(seqs))
            seqs *= ~timeline_mask.unsqueeze(-1)
        return self.last(seqs)

    def forward(self, log_seqs: Tensor, item_indices: Tensor) -> Tensor:
        final = self.log2feats(log_seqs)[:, -1, :]
        return self.item_emb(item_indices).matmul(final.unsqueeze(-1)).squeeze(-1)


@style("SASRec, in-place masks, candidates as a list of one")
def _() -> Made:
    return SASRec(), (padded(left=True)[0], ids(1)), ["log_seqs"]


class GatherLast(nn.Module):
    """GRU4Rec and a transformer with key_padding_mask; the last valid position gathered by lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(NUM_IDS, 32, padding_idx=0)
        self.gru, self.dense = nn.GRU(32, 48, num_layers=2, batch_first=True, dropout=0.1), nn.Linear(48, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.fuse = mlp(96, 32, 1)

    def gather_indexes(self, output: Tensor, index: Tensor) -> Tensor:
        index = index.view(-1, 1, 1).expand(-1, -1, output.shape[-1])
        return output.gather(dim=1, index=index).squeeze(1)

    def forward(self, interaction: dict[str, Tensor]) -> Tensor:
        seq, lens = interaction["item_seq"], interaction["item_seq_len"]
        x = self.items(seq)
        out, _ = self.gru(x)
        short = self.gather_indexes(self.dense(out), lens - 1)
        causal = torch.triu(torch.full((seq.size(1), seq.size(1)), True), diagonal=1)
        long, _ = self.attention(x, x, x, key_padding_mask=seq == 0, attn_mask=causal, need_weights=False)
        long = long[torch.arange(long.size(0)), lens - 1]
        target = self.items(interaction["item_id"])
        read, weights = self.attention(target[:, None], x, x, key_padding_mask=seq == 0)
        read = read[:, 0] * weights.sum(-1)
        return torch.mul(short + long, target).sum(dim=1) + self.fuse(torch.cat([short, target, read], -1))[:, 0]


@style("GRU4Rec and attention, last position gathered")
def _() -> Made:
    hist, length = padded()
    return GatherLast(), {"item_seq": hist, "item_seq_len": length, "item_id": ids()}, ["item_seq", "item_seq_len"]


class HSTU(nn.Module):
    """Pointwise attention with position and time biases, u * norm(av), the candidate behind the history."""

    def __init__(self, heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.h, self.d = heads, WIDTH
        n = LENGTH + 1
        self.items, self.action = nn.Embedding(NUM_IDS, 32), nn.Embedding(4, 32)
        self.uvqk = nn.ParameterList(nn.Parameter(torch.randn(32, 4 * heads * WIDTH) * 0.1) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(heads * WIDTH, 32) for _ in range(depth))
        self.pos_w = nn.Parameter(torch.randn(2 * n - 1) * 0.02)
        self.ts_w = nn.Parameter(torch.randn(129) * 0.02)
        self.register_buffer("causal", torch.tril(torch.ones(n, n)))
        self.head = mlp(32, 32, 3)

    def bias(self, timestamps: Tensor) -> Tensor:
        size, n = timestamps.shape
        t = F.pad(self.pos_w[: 2 * n - 1], [0, n]).repeat(n)
        t = t[..., :-n].reshape(1, n, 3 * n - 2)
        r = (2 * n - 1) // 2
        ext = torch.cat([timestamps, timestamps[:, n - 1 : n]], dim=1)
        gaps = ext[:, 1:].unsqueeze(2) - ext[:, :-1].unsqueeze(1)
        buckets = torch.clamp((torch.log(torch.abs(gaps).clamp(min=1)) / 0.301).long(), min=0, max=128).detach()
        times = torch.index_select(self.ts_w, dim=0, index=buckets.view(-1)).view(size, n, n)
        return t[:, :, r:-r] + times

    def forward(self, hist: Tensor, actions: Tensor, times: Tensor, item: Tensor, now: Tensor) -> Tensor:
        x = torch.cat([self.items(hist) + self.action(actions), self.items(item).unsqueeze(1)], dim=1)
        ts = torch.cat([times, now.unsqueeze(1)], dim=1)
        valid = F.pad((hist != 0).float(), (0, 1), value=1.0).unsqueeze(-1)
        x, n = x * valid, x.size(1)
        bias = self.bias(ts)
        for w, out in zip(self.uvqk, self.out):
            mixed = F.silu(torch.mm(F.layer_norm(x, [32]).view(-1, 32), w))
            u, v, q, k = torch.split(mixed, [self.h * self.d] * 4, dim=-1)
            scores = torch.einsum("bnhd,bmhd->bhnm", q.view(-1, n, self.h, self.d), k.view(-1, n, self.h, self.d))
            scores = F.silu(scores + bias.unsqueeze(1)) / n * self.causal.unsqueeze(0).unsqueeze(0)
            av = torch.einsum("bhnm,bmhd->bnhd", scores, v.reshape(-1, n, self.h, self.d)).reshape(
                -1, n, self.h * self.d
            )
            x = (out(u.view(-1, n, self.h * self.d) * F.layer_norm(av, [self.h * self.d])) + x) * valid
        return self.head(F.normalize(x[:, -1], p=2, dim=-1))


@style("HSTU, relative time and position biases")
def _() -> Made:
    times = torch.randint(1, 10_000, (NUM_ROWS, LENGTH)).cumsum(1)
    example = (padded(left=True)[0], torch.randint(0, 4, (NUM_ROWS, LENGTH)), times, ids(), times[:, -1] + 50)
    return HSTU(), example, ["hist", "actions", "times", "now"]


class SoftSearch(nn.Module):
    """SIM and ETA: the best rows by category match or by hashed similarity, then attention over them alone."""

    def __init__(self, hashed: bool, top: int = 8) -> None:
        super().__init__()
        self.items, self.cats, self.top, self.hashed = nn.Embedding(NUM_IDS, 32), nn.Embedding(NUM_IDS, 8), top, hashed
        self.register_buffer("planes", torch.randn(32, 16, generator=torch.Generator().manual_seed(2)))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True, kdim=40, vdim=40)
        self.head = mlp(64, 32, 1)

    def forward(self, hist: Tensor, hist_cat: Tensor, item: Tensor, cat: Tensor) -> Tensor:
        target, long = self.items(item), self.items(hist)
        if self.hashed:
            code, codes = torch.sign(target @ self.planes).unsqueeze(1), torch.sign(long @ self.planes)
            match = -(code != codes).sum(-1)
        else:
            match = (hist_cat == cat.unsqueeze(1)).float() * 10 + torch.einsum("bld,bd->bl", long, target)
        match = match.masked_fill(hist == 0, -1000)
        values, places = match.topk(self.top, dim=1)
        rows = torch.cat([long, self.cats(hist_cat)], -1)
        rows = torch.gather(rows, 1, places.unsqueeze(-1).repeat(1, 1, rows.size(-1)))
        read, _ = self.attention(target.unsqueeze(1), rows, rows, key_padding_mask=values < -900)
        return self.head(torch.cat([read.squeeze(1).nan_to_num(0.0), target], dim=-1)).squeeze(-1)


@style("SIM, soft search with topk")
def _() -> Made:
    return SoftSearch(False), (padded()[0], ids(LENGTH) % 9, ids(), ids() % 9), ["hist", "hist_cat"]


@style("ETA, hashed search with topk")
def _() -> Made:
    return SoftSearch(True), (padded()[0], ids(LENGTH) % 9, ids(), ids() % 9), ["hist", "hist_cat"]


class DSIN(nn.Module):
    """Sessions cut from the history, one shared encoder, a BiLSTM over sessions, attention of the candidate."""

    def __init__(self, sessions: int = 5) -> None:
        super().__init__()
        self.items, self.s = nn.Embedding(NUM_IDS, 32), sessions
        self.bias = nn.Parameter(torch.randn(sessions, 1, 1) * 0.1)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.lstm = nn.LSTM(32, 16, batch_first=True, bidirectional=True)
        self.score, self.head = nn.Linear(128, 1), mlp(96, 32, 1)

    def attend(self, target: Tensor, rows: Tensor) -> Tensor:
        wide = target.unsqueeze(1).repeat(1, rows.size(1), 1)
        scores = self.score(torch.cat([wide, rows, wide - rows, wide * rows], -1))
        return (F.softmax(scores, dim=1) * rows).sum(dim=1)

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        x = self.items(hist).view(hist.size(0), self.s, hist.size(1) // self.s, 32) + self.bias
        x = self.encoder(x.flatten(0, 1)).mean(dim=1).view(-1, self.s, 32)
        hidden, _ = self.lstm(x)
        target = self.items(item)
        return self.head(torch.cat([self.attend(target, x), self.attend(target, hidden), target], dim=1))


@style("DSIN, sessions and a BiLSTM")
def _() -> Made:
    return DSIN(), (ids(LENGTH), ids()), ["hist"]


class MIND(nn.Module):
    """Capsules by routing without gradient, label-aware attention with a power, hard choice by argmax."""

    def __init__(self, capsules: int = 4) -> None:
        super().__init__()
        self.items, self.k = nn.Embedding(NUM_IDS, WIDTH, padding_idx=0), capsules
        self.s, self.first = nn.Linear(WIDTH, WIDTH, bias=False), nn.Parameter(torch.randn(1, capsules, LENGTH))
        self.first.requires_grad_(False)

    def squash(self, z: Tensor) -> Tensor:
        square = torch.sum(z * z, dim=-1, keepdim=True)
        return square / (1 + square) * z / torch.sqrt(square + 1e-9)

    def forward(self, hist: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        x = self.s(self.items(hist))
        mask = (hist != 0).unsqueeze(1).repeat(1, self.k, 1)
        b = self.first.expand(hist.size(0), -1, -1).clone()
        for turn in range(3):
            w = torch.where(mask, F.softmax(b, dim=1), torch.zeros_like(b))
            caps = self.squash(torch.matmul(w, x if turn == 2 else x.detach()))
            if turn < 2:
                with torch.no_grad():
                    b += torch.matmul(caps, x.detach().permute(0, 2, 1))
        target = self.items(item)
        match = torch.matmul(caps, target.unsqueeze(-1)).squeeze(-1)
        soft = (F.softmax(torch.pow(match.abs(), 2.0), dim=1).unsqueeze(-1) * caps).sum(1)
        best = torch.argmax(match, dim=1)
        hard = caps.reshape(-1, WIDTH)[best + torch.arange(best.size(0)) * self.k]
        return (soft * target).sum(-1), (hard * target).sum(-1)


@style("MIND, flat index of the best capsule")
def _() -> Made:
    return MIND(), (padded()[0], ids()), ["hist"]


class Caser(nn.Module):
    """Vertical and horizontal convolutions over the history as an image."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.items = nn.Embedding(NUM_IDS, WIDTH), nn.Embedding(NUM_IDS, WIDTH)
        self.vertical = nn.Conv2d(1, 4, (LENGTH, 1))
        self.horizontal = nn.ModuleList(nn.Conv2d(1, 8, (i, WIDTH)) for i in (2, 3, 4))
        self.fc1 = nn.Linear(4 * WIDTH + 24, WIDTH)
        self.w2, self.b2 = nn.Embedding(NUM_IDS, 2 * WIDTH), nn.Embedding(NUM_IDS, 1)

    def forward(self, seq: Tensor, user: Tensor, items: Tensor) -> Tensor:
        image = self.items(seq).unsqueeze(1)
        v = self.vertical(image).view(-1, 4 * WIDTH)
        hs = [F.relu(conv(image).squeeze(3)) for conv in self.horizontal]
        pooled = [F.max_pool1d(h, h.size(2)).squeeze(2) for h in hs]
        z = F.relu(self.fc1(torch.cat([v, *pooled], 1)))
        x = torch.cat([z, self.user(user)], 1)
        w2, b2 = self.w2(items), self.b2(items)
        return torch.baddbmm(b2, w2, x.unsqueeze(2)).squeeze()


@style("Caser, convolutions and baddbmm")
def _() -> Made:
    return Caser(), (ids(LENGTH), ids(), ids(1)), ["seq", "user"]


class NARM(nn.Module):
    """A packed GRU in time-major order, attention of the last state, a bilinear match; STAMP's mean beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.gru = nn.Embedding(NUM_IDS, 32, padding_idx=0), nn.GRU(32, 40)
        self.a1, self.a2 = nn.Linear(40, 40, bias=False), nn.Linear(40, 40, bias=False)
        self.v, self.b = nn.Linear(40, 1, bias=False), nn.Linear(32, 112, bias=False)

    def forward(self, seq: Tensor, lengths: Tensor, item: Tensor) -> Tensor:
        seq = seq.t()
        x = self.items(seq)
        first = torch.zeros(1, seq.size(1), 40)
        out, hidden = self.gru(pack_padded_sequence(x, lengths, enforce_sorted=False), first)
        out, _ = pad_packed_sequence(out, total_length=seq.size(0))
        out, last = out.permute(1, 0, 2), hidden[-1]
        mask = torch.where(seq.permute(1, 0) > 0, torch.tensor([1.0]), torch.tensor([0.0]))
        q1 = self.a1(out.contiguous().view(-1, 40)).view(out.size())
        q2 = mask.unsqueeze(2).expand_as(q1) * self.a2(last).unsqueeze(1).expand_as(q1)
        alpha = self.v(torch.sigmoid(q1 + q2).view(-1, 40)).view(mask.size())
        local = torch.sum(alpha.unsqueeze(2).expand_as(out) * out, 1)
        mean = x.sum(0) / lengths.unsqueeze(-1).float()
        session = torch.cat([local, last, mean], 1)
        return torch.sum(session * self.b(self.items(item)), dim=-1, keepdim=True)


@style("NARM, time-major packed GRU")
def _() -> Made:
    hist, length = padded()
    return NARM(), (hist, length, ids()), ["seq", "lengths"]


class FilterMLP(nn.Module):
    """FMLP-Rec: a learned complex filter over the spectrum; LinRec's linear attention behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(NUM_IDS, 32)
        self.filter = nn.Parameter(torch.randn(1, (LENGTH + 1) // 2 + 1, 32, 2) * 0.1)
        self.norm, self.qkv, self.head = nn.LayerNorm(32), nn.Linear(32, 96), mlp(64, 32, 1)

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        x = torch.cat([self.items(hist), self.items(item)[:, None]], 1)[:, 1:]
        spectrum = torch.fft.rfft(x, dim=1, norm="ortho") * torch.view_as_complex(self.filter)[:, : LENGTH // 2 + 1]
        x = self.norm(torch.fft.irfft(spectrum, n=x.shape[1], dim=1, norm="ortho") + x)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        out = torch.einsum("bld,bde->ble", q, torch.einsum("bld,ble->bde", k, v))
        out = out / (torch.einsum("bld,bd->bl", q, k.sum(1)) + 1e-6).unsqueeze(-1)
        return self.head(torch.cat([out[:, -1], x[:, -1]], -1)).squeeze(1)


@style("FMLP-Rec and linear attention over everything")
def _() -> Made:
    return FilterMLP(), (ids(LENGTH), ids()), ["hist"]


class LRU(nn.Module):
    """A linear recurrence with complex decay, scanned in Python over the history; a Mamba-like gate behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(NUM_IDS, 32, padding_idx=0)
        self.nu, self.theta = nn.Parameter(torch.rand(32)), nn.Parameter(torch.rand(32) * 3)
        self.up, self.down, self.gate = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 32)
        self.conv = nn.Conv1d(32, 32, 4, groups=32, padding=3)

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        x = self.items(hist)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : hist.shape[-1]].transpose(1, 2))
        real, imag = self.up(x).chunk(2, -1)
        u = torch.complex(real, imag)
        decay = torch.exp(torch.complex(-torch.exp(self.nu), self.theta))
        state, outs = torch.zeros_like(u[:, 0]), []
        for t in range(u.size(1)):
            state = torch.where((hist[:, t] > 0).unsqueeze(-1), decay * state + u[:, t], state)
            outs.append(state)
        y = torch.stack(outs, 1)
        y = self.down(torch.view_as_real(y).flatten(-2)) * F.silu(self.gate(x))
        return torch.einsum("bd,bd->b", y[:, -1], self.items(item))


@style("LRU, complex recurrence in Python")
def _() -> Made:
    return LRU(), (padded(left=True)[0], ids()), ["hist"]


class Longer(nn.Module):
    """Global tokens of the user and the candidate read a compressed history by scaled_dot_product_attention."""

    def __init__(self, group: int = 3) -> None:
        super().__init__()
        self.items, self.group = nn.Embedding(NUM_IDS, WIDTH), group
        self.merge, self.user = nn.Linear(group * WIDTH, 32), nn.Embedding(NUM_IDS, 32)
        self.item = nn.Embedding(NUM_IDS, 32)
        self.q, self.kv, self.o = nn.Linear(32, 32), nn.Linear(32, 64), nn.Linear(32, 32)
        self.qkv, self.head = nn.Linear(32, 96), mlp(32, 32, 1)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], 4, 8).transpose(-3, -2)

    def forward(self, user: Tensor, hist: Tensor, item: Tensor) -> Tensor:
        rows = self.merge(self.items(hist).unflatten(1, (-1, self.group)).flatten(2))
        tokens = torch.stack((self.user(user), self.item(item)), dim=1)
        keys = torch.cat([rows, tokens], 1)
        k, v = self.kv(keys).chunk(2, -1)
        mask = torch.ones(2, keys.size(1), dtype=torch.bool).tril(diagonal=keys.size(1) - 2)
        x = F.scaled_dot_product_attention(self.heads(self.q(tokens)), self.heads(k), self.heads(v), attn_mask=mask)
        x = tokens + self.o(x.transpose(-3, -2).flatten(-2))
        q, k, v = map(self.heads, self.qkv(x).chunk(3, -1))
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        return self.head(x[:, 1]).flatten()


@style("LONGER, global tokens over a merged history")
def _() -> Made:
    return Longer(), (ids(), ids(LENGTH), ids()), ["user", "hist"]


class TiSASRec(nn.Module):
    """Attention whose keys and values get embeddings of the time gaps of every pair of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.gap_k, self.gap_v = (nn.Embedding(NUM_IDS, WIDTH) for _ in range(3))
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, seq: Tensor, times: Tensor, item: Tensor) -> Tensor:
        x = self.items(seq)
        gaps = (times.unsqueeze(-1) - times.unsqueeze(-2)).abs().clamp(max=NUM_IDS - 1)
        gk, gv = self.gap_k(gaps), self.gap_v(gaps)
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = q.matmul(torch.transpose(k, 1, 2)) + gk.matmul(q.unsqueeze(-1)).squeeze(-1)
        scores = scores / k.shape[-1] ** 0.5
        dead = (seq == 0).unsqueeze(1).expand(-1, seq.shape[1], -1)
        future = ~torch.tril(torch.ones(seq.shape[1], seq.shape[1], dtype=torch.bool))
        low = torch.ones(scores.shape) * (-(2**32) + 1)
        scores = torch.where(dead, low, torch.where(future.unsqueeze(0).expand(scores.shape[0], -1, -1), low, scores))
        weights = scores.softmax(-1)
        out = weights.matmul(v) + weights.unsqueeze(2).matmul(gv).reshape(v.shape).squeeze(2)
        return (out[:, -1, :] * self.items(item)).sum(-1)


@style("TiSASRec, gaps of every pair")
def _() -> Made:
    times = torch.randint(1, 20, (NUM_ROWS, LENGTH)).cumsum(1)
    return TiSASRec(), (padded()[0], times, ids()), ["seq", "times"]


class RowLoop(nn.Module):
    """SR-GNN: a gated graph net over session nodes, aliases gathered row by row in a Python loop or at once."""

    def __init__(self, loop: bool) -> None:
        super().__init__()
        self.items, self.loop = nn.Embedding(NUM_IDS, 32), loop
        self.into, self.out, self.cell = nn.Linear(32, 32), nn.Linear(32, 32), nn.GRUCell(64, 32)
        self.q1, self.q2, self.q3 = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 1, bias=False)
        self.mix = nn.Linear(64, 32)

    def forward(self, alias: Tensor, nodes: Tensor, graph: Tensor, mask: Tensor, item: Tensor) -> Tensor:
        x = self.items(nodes)
        n = graph.shape[1]
        a = torch.matmul(graph[:, :, :n], self.into(x))
        b = torch.matmul(graph[:, :, n : 2 * n], self.out(x))
        hidden = self.cell(torch.cat([a, b], 2).view(-1, 64), x.view(-1, 32)).view(x.shape)
        if self.loop:
            seq = torch.stack([hidden[i][alias[i]] for i in torch.arange(len(alias)).long()])
        else:
            seq = torch.gather(hidden, 1, alias.unsqueeze(-1).expand(-1, -1, 32))
        last = seq[torch.arange(mask.shape[0]).long(), torch.sum(mask, 1) - 1]
        alpha = self.q3(torch.sigmoid(self.q1(last).view(-1, 1, 32) + self.q2(seq)))
        pooled = torch.sum(alpha * seq * mask.view(mask.shape[0], -1, 1).float(), 1)
        return torch.sum(self.mix(torch.cat([pooled, last], 1)) * self.items(item), -1)


def session_graph() -> tuple[Any, ...]:
    lengths = torch.randint(1, 11, (NUM_ROWS, 1))
    graph = torch.rand(NUM_ROWS, 10, 20)
    return torch.randint(0, 10, (NUM_ROWS, 10)), ids(10), graph, (torch.arange(10) < lengths).long(), ids()


@style("SR-GNN, aliases gathered")
def _() -> Made:
    return RowLoop(False), session_graph(), ["alias", "nodes", "graph", "mask"]


@style("SR-GNN, a loop over rows")
def _() -> Made:
    return RowLoop(True), session_graph(), ["alias", "nodes", "graph", "mask"]


class CanWrites(nn.Module):
    """Co-action weights cut from the candidate's embedding, results written into a buffer made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.items = nn.Embedding(NUM_IDS, 8 * 4 + 4 + 4 * 4 + 4), nn.Embedding(NUM_IDS, 8, padding_idx=0)
        self.head = mlp(3 * 4 + 8, 32, 1)

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        w1, b1, w2, b2 = torch.split(self.weights(item), [32, 4, 16, 4], dim=1)
        x = self.items(hist)
        keep = (hist != 0).float()
        pooled = torch.zeros(hist.size(0), 3, 4)
        for power in range(1, 4):
            h = torch.tanh(torch.matmul(x**power, w1.view(-1, 8, 4)) + b1[:, None, :])
            h = torch.matmul(h, w2.view(-1, 4, 4)) + b2[:, None, :]
            pooled[:, power - 1] = (h * keep.unsqueeze(-1)).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
        mean = torch.div(x.sum(1), keep.sum(1).unsqueeze(-1) + 1e-8)
        return self.head(torch.cat([pooled.view(hist.size(0), -1), mean], 1))


@style("CAN, writes into a buffer")
def _() -> Made:
    return CanWrites(), (padded()[0], ids()), ["hist"]


class BooleanIndex(nn.Module):
    """A history encoder that writes only valid positions: x[mask] = net(x[mask]); repeat_interleave of the user."""

    def __init__(self, select: bool) -> None:
        super().__init__()
        self.items, self.user = nn.Embedding(NUM_IDS, WIDTH), nn.Embedding(NUM_IDS, WIDTH)
        self.net, self.head, self.select = nn.Linear(2 * WIDTH, WIDTH), mlp(2 * WIDTH, 32, 1), select

    def forward(self, user: Tensor, hist: Tensor, item: Tensor) -> Tensor:
        x, mask = self.items(hist), hist > 0
        who = self.user(user).repeat_interleave(hist.size(1), dim=0).view(*x.shape)
        wide = torch.cat([x, who], -1)
        out = torch.zeros_like(x)
        if self.select:
            out[mask] = torch.tanh(self.net(wide[mask]))
        else:
            out = torch.tanh(self.net(wide))
            out[~mask] = 0.0
        scores = (out @ self.items(item).unsqueeze(-1)).squeeze(-1)
        scores[~mask] = float("-inf")
        weights = torch.nan_to_num(scores.softmax(dim=1), nan=0.0)
        return self.head(torch.cat([torch.einsum("bl,bld->bd", weights, out), self.items(item)], 1))


@style("Boolean writes, repeat_interleave")
def _() -> Made:
    return BooleanIndex(False), (ids(), padded()[0], ids()), ["user", "hist"]


@style("Boolean selection and write back")
def _() -> Made:
    return BooleanIndex(True), (ids(), padded()[0], ids()), ["user", "hist"]
