"""Random rankers over a pool of tensors: each step reads any tensors whose sizes fit, so sides meet in every way.

What the composed rankers of test_sharing_random_rankers cannot reach: values read twice, several outputs, tensors of
three and four axes, in-place writes, recurrences and windows next to one another.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthrank.sharing import share

V, D, L = 23, 4, 5
Pool = list[Tensor]
Step = Callable[[Pool], Tensor]


class Fuzzed(nn.Module):
    """user [B, 2], history [B, 5] and its length [B] of the request; item [B] and weight [B, 4] of the candidate."""

    def __init__(self, seed: int, depth: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.random = random.Random(seed)
        self.ids, self.layers = nn.Embedding(V, D, padding_idx=0), nn.ModuleList()
        self.steps: list[Step] = []
        request, candidate, rows = draw(3, 3, seed)
        with torch.no_grad():
            pool = self.start(*(v[rows] for v in request.values()), *candidate.values())
            while len(self.steps) < depth:
                step = self.bounded(self.random.choice(OPS)(self, pool), pool)
                if step is not None:
                    self.steps.append(step)
                    pool.append(step(pool))

    def bounded(self, step: Step | None, pool: Pool) -> Step | None:
        if step is None:
            return None
        out = step(pool)
        if out.dim() > 4 or out[0].numel() > 300 or not torch.isfinite(out).all():
            return None
        return (lambda p: torch.tanh(step(p) * 0.1)) if out.abs().max() > 8 else step

    def start(self, user: Tensor, history: Tensor, length: Tensor, item: Tensor, weight: Tensor) -> Pool:
        seen = (torch.arange(L) < length[:, None]).to(weight.dtype)
        return [seen, weight, self.ids(user[:, 0]), self.ids(user), self.ids(history), self.ids(item)]

    def forward(
        self, user: Tensor, history: Tensor, length: Tensor, item: Tensor, weight: Tensor
    ) -> tuple[Tensor, ...]:
        pool = self.start(user, history, length, item, weight)
        given = len(pool)
        for step in self.steps:
            pool.append(step(pool))
        return tuple(pool[given:])

    def layer(self, layer: nn.Module) -> nn.Module:
        self.layers.append(layer.eval())
        return layer

    def pick(self, pool: Pool, fits: Callable[[Tensor], bool]) -> int:
        """Any tensor that fits, mostly a recent one; -1 if there is none."""
        found = [k for k, v in enumerate(pool) if fits(v)]
        if not found:
            return -1
        return self.random.choice(found[-3:] if self.random.random() < 0.5 else found)

    def one(self, pool: Pool, *ranks: int) -> int:
        return self.pick(pool, lambda v: v.dim() in ranks)

    def like(self, pool: Pool, a: int) -> int:
        return self.pick(pool, lambda v: v.shape == pool[a].shape)


def linear(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 2, 3, 4)
    layer = m.layer(nn.Linear(pool[a].shape[-1], m.random.choice([2, D]), bias=m.random.random() < 0.7))
    return lambda p: layer(p[a])


def join(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 2, 3)
    axis = m.random.randrange(1, pool[a].dim())
    same = [s for k, s in enumerate(pool[a].shape) if k != axis]
    b = m.pick(pool, lambda v: v.dim() == pool[a].dim() and [s for k, s in enumerate(v.shape) if k != axis] == same)
    return lambda p: torch.cat([p[b], p[a]], axis)


def combine(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 2, 3, 4)
    b = m.like(pool, a)
    how = m.random.choice(
        [
            torch.add,
            torch.sub,
            torch.mul,
            torch.maximum,
            lambda x, y: x / (1 + y * y),
            lambda x, y: torch.lerp(x, y, 0.3),
        ]
    )
    return lambda p: how(p[b], p[a])


def meet(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 2)
    b = m.pick(pool, lambda v: v.dim() == 3 and v.shape[-1] == pool[a].shape[-1])
    how = m.random.choice([torch.mul, torch.sub, lambda x, y: torch.cat([x.expand_as(y), y], -1)])
    return (lambda p: how(p[a].unsqueeze(1), p[b])) if b >= 0 else None


def unary(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 2, 3, 4)
    how = m.random.choice(
        [torch.relu, torch.sigmoid, torch.square, F.gelu, lambda x: 2 * x - 1, lambda x: x.softmax(-1)]
    )
    return lambda p: how(p[a])


def attend(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 2, 3)
    d = pool[a].shape[-1]
    b = m.pick(pool, lambda v: v.dim() == 3 and v.shape[-1] == d)
    key, masked = m.layer(nn.Linear(d, d)), m.random.random() < 0.6
    if b < 0:
        return None

    def run(p: Pool) -> Tensor:
        scores = (p[a][:, None] if p[a].dim() == 2 else p[a]) @ key(p[b]).mT
        if masked and p[b].shape[1] == L:
            scores = scores.masked_fill(p[0][:, None] == 0, -1e9)
        return scores.softmax(-1) @ p[b]

    return run


def encode(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.pick(pool, lambda v: v.dim() == 3 and v.shape[-1] % 2 == 0)
    if a < 0:
        return None
    layer = m.layer(nn.TransformerEncoderLayer(pool[a].shape[-1], 2, 6, batch_first=True, norm_first=True))
    mask = torch.triu(torch.ones(pool[a].shape[1], pool[a].shape[1], dtype=torch.bool), 1)
    return lambda p: layer(p[a], src_mask=mask)


def products(m: Fuzzed, pool: Pool) -> Step | None:
    a, b, c = m.one(pool, 3), m.one(pool, 2), m.one(pool, 2)
    row, column = torch.triu_indices(pool[a].shape[1], pool[a].shape[1])
    steps: list[Step] = [
        lambda p: p[a] @ p[a].mT,
        lambda p: p[a].sum(1) ** 2 - (p[a] ** 2).sum(1),
        lambda p: (p[a] @ p[a].mT)[:, row, column],
        lambda p: torch.einsum("bi,bj->bij", p[b], p[c]),
    ]
    return m.random.choice(steps)


def reduce(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 3, 4)
    axis = m.random.randrange(1, pool[a].dim())
    how = m.random.choice([torch.sum, torch.mean, torch.amax, torch.logsumexp])
    if m.random.random() < 0.5:
        return lambda p: how(p[a], axis)
    return lambda p: p[a] * how(p[a], axis, keepdim=True)


def normalise(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 2, 3)
    layer = m.layer(nn.LayerNorm(pool[a].shape[-1]))
    return m.random.choice([lambda p: layer(p[a]), lambda p: F.normalize(p[a] + 1, dim=-1)])


def select(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 3)
    n = pool[a].shape[1]
    at, places = m.random.randrange(n), torch.tensor([m.random.randrange(n) for _ in range(3)])
    return m.random.choice([lambda p: p[a][:, at], lambda p: p[a][:, at:], lambda p: p[a][:, places].flip(1)])


def look_up(m: Fuzzed, pool: Pool) -> Step | None:
    a, b = m.one(pool, 3), m.one(pool, 2)
    n = pool[a].shape[1]

    def place(p: Pool) -> Tensor:
        return (p[b].detach()[:, 0] * 3).floor().long().remainder(n)

    return m.random.choice(
        [
            lambda p: p[a][torch.arange(p[a].shape[0]), place(p)],
            lambda p: p[a].gather(1, place(p).view(-1, 1, 1).expand(-1, 1, p[a].shape[2])).squeeze(1),
        ]
    )


def write(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 2, 3)
    b, how = m.like(pool, a), m.random.choice(["column", "add", "mask", "interleave"])

    def run(p: Pool) -> Tensor:
        x = p[a].clone()
        if how == "column":
            x[:, 0] = p[b][:, -1]
        elif how == "add":
            x.mul_(0.5).add_(p[b])
        elif how == "mask":
            x[p[b] > 0.3] = 0.0
        else:
            x = torch.zeros(x.shape[0], 2 * x.shape[1], *x.shape[2:], dtype=x.dtype)
            x[:, ::2], x[:, 1::2] = p[a], p[b]
        return x

    return run


def view(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.one(pool, 3)
    s = pool[a].shape
    layer = m.layer(nn.Linear(s[2], 2))
    return m.random.choice(
        [
            lambda p: p[a].flatten(1),
            lambda p: p[a].transpose(1, 2),
            lambda p: p[a].transpose(0, 1).reshape(s[1], -1, s[2]).transpose(0, 1).unsqueeze(1),
            lambda p: layer(p[a].reshape(-1, s[2])).view(-1, s[1], 2),
        ]
    )


def sequence(m: Fuzzed, pool: Pool) -> Step | None:
    a = m.pick(pool, lambda v: v.dim() == 3 and v.shape[1] >= 2)
    conv = m.layer(nn.Conv1d(pool[a].shape[2], 3, 2, padding=1))
    gru = m.layer(nn.GRU(pool[a].shape[2], 3, batch_first=True))
    steps: list[Step] = [
        lambda p: conv(p[a].transpose(1, 2)),
        lambda p: gru(p[a])[0],
        lambda p: gru(p[a])[1][0],
        lambda p: F.avg_pool1d(p[a].transpose(1, 2), 2),
        lambda p: p[a].cumsum(1).roll(1, 1),
    ]
    return m.random.choice(steps)


OPS = [linear, join, combine, meet, unary, attend, encode, products, reduce, normalise, select, look_up, write, view]
OPS += [sequence, linear, join, meet]


def draw(requests: int, candidates: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    g = torch.Generator().manual_seed(seed)
    length = torch.randint(1, L + 1, (requests,), generator=g)
    history = torch.randint(1, V, (requests, L), generator=g) * (torch.arange(L) < length[:, None])
    request = {"user": torch.randint(V, (requests, 2), generator=g), "history": history, "length": length}
    weight = torch.randn(candidates, D, generator=g)
    candidate = {"item": torch.randint(V, (candidates,), generator=g), "weight": weight}
    return request, candidate, torch.randint(requests, (candidates,), generator=g)


@pytest.mark.parametrize("seed", range(6))
def test_a_ranker_of_random_steps_scores_the_same_shared_and_bound(seed: int) -> None:
    module = Fuzzed(seed, 5 + seed % 6).double().eval()

    def drawn(requests: int, candidates: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        request, candidate, rows = draw(requests, candidates, seed + candidates)
        return request, {**candidate, "weight": candidate["weight"].double()}, rows

    request, candidate, _ = drawn(4, 4)
    shared = share(module, {**request, **candidate}, list(request))
    assert not any("hoisting alone" in note or "not checked in double" in note for note in shared.report.notes)
    for requests, candidates in ((1, 2), (1, 7), (3, 9)):
        request, candidate, rows = drawn(requests, candidates)
        index = None if requests == 1 else rows
        places = torch.arange(candidates).flip(0)
        bound = shared.bind({"item": candidate["item"]})
        forms = [
            (shared.score(shared.encode(request), candidate, index), candidate["item"]),
            (bound(request, places, {"weight": candidate["weight"]}, index), candidate["item"][places]),
        ]
        for found, item in forms:
            with torch.no_grad():
                expected = module(*(v[rows] for v in request.values()), item, candidate["weight"])
            for ours, truth in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-9)
