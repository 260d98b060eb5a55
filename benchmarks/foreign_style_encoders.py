"""Rankers with encoders and decoders as libraries of language models write them; see ``foreign_styles``.

Letters: B pairs, L history, D width, H heads.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreign_style_sequences import padded
from foreign_styles import LENGTH, NUM_IDS, Made, ids, mlp, style


@dataclass
class RankerConfig:
    vocab_size: int = NUM_IDS
    hidden_size: int = 32
    num_attention_heads: int = 4
    num_hidden_layers: int = 2
    intermediate_size: int = 64
    max_position_embeddings: int = 64
    layer_norm_eps: float = 1e-12


class ModelOutput(OrderedDict[str, Any]):
    """A dict whose entries are attributes too, as Transformers has it."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


@dataclass
class RankerOutput:
    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class SelfAttentionBlock(nn.Module):
    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads, self.size = config.num_attention_heads, size // config.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.dense, self.norm = nn.Linear(size, size), nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.up, self.down = nn.Linear(size, config.intermediate_size), nn.Linear(config.intermediate_size, size)
        self.last = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        return x.view((*x.size()[:-1], self.heads, self.size)).permute(0, 2, 1, 3)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, ...]:
        q, k, v = (self.transpose_for_scores(f(hidden_states)) for f in (self.query, self.key, self.value))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.size)
        if attention_mask is not None:
            scores = scores + attention_mask
        probs = F.dropout(scores.softmax(dim=-1), p=0.1, training=self.training)
        context = torch.matmul(probs, v).permute(0, 2, 1, 3).contiguous()
        context = context.view((*context.size()[:-2], self.heads * self.size))
        x = self.norm(self.dense(context) + hidden_states)
        return self.last(self.down(F.gelu(self.up(x))) + x), probs


