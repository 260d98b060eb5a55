"""Awkward models that read a history: encoders, target attention in its many spellings, recurrence, ragged input."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Columns, Sizes, ZooModel, column, dense, history, ids, merged


def profile(s: Sizes) -> Columns:
    """Three user columns and a right-padded history."""
    return merged(ids("user", 3, s.vocab), history("hist", vocab=s.vocab, length=s.history))


def item(s: Sizes, count: int = 3) -> Columns:
    return ids("item", count, s.vocab, low=1)


def head(inputs: int, s: Sizes) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, s.mlp[0]), nn.ReLU(), nn.Linear(s.mlp[0], s.mlp[1]), nn.ReLU(),
                         nn.Linear(s.mlp[1], 1))  # fmt: skip


class TargetAttentionTransformer(nn.Module):
    """A history encoder with a leading user token; the candidate attends to its output."""

    def __init__(self, s: Sizes, num_heads: int = 2) -> None:
        super().__init__()
        d = 2 * s.width
        self.item_emb = nn.Embedding(s.vocab, d, padding_idx=0)
        self.user_emb = nn.Embedding(s.vocab, d)
        self.position = nn.Parameter(0.02 * torch.randn(1, s.history + 1, d))
        layer = nn.TransformerEncoderLayer(d, num_heads, 4 * d, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.attend = nn.MultiheadAttention(d, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(d)
        self.head = head(3 * d, s)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hist, user = batch["hist"], self.user_emb(batch["user0"]).unsqueeze(1)
        tokens = torch.cat([user, self.item_emb(hist)], dim=1) + self.position
        pad = F.pad(hist == 0, (1, 0), value=False)
        memory = self.encoder(tokens, src_key_padding_mask=pad)
        target = self.item_emb(batch["item0"])
        read, _ = self.attend(target.unsqueeze(1), memory, memory, key_padding_mask=pad, need_weights=False)
        read = self.norm(read.squeeze(1))
        return torch.sigmoid(self.head(torch.cat([read, target, memory[:, 0]], dim=-1))).squeeze(-1)


class HSTUBlock(nn.Module):
    """Pointwise SiLU attention with relative position bias, causal, as in HSTU."""

    def __init__(self, d: int, num_heads: int, max_len: int) -> None:
        super().__init__()
        self.h, self.d, self.max_len = num_heads, d, max_len
        self.uvqk = nn.Linear(d, 4 * d, bias=False)
        self.out = nn.Linear(d, d)
        self.norm_in, self.norm_attn = nn.LayerNorm(d), nn.LayerNorm(d)
        self.rel = nn.Parameter(0.02 * torch.randn(2 * max_len - 1))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        b, t, d = x.shape
        u, v, q, k = F.silu(self.uvqk(self.norm_in(x))).split(d, dim=-1)
        heads = [z.view(b, t, self.h, d // self.h).transpose(1, 2) for z in (v, q, k)]
        scores = torch.einsum("bhqd,bhkd->bhqk", heads[1], heads[2])
        pos = torch.arange(t, device=x.device)
        scores = scores + self.rel[pos[:, None] - pos[None, :] + self.max_len - 1]
        causal = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
        weights = F.silu(scores) / t * (causal[None, None] & valid[:, None, None, :])
        read = torch.einsum("bhqk,bhkd->bhqd", weights, heads[0]).transpose(1, 2).reshape(b, t, d)
        return x + self.out(self.norm_attn(read) * u)


class HSTURanker(nn.Module):
    """[history; candidate] through causal HSTU blocks; the candidate's position is read."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        d = 2 * s.width
        self.emb = nn.Embedding(s.vocab, d, padding_idx=0)
        self.blocks = nn.ModuleList(HSTUBlock(d, 2, s.history + 1) for _ in range(2))
        self.tasks = nn.Linear(d, 3)

    def forward(self, hist: Tensor, target: Tensor) -> Tensor:
        tokens = torch.cat([hist, target[:, None]], dim=1)
        x, valid = self.emb(tokens) * math.sqrt(self.emb.embedding_dim), tokens != 0
        for block in self.blocks:
            x = block(x, valid)
        return self.tasks(x[:, -1])


