"""Rows that are folded, picked by a mask, named by a flat index or read in a loop stay the rows they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthrank.errors import SharingError
from depthrank.sharing import Refused, Shared, share
from depthrank.sharing.verify import distance

IDS, TITLES, TOKENS, D = 20, 3, 4, 6


class Ranker(nn.Module):
    """Parts that the forwards below use; ``meta`` and ``graph`` are names that a captured graph has itself."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        gen = torch.Generator().manual_seed(0)
        self.words = nn.Embedding(IDS, D)
        self.bag = nn.EmbeddingBag(IDS, D, mode="mean", padding_idx=0)
        self.conv, self.one = nn.Conv1d(D, D, 3, padding=1), nn.Conv1d(D, D, 1)
        self.gru, self.act = nn.GRU(D, D, batch_first=True), nn.PReLU(TITLES)
        self.meta = nn.Parameter(torch.randn(IDS, generator=gen))
        places = torch.randint(0, IDS, (2, 40), generator=gen)
        values = torch.rand(40, generator=gen)
        self.register_buffer("graph", torch.sparse_coo_tensor(places, values, (IDS, IDS), check_invariants=True))
        self.register_buffer("causal", torch.tril(torch.ones(TITLES + 1, TITLES + 1)))
        self.own = forward

    def forward(self, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
        return self.own(self, h, n, i)


def folded(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    """Titles [B, H, T] as B * H rows of a convolution, a recurrent net and bags."""
    x = m.words(h.view(-1, TOKENS))
    by_conv = F.max_pool1d(m.conv(x.transpose(1, 2)), TOKENS).squeeze(-1)
    by_gru = m.gru(x, torch.zeros(1, x.size(0), D))[1][0]
    titles = torch.stack([by_conv, by_gru, m.bag(h.reshape(-1, TOKENS))], 1).mean(1).view(-1, TITLES, D)
    mixed = m.act(m.one(torch.cat([titles, m.words(i)[:, None]], 1).transpose(1, 2)).transpose(1, 2)[:, 1:])
    return mixed.sum((1, 2))


def picked_by_mask(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    """out[mask] = f(x[mask]), of positions and of whole rows."""
    x = m.words(h[:, :, 0])
    mask, some = h[:, :, 0] > 3, n > 1
    out = torch.zeros_like(x)
    out[mask] = torch.tanh(m.one.weight[:, :, 0] @ x[mask].unsqueeze(-1)).squeeze(-1)
    last = torch.zeros(h.size(0), D)
    last[some] = F.normalize(out[some].sum(1) + m.words(n[some]), dim=-1)
    return ((out.sum(1) + last) * m.words(i)).sum(-1)


def flat_indices(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    """The best interest by argmax plus the row's own offset, and a table read by index_select."""
    x = m.words(h[:, :, 0])
    best = (x @ m.words(i).unsqueeze(-1)).squeeze(-1).argmax(1)
    rows = torch.arange(best.size(0))
    one, two = x.reshape(-1, D)[best + rows * TITLES], x.view(-1, D)[torch.arange(0, h.size(0) * TITLES, TITLES) + best]
    bias = torch.index_select(m.meta, 0, h[:, :, 0].reshape(-1)).view(-1, TITLES)
    return (one * m.words(i)).sum(-1) + two.sum(-1) + bias.sum(-1)


def looped(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    """Sessions of graph nets: aliases read row by row in Python, and rows laid behind each other."""
    x, alias = m.words(h[:, :, 0]), h[:, :, 1] % TITLES
    rows = [x[k][alias[k]] for k in torch.arange(len(alias)).long()]
    return ((torch.stack(rows, 1)[0] + torch.cat([row[None, 1] for row in rows])) * m.words(i)).sum(-1)


def over_a_graph(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    """Embeddings propagated over a sparse graph of the model; a mask that is a float buffer."""
    table = torch.sparse.mm(m.graph, m.words.weight) + m.words.weight
    x = torch.cat([table[h[:, :, 0]], table[i][:, None]], 1)
    for _ in range(2):
        x = torch.tanh((x @ x.transpose(1, 2)) * m.causal) @ x
    return x[:, -1].sum(-1) * m.meta[i]


def draw(rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    h = torch.randint(1, IDS, (rows, TITLES, TOKENS), generator=gen)
    return h, torch.randint(1, TITLES + 1, (rows,), generator=gen), torch.randint(1, IDS, (rows,), generator=gen)


def shared_ranker(forward: Callable[..., Tensor]) -> tuple[nn.Module, Shared]:
    torch.manual_seed(0)
    module = Ranker(forward).eval()
    return module, share(module, draw(8, 0), ["h", "n"])


IDIOMS = [folded, picked_by_mask, flat_indices, pytest.param(looped, marks=pytest.mark.slow), over_a_graph]


@pytest.mark.parametrize("forward", IDIOMS, ids=lambda f: f.__name__)
def test_rows_stay_their_own(forward: Callable[..., Tensor]) -> None:
    module, shared = shared_ranker(forward)
    h, n, i = draw(9, 1)
    index = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1])
    with torch.no_grad():
        truth = module(h[index], n[index], i)
    assert distance(shared({"h": h[:3], "n": n[:3]}, {"i": i}, index), truth) < 1e-5
    alone = shared.bind({"i": i})({"h": h[:1], "n": n[:1]}, torch.arange(9))
    with torch.no_grad():
        assert distance(alone, module(h[[0] * 9], n[[0] * 9], i)) < 1e-5
    assert not any("hoisting alone" in note for note in shared.report.notes)
    if forward is over_a_graph:  # history rows never read the candidate: one row of products a candidate is left
        assert shared.report.flops_per_candidate <= 2 * 4 * (TITLES + 1) * D < shared.report.flops_per_pair / 3


class Selected(nn.Module):
    """Entries picked by a mask and used for something else than a write by the same mask."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use = use

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        mask = u > 0
        if self.use == "summed":
            return u * c + u[mask].sum()
        if self.use == "of another mask":
            out = torch.zeros_like(u)
            out[c > 0] = u[mask]
            return out * c
        return u.reshape(-1)[c[:, 0].long() + torch.arange(u.size(0)) * u.size(1)]


@pytest.mark.parametrize("use", ["summed", "of another mask", "flat index of any size"])
def test_entries_that_may_leave_their_row_are_refused(use: str) -> None:
    with pytest.raises((Refused, SharingError)):
        share(Selected(use), (torch.randn(8, 3), torch.rand(8, 3)), ["u"])


def test_the_clock_chooses_the_form_that_calls_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([])
    monkeypatch.setattr("depthrank.sharing.measured.SURE_GAIN", 1e9)
    monkeypatch.setattr("depthrank.sharing.measured._seconds", lambda run: run() or next(seconds))
    example = (torch.randn(4, 2), torch.randn(4, 2))
    for original, ours, pays in ((1.0, 1.2, False), (1.2, 1.0, True), (1.0, 1.05, True)):
        seconds = iter([9.0, 9.0] + [original, ours] * 20)
        report = share(nn.Bilinear(2, 2, 1), example, ["input1"]).report
        assert report.pays is pays
        assert any(f"original {1e3 * original:.2f} ms, shared {1e3 * ours:.2f} ms" in note for note in report.notes)