class UserEncoderWithTarget(nn.Module):
    """A BERT over the history; the candidate attends to its states; a dataclass or a tuple comes out."""

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings).expand((1, -1)))
        self.layers = nn.ModuleList([SelfAttentionBlock(config) for _ in range(config.num_hidden_layers)])
        self.cross = nn.MultiheadAttention(config.hidden_size, 4, batch_first=True)
        self.classifier = nn.Linear(2 * config.hidden_size, 1)

    def get_extended_attention_mask(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        return (1.0 - mask[:, None, None, :].to(dtype=dtype)) * torch.finfo(dtype).min

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        candidate_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        return_dict = return_dict if return_dict is not None else True
        assert input_ids is not None and candidate_ids is not None
        seq_length = input_ids.size()[1]
        if attention_mask is None:
            attention_mask = input_ids.ne(0).long()
        x = self.word_embeddings(input_ids) + self.position_embeddings(self.position_ids[:, :seq_length])
        mask = self.get_extended_attention_mask(attention_mask, x.dtype)
        states: tuple[Tensor, ...] = ()
        for layer in self.layers:
            states = (*states, x) if output_hidden_states else states
            x = layer(x, attention_mask=mask)[0]
        target = self.word_embeddings(candidate_ids).unsqueeze(1)
        read, _ = self.cross(target, x, x, key_padding_mask=attention_mask == 0)
        logits = self.classifier(torch.cat((target, read), dim=-1)).squeeze(1)
        loss = None if labels is None else F.binary_cross_entropy_with_logits(logits.view(-1), labels)
        if not return_dict:
            return (loss, logits) if loss is not None else (logits,)
        return RankerOutput(loss=loss, logits=logits, hidden_states=states or None)


@style("HF, keywords, extended mask, a dataclass out")
def _() -> Made:
    history, _ = padded()
    example = {"input_ids": history, "attention_mask": (history > 0).long(), "candidate_ids": ids()}
    return UserEncoderWithTarget(RankerConfig()), example, ["input_ids", "attention_mask"]


@style("HF, no mask given, a tuple out")
def _() -> Made:
    model = UserEncoderWithTarget(RankerConfig(num_hidden_layers=1))
    forward = model.forward
    model.forward = lambda input_ids, candidate_ids: forward(  # type: ignore[method-assign]
        input_ids, candidate_ids=candidate_ids, return_dict=False
    )
    return model, {"input_ids": padded()[0], "candidate_ids": ids()}, ["input_ids"]


class JointEncoder(nn.Module):
    """nn.TransformerEncoder over [CLS; user tokens; candidate tokens], padding masked, CLS read; ModelOutput out."""

    def __init__(self, norm_first: bool, nested: bool) -> None:
        super().__init__()
        self.embed, self.kind = nn.Embedding(NUM_IDS, 32, padding_idx=0), nn.Embedding(3, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, "gelu", batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(32), enable_nested_tensor=nested)
        self.cls = nn.Parameter(torch.randn(1, 1, 32))
        self.heads = nn.ModuleDict({"ctr": nn.Linear(32, 1), "cvr": nn.Linear(32, 1)})

    def forward(self, user_tokens: Tensor, item_tokens: Tensor) -> ModelOutput:
        bsz = user_tokens.shape[0]
        kinds = torch.cat([torch.zeros(1), torch.ones(user_tokens.shape[1]), torch.full((item_tokens.shape[1],), 2)])
        tokens = torch.cat([user_tokens, item_tokens], dim=1)
        x = torch.cat([self.cls.expand(bsz, -1, -1), self.embed(tokens)], dim=1) + self.kind(kinds.long())[None]
        padding = F.pad(tokens.eq(0), (1, 0), value=False)
        pooled = self.encoder(x, src_key_padding_mask=padding)[:, 0]
        return ModelOutput((name, head(pooled).squeeze(-1).sigmoid()) for name, head in self.heads.items())


@style("nn.TransformerEncoder over user and candidate tokens, post-norm")
def _() -> Made:
    return JointEncoder(False, False), (padded()[0], ids(4)), ["user_tokens"]


@style("nn.TransformerEncoder over user and candidate tokens, pre-norm")
def _() -> Made:
    return JointEncoder(True, False), (padded()[0], ids(4)), ["user_tokens"]


class DynamicCache:
    """Keys and values by layer, grown by update, as a decoder's generate loop uses it."""

    def __init__(self) -> None:
        self.key_cache: list[Tensor] = []
        self.value_cache: list[Tensor] = []

    def update(self, k: Tensor, v: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        if len(self.key_cache) <= layer_idx:
            self.key_cache.append(k)
            self.value_cache.append(v)
        else:
            self.key_cache[layer_idx] = torch.cat([self.key_cache[layer_idx], k], dim=-2)
            self.value_cache[layer_idx] = torch.cat([self.value_cache[layer_idx], v], dim=-2)
        return self.key_cache[layer_idx], self.value_cache[layer_idx]

    def get_seq_length(self) -> int:
        return self.key_cache[0].shape[-2] if self.key_cache else 0


class CachedDecoder(nn.Module):
    """Prefill of the history, then one decoding step a candidate against the cache, rotary by position_ids."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(NUM_IDS, 32)
        self.qkv = nn.ModuleList(nn.Linear(32, 96, bias=False) for _ in range(layers))
        self.o_proj = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(layers))
        self.mlp = nn.ModuleList(mlp(32, 64, 32) for _ in range(layers))
        self.norms = nn.ModuleList(nn.RMSNorm(32) for _ in range(2 * layers + 1))
        self.score = nn.Linear(32, 1, bias=False)
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, 8, 2).float() / 8), persistent=False)

    def rotary(self, x: Tensor, position_ids: Tensor) -> Tensor:
        freqs = position_ids[:, :, None].float() @ self.inv_freq[None, None, :]
        emb = torch.cat((freqs, freqs), dim=-1).unsqueeze(1)
        half = x.shape[-1] // 2
        return x * emb.cos() + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * emb.sin()

    def step(self, tokens: Tensor, cache: DynamicCache) -> Tensor:
        x = self.embed_tokens(tokens)
        past = cache.get_seq_length()
        position_ids = torch.arange(past, past + tokens.shape[1], device=tokens.device).unsqueeze(0)
        for i, (qkv, o_proj, ff) in enumerate(zip(self.qkv, self.o_proj, self.mlp)):
            h = self.norms[2 * i](x)
            q, k, v = qkv(h).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
            q, k = self.rotary(q, position_ids), self.rotary(k, position_ids)
            k, v = cache.update(k, v, i)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=past == 0)
            x = x + o_proj(out.transpose(1, 2).flatten(2))
            x = x + ff(self.norms[2 * i + 1](x))
        return self.norms[-1](x)

    def forward(self, history: Tensor, candidate: Tensor) -> Tensor:
        cache = DynamicCache()
        self.step(history, cache)
        return self.score(self.step(candidate, cache))[:, -1].squeeze(-1)


@style("decoder, prefill and a step against a cache, rotary")
def _() -> Made:
    return CachedDecoder(), (ids(LENGTH), ids(1)), ["history"]


class Perceiver(nn.Module):
    """Learned latents read the history, candidates read the latents; masks by lengths, einops-like reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 32)
        self.latents = nn.Parameter(torch.randn(6, 32))
        self.kv, self.q, self.kv2, self.out = nn.Linear(32, 64), nn.Linear(32, 32), nn.Linear(32, 64), mlp(64, 16, 1)

    def attend(self, q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
        q = q.unflatten(-1, (4, 8)).movedim(-2, 1)
        k, v = kv.unflatten(-1, (2, 4, 8)).movedim(-2, 1).unbind(-2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).movedim(1, -2).flatten(-2)

    def forward(self, history: Tensor, lengths: Tensor, item: Tensor) -> Tensor:
        x = self.table(history)
        mask = (torch.arange(history.shape[1]) < lengths[:, None])[:, None, None, :]
        latents = self.attend(self.q(self.latents).expand(len(x), -1, -1), self.kv(x), mask) + self.latents
        target = self.table(item)[:, None]
        read = self.attend(self.q(target), self.kv2(F.layer_norm(latents, (32,))), None)
        return self.out(torch.cat([read, target], -1)).sum((-1, -2))


@style("Perceiver, latents over a masked history")
def _() -> Made:
    history, lengths = padded()
    return Perceiver(), (history, lengths, ids()), ["history", "lengths"]


class LinearAttention(nn.Module):
    """elu(x) + 1 features: the history's sum of keys by values is read by the candidate's query."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 32, padding_idx=0)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        batch, length = history.shape
        keep = (history != 0)[..., None, None]
        x, t = self.table(history), self.table(item)
        q = F.elu(self.q(t)).add(1).reshape(batch, 4, 8)
        k = F.elu(self.k(x)).add(1).reshape(batch, length, 4, 8).masked_fill(~keep, 0.0)
        v = self.v(x).reshape(batch, length, 4, 8)
        state = torch.einsum("blhd,blhe->bhde", k, v)
        weight = 1 / (torch.einsum("bhd,bhd->bh", q, k.sum(1)) + 1e-6)
        return self.head(torch.einsum("bhd,bhde,bh->bhe", q, state, weight).flatten(1)).view(-1)


@style("linear attention, keys by values of the history")
def _() -> Made:
    return LinearAttention(), (padded()[0], ids()), ["history"]


class ScanMixer(nn.Module):
    """A selective state space over the history (depthwise convolution, gates, a loop); the candidate gates its end."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(NUM_IDS, 16), nn.Linear(16, 64)
        self.conv = nn.Conv1d(32, 32, 4, groups=32, padding=3)
        self.x_proj, self.dt = nn.Linear(32, 4 + 2 * 4), nn.Linear(4, 32)
        self.a_log, self.d = nn.Parameter(torch.log(torch.arange(1.0, 5).repeat(32, 1))), nn.Parameter(torch.ones(32))
        self.out, self.top = nn.Linear(32, 16), mlp(32, 1)

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        x, z = self.inner(self.table(history)).chunk(2, dim=-1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : history.shape[1]]).transpose(1, 2)
        dt, b, c = torch.split(self.x_proj(x), [4, 4, 4], dim=-1)
        dt = F.softplus(self.dt(dt))
        a_bar = torch.exp(dt.unsqueeze(-1) * -self.a_log.exp())
        b_bar = dt.unsqueeze(-1) * b.unsqueeze(2) * x.unsqueeze(-1)
        state, ys = x.new_zeros(x.shape[0], 32, 4), []
        for step in range(history.shape[1]):
            state = a_bar[:, step] * state + b_bar[:, step]
            ys.append((state * c[:, step, None, :]).sum(-1))
        y = (torch.stack(ys, dim=1) + self.d * x) * F.silu(z)
        return self.top(torch.cat([self.out(y)[:, -1], self.table(item)], dim=-1)).squeeze(-1)


@style("selective state space over the history")
def _() -> Made:
    return ScanMixer(), (ids(LENGTH), ids()), ["history"]


class LateWeights(nn.Module):
    """A mask of [B, H, L, L] made with tril and a row's padding, -inf rows repaired by nan_to_num; user last state."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(NUM_IDS, 32, padding_idx=0), nn.Parameter(torch.randn(1, LENGTH, 32))
        self.qkv, self.ff, self.norm = nn.Linear(32, 96), mlp(32, 64, 32), nn.LayerNorm(32)
        self.scale = nn.Parameter(torch.tensor(2.6))

    def forward(self, seq: Tensor, item: Tensor) -> Tensor:
        x = self.table(seq) * math.sqrt(32) + self.place
        q, k, v = (t.reshape(len(x), -1, 4, 8).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        allowed = torch.tril(torch.ones(seq.size(1), seq.size(1), dtype=torch.bool)) & (seq != 0)[:, None, None, :]
        weights = torch.where(allowed, q @ k.mT / 8**0.5, float("-inf")).softmax(-1).nan_to_num(0.0)
        x = x + (weights @ v).transpose(1, 2).reshape(x.shape)
        x = x + self.ff(self.norm(x))
        last = x.gather(1, (seq != 0).sum(1).sub(1).clamp_min(0).view(-1, 1, 1).expand(-1, 1, 32)).squeeze(1)
        user, target = F.normalize(last, dim=-1), F.normalize(self.table(item), dim=-1)
        return (user * target).sum(-1) * self.scale.exp().clamp(max=100)


@style("a mask a row with -inf rows repaired, last state gathered, temperature")
def _() -> Made:
    history = padded()[0]
    history[0] = 0
    return LateWeights(), (history, ids()), ["seq"]


class FullVocabulary(nn.Module):
    """Scores of the whole vocabulary by tied weights, log_softmax, and the candidate's own entry gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(NUM_IDS, 16)
        self.gru, self.decoder = nn.GRU(16, 16, batch_first=True), nn.Linear(16, NUM_IDS)
        self.decoder.weight = self.item.weight

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        _, last = self.gru(self.item(history))
        return self.decoder(last[-1]).log_softmax(-1).gather(1, item.unsqueeze(1)).squeeze(1)


@style("scores of the vocabulary by tied weights, one gathered")
def _() -> Made:
    return FullVocabulary(), (ids(LENGTH), ids()), ["history"]