class CausalTransformerRanker(nn.Module):
    """SASRec-like: the candidate is the last token of a causal softmax transformer, pre-norm, with its own mask."""

    def __init__(self, s: Sizes, num_heads: int = 2) -> None:
        super().__init__()
        self.d, self.h = 2 * s.width, num_heads
        self.emb = nn.Embedding(s.vocab, self.d)
        self.pos = nn.Embedding(s.history + 1, self.d)
        self.qkv = nn.ModuleList(nn.Linear(self.d, 3 * self.d) for _ in range(2))
        self.proj = nn.ModuleList(nn.Linear(self.d, self.d) for _ in range(2))
        self.ffn = nn.ModuleList(
            nn.Sequential(nn.Linear(self.d, 4 * self.d), nn.GELU(), nn.Linear(4 * self.d, self.d)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(self.d) for _ in range(5))
        self.head = nn.Linear(self.d, 1)

    def forward(self, hist: Tensor, target: Tensor) -> Tensor:
        tokens = torch.cat([hist, target.unsqueeze(1)], 1)
        b, t = tokens.shape
        x = self.emb(tokens) + self.pos(torch.arange(t, device=tokens.device))
        for i in range(2):
            q, k, v = self.qkv[i](self.norms[2 * i](x)).chunk(3, dim=-1)
            q, k, v = (z.reshape(b, t, self.h, -1).permute(0, 2, 1, 3) for z in (q, k, v))
            x = x + self.proj[i](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
            x = x + self.ffn[i](self.norms[2 * i + 1](x))
        return self.head(self.norms[4](x)[:, -1, :]).squeeze(-1)


class EarlyFusionBert(nn.Module):
    """BERT4Rec-like cross encoder: bidirectional over [CLS, history, candidate] with an additive 4-d mask."""

    def __init__(self, s: Sizes, num_heads: int = 2) -> None:
        super().__init__()
        self.h, d = num_heads, s.width
        self.word = nn.Embedding(s.vocab + 1, d)
        self.segment, self.position = nn.Embedding(2, d), nn.Embedding(s.history + 2, d)
        self.norm = nn.LayerNorm(d, eps=1e-12)
        self.query, self.key, self.value, self.dense = (
            nn.ModuleList(nn.Linear(d, d) for _ in range(2)) for _ in range(4)
        )
        self.up, self.down = (
            nn.ModuleList(nn.Linear(d, 2 * d) for _ in range(2)),
            nn.ModuleList(nn.Linear(2 * d, d) for _ in range(2)),
        )
        self.norm1, self.norm2 = (nn.ModuleList(nn.LayerNorm(d) for _ in range(2)) for _ in range(2))
        self.pooler, self.classifier = nn.Linear(d, d), nn.Linear(d, 2)
        self.register_buffer("position_ids", torch.arange(s.history + 2).unsqueeze(0))
        self.cls_id = s.vocab

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), self.h, x.size(-1) // self.h).permute(0, 2, 1, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, candidate_id: Tensor) -> tuple[Tensor, Tensor]:
        cls = torch.full_like(candidate_id, self.cls_id).unsqueeze(-1)
        tokens = torch.cat([cls, input_ids, candidate_id.unsqueeze(-1)], dim=-1)
        mask = torch.cat([torch.ones_like(cls), attention_mask, torch.ones_like(cls)], dim=-1)
        kinds = torch.zeros_like(tokens)
        kinds[:, -1] = 1
        x = self.norm(self.word(tokens) + self.segment(kinds) + self.position(self.position_ids[:, : tokens.size(1)]))
        extended = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for i in range(2):
            q, k, v = (self.heads(layer[i](x)) for layer in (self.query, self.key, self.value))
            scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.size(-1)) + extended
            read = torch.matmul(torch.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous()
            x = self.norm1[i](self.dense[i](read.view(*read.shape[:2], -1)) + x)
            x = self.norm2[i](self.down[i](F.gelu(self.up[i](x))) + x)
        logits = self.classifier(torch.tanh(self.pooler(x[:, 0])))
        return logits.softmax(-1)[:, 1], logits


class UserGRU(nn.Module):
    """GRU4Rec-like: the state at the last real step, gathered by length, beside the item."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.gru = nn.GRU(s.width, 2 * s.width, num_layers=2, batch_first=True)
        self.head = head(3 * s.width, s)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor, item_id: Tensor) -> Tensor:
        states, _ = self.gru(self.emb(item_seq))
        index = (item_seq_len - 1).clamp(min=0).view(-1, 1, 1).expand(-1, -1, states.shape[2])
        last = states.gather(1, index).squeeze(1)
        return self.head(torch.cat((last, self.emb(item_id)), dim=-1)).squeeze(-1)


class UserLSTM(nn.Module):
    """A bidirectional LSTM over the history, its final states, and a bilinear score."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.lstm = nn.LSTM(s.width, s.width, batch_first=True, bidirectional=True)
        self.bilinear = nn.Bilinear(2 * s.width, s.width, 1)

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        _, (h, _) = self.lstm(self.emb(hist))
        return self.bilinear(torch.cat([h[0], h[1]], dim=1), self.emb(item)).flatten()


class CandidateGRU(nn.Module):
    """The candidate brings a sequence of its own (its last prices), which a GRU reads; the user gates the state."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.user = nn.Embedding(s.vocab, s.width)
        self.item = nn.Embedding(s.vocab, s.width)
        self.gru = nn.GRU(2, s.width, batch_first=True)
        self.gate = nn.Linear(s.width, s.width)
        self.out = nn.Linear(2 * s.width, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        _, h = self.gru(batch["item_series"])
        user, item = self.user(batch["user0"]), self.item(batch["item0"])
        return self.out(torch.cat([torch.sigmoid(self.gate(user)) * h[-1], item * user], 1))[:, 0]


class LengthMaskedAttention(nn.Module):
    """Ragged history as (values, lengths): the mask comes from comparing positions with the length."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width)
        self.query = nn.Linear(s.width, s.width, bias=False)
        self.head = head(3 * s.width, s)

    def forward(self, values: Tensor, lengths: Tensor, item: Tensor) -> Tensor:
        target, past = self.emb(item), self.emb(values)
        mask = torch.arange(values.size(1), device=values.device)[None, :] < lengths[:, None]
        scores = torch.bmm(past, self.query(target).unsqueeze(2)).squeeze(2) / target.size(1) ** 0.5
        weights = torch.softmax(scores.masked_fill(~mask, -1e9), dim=1)
        pooled = torch.bmm(weights.unsqueeze(1), past).squeeze(1)
        mean = (past * mask.unsqueeze(-1)).sum(1) / lengths.clamp(min=1).unsqueeze(-1)
        return self.head(torch.cat([pooled, mean, target], dim=1)).squeeze(1)


class FuxiDice(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-9) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(dim, affine=False, eps=eps, momentum=0.01)
        self.alpha = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(self.bn(x))
        return p * x + (1 - p) * self.alpha * x


class MaskedDIN(nn.Module):
    """DIN in another library's spelling: batch-norm Dice over [B*L, hidden], masked softmax, several histories."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.d = s.width
        self.item_emb, self.cate_emb = nn.Embedding(s.vocab, s.width, 0), nn.Embedding(s.vocab, s.width, 0)
        self.user_emb = nn.ModuleList(nn.Embedding(s.vocab, s.width) for _ in range(3))
        self.unit = nn.Sequential(nn.Linear(8 * s.width, 32), FuxiDice(32), nn.Linear(32, 16), FuxiDice(16),
                                  nn.Linear(16, 1))  # fmt: skip
        self.dnn = nn.Sequential(nn.Linear(7 * s.width, s.mlp[0]), nn.BatchNorm1d(s.mlp[0]), FuxiDice(s.mlp[0]),
                                 nn.Dropout(0.2), nn.Linear(s.mlp[0], 1))  # fmt: skip

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        target = torch.cat([self.item_emb(x["item0"]), self.cate_emb(x["item1"])], dim=-1)
        past = torch.cat([self.item_emb(x["hist"]), self.cate_emb(x["hist_cate"])], dim=-1)
        mask = (x["hist"] > 0).float()
        seq_len = past.size(1)
        query = target.unsqueeze(1).expand(-1, seq_len, -1)
        unit_in = torch.cat([query, past, query - past, query * past], dim=-1)
        weight = self.unit(unit_in.view(-1, 8 * self.d)).view(-1, seq_len) * mask
        weight = weight.masked_fill(mask.float() == 0, -1.0e9).softmax(dim=-1)
        pooled = (weight.unsqueeze(-1) * past).sum(dim=1)
        users = [emb(x[f"user{i}"]) for i, emb in enumerate(self.user_emb)]
        logit = self.dnn(torch.cat([*users, target, pooled], dim=-1))
        return {"y_pred": logit.sigmoid()}


class ServingDIEN(nn.Module):
    """DIEN as one would serve it: masked AUGRU with torch.where, one step of a Python loop per position."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.extract = nn.GRU(s.width, s.width, batch_first=True)
        self.attention = nn.Linear(s.width, s.width, bias=False)
        self.gates = nn.Linear(2 * s.width, 2 * s.width)
        self.candidate = nn.Linear(2 * s.width, s.width)
        self.head = head(2 * s.width, s)

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        target, mask = self.emb(item), hist > 0
        states, _ = self.extract(self.emb(hist))
        scores = torch.einsum("bld,bd->bl", self.attention(states), target)
        att = torch.softmax(torch.where(mask, scores, torch.full_like(scores, -1e9)), dim=-1)
        h = torch.zeros_like(target)
        for t in range(hist.size(1)):
            x = states[:, t]
            r, u = torch.sigmoid(self.gates(torch.cat([x, h], 1))).chunk(2, dim=1)
            u = u * att[:, t : t + 1]
            new = (1 - u) * h + u * torch.tanh(self.candidate(torch.cat([x, r * h], 1)))
            h = torch.where(mask[:, t : t + 1], new, h)
        return torch.sigmoid(self.head(torch.cat([h, target], 1))).view(-1)


class MultiInterest(nn.Module):
    """ComiRec-like: K interests from self-attention over the history, label-aware attention of the candidate."""

    def __init__(self, s: Sizes, num_interests: int = 4) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.w1 = nn.Parameter(0.3 * torch.randn(s.width, 4 * s.width))
        self.w2 = nn.Parameter(0.3 * torch.randn(4 * s.width, num_interests))

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        past, target = self.emb(hist), self.emb(item)
        logits = torch.tanh(past @ self.w1) @ self.w2
        logits = torch.where((hist == 0).unsqueeze(-1), torch.full_like(logits, -(2.0**31)), logits)
        interests = torch.softmax(logits, dim=1).transpose(1, 2) @ past
        match = torch.matmul(interests, target.unsqueeze(-1)).squeeze(-1)
        chosen = (torch.softmax(match * 2.0, dim=-1).unsqueeze(-1) * interests).sum(1)
        return (chosen * target).sum(-1) + match.max(dim=-1).values


class SearchBasedInterest(nn.Module):
    """SIM-like: the candidate picks its top k of a long history, gathers them, and attends to those only."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.k = max(2, s.history // 5)
        self.emb = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.search = nn.Linear(s.width, s.width, bias=False)
        self.attend = nn.MultiheadAttention(s.width, 2, batch_first=True)
        self.head = head(2 * s.width, s)

    def forward(self, hist: Tensor, item: Tensor) -> Tensor:
        past, target = self.emb(hist), self.emb(item)
        relevance = torch.einsum("bd,bld->bl", self.search(target), self.search(past))
        top = relevance.masked_fill(hist == 0, -1e4).topk(self.k, dim=1).indices
        picked = past.gather(1, top.unsqueeze(-1).expand(-1, -1, past.size(-1)))
        read, _ = self.attend(target.unsqueeze(1), picked, picked)
        return self.head(torch.cat([read.squeeze(1), target], dim=-1)).squeeze(-1)


class TimeGapAttention(nn.Module):
    """Time gaps between the candidate's publication and each event, bucketed, bias the attention."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.emb = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.gap = nn.Embedding(8, 1)
        self.age = nn.Embedding(8, s.width)
        self.register_buffer("edges", torch.tensor([-1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0]))
        self.q, self.k = nn.Linear(s.width, s.width), nn.Linear(s.width, s.width)
        self.head = head(3 * s.width, s)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        past, target = self.emb(batch["hist"]), self.emb(batch["item0"])
        gaps = torch.bucketize(batch["published"].unsqueeze(1) - batch["event_time"], self.edges)
        age = self.age(torch.bucketize(batch["now"] - batch["published"], self.edges))
        scores = (self.q(target).unsqueeze(1) @ self.k(past).mT).squeeze(1) + self.gap(gaps).squeeze(-1)
        weights = scores.masked_fill(batch["hist"].eq(0), float("-1e9")).softmax(-1)
        return self.head(torch.cat([(weights.unsqueeze(1) @ past).squeeze(1), target, age], -1)).squeeze(-1)


def sequence_model(
    name: str,
    module: Callable[[Sizes], nn.Module],
    request: Callable[[Sizes], Columns],
    candidate: Callable[[Sizes], Columns],
    **flags: object,
) -> Callable[[Sizes], ZooModel]:
    return lambda s: ZooModel(name, s, lambda: module(s), request(s), candidate(s), **flags)  # type: ignore[arg-type]


def past(name: str, *more: str, left: bool = False, length_name: str | None = None) -> Callable[[Sizes], Columns]:
    return lambda s: history(name, *more, vocab=s.vocab, length=s.history, left=left, length_name=length_name)


def one(name: str) -> Callable[[Sizes], Columns]:
    return lambda s: column(name, s.vocab, low=1)


def bert_request(s: Sizes) -> Columns:
    tokens = history("input_ids", vocab=s.vocab, length=s.history)
    return lambda generator, rows: (
        (drawn := tokens(generator, rows)) | {"attention_mask": (drawn["input_ids"] != 0).long()}
    )


MODELS: dict[str, Callable[[Sizes], ZooModel]] = {
    "TargetAttentionTransformer": sequence_model(
        "TargetAttentionTransformer", TargetAttentionTransformer, profile, item, user_side_is_encoder=True
    ),
    "HSTU": sequence_model(
        "HSTU", HSTURanker, past("hist", left=True), one("target"), style="positional", user_side_is_encoder=True
    ),
    "CausalTransformer": sequence_model(
        "CausalTransformer",
        CausalTransformerRanker,
        past("hist", left=True),
        one("target"),
        style="positional",
        user_side_is_encoder=True,
    ),
    "EarlyFusionBert": sequence_model(
        "EarlyFusionBert", EarlyFusionBert, bert_request, one("candidate_id"), style="keyword"
    ),
    "UserGRU": sequence_model(
        "UserGRU",
        UserGRU,
        past("item_seq", length_name="item_seq_len"),
        one("item_id"),
        style="positional",
        user_side_is_encoder=True,
    ),
    "UserLSTM": sequence_model(
        "UserLSTM", UserLSTM, past("hist"), one("item"), style="positional", user_side_is_encoder=True
    ),
    "CandidateGRU": sequence_model(
        "CandidateGRU",
        CandidateGRU,
        lambda s: ids("user", 1, s.vocab),
        lambda s: merged(item(s, 1), dense("item_series", 5, 2)),
    ),
    "LengthMaskedAttention": sequence_model(
        "LengthMaskedAttention",
        LengthMaskedAttention,
        past("values", length_name="lengths"),
        one("item"),
        style="keyword",
    ),
    "MaskedDIN": sequence_model(
        "MaskedDIN",
        MaskedDIN,
        lambda s: merged(ids("user", 3, s.vocab), past("hist", "hist_cate")(s)),
        lambda s: item(s, 2),
    ),
    "ServingDIEN": sequence_model("ServingDIEN", ServingDIEN, past("hist"), one("item"), style="positional"),
    "MultiInterest": sequence_model(
        "MultiInterest", MultiInterest, past("hist"), one("item"), style="positional", user_side_is_encoder=True
    ),
    "SearchBasedInterest": sequence_model(
        "SearchBasedInterest", SearchBasedInterest, past("hist"), one("item"), style="positional"
    ),
    "TimeGapAttention": sequence_model(
        "TimeGapAttention",
        TimeGapAttention,
        lambda s: merged(past("hist")(s), dense("event_time", s.history), dense("now")),
        lambda s: merged(item(s, 1), dense("published")),
    ),
}
