"""Rankers that do something with the rows of their batch: mix them, loop over them, count them; see ``foreign_styles``.

Letters: B pairs, L history, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreign_style_sequences import padded
from foreign_styles import LENGTH, NUM_IDS, Made, ids, mlp, style


class Diagonal(nn.Module):
    """Scores of all users by all items, of which the diagonal is kept: rows meet, and leave again."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 16)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return torch.diagonal(self.users(user) @ self.items(item).t())


@style("in-batch scores, the diagonal kept")
def _() -> Made:
    return Diagonal(), (ids(), ids()), ["user"]


class ListWise(nn.Module):
    """Candidates see one another: a softmax over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 16)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(-1).softmax(0)


@style("a softmax over the batch")
def _() -> Made:
    return ListWise(), (ids(), ids()), ["user"]


class Capacity(nn.Module):
    """Experts with a capacity: places by cumsum over the batch, what is over is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gate = nn.Embedding(NUM_IDS, 16), nn.Linear(32, 4)
        self.experts = nn.Parameter(torch.randn(4, 32, 1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        x = torch.cat([self.table(user), self.table(item)], 1)
        weights = self.gate(x).softmax(-1)
        chosen = F.one_hot(weights.argmax(-1), 4)
        place = (chosen.cumsum(0) * chosen).sum(-1)
        y = torch.einsum("bd,edk->bek", x, self.experts).squeeze(-1)
        return (y * chosen * weights).sum(-1) * (place <= 64)


@style("experts with a capacity over the batch")
def _() -> Made:
    return Capacity(), (ids(), ids()), ["user"]


class Counter(nn.Module):
    """Eval that counts its calls in a buffer and decays a running mean of the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 16)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        self.calls += 1
        return (self.users(user) * self.items(item)).sum(-1)


@style("a buffer that counts calls")
def _() -> Made:
    return Counter(), (ids(), ids()), ["user"]


class Nested(nn.Module):
    """A NestedTensor of the histories without their padding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_IDS, 16, padding_idx=0)

    def forward(self, history: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        rows = torch.nested.nested_tensor([self.table(h[:n]) for h, n in zip(history, lengths.tolist(), strict=True)])
        read = torch.nested.to_padded_tensor(rows, 0.0).sum(1)
        return (read * self.table(target)).sum(-1)


@style("a NestedTensor of histories")
def _() -> Made:
    history, lengths = padded()
    return Nested(), (history, lengths, ids()), ["history", "lengths"]


class Looped(nn.Module):
    """Rows of the batch in a Python loop, stacked again."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(NUM_IDS, 16), mlp(32, 1)

    def forward(self, history: Tensor, target: Tensor) -> Tensor:
        out = []
        for row, item in zip(history, target, strict=True):
            h, t = self.table(row), self.table(item)
            weights = torch.softmax(h @ t, dim=0)
            out.append(self.top(torch.cat([weights @ h, t])))
        return torch.stack(out).squeeze(1)


@style("a loop over rows, softmax within each")
def _() -> Made:
    return Looped(), (ids(LENGTH), ids()), ["history"]


class Branching(nn.Module):
    """torch.cond on a value of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(NUM_IDS, 16), nn.Embedding(NUM_IDS, 16)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, i = self.users(user), self.items(item)
        return torch.cond(u.sum() > 0, lambda a, b: (a * b).sum(-1), lambda a, b: (a - b).sum(-1), (u, i))


@style("torch.cond on the batch")
def _() -> Made:
    return Branching(), (ids(), ids()), ["user"]
