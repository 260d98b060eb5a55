"""Rankers over text: news, queries and documents, cross-encoders and late interaction; see ``foreign_styles``.

Letters: B pairs, H history titles, T tokens, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from foreign_styles import NUM_IDS, NUM_ROWS, Made, ids, mlp, style

TITLES, TOKENS, SIZE = 8, 10, 32


class Additive(nn.Module):
    """Pooling by a learned query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.query = nn.Linear(width, 24), nn.Parameter(torch.empty(24).uniform_(-0.1, 0.1))

    def forward(self, x: Tensor) -> Tensor:
        weights = F.softmax(torch.matmul(torch.tanh(self.linear(x)), self.query), dim=1)
        return torch.bmm(weights.unsqueeze(dim=1), x).squeeze(dim=1)


class SelfAttention(nn.Module):
    """Heads by view, scores by exp over a sum with 1e-8, as in several news recommenders."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(SIZE, SIZE) for _ in range(3))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        size = x.size(0)
        q, k, v = (
            f(x).view(size, -1, self.heads, SIZE // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        scores = torch.exp(torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(SIZE // self.heads))
        weights = scores / (torch.sum(scores, dim=-1, keepdim=True) + 1e-8)
        return torch.matmul(weights, v).transpose(1, 2).contiguous().view(size, -1, SIZE)


class NRMS(nn.Module):
    """Titles of the history encoded as one folded batch, then an encoder over titles."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(NUM_IDS, SIZE, padding_idx=0)
        self.title, self.title_pool = SelfAttention(), Additive(SIZE)
        self.user, self.user_pool = SelfAttention(), Additive(SIZE)

    def news(self, tokens: Tensor) -> Tensor:
        x = F.dropout(self.words(tokens), p=0.2, training=self.training)
        return self.title_pool(self.title(x))

    def forward(self, clicked: Tensor, candidate: Tensor) -> Tensor:
        size, titles, tokens = clicked.shape
        history = self.news(clicked.view(size * titles, tokens)).view(size, titles, -1)
        user = self.user_pool(self.user(history))
        return torch.bmm(self.news(candidate).unsqueeze(1), user.unsqueeze(-1)).flatten()


@style("NRMS, titles folded into the batch")
def _() -> Made:
    return NRMS(), (ids(TITLES, TOKENS), ids(TOKENS)), ["clicked"]


class NAML(nn.Module):
    """Title by CNN, category by table, views pooled; one title encoded at a time in a Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.cats = nn.Embedding(NUM_IDS, SIZE), nn.Embedding(NUM_IDS, 8)
        self.cnn, self.cat = nn.Conv2d(1, SIZE, (3, SIZE), padding=(1, 0)), nn.Linear(8, SIZE)
        self.pool, self.views, self.user = Additive(SIZE), Additive(SIZE), Additive(SIZE)

    def news(self, news: dict[str, Tensor]) -> Tensor:
        text = self.cnn(self.words(news["title"]).unsqueeze(dim=1)).squeeze(dim=3)
        text = self.pool(F.relu(text).transpose(1, 2))
        return self.views(torch.stack([text, F.relu(self.cat(self.cats(news["category"])))], dim=1))

    def forward(self, clicked: list[dict[str, Tensor]], candidate: dict[str, Tensor]) -> Tensor:
        history = torch.stack([self.news(x) for x in clicked], dim=1)
        return torch.matmul(self.user(history).unsqueeze(1), self.news(candidate).unsqueeze(-1)).squeeze(-1).squeeze(-1)


@style("NAML, a list of dicts")
def _() -> Made:
    one = lambda: {"title": ids(TOKENS), "category": ids()}  # noqa: E731
    return NAML(), ([one() for _ in range(4)], one()), ["clicked"]


class LSTUR(nn.Module):
    """The user's vector as the first state of a packed GRU over encoded titles."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.users = nn.Embedding(NUM_IDS, SIZE), nn.Embedding(NUM_IDS, SIZE)
        self.convs = nn.ModuleList(nn.Conv1d(SIZE, SIZE // 2, k, padding="same") for k in (3, 5))
        self.gru = nn.GRU(SIZE, SIZE, batch_first=True)

    def news(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens).permute(0, 2, 1)
        return torch.cat([conv(x).amax(dim=-1) for conv in self.convs], dim=-1)

    def forward(self, user: Tensor, clicked_len: Tensor, clicked: Tensor, candidate: Tensor) -> Tensor:
        rows = self.news(clicked.flatten(0, 1)).unflatten(0, (clicked.size(0), -1))
        lengths = clicked_len.clone()
        lengths[lengths == 0] = 1
        packed = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed, self.users(user).unsqueeze(dim=0))
        return (last.squeeze(dim=0) * self.news(candidate)).sum(-1)


@style("LSTUR, first state from the user")
def _() -> Made:
    lengths = torch.randint(0, TITLES + 1, (NUM_ROWS,))
    return LSTUR(), (ids(), lengths, ids(TITLES, TOKENS), ids(TOKENS)), ["user", "clicked_len", "clicked"]


class CrossEncoder(nn.Module):
    """[CLS] query [SEP] document through a transformer with segment ids and padding, pooled at the first token."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.words, self.segments = nn.Embedding(NUM_IDS + 2, SIZE, padding_idx=0), nn.Embedding(2, SIZE)
        self.positions = nn.Parameter(torch.randn(1, 3 + 6 + TOKENS, SIZE) * 0.1)
        layer = nn.TransformerEncoderLayer(SIZE, 4, 64, dropout=0.1, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.pooler, self.out = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh()), nn.Linear(SIZE, 1)

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        b = query.size(0)
        cls, sep = torch.full((b, 1), NUM_IDS), query.new_full((b, 1), NUM_IDS + 1)
        tokens = torch.cat([cls, query, sep, document, sep], dim=1)
        segments = torch.zeros_like(tokens)
        segments[:, query.size(1) + 2 :] = 1
        x = self.words(tokens) + self.segments(segments) + self.positions[:, : tokens.size(1)]
        x = self.encoder(x, src_key_padding_mask=tokens.eq(0))
        return self.out(self.pooler(x[:, 0]))


@style("Cross-encoder, first token pooled")
def _() -> Made:
    document = ids(TOKENS)
    document[:, 7:] = torch.where(torch.rand(NUM_ROWS, 3) < 0.5, document[:, 7:], 0)
    return CrossEncoder(), (ids(6), document), ["query"]


class LateInteraction(nn.Module):
    """ColBERT's MaxSim over contextual tokens, punctuation skipped by a list of ids; a kernel pool beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(NUM_IDS, SIZE)
        self.encoder = nn.TransformerEncoderLayer(SIZE, 4, 64, batch_first=True)
        self.linear = nn.Linear(SIZE, 16, bias=False)
        self.register_buffer("skip", torch.tensor([3, 5, 7]))
        self.register_buffer("mu", torch.linspace(-0.9, 1.0, 11).view(1, 1, 1, -1))
        self.dense = nn.Linear(11, 1)

    def encode(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.linear(self.encoder(self.words(tokens))), p=2, dim=2)

    def forward(self, q: Tensor, d: Tensor) -> Tensor:
        keep = ~torch.isin(d, self.skip)
        query, document = self.encode(q), self.encode(d) * keep.unsqueeze(2).float()
        sims = query @ document.permute(0, 2, 1)
        best = sims.masked_fill(~keep[:, None], -9999).max(2).values.sum(1)
        kernels = torch.exp(-((sims.unsqueeze(-1) - self.mu) ** 2) / 0.02).sum(2)
        pooled = torch.log1p(kernels.clamp(min=1e-10)).sum(1) * 0.01
        return best + torch.squeeze(torch.tanh(self.dense(pooled)), 1)


@style("ColBERT, MaxSim and kernels")
def _() -> Made:
    return LateInteraction(), (ids(6), ids(TOKENS)), ["q"]


class PolyEncoder(nn.Module):
    """Codes read the context, the candidate reads the codes; dot_attention as a method, a hidden LSTM encoder."""

    def __init__(self, codes: int = 6) -> None:
        super().__init__()
        self.words, self.codes = nn.Embedding(NUM_IDS, SIZE), nn.Embedding(codes, SIZE)
        self.encoder = nn.LSTM(SIZE, SIZE // 2, num_layers=1, bidirectional=True, batch_first=True)
        self.register_buffer("code_ids", torch.arange(codes))

    def dot_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.matmul(F.softmax(torch.matmul(q, k.transpose(2, 1)), -1), v)

    def encode(self, tokens: Tensor) -> Tensor:
        h0 = torch.zeros(2, tokens.size(0), SIZE // 2, device=tokens.device)
        return self.encoder(self.words(tokens), (h0, torch.zeros_like(h0)))[0]

    def forward(self, context: Tensor, response: Tensor) -> Tensor:
        rows = self.encode(context)
        ids_BC = self.code_ids.unsqueeze(0).expand(context.shape[0], self.code_ids.shape[0])
        read = self.dot_attention(self.codes(ids_BC), rows, rows)
        out = self.encode(response)
        answer = torch.cat([out[:, -1, : SIZE // 2], out[:, 0, SIZE // 2 :]], dim=-1).unsqueeze(1)
        final = self.dot_attention(answer, read, read)
        return (final * answer).sum(-1).squeeze(-1)


@style("Poly-encoder over a BiLSTM")
def _() -> Made:
    return PolyEncoder(), (ids(TOKENS), ids(TOKENS)), ["context"]


class ESIM(nn.Module):
    """Soft alignment of query and document tokens both ways, four-way compare, a BiGRU over the result."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first = nn.Embedding(NUM_IDS, SIZE), nn.GRU(SIZE, 16, bidirectional=True, batch_first=True)
        self.project = nn.Linear(4 * SIZE, SIZE)
        self.second = nn.GRU(SIZE, 16, bidirectional=True, batch_first=True)
        self.head = mlp(4 * SIZE, 32, 1)

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        a, b = self.first(self.words(query))[0], self.first(self.words(document))[0]
        mask_a, mask_b = (query == 0).float() * -1e7, (document == 0).float() * -1e7
        sims = torch.matmul(a, b.transpose(1, 2))
        to_b = F.softmax(sims + mask_b.unsqueeze(1), dim=-1) @ b
        to_a = F.softmax(sims.transpose(1, 2) + mask_a.unsqueeze(1), dim=-1) @ a
        pooled = []
        for x, y in ((a, to_b), (b, to_a)):
            z, _ = self.second(F.relu(self.project(torch.cat([x, y, x - y, x * y], -1))))
            pooled += [F.avg_pool1d(z.transpose(1, 2), z.size(1)).squeeze(-1), z.max(dim=1)[0]]
        return self.head(torch.cat(pooled, -1)).view(-1)


@style("ESIM, alignment both ways")
def _() -> Made:
    return ESIM(), (ids(6), ids(TOKENS)), ["query"]


class PersonalWords(nn.Module):
    """NPA: attention over words by a query made from the user; the candidate's text is read with the user in mind."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.users = nn.Embedding(NUM_IDS, SIZE), nn.Embedding(NUM_IDS, 16)
        self.word_query, self.news_query = nn.Linear(16, SIZE), nn.Linear(16, SIZE)
        self.cnn = nn.Conv1d(SIZE, SIZE, 3, padding=1)

    def pool(self, query: Tensor, rows: Tensor) -> Tensor:
        weights = torch.bmm(query.unsqueeze(1), torch.tanh(rows.transpose(1, 2))).squeeze(1).softmax(1)
        return torch.bmm(weights.unsqueeze(1), rows).squeeze(1)

    def news(self, tokens: Tensor, query: Tensor) -> Tensor:
        x = F.relu(self.cnn(self.words(tokens).transpose(1, 2))).transpose(1, 2)
        return self.pool(query, x)

    def forward(self, user: Tensor, clicked: Tensor, candidate: Tensor) -> Tensor:
        who = self.users(user)
        qw, qn = F.relu(self.word_query(who)), F.relu(self.news_query(who))
        b, h, t = clicked.size()
        rows = self.news(clicked.reshape(-1, t), qw.unsqueeze(1).repeat(1, h, 1).reshape(b * h, -1))
        return torch.sum(self.pool(qn, rows.reshape(b, h, -1)) * self.news(candidate, qw), dim=1)


@style("NPA, words read by the user's query")
def _() -> Made:
    return PersonalWords(), (ids(), ids(TITLES, TOKENS), ids(TOKENS)), ["user", "clicked"]
